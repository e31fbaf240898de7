"""Conditions on the columns of a table, such as ``rlnCtfMaxResolution < 5 and rlnClassNumber in (1, 4)``.

The text is parsed with Python's grammar and walked over here: names are columns, only what is listed below
is understood, and nothing is ever executed.
"""

import ast
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from parhelion.errors import ParameterError

LONGEST = 10_000
DEEPEST = 60
ARITHMETIC: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
COMPARISONS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "abs": (1, np.abs),
    "sqrt": (1, np.sqrt),
    "mean": (1, np.nanmean),
    "median": (1, np.nanmedian),
    "std": (1, np.nanstd),
    "percentile": (2, np.nanpercentile),
}
TEXT_FUNCTIONS: dict[str, Callable[[str, str], bool]] = {
    "contains": lambda text, part: part in text,
    "startswith": str.startswith,
    "endswith": str.endswith,
}
UNDERSTOOD = (
    "numbers, quoted texts, columns, + - * / % **, < <= > >= == !=, in (…), and, or, not, "
    + ", ".join((*FUNCTIONS, *TEXT_FUNCTIONS))
)


def rows_where(condition: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which rows of ``columns`` (name → values ``(n,)``) meet the condition, boolean ``(n,)``.

    Comparisons with NaN are false. Raises ParameterError for what is no condition, and for columns that
    are not there.
    """
    tree = _parsed(condition)
    rows = len(next(iter(columns.values()))) if columns else 0
    with np.errstate(all="ignore"):
        found = _Walk(condition, columns).value(tree, 0)
    found = np.asarray(found)
    if found.dtype != bool:
        raise ParameterError(
            f"{condition!r} is a value, not a condition; compare it with something, as in "
            "rlnCtfMaxResolution < 5"
        )
    return np.broadcast_to(found, (rows,)).copy()


def columns_used(condition: str, columns: Mapping[str, np.ndarray]) -> list[str]:
    """The columns that a condition names, in order. Raises ParameterError for what is no condition."""
    names = [node.id for node in ast.walk(_parsed(condition)) if isinstance(node, ast.Name)]
    return [name for name in dict.fromkeys(names) if name in columns]


def _parsed(condition: str) -> ast.expr:
    for wrong, right in (("&&", "and"), ("||", "or")):
        if wrong in condition:
            raise ParameterError(f"found {wrong} in {condition!r}; write {right}")
    if len(condition) > LONGEST:
        raise ParameterError(
            f"the condition has {len(condition)} characters, at most {LONGEST} are understood"
        )
    try:
        with warnings.catch_warnings():
            # what Python finds odd in a text that it is never to run
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.parse(condition.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        at = f" near character {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
        hint = "; two values are compared with ==" if _single_equals(condition) else ""
        raise ParameterError(
            f"{condition!r} is no condition{at}{hint}; understood are {UNDERSTOOD}"
        ) from None


def _single_equals(condition: str) -> bool:
    bare = condition
    for double in ("==", "<=", ">=", "!="):
        bare = bare.replace(double, "")
    return "=" in bare


class _Walk:
    """Evaluates the nodes of a condition; whatever is not listed is refused."""

    def __init__(self, condition: str, columns: Mapping[str, np.ndarray]) -> None:
        self.condition, self.columns = condition, columns

    def value(self, node: ast.expr, depth: int) -> Any:
        """The value of a node: an array, a number, a text or a tuple of them."""
        if depth > DEEPEST:
            raise self._error("it is nested too deeply")
        inner = depth + 1
        match node:
            case ast.Constant(value=bool() | str()):
                return node.value
            case ast.Constant(value=int() | float()):
                return self._constant(node)
            case ast.Name():
                return self._column(node.id)
            case ast.Tuple() | ast.List() | ast.Set():
                return tuple(self.value(item, inner) for item in node.elts)
            case ast.BoolOp():
                parts = [self._truth(self.value(part, inner)) for part in node.values]
                combine = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
                return combine.reduce(np.broadcast_arrays(*parts))
            case ast.UnaryOp(op=ast.Not()):
                return np.logical_not(self._truth(self.value(node.operand, inner)))
            case ast.UnaryOp(op=ast.USub()):
                return -self._number(self.value(node.operand, inner))
            case ast.BinOp() if type(node.op) in ARITHMETIC:
                left, right = (self._number(self.value(side, inner)) for side in (node.left, node.right))
                return self._calculated(node, left, right)
            case ast.Compare():
                return self._compared(node, inner)
            case ast.Call(func=ast.Name()) if not node.keywords:
                return self._called(node, inner)
            case _:
                raise self._error(f"{ast.unparse(node)!r} is not understood")

    def _constant(self, node: ast.Constant) -> float:
        try:
            return float(node.value)  # type: ignore[arg-type]
        except OverflowError:
            raise self._error("a number in it is too large") from None

    def _column(self, name: str) -> np.ndarray:
        if name not in self.columns:
            from parhelion.registry.validate import suggest

            near = suggest(name, list(self.columns))
            raise self._error(f"there is no column {name}{near}; there are {', '.join(self.columns)}"[:1500])
        values = np.asarray(self.columns[name])
        return values if values.dtype.kind in "OU" else values.astype(np.float64)

    def _calculated(self, node: ast.BinOp, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """The result of + - * / % **; what is no number although its terms are is refused."""
        found = np.asarray(ARITHMETIC[type(node.op)](left, right))
        lost = np.isfinite(left) & np.isfinite(right) & ~np.isfinite(found)
        if lost.any():
            raise self._error(f"{ast.unparse(node)!r} is no number for {int(lost.sum())} of {lost.size} rows")
        return found

    def _compared(self, node: ast.Compare, depth: int) -> np.ndarray:
        left = self.value(node.left, depth)
        parts = []
        for op, right_node in zip(node.ops, node.comparators):
            right = self.value(right_node, depth)
            if isinstance(op, ast.In | ast.NotIn):
                if not isinstance(right, tuple):
                    raise self._error("in is followed by values in parentheses, as in (1, 4, 7)")
                inside = [self._pair(operator.eq, left, one) for one in right]
                found = np.logical_or.reduce(inside) if inside else np.zeros(np.shape(left), bool)
                parts.append(np.logical_not(found) if isinstance(op, ast.NotIn) else found)
            elif type(op) in COMPARISONS:
                parts.append(self._pair(COMPARISONS[type(op)], left, right))
            else:
                raise self._error(f"{ast.unparse(node)!r} is not understood")
            left = right
        return np.logical_and.reduce(np.broadcast_arrays(*parts))

    def _pair(self, compare: Callable[[Any, Any], Any], left: Any, right: Any) -> np.ndarray:
        """A comparison of two numbers or two texts."""
        if isinstance(left, tuple) or isinstance(right, tuple):
            raise self._error("several values are compared with in, as in rlnClassNumber in (1, 4, 7)")
        if _is_text(left) != _is_text(right):
            raise self._error("a text is compared with a number; texts stand in quotes")
        if _is_text(left):
            return np.asarray(compare(np.asarray(left, dtype=str), np.asarray(right, dtype=str)), dtype=bool)
        return np.asarray(compare(np.asarray(left), np.asarray(right)), dtype=bool)

    def _called(self, node: ast.Call, depth: int) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        values = [self.value(one, depth) for one in node.args]
        if name in TEXT_FUNCTIONS:
            if len(values) != 2 or not _is_text(values[0]) or not isinstance(values[1], str):
                raise self._error(f"{name} takes a column of texts and a text in quotes")
            test = TEXT_FUNCTIONS[name]
            return np.array([test(str(one), values[1]) for one in np.atleast_1d(values[0])], dtype=bool)
        if name not in FUNCTIONS or FUNCTIONS[name][0] != len(values):
            raise self._error(
                f"{ast.unparse(node)!r} is not understood; known functions are {', '.join(FUNCTIONS)}"
            )
        numbers = [self._number(value) for value in values]
        if name == "percentile" and not 0 <= np.min(numbers[1]) <= np.max(numbers[1]) <= 100:
            raise self._error("percentile takes a column and a number from 0 to 100")
        return FUNCTIONS[name][1](*numbers)

    def _truth(self, value: Any) -> np.ndarray:
        found = np.asarray(value)
        if isinstance(value, tuple) or found.dtype != bool:
            raise self._error("and, or and not combine comparisons, not plain values")
        return found

    def _number(self, value: Any) -> np.ndarray:
        if isinstance(value, tuple) or _is_text(value):
            raise self._error("texts cannot be calculated with")
        return np.asarray(value, dtype=np.float64)

    def _error(self, why: str) -> ParameterError:
        return ParameterError(f"condition {self.condition!r}: {why}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype.kind in "OU")
