"""The command line: ``parhelion JOB --option value …``.

Exit codes: 0 done, 1 a run that failed, 2 an input or option that cannot be used, 130 stopped by the user.
"""

import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version

from parhelion import jobs
from parhelion.errors import Cancelled, InputError, ParhelionError
from parhelion.registry import Job

HELP = ("-h", "--help")


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    # Before torch is loaded: its idle threads would wait busily and take the cores from those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if words is None else words)
    as_json = "--json" in words
    try:
        return _dispatch(words)
    except ParhelionError as error:
        if as_json:
            print(json.dumps({"status": "failed", "error": str(error)}, ensure_ascii=False))
        print(f"parhelion: {error}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        print("parhelion: stopped at the user's request", file=sys.stderr)
        return exit_code(Cancelled())


def exit_code(error: ParhelionError) -> int:
    """What the shell learns about the way a command failed."""
    if isinstance(error, Cancelled):
        return 130
    return 2 if isinstance(error, InputError) else 1


def _dispatch(words: list[str]) -> int:
    from parhelion.cli.parser import find_job

    if not words or words[0] in HELP:
        from parhelion.cli.help import show_overview

        show_overview(version("parhelion"))
        return 0
    if words[0] == "--version":
        print(f"parhelion {version('parhelion')}")
        return 0
    name, rest = find_job(words)
    job = jobs.load(name)
    if any(word in HELP for word in rest):
        from parhelion.cli.help import show_job

        show_job(job)
        return 0
    if "--schema" in rest:
        print(json.dumps(job.params.model_json_schema(), indent=2, ensure_ascii=False))
        return 0
    return _run(job, rest)


def _run(job: Job, words: list[str]) -> int:
    from parhelion.cli.answer import as_json, print_json, print_result
    from parhelion.cli.parser import parse
    from parhelion.registry import validate
    from parhelion.run.display import Display
    from parhelion.run.options import RunOptions, split_options
    from parhelion.run.runner import run_job

    # Warnings of libraries are for developers; a user is told by notices and errors.
    warnings.simplefilter("ignore")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    common, own = split_options(parse(job, words))
    options = validate(RunOptions, common)
    result = run_job(job, own, options, Display(quiet=options.quiet))
    if options.print_json:
        print_json(as_json(job, result))
    else:
        print_result(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
