"""Flags of a command line from a dataclass of a library. Needs tyro (``apd-train[apps]``)."""

import ast
import inspect
import itertools
import textwrap
from collections.abc import Callable, Container
from dataclasses import MISSING, fields
from typing import Annotated, Any, TypeVar, cast, get_type_hints

import tyro

T = TypeVar("T")


def flags_of(kind: type[T], without: Container[str] = ()) -> Callable[..., T]:
    """What ``tyro.cli`` and ``tyro.conf.arg(constructor=…)`` make flags of: one for each field, with the field's
    docstring as help, in one paragraph, and no default said where it is None or false.

    Args:
        kind: a dataclass; the docstrings of its fields are the help.
        without: fields that get no flag, and keep their defaults.
    """
    docs, hints = _docs(kind), get_type_hints(kind, include_extras=True)
    flags = []
    for item in fields(cast(Any, kind)):
        if item.name not in without:
            default = inspect.Parameter.empty if item.default is MISSING else item.default
            unsaid = default is None or default is False
            said = {"help_behavior_hint": ""} if unsaid else {}
            hint = Annotated[hints[item.name], tyro.conf.arg(help=docs.get(item.name), **said)]
            flags.append(inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint))
    make: Any = lambda **given: kind(**given)
    make.__name__ = kind.__name__  # tyro takes no lambda
    make.__signature__ = inspect.Signature(flags, return_annotation=kind)
    make.__annotations__ = {flag.name: flag.annotation for flag in flags} | {"return": kind}
    return make


def _docs(kind: type) -> dict[str, str]:
    """The strings that follow the fields, without their line breaks."""
    (of,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(of, ast.ClassDef)
    return {
        field.target.id: " ".join(str(text.value.value).split())
        for field, text in itertools.pairwise(of.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
