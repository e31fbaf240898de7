"""Cost of a refinement round and of the search against particles, box and orientations: linear, with a plot.

    python benchmarks/speed/scaling.py [--picture docs/images/scaling.png]

Particles of a molecule of Gaussian blobs are simulated; CPU time, one core. A search round is measured for
the number of particles, insertion and refinement without a search for the box (their cost is one of Fourier
points: box²), and the search alone for orientations.
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import common
from parhelion.algorithms.simulate.particles import simulate_particles
from parhelion.engine.accumulate import insertion_slices
from parhelion.engine.candidates import Candidates
from parhelion.engine.loader import ParticleLoader
from parhelion.engine.noise import background_noise, on_points
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import fourier_volume
from parhelion.engine.score import ScoreSettings, Stage, refined, searched
from parhelion.engine.search import search_precision, shift_grid, slice_bank
from parhelion.engine.update import MapSums
from parhelion.geometry.so3 import so3_grid
from parhelion.model.volume import Volume

PIXEL_ANGSTROM, DIAMETER_SHARE, CHUNK = 3.0, 0.7, 64
SEARCH_SHELLS = 12.0
SETTINGS = ScoreSettings(
    top=4,
    # no gain ends a stage early here: every candidate takes all steps, so that costs can be compared
    stages=(Stage(limit=1e9, steps=4, keep=2, worse_by=1e9),),
    shift_precision=1e3,
    same_angle_rad=0.02,
    same_shift=0.001,
)


class Images:
    """Simulated images in memory."""

    def __init__(self, images: np.ndarray) -> None:
        self.all = images
        self.box = images.shape[-1]

    def images(self, views: np.ndarray) -> np.ndarray:
        """See ``contracts.ParticleSource``."""
        return self.all[views]


class Case:
    """``count`` particles of a molecule of Gaussian blobs in ``box`` pixels."""

    def __init__(self, box: int, count: int) -> None:
        rng = np.random.default_rng(5)
        z, y, x = (np.indices((box,) * 3, dtype=np.float32) - box // 2) / box
        data = np.zeros((box,) * 3, np.float32)
        for c in rng.uniform(-0.18, 0.18, (12, 3)):
            data += np.exp(-((z - c[0]) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2) / (2 * 0.035**2))
        made = simulate_particles(Volume(data=data, pixel_size_angstrom=PIXEL_ANGSTROM), count, snr=0.1)
        self.points = FourierPoints(box, box // 2 - 2)
        self.loader = ParticleLoader(
            particles=made.particles,
            source=Images(np.concatenate([images for _, images in made.chunks()])),
            points=self.points,
            diameter_angstrom=DIAMETER_SHARE * box * PIXEL_ANGSTROM,
        )
        self.noise = on_points(background_noise(self.loader, 200, rng), self.points)
        self.volume = fourier_volume(torch.from_numpy(data * np.float32(made.signal_scale)), box // 2 - 2)
        self.count, self.extent = count, box * PIXEL_ANGSTROM

    def bank(self, order: int):
        """Slices for a search at this order of the grid."""
        return slice_bank(
            self.volume,
            torch.from_numpy(so3_grid(order)),
            torch.from_numpy(self.loader.tilts),
            self.points,
            self.points.count(SEARCH_SHELLS),
            search_precision(torch.device("cpu")),
        )

    def search(self, bank) -> float:
        """CPU seconds of searching all particles at 29 shifts; they are loaded beforehand."""
        spent = 0.0
        shifts = shift_grid(9 / self.extent, 3 / self.extent)
        for first in range(0, self.count, CHUNK):
            rows = np.arange(first, min(first + CHUNK, self.count))
            part = self.loader.batch(rows, self.points.count(SEARCH_SHELLS)).whitened(self.noise)
            start = time.process_time()
            searched(
                part, bank, shifts, torch.zeros((len(rows), 3), dtype=torch.float64), SETTINGS, self.points
            )
            spent += time.process_time() - start
        return spent

    def round(self, bank) -> float:
        """CPU seconds of a whole round but for the solve: load, search, refine, insert."""
        start = time.process_time()
        sums = MapSums.zeros(self.loader.box, self.points.max_shell, torch.device("cpu"))
        shifts = shift_grid(9 / self.extent, 3 / self.extent)
        for first in range(0, self.count, CHUNK):
            rows = np.arange(first, min(first + CHUNK, self.count))
            white = self.loader.batch(rows, len(self.points)).whitened(self.noise)
            centres = torch.zeros((len(rows), 3), dtype=torch.float64)
            part = white.limited(self.points.count(SEARCH_SHELLS))
            found = searched(part, bank, shifts, centres, SETTINGS, self.points)
            poses = refined(white, self.volume, found, SETTINGS, self.points)
            sums.add(insertion_slices(white, poses, self.points), self.points)
        return time.process_time() - start

    def refinement(self) -> float:
        """CPU seconds of transforms, refinement from the true poses and insertion."""
        truth = self.loader.particles
        start = time.process_time()
        sums = MapSums.zeros(self.loader.box, self.points.max_shell, torch.device("cpu"))
        for first in range(0, self.count, CHUNK):
            rows = np.arange(first, min(first + CHUNK, self.count))
            white = self.loader.batch(rows, len(self.points)).whitened(self.noise)
            start_poses = Candidates(
                particle=torch.arange(len(rows)),
                rotation=torch.from_numpy(np.ascontiguousarray(truth.rotation[rows])),
                shift=torch.from_numpy(truth.shift_xyz_angstrom[rows] / self.extent),
            )
            poses = refined(white, self.volume, start_poses, SETTINGS, self.points)
            sums.add(insertion_slices(white, poses, self.points), self.points)
        return time.process_time() - start


def exponent(sizes: list[float], costs: list[float]) -> float:
    """Slope of the line through log cost against log size; 1 is linear."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def measured(counts: list[int], boxes: list[int], orders: list[int]) -> list[tuple[str, list, list]]:
    """Label, sizes and CPU seconds of the three series."""
    case = Case(64, counts[0])
    case.round(case.bank(1))  # compiles
    rounds = [Case(64, count) for count in counts]
    by_count = [one.round(one.bank(2)) for one in rounds]
    by_box = [Case(box, 128).refinement() for box in boxes]
    case = Case(64, 64)
    banks = [case.bank(order) for order in orders]
    by_orientation = [min(case.search(bank) for _ in range(3)) for bank in banks]
    return [
        ("particles (a round with a search)", counts, by_count),
        ("box² (refine and insert 128 particles)", [box**2 for box in boxes], by_box),
        ("orientations (search of 64 particles)", [len(b.rotations) for b in banks], by_orientation),
    ]


def draw(path: Path, series: list[tuple[str, list, list]]) -> None:
    """Three small panels, cost against size with the straight line through the largest."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(series), figsize=(9, 2.8), layout="constrained")
    for axis, (label, sizes, costs) in zip(axes, series):
        axis.loglog(sizes, costs, "o", color="#1f5f8b")
        axis.loglog(sizes, [costs[-1] * s / sizes[-1] for s in sizes], "-", color="#999999", lw=1)
        axis.set_xlabel(label, fontsize=8)
        axis.minorticks_off()
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=6, rotation=30)
        axis.tick_params(axis="y", labelsize=7)
    axes[0].set_ylabel("CPU seconds", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main() -> None:
    """Measure, print, draw."""
    parser = common.parser(__doc__, data=False)
    parser.add_argument("--picture", type=Path, help="where the plot goes; none without it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{common.hardware()}; one core; CPU time")
    series = measured([125, 250, 500, 1000, 2000], [48, 64, 96, 128, 192], [1, 2, 3])
    rows = []
    for label, sizes, costs in series:
        rows += [
            [label, f"{size:g}", f"{cost:.2f}", f"{cost / size * sizes[-1] / costs[-1]:.2f}"]
            for size, cost in zip(sizes, costs)
        ]
    common.show_table(["against", "size", "CPU s", "cost per unit, largest = 1"], rows)
    for label, sizes, costs in series:
        print(f"{label}: cost grows with power {exponent(sizes, costs):.2f}")
    if given.picture:
        draw(given.picture, series)


if __name__ == "__main__":
    main()
