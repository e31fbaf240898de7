"""Two molecules in one stack, told apart from nothing.

    python benchmarks/quality/abinitio_classes.py --truth A.mrc B.mrc --diameter 190

Images of both maps (``reference.mrc`` of ``parhelion simulate particles``, brought to one grid) are mixed;
printed are the share of particles that end in the right class and the FSC = 0.5 of each class with its truth,
aligned, either hand.
"""

import argparse
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from parhelion.algorithms.ab_initio import AbInitioSettings, ab_initio
from parhelion.algorithms.map_alignment import align_maps
from parhelion.algorithms.simulate.particles import SimulatedParticles, simulate_particles
from parhelion.contracts import SerialExecutor, SilentObserver
from parhelion.fourier.resample import resample_volume
from parhelion.fourier.shells import resolution_at
from parhelion.io.mrc import read_volume
from parhelion.model.particles import ParticleSet

PER_VIEW = (
    "optics_group",
    "defocus_u_angstrom",
    "defocus_v_angstrom",
    "defocus_angle_deg",
    "phase_shift_deg",
    "ctf_bfactor_angstrom2",
    "ctf_scale",
    "noise_group",
)


class Never:
    """Nobody cancels a benchmark."""

    def check(self) -> None:
        """Goes on."""


class Images:
    """Images in memory."""

    def __init__(self, images: np.ndarray) -> None:
        self.all = images
        self.box = images.shape[-1]

    def images(self, views: np.ndarray) -> np.ndarray:
        """See ParticleSource."""
        return self.all[views]


def mixed(made: list[SimulatedParticles]) -> tuple[ParticleSet, Images]:
    """One table and one source of all."""
    tables = [one.particles.views for one in made]
    images = np.concatenate([one.images(np.arange(len(one.particles))) for one in made])
    columns = {name: np.concatenate([getattr(table, name) for table in tables]) for name in PER_VIEW}
    rows = np.arange(len(images))
    views = replace(tables[0], **columns, particle=rows, path_id=np.zeros_like(rows), image_index=rows)
    return ParticleSet(optics=made[0].particles.optics, views=views, count=len(rows)), Images(images)


def main() -> None:
    """Prints a line per class and the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--truth", type=Path, nargs=2, required=True)
    parser.add_argument("--diameter", type=float, required=True)
    parser.add_argument("--count", type=int, nargs=2, default=(480, 320))
    parser.add_argument("--box", type=int, default=48)
    parser.add_argument("--pixel-size", type=float, default=5.0)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    truths = [resample_volume(read_volume(path), args.box, args.pixel_size) for path in args.truth]
    made = [
        simulate_particles(truth, count, snr=args.snr, shift_angstrom=5.0, seed=seed)
        for seed, (truth, count) in enumerate(zip(truths, args.count), 1)
    ]
    particles, images = mixed(made)
    true = np.repeat([0, 1], args.count)
    settings = AbInitioSettings(
        diameter_angstrom=args.diameter, classes=2, starts=1, rounds=args.rounds, seed=args.seed
    )
    before = resource.getrusage(resource.RUSAGE_SELF)
    found = ab_initio(
        particles, images, settings, executor=SerialExecutor(), observer=SilentObserver(), cancel=Never()
    )
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assigned = found.particles.class_number - 1 if found.particles is not None else np.zeros_like(true)
    right = float((assigned == true).mean())
    order = (0, 1) if right >= 0.5 else (1, 0)
    for k, volume in enumerate(found.volumes):
        curves = [align_maps(volume, truth).fsc for truth in truths]
        reached = [resolution_at(curve, 0.5, args.box, args.pixel_size) for curve in curves]
        print(
            f"class {k + 1}: {100 * found.shares[k]:.0f} %, FSC 0.5 at {reached[order[k]]:.1f} Å with "
            f"{args.truth[order[k]].parent.name}, at {reached[order[1 - k]]:.1f} Å with the other "
            f"(limit {found.resolution_limit_angstrom:.1f} Å)"
        )
    print(f"seed {args.seed}: {100 * max(right, 1 - right):.1f} % in the right class, {spent:.0f} s CPU")


if __name__ == "__main__":
    main()
