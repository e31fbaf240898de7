"""The map that ``parhelion spa`` made of simulated movies, against the truth, and the time of each step.

    python benchmarks/quality/movies_to_map.py OUT SIM

OUT is the output folder of ``parhelion spa``, SIM that of ``parhelion simulate movies``. The map is laid onto
the true density by a search over all rotations, shifts and both hands. Printed are where their FSC falls to
0.5, in the whole box and inside an automatic mask of the truth, the hand, and CPU seconds of each step.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from parhelion.algorithms.map_alignment import align_maps
from parhelion.fourier.resample import resample_volume
from parhelion.fourier.shells import fsc, resolution_at
from parhelion.images.masks import automatic_mask
from parhelion.io.mrc import read_volume


def main() -> None:
    """Prints the comparison, then a line per step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("sim", type=Path)
    given = parser.parse_args()
    found = read_volume(given.out / "map.mrc")
    box, pixel = found.box, found.pixel_size_angstrom
    truth = resample_volume(read_volume(given.sim / "truth" / "reference.mrc"), box, pixel)
    aligned = align_maps(found, truth)
    mask = np.asarray(automatic_mask(truth).mask.data)
    one, other = np.asarray(aligned.aligned.data), np.asarray(truth.data)
    whole = resolution_at(fsc(one, other), 0.5, box, pixel)
    inside = resolution_at(fsc(one * mask, other * mask), 0.5, box, pixel)
    hand = "other hand" if aligned.hand_flipped else "right hand"
    print(f"FSC 0.5 at {whole:.2f} Å, masked {inside:.2f} Å (Nyquist {2 * pixel:.2f} Å), {hand}")
    for path in sorted(given.out.glob("0*/job.json")):
        print(f"{path.parent.name}: {_cpu_seconds(json.loads(path.read_text('utf-8'))):.1f} s CPU")


def _cpu_seconds(record: object) -> float:
    """The first ``cpu_seconds`` anywhere in a job's record."""
    if isinstance(record, dict):
        if "cpu_seconds" in record:
            return float(record["cpu_seconds"])
        return next((s for s in map(_cpu_seconds, record.values()) if s >= 0), -1.0)
    return -1.0


if __name__ == "__main__":
    main()
