"""Which files ``ctf`` works on: movies, micrographs or spectra, and what is known of them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from parhelion.errors import MetadataError
from parhelion.jobs._ctf_fit import Source
from parhelion.jobs._micrographs import largest_shape, read
from parhelion.registry import Estimate

if TYPE_CHECKING:
    from parhelion.algorithms.ctf_fit.settings import Optics
    from parhelion.jobs.ctf import Params
    from parhelion.model.micrographs import Micrographs
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

    table = params.input[0].suffix.lower() == ".star"
    spectra = params.power_spectra and table
    movies = {"movies": True, "micrographs": False, "auto": None}[params.estimate_from]
    if params.power_spectra:
        movies = False if not table else None
    found = _read(context, params, movies, needs_pixel=not spectra)
    optics = [_optics(found, row, context) for row in range(len(found))]
    paths = _given_spectra(params.input[0], found) if spectra else found.path
    kind = "spectrum" if params.power_spectra else "movie" if found.movies else "micrograph"
    sources = [
        Source(
            path=path,
            name=found.name[row],
            stem=stem,
            kind=kind,
            # a table's pixel size is that of the micrograph, not of its spectrum
            pixel_size_angstrom=params.pixel_size if spectra else found.optics_of(row).pixel_size_angstrom,
            optics=optics[row],
            gain=params.gain or (found.gain[row] if found.gain else None),
        )
        for row, (path, stem) in enumerate(zip(paths, stems(found.name), strict=True))
    ]
    known = tuple(
        replace(group, amplitude_contrast=AMPLITUDE_CONTRAST)
        if math.isnan(group.amplitude_contrast)
        else group
        for group in found.optics
    )
    return replace(found, optics=known), sources


def _read(context: "Context", params: "Params", movies: bool | None, *, needs_pixel: bool) -> "Micrographs":
    return read(
        context,
        params.input,
        pixel_size=params.pixel_size if needs_pixel else None,
        voltage=params.voltage,
        cs=params.cs,
        amplitude_contrast=params.amplitude_contrast,
        movies=movies,
        needs=(*(("pixel_size",) if needs_pixel else ()), "voltage", "cs"),
    )


def _optics(found: "Micrographs", row: int, context: "Context") -> "Optics":
    from parhelion.algorithms.ctf_fit.settings import Optics

    group = found.optics_of(row)
    contrast = group.amplitude_contrast
    if math.isnan(contrast):
        context.notice(f"no amplitude contrast is stated: {AMPLITUDE_CONTRAST:g} is used")
        contrast = AMPLITUDE_CONTRAST
    return Optics(
        voltage_kv=group.voltage_kv,
        spherical_aberration_mm=group.spherical_aberration_mm,
        amplitude_contrast=contrast,
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
    from parhelion.io.relion_micrographs import read_micrographs

    movies = {"movies": True, "micrographs": False, "auto": None}[params.estimate_from]
    found = read_micrographs(params.input, movies=movies, needs=())
    frames, rows, columns = largest_shape(found.path[:LOOKED_AT])
    pixels = rows * columns
    spectrum = params.spectrum_size**2
    kept = 4 * frames * pixels if found.movies else 0
    seconds = SECONDS_PER_FILE + SECONDS_PER_MEGAPIXEL * pixels * (frames if found.movies else 1) / 1e6
    return Estimate(
        memory_bytes=60 * spectrum,
        per_thread_bytes=BYTES_PER_PIXEL * pixels + 60 * spectrum + kept,
        seconds=len(found) * seconds,
        disk_bytes=len(found) * (5 * spectrum + 400_000),
    )
