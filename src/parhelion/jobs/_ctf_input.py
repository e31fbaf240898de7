"""Which files ``ctf`` works on: movies, micrographs or spectra, and what is known of them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from parhelion.errors import MetadataError
from parhelion.jobs._ctf_fit import Source, keeps_frames
from parhelion.jobs._micrographs import largest_shape
from parhelion.registry import Estimate

if TYPE_CHECKING:
    from parhelion.algorithms.ctf_fit.settings import Optics
    from parhelion.jobs.ctf import Params
    from parhelion.model.micrographs import Micrographs
    from parhelion.model.particles import OpticsGroup
    from parhelion.run.context import Context

AMPLITUDE_CONTRAST = 0.07
SPECTRUM_LABEL = "rlnCtfPowerSpectrum"
LOOKED_AT = 20
BYTES_PER_PIXEL = 40
SECONDS_PER_MEGAPIXEL = 0.03
SECONDS_PER_FILE = 0.3


def sources_of(context: "Context", params: "Params") -> "tuple[Micrographs, list[Source]]":
    """The table that comes back with CTFs, and where the spectrum of each of its rows comes from.

    Raises MetadataError where pixel size, voltage or Cs is unknown, or where a table does not name what is
    asked for.
    """
    from parhelion.io.relion_micrographs import stems

    notes: list[str] = []
    table, used = tables_of(params, notes)
    for note in notes:
        context.notice(note)
    if any(math.isnan(group.amplitude_contrast) for group in table.optics):
        context.notice(f"no amplitude contrast is stated: {AMPLITUDE_CONTRAST:g} is used")
    optics = tuple(_known(group) for group in table.optics)
    spectra = spectra_in_table(params)
    kind = "spectrum" if params.power_spectra else "movie" if used.movies else "micrograph"
    paths = _given_spectra(params.input[0], table) if spectra else used.path
    sources = [
        Source(
            path=path,
            name=table.name[row],
            stem=stem,
            kind=kind,
            # a table's pixel size is that of the micrograph, not of its spectrum
            pixel_size_angstrom=params.pixel_size if spectra else used.optics_of(row).pixel_size_angstrom,
            optics=_optics(optics[int(table.optics_group[row])]),
            gain=None if params.gain_corrected else params.gain or (used.gain[row] if used.gain else None),
        )
        for row, (path, stem) in enumerate(zip(paths, stems(table.name), strict=True))
    ]
    return replace(table, optics=optics), sources


def spectra_in_table(params: "Params") -> bool:
    """Whether a table names the power spectra."""
    return params.power_spectra and params.input[0].suffix.lower() == ".star"


def tables_of(params: "Params", notes: list[str]) -> "tuple[Micrographs, Micrographs]":
    """The table that comes back, and the one whose files are used.

    They are the same, but for a table of micrographs that names their movies, where those are asked for.
    """
    spectra = spectra_in_table(params)
    expected = {"movies": True, "micrographs": False, "auto": None}[params.estimate_from]
    if params.power_spectra and not spectra:
        expected = False

    def read(movies: bool | None) -> "Micrographs":
        from parhelion.io.relion_micrographs import read_micrographs

        return read_micrographs(
            params.input,
            pixel_size_angstrom=None if spectra else params.pixel_size,
            voltage_kv=params.voltage,
            spherical_aberration_mm=params.cs,
            amplitude_contrast=params.amplitude_contrast,
            movies=movies,
            notes=notes,
            needs=(*(() if spectra else ("pixel_size",)), "voltage", "cs"),
        )

    used = read(expected)
    if not used.movies or expected is None or params.input[0].suffix.lower() != ".star":
        return used, used
    table = read(None)
    same = not table.movies and len(table) == len(used)
    return (table if same else used), used


def _known(group: "OpticsGroup") -> "OpticsGroup":
    unknown = math.isnan(group.amplitude_contrast)
    return replace(group, amplitude_contrast=AMPLITUDE_CONTRAST) if unknown else group


def _optics(group: "OpticsGroup") -> "Optics":
    from parhelion.algorithms.ctf_fit.settings import Optics

    return Optics(
        voltage_kv=group.voltage_kv,
        spherical_aberration_mm=group.spherical_aberration_mm,
        amplitude_contrast=group.amplitude_contrast,
    )


def _given_spectra(table: Path, found: "Micrographs") -> tuple[Path, ...]:
    """The power spectra that a table names. Raises MetadataError where it names none."""
    from parhelion.io.image_names import resolve, stated_folder

    if SPECTRUM_LABEL not in found.extra:
        raise MetadataError(
            f"{table} has no column {SPECTRUM_LABEL}; give the spectra as files, or leave out --power-spectra"
        )
    return resolve(table, [str(name) for name in found.extra[SPECTRUM_LABEL]], stated_folder(table))


def estimate_of(params: "Params") -> Estimate:
    """From the headers of the first files."""
    table, used = tables_of(params, [])
    paths = _given_spectra(params.input[0], table) if spectra_in_table(params) else used.path
    frames, rows, columns = largest_shape(paths[:LOOKED_AT])
    pixels = rows * columns
    spectrum = params.spectrum_size**2
    kept = 4 * frames * pixels if used.movies and keeps_frames(frames, (rows, columns)) else 0
    seconds = SECONDS_PER_FILE + SECONDS_PER_MEGAPIXEL * pixels * (frames if used.movies else 1) / 1e6
    return Estimate(
        memory_bytes=60 * spectrum,
        per_thread_bytes=BYTES_PER_PIXEL * pixels + 60 * spectrum + kept,
        seconds=len(used) * seconds,
        disk_bytes=len(used) * (5 * spectrum + 400_000),
    )
