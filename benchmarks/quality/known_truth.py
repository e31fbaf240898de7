"""Refinement of simulated particles with known poses: parhelion, and RELION on the same images.

    python benchmarks/quality/known_truth.py [--data FOLDER] [--only NAME] [--count 1000] [--slice 250]
                                             [--relion NAME,NAME] [--record FOLDER]

Stacks are simulated from the atomic models in FOLDER/models: by parhelion, and one by RELION's
relion_project (with its CTF; white noise added here). Every refinement starts from the true map filtered to
40 Å. Printed are the median angular error (modulo symmetry) and shift error after the best global alignment,
and where the FSC with the true map falls to 0.5, both maps inside one soft mask of the true molecule.
``--relion`` names the stacks that RELION refines beside us, on the first ``--slice`` images; ``--record``
keeps its poses and command.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common
from parhelion import api
from parhelion.fourier.filters import lowpass
from parhelion.fourier.shells import fsc, resolution_at
from parhelion.images.masks import automatic_mask
from parhelion.io.mrc import open_stack, read_volume, write_volume
from parhelion.io.mrc_writer import StackWriter
from parhelion.io.particles import write_particles
from parhelion.io.source import StackSource
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

START_ANGSTROM = 40.0


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What is simulated."""

    model: str
    symmetry: str
    box: int
    pixel_size_angstrom: float
    diameter_angstrom: float
    snr: float
    by_relion: bool = False


STACKS = {
    "apoferritin": Stack(
        model="apoferritin_6z6u_O.pdb",
        symmetry="O",
        box=64,
        pixel_size_angstrom=3.5,
        diameter_angstrom=140.0,
        snr=0.05,
    ),
    "groel": Stack(
        model="groel_1mnf_D7.pdb",
        symmetry="D7",
        box=64,
        pixel_size_angstrom=3.8,
        diameter_angstrom=185.0,
        snr=0.05,
    ),
    "ribosome": Stack(
        model="ribosome70s_4v5d_C1.cif",
        symmetry="C1",
        box=72,
        pixel_size_angstrom=5.0,
        diameter_angstrom=290.0,
        snr=0.05,
    ),
    "spike by relion_project": Stack(
        model="spike_6vxx_C3.pdb",
        symmetry="C3",
        box=64,
        pixel_size_angstrom=3.75,
        diameter_angstrom=180.0,
        snr=0.1,
        by_relion=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """Images with their true poses and map."""

    stack: Stack
    particles: ParticleSet
    truth: common.Poses
    reference: Volume
    mask: np.ndarray

    @property
    def start(self) -> Volume:
        """The true map at the resolution that every refinement starts from."""
        return lowpass(self.reference, START_ANGSTROM)

    def row(self, name: str, cpu: float, found: common.Poses, map_: np.ndarray) -> list[str]:
        """One line of the table."""
        errors = common.pose_errors(found, self.truth, self.stack.symmetry)
        curve = fsc(np.asarray(map_) * self.mask, np.asarray(self.reference.data) * self.mask)
        limit = resolution_at(curve, 0.5, self.reference.box, self.reference.pixel_size_angstrom)
        return [
            name,
            str(len(found.image)),
            f"{cpu:.0f}",
            f"{errors.median_deg:.2f}",
            f"{100 * errors.within_10deg:.0f} %",
            f"{errors.median_shift_angstrom:.2f}",
            f"{limit:.1f}",
        ]


def simulate(stack: Stack, models: Path, folder: Path, count: int) -> Simulated:
    """The images of one stack in ``folder``."""
    api.function("simulate_particles")(
        model=models / stack.model,
        count=count,
        box=stack.box,
        pixel_size=stack.pixel_size_angstrom,
        symmetry=stack.symmetry,
        snr=stack.snr,
        output=folder,
        seed=1,
    )
    if stack.by_relion:
        project_by_relion(folder, stack.snr)
    truth, _ = common.particles_with_images(folder / "truth.star")
    particles, _ = common.particles_with_images(folder / "particles.star")
    reference = read_volume(folder / "reference.mrc")
    return Simulated(
        stack=stack,
        particles=particles,
        truth=common.poses_of(truth),
        reference=reference,
        mask=np.asarray(automatic_mask(reference).mask.data),
    )


def project_by_relion(folder: Path, snr: float) -> None:
    """Replaces the images by RELION's projections at the same poses, with its CTF, plus white noise."""
    truth, source = common.particles_with_images(folder / "truth.star")
    write_particles(folder / "poses.star", truth)
    words = "relion_project --i reference.mrc --ang poses.star --o projected --ctf"
    common.timed_program(words.split(), folder)
    stack = open_stack(folder / "projected.mrcs")
    clean = stack.read(np.arange(len(truth)))
    noise = np.random.default_rng(2).standard_normal(clean.shape, dtype=np.float32)
    images = clean * np.float32(np.sqrt(snr / clean.var(axis=(1, 2)).mean())) + noise
    pixel = truth.optics[0].pixel_size_angstrom
    with StackWriter(folder / "particles.mrcs", len(truth), (source.box, source.box), pixel) as writer:
        writer.write(0, images)


def by_relion(made: Simulated, name: str, count: int, record: Path | None) -> list[str]:
    """RELION's refinement of the first images."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = np.arange(count)
        common.write_for_relion(folder, made.particles, StackSource(made.particles), rows)
        write_volume(folder / "start.mrc", made.start)
        stack = made.stack
        cpu = common.relion_auto_refine(folder, stack.symmetry, stack.diameter_angstrom, START_ANGSTROM)
        found = common.read_poses(folder / "run_data.star")
        map_ = read_volume(folder / "run_class001.mrc").data
        version = f"RELION {common.relion_version()}"
        line = made.row(f"{name}: {version}", cpu, found, map_)
        if record:
            command = (folder / "command.txt").read_text().strip()
            comments = (
                *common.record_comments(version, cpu, command),
                f"images: the first {count} of {name} in benchmarks/quality/known_truth.py",
                "found: " + ", ".join(line[1:]),
            )
            record.mkdir(parents=True, exist_ok=True)
            common.write_poses(record / f"{name.split()[0]}_relion.star", found, comments)
    return line


def by_us(made: Simulated, name: str, rows: np.ndarray) -> list[str]:
    """Our refinement of the images ``rows``."""
    particles = made.particles.take(rows)
    found, cpu = common.refine(
        particles,
        StackSource(particles),
        made.start,
        symmetry=made.stack.symmetry,
        diameter_angstrom=made.stack.diameter_angstrom,
    )
    return made.row(f"{name}: parhelion", cpu, common.poses_of(found.particles), found.map.data)


def main() -> None:
    """Simulate and refine; one table."""
    parser = common.parser(__doc__)
    parser.add_argument("--only", default="", help="only stacks whose name contains this")
    parser.add_argument("--count", type=int, default=1000, help="images per stack")
    parser.add_argument("--slice", type=int, default=250, help="images that RELION gets, and we beside it")
    parser.add_argument(
        "--relion", default="apoferritin,groel", help="stacks that RELION refines too; none: ''"
    )
    parser.add_argument("--record", type=Path, help="folder for RELION's poses and commands")
    given = parser.parse_args()
    beside = [name for name in given.relion.split(",") if name]
    version = common.relion_version()
    print(f"{common.hardware()}; RELION {version}; CPU time, user + system", flush=True)
    table = []
    for name, stack in STACKS.items():
        if given.only not in name:
            continue
        if stack.by_relion and not version:
            print(f"{name}: left out, RELION is not installed")
            continue
        with tempfile.TemporaryDirectory() as temporary:
            made = simulate(stack, given.data / "models", Path(temporary) / "images", given.count)
            table.append(by_us(made, f"{name} ({stack.symmetry})", np.arange(given.count)))
            print(table[-1], flush=True)
            if version and name in beside:
                table.append(by_us(made, f"{name} ({stack.symmetry})", np.arange(given.slice)))
                print(table[-1], flush=True)
                table.append(by_relion(made, f"{name} ({stack.symmetry})", given.slice, given.record))
                print(table[-1], flush=True)
    print()
    common.show_table(
        ["", "images", "CPU s", "median error °", "within 10°", "shift error Å", "FSC 0.5 Å"], table
    )


if __name__ == "__main__":
    main()
