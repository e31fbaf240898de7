"""Parameters that name input files, and the checks they carry."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from parhelion.registry.options import unwrap


@dataclass(frozen=True)
class FileKind:
    """Marks a path parameter as an input of this kind (map, particles, …).

    ``check`` opens the file far enough to say whether it is of its kind and raises InputError where it is
    not; it runs before the job does, in a dry run too.
    """

    kind: str
    check: Callable[[Path], None]

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "kind": self.kind}


def input_files(params: BaseModel) -> list[tuple[str, Path, FileKind]]:
    """``(parameter, path, kind)`` of every input file that the parameters name."""
    found: list[tuple[str, Path, FileKind]] = []
    for name, info in type(params).model_fields.items():
        kinds = [m for m in [*info.metadata, *unwrap(info.annotation)[2]] if isinstance(m, FileKind)]
        value: Any = getattr(params, name)
        if kinds and value is not None:
            paths = value if isinstance(value, tuple | list) else [value]
            found += [(name, path, kinds[0]) for path in paths]
    return found
