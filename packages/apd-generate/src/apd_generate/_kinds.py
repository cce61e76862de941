"""Whether a value is of the kind that a field is annotated with: for records that come from files."""

import math
import types
from typing import Any, Literal, Union, get_args, get_origin

_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "left out"}


def mismatch(value: Any, kind: Any) -> str | None:
    """What a value would have to be, or None if it is that.

    Args:
        kind: int, float (whole numbers too), bool, str, a Literal, a tuple of kinds, or a union of these and None.
    """
    return None if _is(value, kind) else _said(kind)


def _is(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin in (Union, types.UnionType):
        return any(_is(value, each) for each in inner)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(inner) == 2 and inner[1] is Ellipsis:
            return all(_is(each, inner[0]) for each in value)
        return len(value) == len(inner) and all(map(_is, value, inner))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _said(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(inner)}"
    if origin in (Union, types.UnionType):
        return " or ".join(_said(each) for each in inner if each is not type(None))
    if origin is tuple:
        if len(inner) == 2 and inner[1] is Ellipsis:
            return f"a list, each {_said(inner[0])}"
        return f"a list of {len(inner)}: {', '.join(map(_said, inner))}"
    return _NAMES[kind]


def from_json(value: Any, kind: Any) -> Any:
    """A value from JSON as the kind has it, where it can be: its lists as tuples, whole numbers as floats."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        of = [each for each in inner if each is not type(None)]
        return from_json(value, of[0]) if len(of) == 1 else value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(from_json(each, inner[0]) for each in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    return value
