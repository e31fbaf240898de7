"""Merge partial sums of a reconstruction into its maps.

Each file was written by reconstruct --partial-sums from a part (--first, --last) of one table of particles,
perhaps on different computers. The sums are added, and the maps are those of a single run over all particles.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, model_validator

from parhelion.jobs import _reconstruct as shared
from parhelion.jobs._inputs import expand, expand_one
from parhelion.registry import Estimate, FileKind, Result, declare, option

if TYPE_CHECKING:
    from parhelion.algorithms.reconstruct_sums import PartialSums
    from parhelion.run.context import Context


def check_sums(path: Path) -> None:
    """Raise FormatError where the file holds no partial sums."""
    from parhelion.io.partial_sums import read_header

    read_header(path)


SumsFile = Annotated[Path, BeforeValidator(expand_one), FileKind("partial sums", check_sums)]
SumsFiles = Annotated[tuple[SumsFile, ...], BeforeValidator(expand)]


class Params(shared.MapParams):
    """What the job takes."""

    input: SumsFiles = option(help="files of partial sums (sums.npz), each of another part", short="i")

    @model_validator(mode="after")
    def _fit(self) -> "Params":
        self.check_masks()
        return self


OUTPUTS = shared.OUTPUTS


def estimate(params: Params) -> Estimate:
    """Two files at once, and what a solve takes."""
    size = max(path.stat().st_size for path in params.input)
    return Estimate(memory_bytes=5 * size + 400_000_000, disk_bytes=size)


def run(context: "Context", params: Params) -> Result:
    """Add, solve, write and show."""
    from parhelion.algorithms import preparation as prepare
    from parhelion.algorithms.reconstruct_solve import solve_maps
    from parhelion.algorithms.reconstruct_sums import merged

    # one after the other: only two need to be in memory
    total = _read(params.input[0])
    for number, path in enumerate(params.input[1:], 2):
        context.check()
        total = merged([total, _read(path)], names=("the files before it", str(path)))
        context.progress("add", number, len(params.input))
    if total.missing:
        context.notice(f"{total.missing} of {total.count} particles are in none of the partial sums")
    mask = shared.mask_of(params, total.full_box, total.pixel_size_angstrom, params.input[0])
    if mask is not None:
        mask = prepare.on_grid_of(mask, total.full_box, total.pixel_size_angstrom, context, "mask")
    settings = shared.solve_settings(params, context.seed)
    if total.half is None and (params.mask is not None or "auto_mask" in params.model_fields_set):
        context.notice("these sums have no half sets, which a mask would serve")
    found = solve_maps(total, settings, executor=context.executor, observer=context, mask=mask)
    figures, outputs = shared.finish(context, params, found)
    figures["used_particles"] = total.inserted
    return Result(figures=figures, outputs=outputs)


def _read(path: Path) -> "PartialSums":
    from parhelion.algorithms.reconstruct_sums import from_arrays
    from parhelion.errors import FormatError
    from parhelion.io.partial_sums import read_partial_sums

    try:
        return from_arrays(*read_partial_sums(path))
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"{path} lacks a part of its sums, or has another than its header says ({error}); write it again"
        ) from error


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS)
