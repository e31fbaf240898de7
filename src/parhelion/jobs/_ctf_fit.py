"""What ``ctf`` does with one file: spectrum, fit, plane, files; a row of values comes back."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parhelion.errors import FormatError, MetadataError
from parhelion.jobs._ctf_files import Heading, write_curves, write_picture, write_png, write_values
from parhelion.jobs._references import References

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from parhelion.algorithms.ctf_fit.settings import CtfFit, FitSettings, Optics
    from parhelion.algorithms.ctf_fit.spectrum import Spectrum
    from parhelion.contracts import FrameSource
    from parhelion.run.context import Context


KEPT_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class Source:
    """A movie, micrograph or spectrum: its place, name, kind, and pixel size (None: its header's)."""

    path: Path
    name: str
    stem: str
    kind: str
    pixel_size_angstrom: float | None
    optics: "Optics"
    gain: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The choices that all files share."""

    settings: "FitSettings"
    size: int
    resample: bool
    frames_to_average: int
    plane: bool
    powers: bool
    references: References
    magnification: tuple[float, float, float] | None
    pictures: bool


def keeps_frames(count: int, shape: tuple[int, int]) -> bool:
    """Whether a movie's frames stay in memory between survey and use; else they are read again."""
    return 4 * count * shape[0] * shape[1] <= KEPT_BYTES


def fit_one(context: "Context", source: Source, plan: Plan) -> dict[str, Any]:
    """Fit one file, write its files, and return its row. Raises InputError where it cannot be fitted."""
    from parhelion.algorithms.ctf_fit.fit import fit_ctf

    image, spectrum = _spectrum(context, source, plan)
    fit = fit_ctf(spectrum, source.optics, plan.settings)
    row: dict[str, Any] = {
        "defocus_u_angstrom": fit.defocus_u_angstrom,
        "defocus_v_angstrom": fit.defocus_v_angstrom,
        "defocus_angle_deg": fit.defocus_angle_deg,
        "phase_shift_deg": fit.phase_shift_deg,
        "correlation": fit.correlation,
        "significance": fit.significance,
        "fit_resolution_angstrom": fit.fit_resolution_angstrom,
        "alias_resolution_angstrom": fit.alias_resolution_angstrom,
        "iciness": fit.iciness,
        "thickness_angstrom": fit.thickness_angstrom,
        "confident": fit.confident,
        "stem": source.stem,
    }
    if plan.plane and image is not None:
        row |= _plane(image, source, plan, fit, context.check)
    _write(context, source, plan, spectrum, fit, row)
    return row


def _spectrum(context: "Context", source: Source, plan: Plan) -> "tuple[np.ndarray | None, Spectrum]":
    """The spectrum of a file and, for micrographs, the image; for movies the sum if a plane is asked for."""
    import numpy as np

    from parhelion.algorithms.ctf_fit.spectrum import given_spectrum, spectrum_of_image, spectrum_of_movie
    from parhelion.images.saturation import saturation
    from parhelion.io.formats import open_images

    what = source.path.name
    if source.kind == "movie":
        frames, pixel = _frames(context, source, plan)
        spectrum = spectrum_of_movie(
            frames,
            pixel,
            plan.size,
            frames_to_average=plan.frames_to_average,
            resample=plan.resample,
            what=what,
            check=context.check,
        )
        return (_sum(frames) if plan.plane else None), spectrum
    stack = open_images(source.path)
    if len(stack) != 1:
        raise FormatError(f"{source.path} holds {len(stack)} images, one is expected; movies go in as movies")
    image = stack.read(np.array([0]))[0]
    pixel_size = source.pixel_size_angstrom or stack.pixel_size_angstrom
    if pixel_size is None:
        raise MetadataError(f"{source.path} does not say its pixel size; give it with --pixel-size")
    if source.kind == "spectrum":
        return None, given_spectrum(image, pixel_size, powers=plan.powers, what=what)
    spectrum = spectrum_of_image(image, pixel_size, plan.size, resample=plan.resample, what=what)
    cut = saturation(image)
    if cut is not None:
        context.notice(f"{source.name}: {cut}")
    return image, spectrum


def _frames(context: "Context", source: Source, plan: Plan) -> "tuple[FrameSource, float]":
    """The corrected frames of a movie and their pixel size."""
    from parhelion.algorithms.motion.frames import CorrectedFrames
    from parhelion.io.movies import open_movie

    movie = open_movie(source.path)
    pixel = source.pixel_size_angstrom or movie.pixel_size_angstrom
    if pixel is None:
        raise MetadataError(f"{source.path} does not say its pixel size; give it with --pixel-size")
    notes: list[str] = []
    gain, dark, defects = plan.references.read(movie, source.gain, notes)
    for note in notes:
        context.notice(note)
    frames = CorrectedFrames(
        movie,
        gain=gain,
        dark=dark,
        defects=defects,
        magnification=plan.magnification,
        seed=context.seed,
        keep=keeps_frames(movie.count, movie.shape),
    )
    for finding in frames.findings:
        context.notice(f"{source.name}: {finding}")
    scale = 1.0 if plan.magnification is None else 0.5 * (plan.magnification[1] + plan.magnification[2])
    return frames, pixel / scale


def _sum(frames: "FrameSource") -> "np.ndarray":
    total = frames.frame(0).copy()
    for index in range(1, frames.count):
        total += frames.frame(index)
    return total


def _plane(
    image: "np.ndarray", source: Source, plan: Plan, fit: "CtfFit", check: "Callable[[], None]"
) -> dict[str, Any]:
    from parhelion.algorithms.ctf_fit.local import defocus_plane

    pixel = source.pixel_size_angstrom
    if pixel is None:
        raise MetadataError(f"{source.path} does not say its pixel size; give it with --pixel-size")
    plane = defocus_plane(
        image,
        pixel,
        fit,
        source.optics,
        plan.settings,
        resample=plan.resample,
        what=source.path.name,
        check=check,
    )
    shift = plane.defocus_angstrom - fit.defocus_angstrom
    return {
        "defocus_u_angstrom": fit.defocus_u_angstrom + shift,
        "defocus_v_angstrom": fit.defocus_v_angstrom + shift,
        "plane_x": plane.slope_x,
        "plane_y": plane.slope_y,
        "tilt_deg": plane.tilt_deg,
        "tilt_axis_deg": plane.axis_deg,
    }


def _write(
    context: "Context", source: Source, plan: Plan, spectrum: "Spectrum", fit: "CtfFit", row: dict[str, Any]
) -> None:
    from parhelion.algorithms.ctf_fit.picture import diagnostic_picture

    picture = diagnostic_picture(spectrum, fit, source.optics)
    write_picture(context.path("pictures", source.stem), picture, spectrum.pixel_size_angstrom)
    heading = Heading(
        name=source.name,
        pixel_size_angstrom=source.pixel_size_angstrom or spectrum.pixel_size_angstrom,
        size=spectrum.size,
        optics=source.optics,
        settings=plan.settings,
    )
    write_curves(context.path("curves", source.stem), heading, fit.curves)
    write_values(context.path("values", source.stem), heading, row)
    if plan.pictures:
        title = (
            f"defocus {fit.defocus_u_angstrom:,.0f} / {fit.defocus_v_angstrom:,.0f} Å at "
            f"{fit.defocus_angle_deg:.0f}°, rings to {fit.fit_resolution_angstrom:.1f} Å"
        )
        write_png(context.path("plots", source.stem), picture, fit.curves, title)
