"""parhelion: from electron micrographs to three-dimensional maps of molecules.

Every job is a function: ``parhelion.fsc(input=["a.mrc", "b.mrc"], output="fsc")`` returns a ``Result``
with ``figures`` and ``outputs``. Nothing heavy loads before the first call.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Callable[..., Any]:
    home = Path(__file__).parent
    # ``from parhelion import io`` asks here first; modules are left to the import system.
    if name.startswith("_") or (home / name).is_dir() or (home / f"{name}.py").is_file():
        raise AttributeError(f"module 'parhelion' has no attribute {name!r}")
    function: Callable[..., Any] = import_module("parhelion.api").function(name)
    return function


def __dir__() -> list[str]:
    return sorted([*import_module("parhelion.api").names(), "__version__"])
