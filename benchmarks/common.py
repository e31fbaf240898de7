"""What the benchmarks share: data, RELION, CPU time, poses against the truth, tables."""

import argparse
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

# Idle threads of torch's OpenMP otherwise wait busily between two parallel loops, which counts as CPU time
# and takes a shared machine from others: 18 instead of 5 s for blob_particles. Set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from parhelion.algorithms.refine3d import RefineResult, RefineSettings, refine3d
from parhelion.contracts import SilentObserver
from parhelion.geometry.rotations import align_poses, from_relion, shift_error, to_relion
from parhelion.geometry.symmetry import symmetry_group
from parhelion.io.cistem import read_cistem
from parhelion.io.mrc_writer import StackWriter
from parhelion.io.particles import check_images, read_particles, write_particles
from parhelion.io.source import StackSource
from parhelion.io.star import read_star
from parhelion.io.star_writer import write_star
from parhelion.model.particles import ParticleSet
from parhelion.model.table import Table
from parhelion.model.volume import Volume
from parhelion.run.cancel import CancelFlag
from parhelion.run.executor import ThreadExecutor

DATA_VARIABLE = "PARHELION_TEST_DATA"
RECORDED = Path(__file__).parent / "recorded"


def parser(documentation: str, data: bool = True) -> argparse.ArgumentParser:
    """A parser that shows the whole module's documentation, with ``--data`` where real data are needed."""
    made = argparse.ArgumentParser(
        description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if data:
        given = os.environ.get(DATA_VARIABLE)
        made.add_argument(
            "--data",
            type=Path,
            default=Path(given) if given else None,
            required=given is None,
            help=f"folder of real data (docs/benchmarks.md); default: the variable {DATA_VARIABLE}",
        )
    return made


def hardware() -> str:
    """Processor model and number of cores."""
    model = platform.processor() or platform.machine()
    if shutil.which("lscpu"):
        listing = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
        found = re.search(r"Model name:\s*(.+)", listing)
        model = found.group(1).strip() if found else model
    return f"{model}, {os.cpu_count()} cores"


def relion_version() -> str | None:
    """The version that ``relion_refine --version`` prints; None where RELION is not installed."""
    if shutil.which("relion_refine") is None:
        return None
    shown = subprocess.run(["relion_refine", "--version"], capture_output=True, text=True)
    found = re.search(r"version:?\s*([\w.\-]+)", shown.stdout + shown.stderr)
    return found.group(1) if found else "of unknown version"


def children_cpu_s() -> float:
    """User and system time in seconds of all ended child processes and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed_program(words: Sequence[str], folder: Path) -> float:
    """Runs a program in ``folder``, its output in ``log.txt`` there; its CPU time in seconds."""
    before = children_cpu_s()
    with (folder / "log.txt").open("w") as log:
        done = subprocess.run(list(words), cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        tail = (folder / "log.txt").read_text(errors="replace")[-1500:]
        sys.exit(f"{' '.join(words)}\nended with {done.returncode}:\n{tail}")
    return children_cpu_s() - before


def particles_with_images(path: Path) -> tuple[ParticleSet, StackSource]:
    """The table's particles and where their pixels are read (protein white)."""
    particles, _ = check_images(read_particles(path))
    return particles, StackSource(particles)


def write_for_relion(folder: Path, particles: ParticleSet, source: StackSource, rows: np.ndarray) -> Path:
    """A float32 stack of these particles and its table without poses; RELION 3.1 reads no float16.

    All images belong to one micrograph, so that RELION estimates the noise from as many as there are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stack = folder / "particles.mrcs"
    pixel = particles.optics[0].pixel_size_angstrom
    with StackWriter(stack, len(rows), (source.box, source.box), pixel) as writer:
        for first in range(0, len(rows), 256):
            writer.write(first, source.images(rows[first : first + 256]))
    taken = particles.take(rows)
    views = replace(
        taken.views,
        image_path=(stack,),
        path_id=np.zeros(len(rows), np.int64),
        image_index=np.arange(len(rows)),
    )
    names = np.full(len(rows), "all.mrc", dtype=object)
    write_particles(
        folder / "particles.star",
        replace(
            taken,
            views=views,
            rotation=None,
            shift_xyz_angstrom=None,
            half=None,
            extra=Table({"rlnMicrographName": names}),
        ),
    )
    return folder / "particles.star"


@dataclass(frozen=True, kw_only=True)
class Poses:
    """Poses by the number of the image in its stack, from 0: ``(n,)``, ``(n, 3, 3)`` and ``(n, 2)`` in Å."""

    image: np.ndarray
    rotation: np.ndarray
    shift_angstrom: np.ndarray


def poses_of(particles: ParticleSet, images: np.ndarray | None = None) -> Poses:
    """The particles' poses; ``images`` gives each another number than its place in the stack."""
    if particles.rotation is None or particles.shift_xyz_angstrom is None:
        sys.exit("poses are compared and a table has none")
    return Poses(
        image=particles.views.image_index if images is None else images,
        rotation=particles.rotation,
        shift_angstrom=particles.shift_xyz_angstrom[:, :2],
    )


def read_poses(path: Path) -> Poses:
    """Poses of a table by RELION 3.1 or later (all or only the columns of poses) or by cisTEM."""
    table = next(t for t in read_star(path).values() if {"rlnImageName", "cisTEMAnglePsi"} & set(t))
    if "cisTEMAnglePsi" in table:
        return poses_of(read_cistem(path, stack="particles.mrcs"))
    names = [str(name) for name in table["rlnImageName"]]
    return Poses(
        image=np.array([int(name.split("@")[0]) - 1 for name in names]),
        rotation=from_relion(table["rlnAngleRot"], table["rlnAngleTilt"], table["rlnAnglePsi"]),
        shift_angstrom=np.stack([table["rlnOriginXAngst"], table["rlnOriginYAngst"]], axis=1),
    )


def write_poses(path: Path, poses: Poses, comments: Sequence[str]) -> None:
    """A table with nothing but the poses, for ``recorded``; ``comments`` say how it was made."""
    order = np.argsort(poses.image)
    rot, tilt, psi = np.round(to_relion(poses.rotation[order]), 2).T
    columns = {
        "rlnImageName": np.array([f"{i + 1}@particles.mrcs" for i in poses.image[order]], dtype=object),
        "rlnAngleRot": rot,
        "rlnAngleTilt": tilt,
        "rlnAnglePsi": psi,
        "rlnOriginXAngst": np.round(poses.shift_angstrom[order, 0], 2),
        "rlnOriginYAngst": np.round(poses.shift_angstrom[order, 1], 2),
    }
    write_star(path, {"particles": Table(columns)}, comments=tuple(comments))


def record_comments(program: str, cpu_s: float, command: str) -> tuple[str, ...]:
    """The first lines of a recorded table: program, CPU time, machine, command."""
    return (f"program: {program}", f"cpu_s: {cpu_s:.0f}", f"machine: {hardware()}", f"command: {command}")


def recorded(path: Path) -> tuple[str, float]:
    """Program and CPU seconds of a recorded table."""
    text = path.read_text()
    program, cpu = re.search(r"program: (.+)", text), re.search(r"cpu_s: (\d+)", text)
    if program is None or cpu is None:
        sys.exit(f"{path} does not say which program made it (# program: …) or its CPU time (# cpu_s: …)")
    return program.group(1).strip(), float(cpu.group(1))


@dataclass(frozen=True, kw_only=True)
class PoseErrors:
    """How far poses are from the truth, after the best global rotation and translation."""

    median_deg: float
    within_10deg: float
    median_shift_angstrom: float


def pose_errors(found: Poses, truth: Poses, symmetry: str = "C1") -> PoseErrors:
    """Errors of ``found`` against ``truth``, image by image."""
    wanted = {int(image): row for row, image in enumerate(truth.image)}
    rows = np.array([wanted[int(image)] for image in found.image])
    aligned = align_poses(found.rotation, truth.rotation[rows], symmetry_group(symmetry).operators)
    shift, _ = shift_error(found.shift_angstrom, truth.shift_angstrom[rows], aligned)
    return PoseErrors(
        median_deg=float(np.median(aligned.error_deg)),
        within_10deg=float((aligned.error_deg < 10).mean()),
        median_shift_angstrom=float(np.median(shift)),
    )


def show_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a Markdown table with aligned columns."""
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths)))
        return "| " + " | ".join(padded) + " |"

    print(line(head))
    print(
        "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    )
    for cells in rows:
        print(line(cells))
    sys.stdout.flush()


RELION_REFINE = (
    "relion_refine_mpi --i particles.star --ref start.mrc --o ./run --auto_refine --split_random_halves "
    "--ini_high {start:g} --firstiter_cc --ctf --ctf_corrected_ref --healpix_order 2 "
    "--auto_local_healpix_order 4 --offset_range 5 --offset_step 2 --sym {symmetry} --pad 2 --norm --scale "
    "--particle_diameter {diameter:g} --flatten_solvent --zero_mask --oversampling 1 --j 1 "
    "--dont_combine_weights_via_disc --random_seed 1"
)
# The leader of three ranks only hands out work, but its MPI library waits busily: its time is not counted.
MPIRUN = "mpirun --allow-run-as-root --oversubscribe --mca mpi_yield_when_idle 1 -n 3 sh -c"


def relion_auto_refine(folder: Path, symmetry: str, diameter_angstrom: float, start: float) -> float:
    """RELION's automatic refinement of ``particles.star`` from ``start.mrc``; CPU seconds of both followers.

    Leaves ``run_data.star`` and ``run_class001.mrc`` in ``folder``.
    """
    words = RELION_REFINE.format(start=start, symmetry=symmetry, diameter=diameter_angstrom)
    (folder / "command.txt").write_text(words + "\n")
    timed_program(
        [*MPIRUN.split(), f"{words}; status=$?; times > cpu.$OMPI_COMM_WORLD_RANK; exit $status"], folder
    )
    return sum(_children_of_shell(folder / f"cpu.{rank}") for rank in (1, 2))


def _children_of_shell(path: Path) -> float:
    """Seconds of user and system time in the second line of the shell's ``times``."""
    values = re.findall(r"(\d+)m([\d.]+)s", path.read_text().splitlines()[1])
    return sum(60 * float(minutes) + float(seconds) for minutes, seconds in values)


def refine(
    particles: ParticleSet, source: StackSource, start: Volume, threads: int = 2, **settings: Any
) -> tuple[RefineResult, float]:
    """Our automatic refinement and its CPU seconds, without imports and report."""
    cancel = CancelFlag()
    executor = ThreadExecutor(threads, cancel)
    before = time.process_time()
    try:
        found = refine3d(
            particles,
            source,
            start,
            RefineSettings(**settings),
            executor=executor,
            observer=SilentObserver(),
            cancel=cancel,
        )
    finally:
        executor.close()
    return found, time.process_time() - before
