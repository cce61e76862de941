"""Which program a job is of: its function, with all of its folder that it can reach."""

import ast
import hashlib
import inspect
import sys
import textwrap
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any


@cache
def program(work: Callable[..., Any]) -> str:
    """A digest of a function, of the functions and classes of its folder that it names, and so on, and of the plain
    constants beside them. Comments, docstrings and layout do not count, nor do packages elsewhere."""
    folder, found, waiting = _folder(work), dict[str, str](), [work]
    while waiting:
        each = waiting.pop()
        module, name = sys.modules[each.__module__], f"{each.__module__}.{each.__qualname__}"
        if name in found:
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(each)))
        for node in ast.walk(tree):
            _without_docstring(node)
        found[name] = ast.dump(tree)
        for other in sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & vars(module).keys()):
            thing = inspect.unwrap(vars(module)[other])
            if inspect.isfunction(thing) or inspect.isclass(thing):
                waiting += [thing] if _folder(thing) == folder else []
            elif not isinstance(thing, ModuleType) and " at 0x" not in repr(thing):
                found[f"{module.__name__}.{other}"] = repr(thing)
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:12]


def _folder(thing: Any) -> Path | None:
    try:
        return Path(inspect.getfile(thing)).resolve().parent
    except TypeError:  # built in
        return None


def _without_docstring(node: ast.AST) -> None:
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        return
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        node.body = node.body[1:] or [ast.Pass()]
