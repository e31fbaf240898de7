"""How good a map of the real β-galactosidase particles is, against the atomic model.

    python benchmarks/quality/bgal.py OUTPUT [OUTPUT …] [--data FOLDER] [--symmetry D2]

Each OUTPUT is a folder of ``parhelion spa`` or ``parhelion refine`` on bgal_particles, or a map. The model
5a1a becomes a density on the map's grid, without the map's help; the map is laid onto it by a search over all
rotations, shifts and both hands. Printed are where the FSC with the model falls to 0.5, the mean FSC from 15
to 8 Å and the hand, for the whole box and inside a soft mask of the model; and the gold-standard FSC = 0.143
of the half maps, without a mask and inside the mask that belongs to the map, freed of what the mask adds.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common
from parhelion.algorithms.map_alignment import align_maps
from parhelion.algorithms.postprocess.gold_standard import gold_standard_fsc
from parhelion.algorithms.simulate.density import density_from_model
from parhelion.fourier.shells import fsc, resolution_at, shell_resolution
from parhelion.geometry.symmetry import symmetry_group
from parhelion.images.masks import automatic_mask
from parhelion.io.mrc import read_volume
from parhelion.model.volume import Volume

MODEL = "beta_galactosidase_5a1a_D2.cif"
COARSE_ANGSTROM, FINE_ANGSTROM = 15.0, 8.0


def place_of(folder: Path, name: str) -> Path | None:
    """``name`` in the folder or in its deepest step: the last refinement of ``spa``."""
    found = sorted(folder.rglob(name), key=lambda path: (path.parent != folder, str(path)))
    direct = [path for path in found if path.parent == folder]
    return (direct or found[-1:] or [None])[0]


def mean_fsc(curve: np.ndarray, box: int, pixel: float) -> float:
    """Mean over the shells from 15 to 8 Å."""
    resolution = shell_resolution(len(curve), box, pixel)
    return float(curve[(resolution <= COARSE_ANGSTROM) & (resolution >= FINE_ANGSTROM)].mean())


def against_model(map_: Volume, models: Path, symmetry: str) -> list[str]:
    """FSC = 0.5 and mean FSC without and with a mask of the model, and the hand."""
    box, pixel = map_.box, map_.pixel_size_angstrom
    model = density_from_model(models / MODEL, box, pixel, symmetry=symmetry_group(symmetry))
    laid = align_maps(map_, model, symmetry=symmetry_group(symmetry))
    mask = np.asarray(automatic_mask(model).mask.data)
    masked = fsc(np.asarray(laid.aligned.data) * mask, np.asarray(model.data) * mask)
    return [
        f"{resolution_at(laid.fsc, 0.5, box, pixel):.2f}",
        f"{mean_fsc(laid.fsc, box, pixel):.3f}",
        f"{resolution_at(masked, 0.5, box, pixel):.2f}",
        f"{mean_fsc(masked, box, pixel):.3f}",
        "other" if laid.hand_flipped else "true",
    ]


def gold_standard(folder: Path) -> list[str]:
    """Resolutions of the half maps, unmasked and inside their mask; blank where they are missing."""
    paths = [place_of(folder, name) for name in ("half1.mrc", "half2.mrc", "mask.mrc")]
    if None in paths:
        return ["", ""]
    first, second, mask = (read_volume(path) for path in paths if path is not None)
    curves = gold_standard_fsc(first, second, mask, seed=1)
    return [f"{curves.unmasked_resolution_angstrom:.2f}", f"{curves.resolution_angstrom:.2f}"]


def main() -> None:
    """One line per output."""
    parser = common.parser(__doc__)
    parser.add_argument("outputs", nargs="+", type=Path, help="output folders or maps")
    parser.add_argument("--symmetry", default="D2", help="of the model; C1 compares without")
    given = parser.parse_args()
    rows = []
    for output in given.outputs:
        path = place_of(output, "map.mrc") if output.is_dir() else output
        if path is None:
            sys.exit(f"{output} holds no map.mrc; give an output folder of parhelion refine or spa, or a map")
        halves = gold_standard(path.parent) if output.is_dir() else ["", ""]
        rows.append([str(output), *against_model(read_volume(path), given.data / "models", given.symmetry)])
        rows[-1] += halves
    common.show_table(
        [
            "",
            "FSC 0.5 Å",
            "mean 15-8 Å",
            "FSC 0.5 Å, masked",
            "mean 15-8 Å, masked",
            "hand",
            "halves 0.143 Å",
            "halves 0.143 Å, masked",
        ],
        rows,
    )


if __name__ == "__main__":
    main()
