"""Three structures in one stack, two of them differing in one domain: who is told apart, and at what cost.

    python benchmarks/quality/classify3d.py [--data FOLDER] [--count 1200] [--relion FOLDER]
                                            [--relion-recorded TABLE] [--record FOLDER]

The mixture: half are 70S ribosomes, three in ten the same without the central protuberance (5S rRNA, L5, L18,
L25, L27 and helices 82 to 88 of the 23S rRNA, 146 kDa of 2.3 MDa), two in ten GroEL. Every particle lies at a
random orientation and shift; white noise makes the SNR 0.05 (variance of the CTF-modulated image over the
whole box, averaged, per variance of the noise). The two ribosomes have one brightness. Somebody who knew all
poses and both maps could tell 97.8 % of the ribosomes.

Both programs get images and CTF only, and the ribosome's map filtered to 60 Å. RELION searches everywhere
with three classes for 25 iterations; we refine all particles as one structure, then classify. Printed are
CPU time, the share of particles in the right class (of the best permutation) and of ribosomes alone, the
probability stated of them, and where the FSC of every class with its true map falls to 0.5 inside one soft
mask of the true molecule. ``--relion FOLDER`` prepares RELION's input there, runs it where it has not run
and keeps it; ``--record`` keeps classes and CPU time for ``--relion-recorded``.
"""

import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

import gemmi
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common
from parhelion.algorithms.simulate.atomic_model import centre_of_mass, read_model
from parhelion.algorithms.simulate.density import density_from_model
from parhelion.algorithms.simulate.particles import simulate_particles
from parhelion.fourier.filters import lowpass
from parhelion.fourier.shells import fsc, resolution_at
from parhelion.images.masks import automatic_mask
from parhelion.io.mrc import read_volume, write_volume
from parhelion.io.mrc_writer import StackWriter
from parhelion.io.particles import write_particles
from parhelion.io.star import read_star
from parhelion.io.star_writer import write_star
from parhelion.model.particles import ParticleSet
from parhelion.model.table import Table
from parhelion.model.volume import Volume

BOX, PIXEL, SNR, DIAMETER = 64, 5.5, 0.05, 290.0
START_ANGSTROM = 60.0
SHARES = (0.5, 0.3, 0.2)
NAMES = ("70S", "70S without CP", "GroEL")
PROTUBERANCE_CHAINS = {"BB", "BG", "BS", "BZ", "B0"}
PROTUBERANCE_RNA = ("BA", 2270, 2426)
RECORDED = common.RECORDED / "mixture_relion.star"
RELION = (
    "relion_refine --i particles.star --ref start.mrc --firstiter_cc --ini_high {start:g} --o ./run --K 3 "
    "--iter 25 --tau2_fudge 4 --ctf --healpix_order 2 --oversampling 1 --offset_range 3 --offset_step 2 "
    "--sym C1 --pad 2 --norm --scale --particle_diameter {diameter:g} --flatten_solvent --zero_mask "
    "--dont_combine_weights_via_disc --pool 10 --j 1 --random_seed 1"
)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Images on disk, their true poses, which structure each shows, and the structures."""

    particles: ParticleSet
    truth: common.Poses
    label: np.ndarray
    maps: tuple[Volume, ...]

    @property
    def start(self) -> Volume:
        """What every program starts from."""
        return lowpass(self.maps[0], START_ANGSTROM)


def structures(models: Path, folder: Path) -> tuple[Volume, ...]:
    """The three true maps; both ribosomes lie in one frame."""
    ribosome = models / "ribosome70s_4v5d_C1.cif"
    whole = density_from_model(ribosome, BOX, PIXEL)
    model = read_model(ribosome)
    centre = centre_of_mass(model)
    chain, first, last = PROTUBERANCE_RNA
    lacking = without(
        model,
        lambda c, number: c in PROTUBERANCE_CHAINS or (c == chain and first <= number <= last),
    )
    path = folder / "without_protuberance.cif"
    lacking.make_mmcif_document().write_file(str(path))
    part = density_from_model(path, BOX, PIXEL)
    part = replace(part, data=moved(part.data, (centre_of_mass(read_model(path)) - centre) / PIXEL))
    return whole, part, density_from_model(models / "groel_1mnf_D7.pdb", BOX, PIXEL)


def without(model: gemmi.Structure, drops: Callable[[str, int], bool]) -> gemmi.Structure:
    """A copy of the model less the residues that ``drops`` (chain, number) says."""
    copy = model.clone()
    for chain in copy[0]:
        for i in reversed(range(len(chain))):
            if drops(chain.name, chain[i].seqid.num):
                del chain[i]
    copy.setup_entities()
    return copy


def moved(data: np.ndarray, by_xyz: np.ndarray) -> np.ndarray:
    """The map moved by so many voxels along x, y, z, exactly for what is band-limited."""
    z, y, x = np.meshgrid(*[np.fft.fftfreq(n) for n in data.shape], indexing="ij")
    phase = np.exp(-2j * np.pi * (x * by_xyz[0] + y * by_xyz[1] + z * by_xyz[2]))
    return np.fft.ifftn(np.fft.fftn(data) * phase).real.astype(np.float32)


def mixture(models: Path, folder: Path, count: int) -> Mixture:
    """``count`` images in ``folder``, in random order, the same every time."""
    maps = structures(models, folder)
    counts = [round(count * share) for share in SHARES]
    counts[0] = count - sum(counts[1:])
    made = [simulate_particles(m, n, snr=SNR, seed=10 + k) for k, (m, n) in enumerate(zip(maps, counts))]
    # one brightness: what is missing must show as missing, not as everything else being brighter
    made[1] = replace(made[1], signal_scale=made[0].signal_scale)
    order = np.random.default_rng(0).permutation(count)
    images = np.concatenate([m.images(np.arange(n)) for m, n in zip(made, counts)])[order]
    stack = folder / "mixture.mrcs"
    with StackWriter(stack, count, (BOX, BOX), PIXEL) as writer:
        writer.write(0, images)
    first = made[0].particles
    per_view = {
        name: np.concatenate([getattr(m.particles.views, name) for m in made])[order]
        for name, value in vars(first.views).items()
        if isinstance(value, np.ndarray)
    }
    numbers = {"image_index": np.arange(count), "particle": np.arange(count)}
    views = replace(first.views, **{**per_view, **numbers}, image_path=(stack,))
    rotation = np.concatenate([m.particles.rotation for m in made])[order]
    shift = np.concatenate([m.particles.shift_xyz_angstrom for m in made])[order]
    particles = replace(first, count=count, views=views, rotation=rotation, shift_xyz_angstrom=shift)
    bare = replace(particles, rotation=None, shift_xyz_angstrom=None)
    label = np.repeat(np.arange(3), counts)[order]
    return Mixture(particles=bare, truth=common.poses_of(particles), label=label, maps=maps)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a program found: class (from 0), stated probability and pose of every image, maps of classes."""

    name: str
    cpu_s: float
    number: np.ndarray
    probability: np.ndarray
    poses: common.Poses
    maps: tuple[np.ndarray, ...] = ()


def confusion(found: Found, label: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """Counts ``(3 found, 3 true)``, and the class that stands for each structure at the most matches."""
    table = np.array([[((found.number == k) & (label == j)).sum() for j in range(3)] for k in range(3)])
    best = max(permutations(range(3)), key=lambda p: sum(table[p[j], j] for j in range(3)))
    return table, best


def row(made: Mixture, found: Found) -> list[str]:
    """One line of the table."""
    table, best = confusion(found, made.label)
    right = np.array([best[j] for j in made.label]) == found.number
    limits = [_limit(found, made, k, j) for j, k in enumerate(best)] if found.maps else ["-"] * 3
    ribosome = made.label < 2
    print(f"{found.name}: classes (rows) and structures (columns) {table.tolist()}")
    return [
        found.name,
        f"{found.cpu_s:.0f}",
        f"{100 * right.mean():.1f} %",
        f"{100 * right[ribosome].mean():.1f} %",
        f"{100 * found.probability.mean():.1f} %",
        *limits,
    ]


def _limit(found: Found, made: Mixture, k: int, j: int) -> str:
    """Å where the FSC of class ``k`` with structure ``j`` falls to 0.5, after alignment by the poses."""
    truth = made.maps[j]
    mask = np.asarray(automatic_mask(truth).mask.data)
    curve = fsc(aligned_to(truth.data, found.maps[k]) * mask, np.asarray(truth.data) * mask)
    return f"{resolution_at(curve, 0.5, BOX, PIXEL):.1f}"
