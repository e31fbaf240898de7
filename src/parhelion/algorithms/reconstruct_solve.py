"""Maps from the sums of a reconstruction: symmetry, half maps, FSC, filter, mask and centre."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from parhelion.algorithms.masking import apply_mask
from parhelion.algorithms.postprocess.gold_standard import GoldStandard, gold_standard_fsc
from parhelion.algorithms.reconstruct_sums import PartialSums
from parhelion.contracts import Executor, Observer
from parhelion.engine.centre import offset_voxels, rolled
from parhelion.engine.halves import LIGHT_PRIOR, solve_combined, solve_halves
from parhelion.engine.search_view import middle
from parhelion.engine.solvent import Solvent
from parhelion.engine.update import MapSums, complete_mates, solve, symmetrise
from parhelion.errors import InputError, ParameterError
from parhelion.geometry.symmetry import symmetry_group
from parhelion.model.volume import Volume


@dataclass(frozen=True, kw_only=True)
class SolveSettings:
    """How maps are made of sums.

    With ``outer_radius_angstrom`` the mask is a sphere (hollow inside ``inner_radius_angstrom``), by which
    the map itself is masked as well. ``centre`` moves the centre of mass to the middle of the box.
    """

    automatic_mask: bool = True
    outer_radius_angstrom: float | None = None
    inner_radius_angstrom: float = 0.0
    centre: bool = False
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class ReconstructResult:
    """The map of all particles, half maps (unfiltered), mask and curves unless there are no halves.

    The map is not masked, unless radii were given. ``unusable`` are rows of particles whose images are not
    finite or constant, ``weight`` is how many particles went in, by their occupancies. ``shift_xyz_angstrom``
    is how far the centre of mass was moved. ``number`` is that of the class, None for all particles.
    """

    map: Volume
    half_maps: tuple[Volume, Volume] | None
    mask: Volume | None
    curves: GoldStandard | None
    half: np.ndarray | None
    unusable: np.ndarray
    weight: float
    shift_xyz_angstrom: np.ndarray
    number: int | None = None


def solve_maps(
    sums: PartialSums,
    settings: SolveSettings,
    *,
    executor: Executor,
    observer: Observer,
    mask: Volume | None = None,
) -> list[ReconstructResult]:
    """The maps of all classes; ``mask`` is on the grid of the images before they were cropped.

    Raises InputError where a half set of a class has no particle.
    """
    if settings.inner_radius_angstrom and settings.outer_radius_angstrom is None:
        raise ParameterError("--inner-radius needs --outer-radius, the other side of the shell")
    if settings.inner_radius_angstrom >= (settings.outer_radius_angstrom or np.inf):
        raise ParameterError(
            f"the inner radius ({settings.inner_radius_angstrom:g} Å) must be smaller than the outer one "
            f"({settings.outer_radius_angstrom:g} Å)"
        )
    found = []
    for k, halves in enumerate(sums.maps):
        number = None if sums.classes is None else sums.classes[k]
        if not (sums.weight[k] > 0).all():
            where = "" if number is None else f" of class {number}"
            raise InputError(
                f"a half set{where} has no usable particle: images are not finite or constant, or all "
                "particles belong to one half set"
            )
        operators = symmetry_group(sums.symmetry).operators
        complete = tuple(symmetrise(complete_mates(part), operators, executor) for part in halves)
        if len(complete) == 1:
            result = _one_map(sums, complete[0], settings)
        else:
            result = _both_halves(sums, (complete[0], complete[1]), settings, mask)
        result = replace(result, number=number, weight=float(sums.weight[k].sum()))
        found.append(_centred(result, sums.symmetry, observer) if settings.centre else result)
    return found


def _one_map(sums: PartialSums, total: MapSums, settings: SolveSettings) -> ReconstructResult:
    shell = total.max_shell
    data = solve(total, torch.full((shell + 1,), LIGHT_PRIOR, dtype=torch.float64), shell)
    return ReconstructResult(
        map=_masked(_volume(sums, data), sums, settings),
        half_maps=None,
        mask=None,
        curves=None,
        half=None,
        unusable=sums.unusable,
        weight=0.0,
        shift_xyz_angstrom=np.zeros(3),
    )


def _both_halves(
    sums: PartialSums, halves: tuple[MapSums, MapSums], settings: SolveSettings, mask: Volume | None
) -> ReconstructResult:
    shell = halves[0].max_shell
    solvent = _solvent(sums, halves[0].box, settings, mask)
    solved = solve_halves(halves, solvent, shell)
    maps = (_volume(sums, solved.unfiltered[0]), _volume(sums, solved.unfiltered[1]))
    inside = _volume(sums, solved.mask, outside=0.0)
    return ReconstructResult(
        map=_masked(_volume(sums, solve_combined(halves, solved, shell)), sums, settings),
        half_maps=maps,
        mask=inside,
        curves=gold_standard_fsc(*maps, inside, seed=settings.seed),
        half=sums.half,
        unusable=sums.unusable,
        weight=0.0,
        shift_xyz_angstrom=np.zeros(3),
    )


def _solvent(sums: PartialSums, box: int, settings: SolveSettings, mask: Volume | None) -> Solvent:
    given = None
    if mask is not None:
        inner = middle(sums.full_box, box)
        given = np.clip(mask.data[inner, inner, inner], 0, 1).astype(np.float32)
    return Solvent.within(
        box,
        sums.pixel_size_angstrom,
        sums.diameter_angstrom,
        automatic=settings.automatic_mask and settings.outer_radius_angstrom is None,
        given=given,
        outer_radius_angstrom=settings.outer_radius_angstrom,
        inner_radius_angstrom=settings.inner_radius_angstrom,
    )


def _masked(volume: Volume, sums: PartialSums, settings: SolveSettings) -> Volume:
    """The map inside the shell that radii describe."""
    if settings.outer_radius_angstrom is None:
        return volume
    shell = Solvent.within(
        volume.box,
        sums.pixel_size_angstrom,
        sums.diameter_angstrom,
        outer_radius_angstrom=settings.outer_radius_angstrom,
        inner_radius_angstrom=settings.inner_radius_angstrom,
    )
    return apply_mask(volume, shell.sphere)


def _volume(sums: PartialSums, data: torch.Tensor, outside: float | None = None) -> Volume:
    """In the box of the images; what was cropped away is ``outside``, by default the mean of the faces."""
    array = data.cpu().numpy().astype(np.float32)
    box, full = array.shape[0], sums.full_box
    if box != full:
        if outside is None:
            faces = [np.take(array, end, axis=axis).mean() for axis in range(3) for end in (0, -1)]
            outside = float(np.mean(faces))
        before = full // 2 - box // 2
        array = np.pad(array, ((before, full - box - before),) * 3, constant_values=outside)
    return Volume(data=array, pixel_size_angstrom=sums.pixel_size_angstrom)


def _centred(found: ReconstructResult, symmetry: str, observer: Observer) -> ReconstructResult:
    """Everything moved by whole voxels so that the centre of mass is in the middle, as far as the symmetry
    lets it."""
    pixel = found.map.pixel_size_angstrom
    offset = offset_voxels(found.map.data, pixel, symmetry_group(symmetry).operators)
    if not offset.any():
        return found
    observer.notice(f"the centre of mass was moved by {np.linalg.norm(offset) * pixel:.1f} Å to the middle")

    def moved(volume: Volume) -> Volume:
        data = rolled(torch.from_numpy(volume.data), offset).numpy()
        return Volume(data=data, pixel_size_angstrom=pixel)

    halves = found.half_maps
    return replace(
        found,
        map=moved(found.map),
        half_maps=None if halves is None else (moved(halves[0]), moved(halves[1])),
        mask=None if found.mask is None else moved(found.mask),
        shift_xyz_angstrom=-offset * pixel,
    )
