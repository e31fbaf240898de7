"""Automatic refinement of blob_particles from a 40 Å map: parhelion beside recorded runs of other programs.

    python benchmarks/speed/refine.py [--data FOLDER] [--seeds 3] [--relion]

Ours runs here, once to compile and cache the kernels and once per seed for the table. Other programs' figures
are recorded: their particle tables are read, and errors computed by the same code; CPU times are those noted
when they ran. ``--relion`` runs RELION here as well (an hour or more on two cores), ``--record FILE`` keeps
its poses and figures.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common
from parhelion.fourier.shells import fsc, resolution_at
from parhelion.io.mrc import read_volume, write_volume

DIAMETER_ANGSTROM, START_ANGSTROM = 180.0, 30.0
# Name, CPU seconds, and the table in the data folder; what benchmarks/recorded holds is added to these.
OTHERS = (
    ("RELION 5.0.1, recorded", 1000.0, "blob_relion5_auto_refine.star"),
    ("cisTEM 2.0 alpha, recorded", 24.5, "blob_cistem_auto_refine.star"),
)


def row(name: str, cpu: float, found: common.Poses, truth: common.Poses) -> list[str]:
    """One line of the table."""
    errors = common.pose_errors(found, truth)
    return [
        name,
        f"{cpu:.1f}" if cpu < 100 else f"{cpu:.0f}",
        f"{errors.median_deg:.2f}",
        f"{100 * errors.within_10deg:.1f} %",
        f"{errors.median_shift_angstrom:.2f}",
    ]


def by_relion(folder: Path, data: Path, truth: common.Poses, record: Path | None) -> list[str]:
    """RELION's refinement here; ``record`` keeps its poses."""
    particles, source = common.particles_with_images(data / "particles.star")
    common.write_for_relion(folder, particles, source, np.arange(len(particles)))
    write_volume(folder / "start.mrc", read_volume(data / "start_40A.mrc"))
    cpu = common.relion_auto_refine(folder, "C1", DIAMETER_ANGSTROM, START_ANGSTROM)
    found = common.read_poses(folder / "run_data.star")
    name = f"RELION {common.relion_version()}"
    if record:
        command = (folder / "command.txt").read_text().strip()
        common.write_poses(record, found, common.record_comments(name, cpu, command))
    return row(f"{name}, this run", cpu, found, truth)


def main() -> None:
    """Run ours and print the table."""
    parser = common.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many of our runs, each with its own seed")
    parser.add_argument("--threads", type=int, default=2, help="of our runs")
    parser.add_argument("--relion", action="store_true", help="run RELION here too")
    parser.add_argument("--record", type=Path, help="file for RELION's poses and figures")
    given = parser.parse_args()
    data = given.data / "blob_particles"
    truth = common.read_poses(data / "truth.star")
    particles, source = common.particles_with_images(data / "particles.star")
    start = read_volume(data / "start_40A.mrc")
    map_ = np.asarray(read_volume(data / "truth.mrc").data, np.float32)
    print(f"{common.hardware()}; {given.threads} threads; CPU time, user + system")
    _, first = common.refine(particles, source, start, given.threads, most_rounds=2)
    print(f"first run (two rounds, compiles or loads the kernels): {first:.1f} s")
    table = []
    for seed in range(1, given.seeds + 1):
        found, cpu = common.refine(particles, source, start, given.threads, seed=seed)
        table.append(row(f"parhelion, seed {seed}", cpu, common.poses_of(found.particles), truth))
        limit = resolution_at(
            fsc(np.asarray(found.map.data), map_), 0.5, found.map.box, found.map.pixel_size_angstrom
        )
        print(
            f"seed {seed}: {len(found.history)} rounds, FSC = 0.143 at {found.resolution_angstrom:.1f} Å, "
            f"FSC = 0.5 with the truth at {limit:.1f} Å"
        )
    for name, cpu, file in OTHERS:
        table.append(row(name, cpu, common.read_poses(given.data / "peers" / file), truth))
    for path in sorted(common.RECORDED.glob("blob_*.star")):
        name, cpu = common.recorded(path)
        table.append(row(f"{name}, recorded", cpu, common.read_poses(path), truth))
    if given.relion:
        with tempfile.TemporaryDirectory() as name:
            table.append(by_relion(Path(name), data, truth, given.record))
    print()
    common.show_table(["", "CPU s", "median error °", "within 10°", "median shift error Å"], table)
    print("goal: at most 10 s, at most 3.7°, at least 95 %")


if __name__ == "__main__":
    main()
