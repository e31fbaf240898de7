"""The tables that simulated movies come with: movies.star, and what is true of them in truth/."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parhelion.algorithms.simulate.detector import Detector
    from parhelion.algorithms.simulate.movies import MovieSimulator, MovieTruth
    from parhelion.model.micrographs import MicrographCtf, Micrographs
    from parhelion.model.particles import OpticsGroup

DECIMALS = 6


def optics_group(simulator: "MovieSimulator") -> "OpticsGroup":
    """The one optics group of the movies."""
    from parhelion.model.particles import OpticsGroup

    scope = simulator.microscope
    return OpticsGroup(
        name="simulated",
        pixel_size_angstrom=simulator.settings.pixel_size_angstrom,
        voltage_kv=scope.voltage_kv,
        spherical_aberration_mm=scope.spherical_aberration_mm,
        amplitude_contrast=scope.amplitude_contrast,
    )


def movies_table(simulator: "MovieSimulator", movies: Sequence[Path], gain: Path) -> "Micrographs":
    """The table of the movies as a microscope's software would leave it."""
    import numpy as np

    from parhelion.model.micrographs import Micrographs

    count = len(movies)
    return Micrographs(
        optics=(optics_group(simulator),),
        path=tuple(movies),
        name=names_of(movies),
        optics_group=np.zeros(count, np.int64),
        movies=True,
        gain=(gain,) * count,
        dose_per_frame=np.full(count, simulator.settings.dose_per_frame),
        pre_exposure=np.full(count, simulator.settings.pre_exposure),
    )


def names_of(movies: Sequence[Path]) -> tuple[str, ...]:
    """What the tables call the movies: relative to the output folder."""
    return tuple(f"{path.parent.name}/{path.name}" for path in movies)


def true_ctf(simulator: "MovieSimulator", truths: Sequence["MovieTruth"]) -> "MicrographCtf":
    """Defoci at the middle of the field and of the ice."""
    import numpy as np

    from parhelion.model.micrographs import MicrographCtf

    unknown = np.full(len(truths), np.nan)
    return MicrographCtf(
        defocus_u_angstrom=np.array([t.defocus_u_angstrom for t in truths]),
        defocus_v_angstrom=np.array([t.defocus_v_angstrom for t in truths]),
        defocus_angle_deg=np.array([t.defocus_angle_deg for t in truths]),
        phase_shift_deg=np.full(len(truths), simulator.microscope.phase_shift_deg),
        figure_of_merit=unknown,
        max_resolution_angstrom=unknown,
    )


def write_true_micrographs(
    path: Path, simulator: "MovieSimulator", table: "Micrographs", truths: Sequence["MovieTruth"]
) -> None:
    """``micrographs.star``: the movies with their true defoci and, where tilted, the tilt and its axis."""
    from dataclasses import replace

    import numpy as np

    from parhelion.io.relion_micrographs import write_micrographs
    from parhelion.model.table import Table

    extra = {}
    if simulator.settings.tilt_deg:
        extra["rlnMicrographTiltAngle"] = np.array([t.tilt_deg for t in truths])
        extra["rlnMicrographTiltAxisDirection"] = np.array([t.tilt_axis_deg for t in truths])
    ctf = true_ctf(simulator, truths)
    write_micrographs(path, replace(table, ctf=ctf, extra=Table(extra, length=len(truths))))


def write_shifts(path: Path, simulator: "MovieSimulator", movie: str, truth: "MovieTruth") -> None:
    """``<stem>_shifts.star`` in the layout of RELION's motion metadata.

    Shifts in pixels are what RELION writes: where a frame's content lies relative to the first frame is
    ``rlnMicrographShiftX/Y`` with the sign below; local motion comes as the 36 coefficients of RELION's model
    (version 1), of the same sign, for frames from 0 and positions divided by the size, less one half.
    """
    import numpy as np

    from parhelion.io.star_writer import write_star
    from parhelion.model.table import Table

    settings, motion = simulator.settings, truth.motion
    general = {
        "rlnImageSizeX": settings.shape[1],
        "rlnImageSizeY": settings.shape[0],
        "rlnImageSizeZ": settings.frames,
        "rlnMicrographMovieName": movie,
        "rlnMicrographBinning": 1.0,
        "rlnMicrographOriginalPixelSize": settings.pixel_size_angstrom,
        "rlnMicrographDoseRate": settings.dose_per_frame,
        "rlnMicrographPreExposure": settings.pre_exposure,
        "rlnVoltage": simulator.microscope.voltage_kv,
        "rlnMicrographStartFrame": 1,
        "rlnMotionModelVersion": 1,
    }
    shifts = SHIFT_SIGN * motion.global_xy_px.round(DECIMALS) + 0.0
    coefficients = SHIFT_SIGN * motion.local_px.ravel() + 0.0
    blocks = {
        "general": Table({label: np.array([value]) for label, value in general.items()}),
        "global_shift": Table(
            {
                "rlnMicrographFrameNumber": np.arange(1, settings.frames + 1),
                "rlnMicrographShiftX": shifts[:, 0],
                "rlnMicrographShiftY": shifts[:, 1],
            }
        ),
        "local_motion_model": Table(
            {
                "rlnMotionModelCoeffsIdx": np.arange(coefficients.size),
                "rlnMotionModelCoeff": coefficients,
            }
        ),
    }
    write_star(path, blocks)


SHIFT_SIGN = -1.0
"""A stored shift is added to a frame's content to bring it onto the first frame."""


def write_true_particles(
    path: Path, simulator: "MovieSimulator", movies: Sequence[Path], truths: Sequence["MovieTruth"]
) -> None:
    """``particles.star``: every particle's place in the first frame, angles and own defocus."""
    import numpy as np

    from parhelion.geometry.rotations import to_relion
    from parhelion.io.image_names import FOLDER_COMMENT
    from parhelion.io.relion_optics import optics_table
    from parhelion.io.star_writer import write_star
    from parhelion.model.table import Table

    counts = [len(truth.placement) for truth in truths]
    total = sum(counts)
    names = np.repeat(np.array(names_of(movies), dtype=object), counts)
    places = np.concatenate([t.placement.xy_px for t in truths])
    angles = to_relion(np.concatenate([t.placement.rotation for t in truths]))
    defocus = np.concatenate([t.particle_defocus_uv_angstrom for t in truths])
    columns = {
        "rlnMicrographName": names,
        "rlnMicrographMovieName": names,
        "rlnCoordinateX": places[:, 0].round(DECIMALS),
        "rlnCoordinateY": places[:, 1].round(DECIMALS),
        "rlnAngleRot": angles[:, 0].round(DECIMALS),
        "rlnAngleTilt": angles[:, 1].round(DECIMALS),
        "rlnAnglePsi": angles[:, 2].round(DECIMALS),
        "rlnOriginXAngst": np.zeros(total),
        "rlnOriginYAngst": np.zeros(total),
        "rlnDefocusU": defocus[:, 0].round(2),
        "rlnDefocusV": defocus[:, 1].round(2),
        "rlnDefocusAngle": np.repeat([t.defocus_angle_deg for t in truths], counts),
        "rlnOpticsGroup": np.ones(total, np.int64),
    }
    if simulator.microscope.phase_shift_deg:
        columns["rlnPhaseShift"] = np.full(total, simulator.microscope.phase_shift_deg)
    optics = optics_table((optics_group(simulator),))
    pixel = np.array([simulator.settings.pixel_size_angstrom])
    blocks = {
        "optics": optics.with_columns({"rlnMicrographOriginalPixelSize": pixel}),
        "particles": Table(columns, length=total),
    }
    folder = movies[0].absolute().parent.parent
    write_star(path, blocks, comments=(f"{FOLDER_COMMENT}{folder}",))


def write_defects(path: Path, detector: "Detector") -> None:
    """``defects.txt``: x, y, width and height of each dead or hot pixel, counted from 0."""
    import numpy as np

    from parhelion.io.atomic import write_text

    places = np.concatenate([detector.dead_xy, detector.hot_xy])
    write_text(path, "".join(f"{x} {y} 1 1\n" for x, y in places.tolist()))
