"""How good class averages of the real β-galactosidase particles are, against the atomic model.

    python benchmarks/quality/class2d.py OUTPUT [OUTPUT …] [--data FOLDER] [--finest ANGSTROM]

Each OUTPUT is a folder of ``parhelion class2d``, a model table of RELION's (``run_it025_model.star``),
or a recorded table of this script. The model 5a1a is projected along views 3.7° apart; each average is
laid onto each projection by turning and shifting, and the best mean ring correlation from 30 to 8 Å
counts, rings weighing the same. Averages and projections are masked alike. What a filter did to an
average changes nothing, since each ring is normalised; a ring that an average lacks counts as 0. ``--finest``
ends the rings earlier, to judge averages of a run that has not come to 8 Å yet.

Printed are the mean over the classes that hold the best 1,000 particles (classes taken by their
correlation), the mean over all particles, how many particles lie in classes that reach 0.5, and for our
folders the mean over the classes selected by their score, which knows nothing of the model. ``--record
FILE`` writes a small table of an output's classes (size and correlation).
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common
from parhelion.algorithms.simulate.density import density_from_model
from parhelion.engine.loader import soft_circle, transform
from parhelion.engine.planar import exact_padding, planar_grid, planar_transform, turned
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import fourier_volume
from parhelion.engine.search import shift_grid
from parhelion.geometry.so3 import so3_grid
from parhelion.geometry.symmetry import symmetry_group
from parhelion.io.mrc import open_stack
from parhelion.io.star import read_star
from parhelion.io.star_writer import write_star
from parhelion.kernels import dispatch
from parhelion.model.table import Table

MODEL = "beta_galactosidase_5a1a_D2.cif"
PIXEL, BOX, RADIUS_ANGSTROM = 3.54, 64, 100.0
COARSE_ANGSTROM, FINE_ANGSTROM = 30.0, 8.0
BEST = 1000
RECOGNISED = 0.5


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Averages ``(c, box, box)``, members and, for our own, which were selected."""

    averages: np.ndarray
    members: np.ndarray
    selected: np.ndarray | None


def read(path: Path) -> Classes:
    """A folder of ours or a RELION model table."""
    if path.is_dir():
        table = read_star(path / "classes.star")["model_classes"]
        return Classes(
            averages=np.asarray(open_stack(path / "classes.mrcs").read(np.arange(table.rows))),
            members=np.asarray(table["parhelionMembers"], np.int64),
            selected=np.asarray(table["parhelionSelected"]).astype(bool),
        )
    table = read_star(path)["model_classes"]
    stack = path.with_name(path.name.replace("_model.star", "_classes.mrcs"))
    data = read_star(path.with_name(path.name.replace("_model.star", "_data.star")))["particles"]
    members = np.bincount(np.asarray(data["rlnClassNumber"], np.int64) - 1, minlength=table.rows)
    return Classes(
        averages=np.asarray(open_stack(stack).read(np.arange(table.rows))), members=members, selected=None
    )


def ring_normalised(data: torch.Tensor, points: FourierPoints, rings: torch.Tensor) -> torch.Tensor:
    """``(…, k)`` with every ring's mean power 1, weighted so that a product is the mean over ``rings``."""
    shell = points.shell
    power = points.shell_mean(data.abs().square())[..., shell]
    size = torch.bincount(shell, minlength=points.max_shell + 1)[shell]
    inside = rings[shell]
    weight = inside / (size * rings.sum())
    return torch.where(inside, data / power.clamp_min(1e-30).sqrt().float(), 0) * weight.sqrt().float()


def projections(data: Path, points: FourierPoints, mask: torch.Tensor) -> torch.Tensor:
    """Masked projections of the model on the points, one for each view: ``(v, k)``."""
    model = density_from_model(data / "models" / MODEL, BOX, PIXEL, symmetry=symmetry_group("D2"))
    grid = so3_grid(4, symmetry=symmetry_group("D2"))
    views = torch.from_numpy(grid[:: 6 * 2**4].copy())  # one in-plane angle of each direction
    axis = torch.arange(BOX // 2)
    ky, kx = torch.meshgrid(torch.arange(-(BOX // 2 - 1), BOX // 2), axis, indexing="ij")
    volume = fourier_volume(torch.from_numpy(np.asarray(model.data, np.float32)), BOX // 2 - 1)
    flat = dispatch.extract(
        volume.data, views.contiguous(), kx.reshape(-1).float(), ky.reshape(-1).float(), volume.padding
    )
    full = torch.zeros((len(views), BOX, BOX // 2 + 1), dtype=torch.complex64)
    inside = torch.hypot(kx.float(), ky.float()) <= BOX // 2 - 1
    full[:, ky[inside] % BOX, kx[inside]] = flat[:, inside.reshape(-1)]
    images = torch.fft.fftshift(torch.fft.irfft2(full, s=(BOX, BOX), norm="ortho"), dim=(-2, -1))
    return transform(images * mask, points)


def best_correlations(
    averages: np.ndarray, views: torch.Tensor, points: FourierPoints, finest_angstrom: float
) -> np.ndarray:
    """The best mean ring correlation of each average with any projection, turned and shifted."""
    extent = BOX * PIXEL
    shells = torch.arange(points.max_shell + 1)
    rings = (shells >= extent / COARSE_ANGSTROM) & (shells <= extent / finest_angstrom)
    reference = ring_normalised(views, points, rings)
    mask = soft_circle(BOX, RADIUS_ANGSTROM / PIXEL)
    images = torch.from_numpy(averages.astype(np.float32)) * mask
    padding = exact_padding(BOX)
    whole = planar_transform(images, points.max_shell, padding)
    best = np.zeros(len(averages))
    for number in range(len(averages)):
        shift, angle, span = torch.zeros(2, dtype=torch.float64), 0.0, 360.0
        step, reach, chosen = 5.0, 14.0, torch.arange(len(views))
        for _ in range(3):
            angles = angle + torch.arange(-span / 2, span / 2 + 1e-6, step, dtype=torch.float64)
            shifts = (shift_grid(reach, reach / 4)[:, :2] + shift) / extent
            grid = planar_grid(angles, points, len(points), padding)
            mine = ring_normalised(turned(whole[:, number : number + 1], grid)[0], points, rings)
            phase = 2 * torch.pi * (shifts[:, :1] * points.kx + shifts[:, 1:] * points.ky)
            ramp = torch.polar(torch.ones_like(phase), phase).to(torch.complex64)
            moved = (mine[:, None] * ramp).flatten(0, 1)  # (angles · shifts, k)
            found = torch.view_as_real(reference[chosen]).flatten(1) @ torch.view_as_real(moved).flatten(1).T
            per_view = found.amax(1)
            view, pose = divmod(int(found.argmax()), found.shape[1])
            best[number] = max(best[number], float(found[view, pose]))
            angle, shift = float(angles[pose // len(shifts)]), shifts[pose % len(shifts)] * extent
            chosen = chosen[per_view.argsort(descending=True)[:20]]
            span, step, reach = 2 * step, step / 5, reach / 3
    return best


def mean_of_best(correlation: np.ndarray, members: np.ndarray) -> float:
    """Mean over the ``BEST`` particles whose classes have the highest correlation."""
    order = np.argsort(-correlation)
    left = np.minimum(np.cumsum(members[order]), BEST)
    taken = np.diff(left, prepend=0)
    return float((taken * correlation[order]).sum() / taken.sum())


def row(name: str, correlation: np.ndarray, members: np.ndarray, selected: np.ndarray | None) -> list[str]:
    """One line of the table."""
    kept = "" if selected is None else f"{np.average(correlation[selected], weights=members[selected]):.3f}"
    count = "" if selected is None else f"{int(members[selected].sum())} in {int(selected.sum())}"
    return [
        name,
        str(int((members > 0).sum())),
        f"{mean_of_best(correlation, members):.3f}",
        f"{np.average(correlation, weights=members):.3f}",
        str(int(members[correlation >= RECOGNISED].sum())),
        kept,
        count,
    ]


def main() -> None:
    """One line per output."""
    parser = common.parser(__doc__)
    parser.add_argument("outputs", nargs="+", type=Path, help="folders, RELION model tables, recorded tables")
    parser.add_argument("--record", type=Path, help="write sizes and correlations of the last output")
    parser.add_argument("--finest", type=float, default=FINE_ANGSTROM, help="the last ring, in Å")
    given = parser.parse_args()
    points = FourierPoints(BOX, int(BOX * PIXEL / given.finest))
    views, rows = None, []
    for output in given.outputs:
        blocks = {} if output.is_dir() else read_star(output)
        if "recorded_classes" in blocks:
            table = blocks["recorded_classes"]
            correlation, members, selected = table["ringCorrelation"], table["parhelionMembers"], None
        else:
            if views is None:
                views = projections(given.data, points, soft_circle(BOX, RADIUS_ANGSTROM / PIXEL))
            found = read(output)
            members, selected = found.members, found.selected
            correlation = best_correlations(found.averages, views, points, given.finest)
        rows.append(row(str(output), correlation, members, selected))
        if given.record is not None:
            columns = {"ringCorrelation": correlation.round(4), "parhelionMembers": members}
            write_star(given.record, {"recorded_classes": Table(columns)}, version=None)
    heads = [
        "",
        "classes",
        "best 1000",
        "all",
        f"in classes ≥ {RECOGNISED}",
        "selected",
        "particles selected",
    ]
    common.show_table(heads, rows)


if __name__ == "__main__":
    main()
