"""The examples in docstrings run as they stand."""

import doctest
import importlib
import pkgutil

import pytest

PACKAGES = ("apd_schedules", "apd_samplers", "apd_models", "apd_train")
MODULES = [
    found.name
    for package in PACKAGES
    for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
]


def examples(name: str) -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder().find(importlib.import_module(name)) if test.examples]


@pytest.mark.parametrize("name", [name for name in MODULES if examples(name)])
def test_docstring_examples(name: str) -> None:
    done = doctest.testmod(importlib.import_module(name))
    assert done.failed == 0
    assert done.attempted > 0


def test_there_are_some() -> None:
    assert sum(len(examples(name)) for name in MODULES) >= 5
