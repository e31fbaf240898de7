"""From the words of a command line to raw values by name; the parameter models check them."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from parhelion import jobs
from parhelion.errors import ParameterError
from parhelion.registry import Job, Option, options_of
from parhelion.registry.validate import suggest
from parhelion.run.options import RunOptions

NEGATIVE_NUMBER = re.compile(r"^-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")


def find_job(words: Sequence[str]) -> tuple[str, list[str]]:
    """The job that the command line names (one word or two) and the words after its name.

    Raises ParameterError, with a suggestion, where no job has this name.
    """
    known = jobs.names()
    for count in (2, 1):
        name = " ".join(words[:count])
        if len(words) >= count and name in known:
            return name, list(words[count:])
    subcommands = [name for name in known if name.startswith(f"{words[0]} ")]
    if subcommands:
        given = words[1] if len(words) > 1 and not words[1].startswith("-") else None
        found = f"{words[0]} has no subcommand {given!r}" if given else f"{words[0]} needs a subcommand"
        listed = ", ".join(name.split(" ", 1)[1] for name in subcommands)
        raise ParameterError(f"{found}; there is: {listed}")
    raise ParameterError(
        f"unknown command {words[0]!r}{suggest(words[0], known)} (parhelion --help lists all commands)"
    )


def all_options(job: Job) -> list[Option]:
    """The job's own options, then the common ones."""
    return [*options_of(job.params), *options_of(RunOptions)]


def parse(job: Job, words: Sequence[str]) -> dict[str, Any]:
    """Raw values by parameter name; what was not given is absent.

    Raises ParameterError for an unknown option or a wrong number of values.
    """
    options = all_options(job)
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS, usage="")
    for option in options:
        flags = [option.flag, *([f"-{option.short}"] if option.short else [])]
        if option.switch:
            parser.add_argument(*flags, dest=option.name, action=argparse.BooleanOptionalAction)
        elif option.count == 1 or option.comma:
            parser.add_argument(*flags, dest=option.name)
        else:
            parser.add_argument(*flags, dest=option.name, nargs=option.count or "+")
    values, unknown = parser.parse_known_args(list(words))
    if unknown:
        word = unknown[0]
        if not word.startswith("-"):
            raise ParameterError(f"unexpected {word!r}: every value follows its option (-i for inputs)")
        flag = word.partition("=")[0]
        near = suggest(flag, [option.flag for option in options])
        raise ParameterError(f"{job.name} has no option {flag}{near} (parhelion {job.name} --help lists all)")
    return vars(values)


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print usage and exit."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # argparse takes -5 for a number, but -1e-3 for an option
        self._negative_number_matcher = NEGATIVE_NUMBER

    def error(self, message: str) -> NoReturn:
        raise ParameterError(message.removeprefix("argument ").replace("expected", "expects", 1))
