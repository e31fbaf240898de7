"""CPU time of motion correction per movie, RELION's own implementation on the same movies beside.

    python benchmarks/speed/motion.py --data FOLDER [--count 5] [--size 2048] [--frames 20]

One simulated movie (1 e⁻ per pixel and frame) is processed three times under different names, then
``--count`` times more, by both programs, which both write the dose-weighted sum and the power spectrum. The
difference of both runs gives the seconds of a movie without the programs' start and report, whose plots show
the first three movies; the time of the longer run as a whole stands beside. Ends with 1 where the ratio is
below 3 or the error larger than RELION's.
"""

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import hardware, parser, relion_version, show_table
from movies import CASES, errors, run_ours, run_relion, simulate
from parhelion.io.star import read_star, write_star
from parhelion.model.table import Table

WANTED = 3.0
FIRST = 3


def repeat(data: Path, count: int) -> None:
    """Copy the first movie and its truth until there are ``count``, and name all in ``movies.star``."""
    import numpy as np

    blocks = dict(read_star(data / "movies.star"))
    names = [f"movies/movie_{i + 1:04d}.tif" for i in range(count)]
    for i in range(1, count):
        shutil.copy(data / "movies" / "movie_0001.tif", data / names[i])
        truth = data / "truth"
        shutil.copy(truth / "movie_0001_shifts.star", truth / f"movie_{i + 1:04d}_shifts.star")
    columns = {label: np.repeat(values[:1], count) for label, values in blocks["movies"].items()}
    columns["rlnMicrographMovieName"] = np.array(names, dtype=object)
    blocks["movies"] = Table(columns)
    write_star(data / "movies.star", blocks)


def main() -> int:
    """Simulate, run both programs, print the table."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--count", type=int, default=5, help="movies beyond the first three")
    arguments.add_argument("--size", type=int, default=2048, help="edge of the movies in pixels")
    arguments.add_argument("--frames", type=int, default=20, help="frames of each movie")
    arguments.add_argument("--threads", type=int, default=2, help="threads of both programs")
    given = arguments.parse_args()
    version = relion_version()
    print(f"{hardware()}; {FIRST + given.count} movies of {given.size}² px, {given.frames} frames")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary).resolve()
        model = given.data / "models" / "beta_galactosidase_5a1a_D2.cif"
        data, case = work / "data", CASES[0]
        simulate(data, case, model.resolve(), 1, given.size, given.frames)
        programs = {"parhelion": run_ours}
        if version is not None:
            programs[f"RELION {version}"] = run_relion
        run_ours(data, work / "first", case, given.threads)  # compiles the kernels
        repeat(data, FIRST)
        once = {
            name: run(data, work / f"once_{name[:3]}", case, given.threads) for name, run in programs.items()
        }
        repeat(data, FIRST + given.count)
        found = {name: run(data, work / name[:3], case, given.threads) for name, run in programs.items()}
        error = {name: errors(data, run, 1, name != "parhelion") for name, run in found.items()}
    seconds = {name: (run.cpu_s - once[name].cpu_s) / given.count for name, run in found.items()}
    rows = [
        [
            name,
            f"{seconds[name]:.2f}",
            f"{seconds[name] / seconds['parhelion']:.2f}",
            f"{3600 / seconds[name]:.0f}",
            f"{run.cpu_s:.1f}",
            f"{error[name].whole_px:.3f}",
            f"{error[name].places_px:.3f}",
            f"{run.peak_bytes / 1e6:.0f}",
        ]
        for name, run in found.items()
    ]
    heads = [
        "program",
        "CPU s per movie",
        "ratio",
        "movies per hour and core",
        f"{FIRST + given.count} movies (s)",
    ]
    show_table([*heads, "whole frames (px)", "7 × 7 places (px)", "peak MB"], rows)
    others = [name for name in found if name != "parhelion"]
    slow = any(seconds[name] < WANTED * seconds["parhelion"] for name in others)
    worse = any(error[name].whole_px < error["parhelion"].whole_px for name in others)
    return int(slow or worse)


if __name__ == "__main__":
    sys.exit(main())
