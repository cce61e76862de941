"""A readable ``repr`` for functions that return functions, so that a run's configuration can be written down."""

import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R", bound=Callable[..., Any])


class _Named:
    def __init__(self, function: Callable[..., Any], text: str) -> None:
        self._function, self._text = function, text

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return self._text


def named(make: Callable[P, R]) -> Callable[P, R]:
    """The function that ``make`` returns prints as the call that made it, defaults included."""
    signature = inspect.signature(make)

    @functools.wraps(make)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        text = ", ".join(f"{name}={text_of(value)}" for name, value in bound.arguments.items())
        return _Named(make(*args, **kwargs), f"{make.__name__}({text})")

    return wrapper


def text_of(value: Any) -> str:
    """``repr``, but functions by their names: an address would be another one in every run."""
    if isinstance(value, FunctionType):
        return value.__name__
    if type(value) is tuple:
        return f"({', '.join(map(text_of, value))}{',' if len(value) == 1 else ''})"
    return f"[{', '.join(map(text_of, value))}]" if type(value) is list else repr(value)
