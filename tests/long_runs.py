"""Runs of so many small steps that checks of shapes and types at every call would take three quarters of the time."""

from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import config


@contextmanager
def unchecked() -> Iterator[None]:
    """Without those checks: for what a first run, or shorter ones of the same functions, are made with."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", before)
