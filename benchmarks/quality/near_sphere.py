"""A nearly spherical molecule without symmetry: the ball inside another molecule's map.

    python benchmarks/quality/near_sphere.py --map reference.mrc --radius 60 --box 44 -o ball.mrc
    parhelion simulate particles --model ball.mrc --count 1000 --snr 0.2 -o ball

The map (such as that of the ribosome by ``parhelion simulate particles``) is cut about its centre of mass,
with a soft edge a quarter as wide as the radius, so that nothing but its inside tells views apart.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.ndimage import center_of_mass

from parhelion.images.masks import spherical_mask
from parhelion.io.mrc import read_volume, write_volume
from parhelion.model.volume import Volume


def main() -> None:
    """Writes the ball."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--map", type=Path, required=True)
    parser.add_argument("--radius", type=float, default=60.0)
    parser.add_argument("--box", type=int, default=44)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    whole = read_volume(args.map)
    centre = np.rint(center_of_mass(np.clip(whole.data, 0, None))).astype(int)
    inner = tuple(slice(c - args.box // 2, c - args.box // 2 + args.box) for c in centre)
    mask = spherical_mask(args.box, whole.pixel_size_angstrom, args.radius, args.radius / 4)
    ball = (whole.data[inner] * mask).astype(np.float32)
    write_volume(args.output, Volume(data=ball, pixel_size_angstrom=whole.pixel_size_angstrom))


if __name__ == "__main__":
    main()
