"""How well the automatic selection of 2D classes tells simulated particles from junk.

    python benchmarks/quality/class2d_selection.py [--data FOLDER] [--snr 0.05 …] [--particles 900] [--seed N]
        [--molecule NAME …]

Projections of an atomic model (β-galactosidase, D2, unless others are named) at each signal-to-noise ratio,
and a third as many boxes of junk: noise alone, particles so far off that their box shows a part, and edges of
carbon (a soft step across the box). ``class2d`` runs as ``spa`` runs it and particles are chosen as there;
printed are the shares of good particles and of each kind of junk that are kept.
"""

import itertools
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common
from parhelion.algorithms.class2d.classify import classify
from parhelion.algorithms.class2d.selection import judge
from parhelion.algorithms.class2d.settings import Class2dSettings
from parhelion.algorithms.first_run import CYCLES_2D, classes_2d
from parhelion.algorithms.simulate.density import density_from_model
from parhelion.algorithms.simulate.particles import simulate_particles
from parhelion.contracts import SilentObserver
from parhelion.geometry.symmetry import symmetry_group
from parhelion.model.particles import ParticleSet
from parhelion.run.cancel import CancelFlag
from parhelion.run.executor import ThreadExecutor

BOX = 64
MOLECULES = {
    "bgal": ("beta_galactosidase_5a1a_D2.cif", "D2", 3.54, 180.0),
    "groel": ("groel_1mnf_D7.pdb", "D7", 3.8, 180.0),
    "apoferritin": ("apoferritin_6z6u_O.pdb", "O", 2.8, 130.0),
    "ribosome": ("ribosome70s_4v5d_C1.cif", "C1", 6.0, 290.0),
    "spike": ("spike_6vxx_C3.pdb", "C3", 3.8, 180.0),
}
"""Model, symmetry, pixel size and diameter in Å."""
FAR_PX, EDGE_PX = 26, 6.0
"""How far particles off centre are moved, and half the width of an edge."""
KINDS = ("good", "noise", "off centre", "edges")


class Images:
    """Images in memory."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.box = data, data.shape[-1]

    def images(self, views: np.ndarray) -> np.ndarray:
        """Images of these rows."""
        return self.data[views]


def edges(count: int, contrast: float, rng: np.random.Generator) -> np.ndarray:
    """Soft steps across the box at any angle and place, ``(count, BOX, BOX)``."""
    y, x = np.indices((BOX, BOX)) - BOX // 2
    angle, place = rng.uniform(0, 2 * np.pi, count), rng.uniform(-16, 16, count)
    across = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y - place[:, None, None]
    return contrast * np.tanh(across / EDGE_PX)


def made(
    data: Path, molecule: str, count: int, snr: float, seed: int
) -> tuple[ParticleSet, Images, np.ndarray]:
    """Particles without poses, their images, and which kind each is (number in KINDS)."""
    name, symmetry, pixel, _ = MOLECULES[molecule]
    rng = np.random.default_rng(seed)
    junk = count // 9
    model = density_from_model(data / "models" / name, BOX, pixel, symmetry=symmetry_group(symmetry))
    found = simulate_particles(model, count + 3 * junk, snr=snr, shift_angstrom=10.0, seed=seed)
    kind = rng.permutation(np.repeat([0, 1, 2, 3], [count, junk, junk, junk]))
    images = found.images(np.arange(len(kind)))
    images[kind == 1] = rng.normal(size=(junk, BOX, BOX))
    images[kind == 2] = np.roll(images[kind == 2], FAR_PX, axis=1)
    images[kind == 2, :FAR_PX] = rng.normal(size=(junk, FAR_PX, BOX))
    images[kind == 3] = rng.normal(size=(junk, BOX, BOX)) + edges(junk, 4 * np.sqrt(snr), rng)
    return replace(found.particles, rotation=None, shift_xyz_angstrom=None), Images(images), kind


def kept(data: Path, molecule: str, count: int, snr: float, seed: int) -> tuple[list[float], float, float]:
    """The share of each kind that is kept, the threshold, and CPU seconds."""
    particles, images, kind = made(data, molecule, count, snr, seed)
    cancel = CancelFlag()
    executor = ThreadExecutor(1, cancel)
    settings = Class2dSettings(
        diameter_angstrom=MOLECULES[molecule][3], classes=classes_2d(len(kind)), cycles=CYCLES_2D, seed=seed
    )
    before = time.process_time()
    found = classify(particles, images, settings, executor=executor, observer=SilentObserver(), cancel=cancel)
    spent = time.process_time() - before
    executor.close()
    judged = judge(found, settings)
    chosen = np.zeros(len(kind), bool)
    chosen[found.rows] = judged.chosen
    return [float(chosen[kind == number].mean()) for number in range(len(KINDS))], judged.threshold, spent


def main() -> None:
    """One line per molecule and signal-to-noise ratio."""
    parser = common.parser(__doc__)
    parser.add_argument("--snr", type=float, nargs="+", default=[0.1, 0.05], help="signal-to-noise ratios")
    parser.add_argument("--particles", type=int, default=900, help="good particles")
    parser.add_argument(
        "--molecule", nargs="+", default=["bgal"], choices=MOLECULES, help="what is simulated"
    )
    parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn")
    given = parser.parse_args()
    rows = []
    for molecule, snr in itertools.product(given.molecule, given.snr):
        shares, threshold, spent = kept(given.data, molecule, given.particles, snr, given.seed)
        percent = [f"{100 * share:.1f}" for share in shares]
        rows.append([molecule, f"{snr:g}", *percent, f"{threshold:.2f}", f"{spent:.0f}"])
    heads = ["", "SNR", *(f"{name} kept %" for name in KINDS), "threshold", "CPU s"]
    common.show_table(heads, rows)


if __name__ == "__main__":
    main()
