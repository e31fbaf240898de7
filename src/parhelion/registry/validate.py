"""From what a user typed to checked parameters, with errors in the user's words."""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from parhelion.errors import ParameterError
from parhelion.registry.options import Option, options_of, show_value

P = TypeVar("P", bound=BaseModel)


def validate(model: type[P], values: Mapping[str, Any]) -> P:
    """Parameters from raw values by name (Python identifiers).

    Raises ParameterError that lists every parameter that is unknown, missing, of the wrong type or out
    of range; the file checks of typed inputs raise their own InputError.
    """
    try:
        return model(**values)
    except ValidationError as error:
        options = {o.name: o for o in options_of(model)}
        lines = list(dict.fromkeys(_explain(dict(e), options) for e in error.errors(include_url=False)))
        raise ParameterError("\n".join(lines)) from None


def suggest(word: str, known: list[str]) -> str:
    """``"; did you mean X?"`` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _explain(error: dict[str, Any], options: dict[str, Option]) -> str:
    name = str(error["loc"][0]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        flag = "--" + name.replace("_", "-")
        return f"unknown option {flag}{suggest(flag, [o.flag for o in options.values()])}"
    if not name:
        return str(error["msg"]).removeprefix("Value error, ")
    option = options[name]
    if error["type"] == "missing" and len(error["loc"]) == 1:
        return f"{option.flag} is missing: {option.help}"
    return f"{option.flag}: {_expected(error, option)}, found {_found(error)}"


def _found(error: dict[str, Any]) -> str:
    value = error["input"]
    return repr(value) if isinstance(value, str) else show_value(value)


def _expected(error: dict[str, Any], option: Option) -> str:
    unit = f" ({option.unit})" if option.unit and option.unit != "1" else ""
    if option.choices:
        return "expected one of " + ", ".join(option.choices)
    if error["type"] in ("missing", "too_long", "too_short", "tuple_type", "list_type"):
        return f"expected {option.count or 'one or more'} value{'' if option.count == 1 else 's'}"
    if option.numeric and error["type"] != "value_error":
        kind = "a whole number" if option.type is int else "a number"
        return f"expected {kind}{' ' + option.range_text if option.range_text else ''}{unit}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[0].lower() + message[1:]
