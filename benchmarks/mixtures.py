"""Stacks of several structures, two differing in one domain, with every particle's structure known."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import gemmi
import numpy as np
from scipy.stats import norm

import common
from parhelion.algorithms.simulate.atomic_model import centre_of_mass, read_model
from parhelion.algorithms.simulate.density import density_from_model
from parhelion.algorithms.simulate.particles import SimulatedParticles, simulate_particles
from parhelion.fourier.filters import lowpass
from parhelion.io.mrc_writer import StackWriter
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

BOX, SNR = 64, 0.05
SHARES = (0.5, 0.3, 0.2)

Drops = Callable[[str, int], bool]
"""Whether a residue (chain, number) is missing."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A molecule ``whole``, the same without the residues that ``drops`` says, and an ``other`` one."""

    names: tuple[str, str, str]
    whole: str
    drops: Drops
    other: str
    pixel_size_angstrom: float
    diameter_angstrom: float
    start_angstrom: float


def _protuberance(chain: str, number: int) -> bool:
    """5S rRNA, L5, L18, L25, L27 and helices 82 to 88 of the 23S rRNA: 146 kDa of 2.3 MDa."""
    return chain in {"BB", "BG", "BS", "BZ", "B0"} or (chain == "BA" and 2270 <= number <= 2426)


def _fourth_domain(chain: str, number: int) -> bool:
    """Of each of four chains: 45 kDa of 465 kDa."""
    return 628 <= number <= 725


RECIPES = {
    "ribosome": Recipe(
        names=("70S", "70S without CP", "GroEL"),
        whole="ribosome70s_4v5d_C1.cif",
        drops=_protuberance,
        other="groel_1mnf_D7.pdb",
        pixel_size_angstrom=5.5,
        diameter_angstrom=290.0,
        start_angstrom=60.0,
    ),
    "galactosidase": Recipe(
        names=("galactosidase", "without domain 4", "apoferritin"),
        whole="beta_galactosidase_5a1a_D2.cif",
        drops=_fourth_domain,
        other="apoferritin_6z6u_O.pdb",
        pixel_size_angstrom=3.6,
        diameter_angstrom=190.0,
        start_angstrom=40.0,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Images on disk, their true poses, which structure each shows, and the structures.

    ``possible`` is the share of the first two structures' images that somebody could tell who knew all poses
    and both maps.
    """

    recipe: Recipe
    particles: ParticleSet
    truth: common.Poses
    label: np.ndarray
    maps: tuple[Volume, ...]
    possible: float

    @property
    def start(self) -> Volume:
        """What every program starts from."""
        return lowpass(self.maps[0], self.recipe.start_angstrom)


def structures(recipe: Recipe, models: Path, folder: Path) -> tuple[Volume, ...]:
    """The three true maps; the first two lie in one frame."""
    pixel = recipe.pixel_size_angstrom
    whole = density_from_model(models / recipe.whole, BOX, pixel)
    model = read_model(models / recipe.whole)
    path = folder / "incomplete.cif"
    _without(model, recipe.drops).make_mmcif_document().write_file(str(path))
    part = density_from_model(path, BOX, pixel)
    by = (centre_of_mass(read_model(path)) - centre_of_mass(model)) / pixel
    part = replace(part, data=_moved(part.data, by))
    return whole, part, density_from_model(models / recipe.other, BOX, pixel)


def _without(model: gemmi.Structure, drops: Drops) -> gemmi.Structure:
    """A copy of the model less what ``drops`` says."""
    copy = model.clone()
    for chain in copy[0]:
        for i in reversed(range(len(chain))):
            if drops(chain.name, chain[i].seqid.num):
                del chain[i]
    copy.setup_entities()
    return copy


def _moved(data: np.ndarray, by_xyz: np.ndarray) -> np.ndarray:
    """The map moved by so many voxels along x, y, z, exactly for what is band-limited."""
    z, y, x = np.meshgrid(*[np.fft.fftfreq(n) for n in data.shape], indexing="ij")
    phase = np.exp(-2j * np.pi * (x * by_xyz[0] + y * by_xyz[1] + z * by_xyz[2]))
    return np.fft.ifftn(np.fft.fftn(data) * phase).real.astype(np.float32)


def mixture(recipe: Recipe, models: Path, folder: Path, count: int, seed: int = 1) -> Mixture:
    """``count`` images in ``folder``, in random order, the same for the same ``seed``."""
    maps = structures(recipe, models, folder)
    counts = [round(count * share) for share in SHARES]
    counts[0] = count - sum(counts[1:])
    made = [
        simulate_particles(m, n, snr=SNR, seed=10 * seed + k) for k, (m, n) in enumerate(zip(maps, counts))
    ]
    # one brightness: what is missing must show as missing, not as everything else being brighter
    made[1] = replace(made[1], signal_scale=made[0].signal_scale)
    order = np.random.default_rng(seed - 1).permutation(count)
    images = np.concatenate([m.images(np.arange(n)) for m, n in zip(made, counts)])[order]
    stack = folder / "mixture.mrcs"
    with StackWriter(stack, count, (BOX, BOX), recipe.pixel_size_angstrom) as writer:
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
    return Mixture(
        recipe=recipe,
        particles=replace(particles, rotation=None, shift_xyz_angstrom=None),
        truth=common.poses_of(particles),
        label=np.repeat(np.arange(3), counts)[order],
        maps=maps,
        possible=_possible(made[:2]),
    )


def _possible(made: list[SimulatedParticles]) -> float:
    """The share of right ones if poses and both maps were known: the ratio of likelihoods of images that
    differ by d, in noise of variance 1, is normal with mean ±d²/2 and variance d²."""
    counts = np.array([one.particles.count for one in made])
    total = 0.0
    for k, one in enumerate(made):
        every = np.arange(one.particles.count)
        odd = replace(made[1 - k], particles=one.particles, signal_scale=one.signal_scale)
        distance = np.sqrt(((one.signal(every) - odd.signal(every)).astype(np.float64) ** 2).sum((1, 2)))
        prior = np.log(counts[k] / counts[1 - k])
        total += norm.cdf((distance**2 / 2 + prior) / distance).sum()
    return float(total / counts.sum())
