"""What a job declares, once, and how interfaces read it.

The command line, the Python API, the JSON schema, ``job.json`` and the documentation page are derived
from a ``Job``.
"""

from parhelion.registry.declare import Estimate, Job, Output, Result, declare
from parhelion.registry.files import FileKind, input_files
from parhelion.registry.options import CommaList, JobParams, Option, option, options_of, show_value
from parhelion.registry.validate import validate

__all__ = [
    "CommaList",
    "Estimate",
    "FileKind",
    "Job",
    "JobParams",
    "Option",
    "Output",
    "Result",
    "declare",
    "input_files",
    "option",
    "options_of",
    "show_value",
    "validate",
]
