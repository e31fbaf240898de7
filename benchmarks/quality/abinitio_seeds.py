"""Ab-initio from nothing, counted over seeds: how many single starts find the structure.

    python benchmarks/quality/abinitio_seeds.py --particles DIR --truth MAP --symmetry D2 --diameter 180

DIR holds ``particles.star`` (or ``--table``), protein white. Each seed is one start, without the choice among
starts that ``parhelion abinitio`` makes, so the count is the worst case; ``--starts 3`` counts what the
command does. A start is counted as found when its FSC = 0.5 against the truth (aligned, either hand) lies
within 1.6 times the resolution limit of the search.
"""

import argparse
import resource
from pathlib import Path

import torch

from parhelion.algorithms.ab_initio import AbInitioSettings, ab_initio
from parhelion.algorithms.map_alignment import align_maps
from parhelion.contracts import SerialExecutor, SilentObserver
from parhelion.fourier.resample import resample_volume
from parhelion.fourier.shells import fsc, resolution_at
from parhelion.io.mrc import read_volume
from parhelion.io.particles import check_images, read_particles
from parhelion.io.source import StackSource

FOUND_WITHIN = 1.6


class Never:
    """Nobody cancels a benchmark."""

    def check(self) -> None:
        """Goes on."""


def cpu_seconds() -> float:
    """User and system time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Prints a line per seed and the count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--particles", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--symmetry", default="C1")
    parser.add_argument("--diameter", type=float, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--table", default="particles.star", help="its name in the folder")
    parser.add_argument(
        "--images-per-class", type=int, help="class averages of so many in place of particles"
    )
    parser.add_argument("--batch", type=int, default=1000, help="particles per class in the last round")
    parser.add_argument("--initial-resolution", type=float)
    parser.add_argument("--final-resolution", type=float)
    parser.add_argument("--starts", type=int, default=1, help="starts per seed, of which the best is taken")
    args = parser.parse_args()
    torch.set_num_threads(1)
    particles, _ = check_images(read_particles(args.particles / args.table))
    source = StackSource(particles, "white")
    truth = read_volume(args.truth)
    found = 0
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        start = cpu_seconds()
        settings = AbInitioSettings(
            diameter_angstrom=args.diameter,
            symmetry=args.symmetry,
            starts=args.starts,
            seed=seed,
            batch=args.batch,
            images_per_class=args.images_per_class,
            initial_resolution_angstrom=args.initial_resolution,
            final_resolution_angstrom=args.final_resolution,
        )
        result = ab_initio(
            particles, source, settings, executor=SerialExecutor(), observer=SilentObserver(), cancel=Never()
        )
        spent = cpu_seconds() - start
        volume = resample_volume(result.volume, truth.box, truth.pixel_size_angstrom)
        curve = fsc(align_maps(volume, truth).aligned.data, truth.data)
        reached = resolution_at(curve, 0.5, truth.box, truth.pixel_size_angstrom)
        good = reached <= FOUND_WITHIN * result.resolution_limit_angstrom
        found += good
        print(
            f"{args.particles.name} seed {seed}: FSC 0.5 at {reached:.1f} Å "
            f"(limit {result.resolution_limit_angstrom:.1f} Å), "
            f"evidence {result.starts[result.chosen].evidence:.2f}, {spent:.0f} s CPU, "
            f"{'found' if good else 'missed'}",
            flush=True,
        )
    what = "single starts" if args.starts == 1 else f"runs of {args.starts} starts"
    print(f"{args.particles.name} {args.symmetry}: {found} of {args.seeds} {what} found the structure")


if __name__ == "__main__":
    main()
