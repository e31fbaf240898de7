"""Peak memory of jobs against what ``--dry-run`` estimates, each in a process of its own.

    python benchmarks/speed/memory.py [--particles STAR --reference MAP [--symmetry D2]] [--large]

Stacks are simulated from a molecule of Gaussian blobs; ``--particles`` adds one of yours. Prints one line per
job: estimate, measured peak of the whole process (ru_maxrss), and their ratio, which should lie between 0.7
and 1.3. Ends with 1 where one does not.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from parhelion.io.mrc import write_volume
from parhelion.model.volume import Volume

LEAST, MOST = 0.7, 1.3
PROGRAM = [sys.executable, "-m", "parhelion.cli.main"]


def molecule(path: Path, box: int, pixel: float) -> Path:
    """An asymmetric molecule of Gaussian blobs about 0.6 boxes wide."""
    rng = np.random.default_rng(5)
    z, y, x = (np.indices((box,) * 3, dtype=np.float32) - box // 2) / box
    data = np.zeros((box,) * 3, np.float32)
    for centre in rng.uniform(-0.18, 0.18, (12, 3)):
        distance = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2
        data += np.exp(-distance / (2 * 0.035**2))
    write_volume(path, Volume(data=data, pixel_size_angstrom=pixel))
    return path


def estimated(words: list[str], out: Path) -> int:
    """Bytes that a dry run states."""
    done = subprocess.run(
        [*PROGRAM, *words, "-o", str(out), "--dry-run", "--json"], capture_output=True, text=True, check=True
    )
    return int(json.loads(done.stdout)["memory_bytes"])


def measured(words: list[str], out: Path) -> int:
    """Largest resident memory of a run's process, in bytes."""
    with (out.parent / f"{out.name}.log").open("w") as log:
        process = subprocess.Popen([*PROGRAM, *words, "-o", str(out), "--quiet"], stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} failed:\n{(out.parent / f'{out.name}.log').read_text()}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def cases(folder: Path, large: bool) -> list[tuple[str, list[str]]]:
    """Command lines by name; simulations come first because the others use their images."""
    found = []
    for box, count, pixel in [(64, 600, 3.0), (64, 2400, 3.0), (128, 300, 2.0)] + [(192, 300, 1.5)] * large:
        name = f"box {box} x {count}"
        model = molecule(folder / f"molecule {name}.mrc", box, pixel)
        made = folder / f"simulate particles, {name}"
        simulate = ["simulate", "particles", "--model", str(model), "--count", str(count), "--snr", "0.1"]
        found.append((made.name, simulate))
        truth, images = made / "truth.star", made / "particles.star"
        rounds = ["--max-rounds", "3"]
        found.append((f"refine, {name}", ["refine", "-i", str(images), "-r", str(model), *rounds]))
        found.append((f"reconstruct, {name}", ["reconstruct", "-i", str(truth)]))
        halves = [str(folder / f"reconstruct, {name}" / f"half{n}.mrc") for n in (1, 2)]
        found.append((f"postprocess, {name}", ["postprocess", "-i", *halves]))
        found.append((f"mask, {name}", ["mask", "-i", str(model)]))
        found.append((f"fsc, {name}", ["fsc", "-i", *halves]))
    return found


def main() -> int:
    """Run every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles", help="another table of particles to refine")
    parser.add_argument("--reference", help="its starting map")
    parser.add_argument("--symmetry", default="C1", help="its symmetry")
    parser.add_argument("--large", action="store_true", help="also a box of 192 pixels (several GB)")
    parser.add_argument("--only", default="", help="only cases whose name contains this, and simulations")
    given = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        every = cases(folder, given.large)
        if given.particles:
            words = ["refine", "-i", given.particles, "-r", given.reference, "--symmetry", given.symmetry]
            every.append(("refine, given particles", [*words, "--max-rounds", "3"]))
        print(f"{'job':<36}{'estimate MB':>12}{'peak MB':>10}{'ratio':>8}")
        for title, words in every:
            if given.only not in title and not title.startswith("simulate"):
                continue
            words = [*words, "--device", "cpu", "--threads", "2"]
            says = estimated(words, folder / title)
            peak = measured(words, folder / title)
            ratio = says / peak
            wrong += not LEAST <= ratio <= MOST
            print(f"{title:<36}{says / 1e6:>12.0f}{peak / 1e6:>10.0f}{ratio:>8.2f}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
