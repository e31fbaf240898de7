"""What the benchmarks of motion correction share: simulated movies, both programs on them, tracks."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parhelion.algorithms.motion.polynomial import LocalMotion
from parhelion.io.relion_motion import MotionMetadata, read_motion

PROGRAM = [sys.executable, "-m", "parhelion.cli.main"]
SPECTRUM_DOSE = 4.0
"""Electrons per Å² in each power spectrum, parhelion's default."""
PLACES = np.linspace(-0.45, 0.45, 7)
ENVIRONMENT = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Movies to simulate and how their gain is treated (``gain`` False: the pattern stays in the frames)."""

    name: str
    dose_per_frame: float = 1.0
    drift_angstrom: float = 30.0
    gain: bool = True
    gain_variation: float = 0.05


CASES = (
    Case(name="1 e⁻, 30 Å of drift"),
    Case(name="0.5 e⁻, 40 Å of drift", dose_per_frame=0.5, drift_angstrom=40.0),
    Case(name="1 e⁻, pattern of 5 % left in", gain=False),
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """CPU time (user and system, start-up included), peak memory, and the folder of the metadata."""

    cpu_s: float
    peak_bytes: int
    folder: Path


def simulate(folder: Path, case: Case, model: Path, count: int, size: int, frames: int) -> None:
    """Movies of this case, 1 Å per pixel."""
    _timed(
        [
            *PROGRAM, "simulate", "movies", "--model", str(model), "--count", str(count), "--size", str(size),
            "--frames", str(frames), "--pixel-size", "1", "--dose-per-frame", str(case.dose_per_frame),
            "--drift", str(case.drift_angstrom), "--gain-variation", str(case.gain_variation),
            "-o", str(folder), "--overwrite", "--quiet",
        ],
        folder.parent,
    )  # fmt: skip


def run_ours(data: Path, out: Path, case: Case, threads: int) -> Run:
    """``parhelion motion`` on all movies of ``data``."""
    words = [*PROGRAM, "motion", "-i", str(data / "movies.star"), "-o", str(out), "--threads", str(threads)]
    words += [] if case.gain else ["--gain-corrected"]
    cpu, peak = _timed([*words, "--overwrite", "--quiet"], out.parent)
    return Run(cpu_s=cpu, peak_bytes=peak, folder=out / "micrographs")


def run_relion(data: Path, out: Path, case: Case, threads: int) -> Run:
    """``relion_run_motioncorr --use_own`` on the same movies, weighted by dose and with spectra as ours."""
    words = [
        "relion_run_motioncorr", "--use_own", "--i", "movies.star", "--o", f"{out}/", "--angpix", "1",
        "--voltage", "300", "--dose_per_frame", str(case.dose_per_frame), "--dose_weighting",
        "--grouping_for_ps", str(round(SPECTRUM_DOSE / case.dose_per_frame)),
        "--patch_x", "5", "--patch_y", "5", "--j", str(threads),
        *(["--gainref", "gain.mrc"] if case.gain else []),
    ]  # fmt: skip
    cpu, peak = _timed(words, data)
    return Run(cpu_s=cpu, peak_bytes=peak, folder=out / "movies")


def _timed(words: list[str], folder: Path) -> tuple[float, int]:
    """CPU seconds and peak bytes of a program run in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log_of_program.txt"
    with log.open("w") as stream:
        process = subprocess.Popen(words, cwd=folder, stdout=stream, stderr=stream, env=ENVIRONMENT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(words)}\nfailed:\n{log.read_text(errors='replace')[-1500:]}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


@dataclass(frozen=True, kw_only=True)
class TrackErrors:
    """Root-mean-square errors per axis in pixels, means removed: of whole frames, and at 7 × 7 places."""

    whole_px: float
    places_px: float


def errors(data: Path, run: Run, number: int, relion: bool) -> TrackErrors:
    """Errors of movie ``number`` (from 1)."""
    truth = read_motion(data / "truth" / f"movie_{number:04d}_shifts.star")
    found = read_motion(run.folder / f"movie_{number:04d}{'' if relion else '_shifts'}.star")
    whole = _without_mean(found.shift_px - truth.shift_px)
    places = _without_mean(_field(found) - _field(truth))
    return TrackErrors(
        whole_px=float(np.sqrt((whole**2).mean())), places_px=float(np.sqrt((places**2).mean()))
    )


def _field(motion: MotionMetadata) -> np.ndarray:
    """Shifts ``(frames, 7, 7, 2)`` at places of the field."""
    y, x = np.meshgrid(PLACES, PLACES, indexing="ij")
    shifts = np.broadcast_to(motion.shift_px[:, None, None], (motion.count, *x.shape, 2))
    if motion.local_px is None:
        return shifts
    local = LocalMotion(coefficients=motion.local_px)
    return shifts + np.stack([local.shift_px(float(z), x, y) for z in range(motion.count)])


def _without_mean(values: np.ndarray) -> np.ndarray:
    return values - values.mean(axis=0)
