"""Convert images, maps or particle tables from one format to another.

Reads MRC, TIFF, SPIDER, and the particle tables of RELION, cryoSPARC and cisTEM; the format of the
input is found from its content. Values stay as they are; lengths, angles and conventions are translated.
"""

from typing import TYPE_CHECKING, Literal

from parhelion.errors import InputError
from parhelion.jobs._inputs import Files
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from pathlib import Path

    from parhelion.run.context import Context

EXTENSIONS = {"mrc": ".mrc", "mrcs": ".mrcs", "tiff": ".tif", "star": ".star", "star30": ".star"}
USUAL = {"volume": "mrc", "stack": "mrcs", "particles": "star"}


class Params(JobParams):
    """What the job takes."""

    input: Files = option(help="one or more files", short="i")
    to: Literal["mrc", "mrcs", "tiff", "star", "star30"] | None = option(
        None,
        help="format to write (mrc: map, mrcs: images, star: RELION 3.1, star30: RELION 3.0)",
        default_text="mrc for maps, mrcs for images, star for particles",
    )
    pixel_size: float | None = option(
        None,
        help="pixel size, where the input is wrong or does not say it",
        unit="Å",
        ge=0.1,
        le=30,
        default_text="from the input",
    )


OUTPUTS = (Output(name="files", file="*", help="the converted files, under their names"),)


def estimate(params: Params) -> Estimate:
    """The largest file, as float32 and as written."""
    sizes = [path.stat().st_size for path in params.input]
    return Estimate(memory_bytes=4 * max(sizes), disk_bytes=4 * sum(sizes))


def run(context: "Context", params: Params) -> Result:
    """Convert one file after the other."""
    from parhelion.io.convert import convert

    names = [path.with_suffix("").name for path in params.input]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two inputs are called {twice[0]}; they would overwrite each other")
    written = []
    for number, (path, name) in enumerate(zip(params.input, names, strict=True)):
        context.check()
        target = context.path("files", name + EXTENSIONS[_format(path, params)])
        for note in convert(path, target, pixel_size_angstrom=params.pixel_size, to_format=params.to):
            context.notice(note)
        written.append(target)
        context.progress("convert", number + 1, len(names))
    return Result(figures={"files": len(written)}, outputs={"files": written})


def _format(path: "Path", params: Params) -> str:
    from parhelion.io.formats import format_of

    return params.to or USUAL[format_of(path).kind]


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS, computes=False)
