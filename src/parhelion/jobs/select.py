"""Choose particles or micrographs by their class, or by a condition on any column.

A condition compares columns by their RELION names: rlnCtfMaxResolution < 5 and rlnClassNumber in (1, 4).
Also understood: + - * / ( ), and, or, not, abs, sqrt, mean, median, std, percentile(column, 20), and for
texts contains, startswith, endswith. What is kept comes back with all its columns.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from parhelion.jobs._inputs import check_exists, expand_one
from parhelion.registry import CommaList, Estimate, FileKind, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    import numpy as np

    from parhelion.jobs._select import Chosen
    from parhelion.run.context import Context

BYTES_PER_ROW = 3000


def table_kind(path: Path) -> Path:
    """InputError unless the file is a table of particles, micrographs or movies."""
    from parhelion.jobs._select import read_table

    read_table(path, [])
    return path


TableFile = Annotated[
    Path,
    BeforeValidator(expand_one),
    AfterValidator(table_kind),
    FileKind("particles or micrographs", check_exists),
]


class Params(JobParams):
    """What the job takes."""

    input: TableFile = option(help="table of particles, micrographs or movies", short="i")
    where: str | None = option(
        None,
        help="condition on columns, such as 'rlnCtfMaxResolution < 5'",
        short="w",
        default_text="none",
    )
    classes: CommaList[Annotated[int, Field(ge=0)]] | None = option(
        None, help="keep particles of these classes", unit="1", short="c", default_text="all classes"
    )
    invert: bool = option(False, help="keep what would be left out, leave out what would be kept")
    count: int | None = option(
        None,
        help="of what is kept, take this many at random",
        unit="rows",
        ge=1,
        default_text="all of it",
    )

    @model_validator(mode="after")
    def _some(self) -> "Params":
        if self.where is None and self.classes is None and self.count is None:
            raise ValueError("nothing says what to keep: give --where, --classes or --count")
        if self.invert and self.where is None and self.classes is None:
            raise ValueError("--invert turns --where and --classes round; give one of them")
        return self


OUTPUTS = (
    Output(name="particles", file="particles.star", help="the particles that are kept", optional=True),
    Output(name="micrographs", file="micrographs.star", help="the micrographs that are kept", optional=True),
    Output(name="movies", file="movies.star", help="the movies that are kept", optional=True),
)


def estimate(params: Params) -> Estimate:
    """The table, a few times."""
    from parhelion.jobs._select import read_table

    rows = len(read_table(params.input, []))
    return Estimate(memory_bytes=BYTES_PER_ROW * rows, disk_bytes=300 * rows)


def run(context: "Context", params: Params) -> Result:
    """Evaluate the conditions, write what is left."""
    from parhelion.jobs._select import columns_of, read_table, show, write_table

    notes: list[str] = []
    table = read_table(params.input, notes)
    for note in notes:
        context.notice(note)
    columns = columns_of(table)
    kept = _kept(params, columns, context.seed)
    chosen = write_table(context, table, kept)
    show(context, columns, kept, params.where)
    context.notice(f"{len(kept)} of {len(table)} {chosen} are kept")
    if params.count is not None and len(kept) < params.count:
        context.notice(f"--count {params.count} are not there")
    return Result(
        figures={"kept": len(kept), "left_out": len(table) - len(kept), "table": chosen},
        outputs={chosen: context.path(chosen)},
    )


def _kept(params: Params, columns: "Chosen", seed: int) -> "np.ndarray":
    """Numbers of the rows that are kept, in order."""
    import numpy as np

    from parhelion.algorithms.selection import rows_where
    from parhelion.errors import MetadataError
    from parhelion.jobs._select import describe

    rows = len(next(iter(columns.values())))
    mask = np.ones(rows, bool)
    if params.where is not None:
        mask &= rows_where(params.where, columns)
    if params.classes is not None:
        if "rlnClassNumber" not in columns:
            raise MetadataError(f"{params.input} has no rlnClassNumber; --classes needs classified particles")
        mask &= np.isin(columns["rlnClassNumber"], params.classes)
    if params.invert:
        mask = ~mask
    kept = np.flatnonzero(mask)
    if not len(kept):
        raise MetadataError(f"none of {rows} rows is left; {describe(columns, params.where, params.classes)}")
    if params.count is not None and params.count < len(kept):
        kept = np.sort(np.random.default_rng(seed).choice(kept, params.count, replace=False))
    return kept


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS, computes=False)
