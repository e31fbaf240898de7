"""Motion tracks of simulated movies against the truth, RELION's own implementation on the same movies beside.

    python benchmarks/quality/motion.py --data FOLDER [--count 3] [--size 2048] [--frames 20] [--work FOLDER]

Three cases: 1 e⁻ per pixel and frame, half of that with more drift, and frames in which the detector's
pattern was left. Errors are root mean squares per axis in pixels, the mean over the frames removed: of the
track of whole frames, and of whole-frame and local motion together at 7 × 7 places of the field. CPU time
is that of the whole program for all movies of a case.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from common import hardware, parser, relion_version, show_table
from movies import CASES, errors, run_ours, run_relion, simulate


def main() -> None:
    """Simulate, run both programs, print the table."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--count", type=int, default=3, help="movies of each case")
    arguments.add_argument("--size", type=int, default=2048, help="edge of the movies in pixels")
    arguments.add_argument("--frames", type=int, default=20, help="frames of each movie")
    arguments.add_argument("--threads", type=int, default=2, help="threads of both programs")
    arguments.add_argument("--work", type=Path, help="folder to work in and to keep")
    given = arguments.parse_args()
    version = relion_version()
    print(f"{hardware()}; {given.count} movies of {given.size}² px, {given.frames} frames, 1 Å per pixel")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        work = (given.work or Path(temporary)).resolve()
        model = given.data / "models" / "beta_galactosidase_5a1a_D2.cif"
        for number, case in enumerate(CASES):
            data = work / f"case{number}"
            simulate(data, case, model.resolve(), given.count, given.size, given.frames)
            runs = [("parhelion", run_ours(data, work / f"ours{number}", case, given.threads))]
            if version is not None:
                made = run_relion(data, work / f"relion{number}", case, given.threads)
                runs.append((f"RELION {version}", made))
            for program, run in runs:
                found = [errors(data, run, i + 1, program != "parhelion") for i in range(given.count)]
                rows.append(
                    [
                        case.name,
                        program,
                        f"{np.mean([e.whole_px for e in found]):.3f}",
                        f"{max(e.whole_px for e in found):.3f}",
                        f"{np.mean([e.places_px for e in found]):.3f}",
                        f"{run.cpu_s / given.count:.1f}",
                        f"{run.peak_bytes / 1e6:.0f}",
                    ]
                )
    heads = ["case", "program", "whole frames (px)", "worst movie", "7 × 7 places (px)"]
    show_table([*heads, "CPU s per movie", "peak MB"], rows)


if __name__ == "__main__":
    main()
