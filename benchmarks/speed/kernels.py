"""The hot operations on one core: against the memory, and against the portable torch version.

    python benchmarks/speed/kernels.py [--box 128] [--slices 300]

A slice crosses the volume, so that extraction and insertion fetch cache lines here and there: the memory's
limit is the rate of lines at random places in an array of the volume's size, measured here, times the number
of different lines that a slice touches (counted). Insertion fetches and returns lines of two volumes. The
bandwidth of copying in order is printed beside. No data are needed.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import common
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import fourier_volume
from parhelion.geometry.rotations import random_rotations
from parhelion.kernels import dispatch, portable

PADDING = 2.0
COMPLEX, FLOAT, LINE = 8, 4, 64
REFINED, STEPS, SAMPLE = 24, 6, 20


def seconds(work: Callable[[], object], tries: int = 5) -> float:
    """Least CPU time of a few tries, after one that compiles."""
    work()
    best = np.inf
    for _ in range(tries):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def bandwidth(size: int = 2**27) -> float:
    """Bytes read and written per CPU second of copying."""
    a, b = torch.ones(size // 4), torch.empty(size // 4)
    return 2.0 * size / seconds(lambda: b.copy_(a))


def line_seconds(nbytes: int, count: int = 200_000) -> float:
    """CPU seconds per cache line fetched at random from ``nbytes``, by summing lines in pairs."""
    lines = torch.ones(nbytes // LINE, LINE // FLOAT)
    pairs = torch.randint(len(lines), (count // 2, 2))
    return seconds(lambda: torch.nn.functional.embedding_bag(pairs, lines, mode="sum")) / count


def lines_per_point(points: FourierPoints, rotations: torch.Tensor, h: int, itemsize: int) -> float:
    """Different cache lines of a Fourier volume that a slice's eight neighbours lie in, per point."""
    plane = torch.stack((points.kx, points.ky))
    found = 0
    for rotation in rotations[:SAMPLE]:
        xyz = rotation[:2].T.float() @ plane * PADDING
        xyz = xyz * torch.where(xyz[0] < 0, -1.0, 1.0)
        corner = xyz.floor().long() + torch.tensor([[0], [h], [h]])
        x, y, z = corner
        every = [
            (((z + c) * (2 * h + 1) + y + b) * (h + 1) + x + a) * itemsize // LINE
            for c in (0, 1)
            for b in (0, 1)
            for a in (0, 1)
        ]
        found += len(torch.unique(torch.cat(every)))
    return found / (SAMPLE * len(points))


def main() -> None:
    """Measure and print the table."""
    parser = common.parser(__doc__, data=False)
    parser.add_argument("--box", type=int, default=128, help="pixels")
    parser.add_argument("--slices", type=int, default=300, help="how many slices")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    shell = given.box // 2 - 2
    points = FourierPoints(given.box, shell)
    kx, ky = points.kx, points.ky
    rotations = torch.from_numpy(random_rotations(given.slices, rng))
    map_ = torch.from_numpy(rng.standard_normal((given.box,) * 3).astype(np.float32))
    volume = fourier_volume(map_, shell)
    total = given.slices * len(points)
    values = dispatch.extract(volume.data, rotations, kx, ky, PADDING)
    weights = torch.ones(values.shape)
    numerator, denominator = torch.zeros_like(volume.data), torch.zeros(volume.data.shape)
    copy = bandwidth()
    print(f"{common.hardware()}; one core; box {given.box}, {len(points)} points, {given.slices} slices")
    print(f"copying moves {copy / 1e9:.1f} GB/s; the padded volume is {volume.data.nbytes / 1e6:.0f} MB")

    def insert(kernel: Callable[..., object]) -> Callable[[], object]:
        if kernel is portable.insert:
            return lambda: kernel(numerator, denominator, rotations, kx, ky, PADDING, values, weights)
        return lambda: kernel(numerator, denominator, kx, ky, PADDING, [(rotations, values, weights)])

    def refine(kernel: Callable[..., object]) -> Callable[[], object]:
        one = torch.ones(6, dtype=torch.bool)
        one[5] = False
        chosen = slice(0, REFINED)
        data, ctf = values[chosen].unsqueeze(1), weights[chosen].unsqueeze(1)
        return lambda: kernel(
            volume.data,
            rotations[chosen],
            torch.zeros((REFINED, 3), dtype=torch.float64),
            torch.arange(REFINED),
            data,
            ctf,
            torch.ones((REFINED, 1), dtype=torch.bool),
            torch.eye(3, dtype=torch.float64)[None],
            kx,
            ky,
            PADDING,
            one,
            0.0,
            STEPS,
            0.3,
            -1.0,  # no gain is small enough to stop
        )

    h = volume.data.shape[-1] - 1
    complex_lines = lines_per_point(points, rotations, h, COMPLEX)
    float_lines = lines_per_point(points, rotations, h, FLOAT)
    fetch_complex, fetch_float = line_seconds(volume.data.nbytes), line_seconds(volume.data.nbytes // 2)
    limit = {
        "extract": complex_lines * fetch_complex,
        "insert": 2 * (complex_lines * fetch_complex + float_lines * fetch_float),
    }
    rows = []
    works = {
        "extract": (
            seconds(lambda: dispatch.extract(volume.data, rotations, kx, ky, PADDING)),
            seconds(lambda: portable.extract(volume.data, rotations, kx, ky, PADDING), 2),
        ),
        "insert": (seconds(insert(dispatch.insert)), seconds(insert(portable.insert), 2)),
    }
    print(
        f"a slice touches {complex_lines:.2f} lines of {LINE} bytes per point; a line at random takes "
        f"{fetch_complex * 1e9:.1f} ns ({LINE / fetch_complex / 1e9:.1f} GB/s)"
    )
    for name, (compiled, plain) in works.items():
        rows.append(
            [
                name,
                f"{compiled / total * 1e9:.1f}",
                f"{limit[name] * 1e9:.1f}",
                f"{compiled / total / limit[name]:.1f}",
                f"{plain / total * 1e9:.1f}",
                f"{plain / compiled:.1f}",
            ]
        )
    evaluations = REFINED * (STEPS + 1) * len(points)
    compiled, plain = seconds(refine(dispatch.refine_poses), 3), seconds(refine(portable.refine_poses), 1)
    rows.append(
        [
            f"refine, per evaluation (of {STEPS + 1})",
            f"{compiled / evaluations * 1e9:.1f}",
            "",
            "",
            f"{plain / evaluations * 1e9:.1f}",
            f"{plain / compiled:.1f}",
        ]
    )
    print()
    common.show_table(
        ["", "ns per point", "memory's limit, ns", "times the limit", "portable torch, ns", "times ours"],
        rows,
    )


if __name__ == "__main__":
    main()
