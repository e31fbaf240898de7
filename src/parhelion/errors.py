"""Every error that parhelion raises on purpose.

    ParhelionError
    ├── InputError            what a user gave cannot be used
    │   ├── FormatError       a file is truncated, contradictory or not of its format
    │   ├── MetadataError     a table lacks a value, or holds one outside its physical range
    │   └── ParameterError    an option is unknown, out of range or contradicts another
    ├── ResourceError         memory, disk or device cannot hold what was asked for
    ├── OutputError           a result cannot be written
    └── Cancelled             the user asked the job to stop

The command line prints the message of such an error and nothing else; any other exception is a
defect of parhelion and keeps its traceback in ``log.txt``. A message says what was found, what was
expected and what to do, and names the file, the particle or the parameter.
"""


class ParhelionError(Exception):
    """Base of all errors that parhelion raises on purpose."""


class InputError(ParhelionError):
    """What a user gave cannot be used."""


class FormatError(InputError):
    """A file is truncated, contradictory or not of its format."""


class MetadataError(InputError):
    """A table lacks a value that is needed, or holds one outside its physical range."""


class ParameterError(InputError):
    """An option is unknown, out of range or contradicts another."""


class ResourceError(ParhelionError):
    """Memory, disk or device cannot hold what was asked for."""


class OutputError(ParhelionError):
    """A result cannot be written."""


class Cancelled(ParhelionError):
    """The user asked the job to stop."""
