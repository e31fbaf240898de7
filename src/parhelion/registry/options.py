"""Parameters: declared as fields of a pydantic model, read back as what an interface shows."""

import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

T = TypeVar("T")


class JobParams(BaseModel):
    """Base of every job's parameters: immutable, finite numbers only, unknown names refused."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def option(
    default: Any = ...,
    *,
    help: str,
    unit: str | None = None,
    short: str | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    default_text: str | None = None,
    group: str | None = None,
    flag: str | None = None,
) -> Any:
    """A parameter with what every interface needs to know about it.

    ``unit`` is required for numbers (``"1"`` for a pure number, a plural noun for counts); ``short`` is a
    one-letter flag; ``default_text`` says where the value comes from when the default is None ("from the
    reference"); ``group`` is the heading under which help lists it; ``flag`` replaces the flag that the
    field's name would give. Without ``default`` the parameter is required. The range of each member of
    a pair is given in its type: ``tuple[Annotated[float, Field(ge=0)], …]``.
    """
    extra = {"unit": unit, "short": short, "default_text": default_text, "group": group, "flag": flag}
    return Field(
        default,
        description=help,
        ge=ge,
        gt=gt,
        le=le,
        lt=lt,
        json_schema_extra={key: value for key, value in extra.items() if value is not None},
    )


def split_commas(value: Any) -> Any:
    """``"c1,d7"`` → ``["c1", "d7"]``; anything else as it is."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


CommaList = Annotated[tuple[T, ...], BeforeValidator(split_commas)]
"""A list that the command line takes separated by commas, such as ``--symmetry c1,d7``."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """A parameter as an interface shows it.

    ``count`` is the number of values it takes, 0 for any number of at least one; ``comma`` marks a list
    that is typed as one word with commas.
    """

    name: str
    flag: str
    help: str
    type: Any
    unit: str | None
    short: str | None
    group: str | None
    required: bool
    default: Any
    default_text: str
    range_text: str
    count: int
    comma: bool

    @property
    def switch(self) -> bool:
        """Whether it is turned on and off rather than given a value."""
        return self.type is bool

    @property
    def negative(self) -> str:
        """The flag that turns a switch off."""
        return "--no-" + self.flag.removeprefix("--")

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers."""
        return self.type in (int, float)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words it accepts, if it accepts only some."""
        literal = typing.get_origin(self.type) is typing.Literal
        return tuple(str(choice) for choice in typing.get_args(self.type)) if literal else ()

    @property
    def metavar(self) -> str:
        """What stands for the value in help."""
        if self.switch:
            return ""
        if self.choices:
            return "|".join(self.choices)
        if self.count == 2 and self.numeric:
            return "LOW HIGH"
        word = "N" if self.numeric else self.name.rsplit("_", 1)[-1].upper()
        if self.comma:
            return f"{word},…"
        return f"{word} …" if self.count == 0 else " ".join([word] * self.count)


def options_of(params: type[BaseModel]) -> list[Option]:
    """The parameters of a model in the order of their declaration."""
    return [_option(name, info) for name, info in params.model_fields.items()]


def _option(name: str, info: FieldInfo) -> Option:
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    bare, count, metadata = unwrap(info.annotation)
    metadata = [*info.metadata, *metadata]
    default = None if info.default is PydanticUndefined else info.default
    comma = any(getattr(m, "func", None) is split_commas for m in metadata)
    text = str(extra["default_text"]) if "default_text" in extra else show_value(default)
    if comma and "default_text" not in extra:
        text = text.replace(" ", ",")

    def said(key: str) -> str | None:
        return str(extra[key]) if key in extra else None

    return Option(
        name=name,
        flag=said("flag") or "--" + name.replace("_", "-"),
        help=info.description or "",
        type=bare,
        unit=said("unit"),
        short=said("short"),
        group=said("group"),
        required=info.is_required(),
        default=default,
        default_text="" if info.is_required() else text,
        range_text=_range_text(metadata),
        count=count,
        comma=comma,
    )


def unwrap(annotation: Any) -> tuple[Any, int, list[Any]]:
    """The type of one value, how many values there are (0 for any number), and all metadata on the way.

    ``tuple[Annotated[float, Field(ge=0)], float] | None`` → ``(float, 2, [FieldInfo(…)])``.
    """
    origin, items = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        bare, count, metadata = unwrap(items[0])
        return bare, count, [*items[1:], *metadata]
    if origin in (typing.Union, types.UnionType):
        return unwrap(next(item for item in items if item is not type(None)))
    if origin in (tuple, list):
        bare, _, metadata = unwrap(items[0])
        any_number = origin is list or items[-1] is Ellipsis
        return bare, 0 if any_number else len(items), metadata
    return annotation, 1, []


def show_value(value: Any) -> str:
    """A parameter's value as a person types it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return " ".join(show_value(v) for v in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _range_text(metadata: list[Any]) -> str:
    """The range of a number in words."""
    flat = [inner for m in metadata for inner in (m.metadata if isinstance(m, FieldInfo) else [m])]
    limits = {
        key: getattr(m, key)
        for m in flat
        for key in ("ge", "gt", "le", "lt")
        if getattr(m, key, None) is not None
    }
    low = [
        ("at least " if key == "ge" else "above ") + show_value(limits[key])
        for key in ("ge", "gt")
        if key in limits
    ]
    high = [
        ("at most " if key == "le" else "below ") + show_value(limits[key])
        for key in ("le", "lt")
        if key in limits
    ]
    if "ge" in limits and "le" in limits:
        return f"{show_value(limits['ge'])} to {show_value(limits['le'])}"
    return ", ".join(low + high)
