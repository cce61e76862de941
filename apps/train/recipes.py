"""Recipes: each a function that returns a complete run. Add a function, and `uv run apps/train NAME` knows it."""

from collections.abc import Callable

from apd_train import Animals28, TrainConfig


def animals28() -> TrainConfig:
    """Ten kinds of animals as 28×28 silhouettes, embedded in the package: minutes on two CPU cores."""
    return TrainConfig(data=Animals28(), image_size=28)


RECIPES: dict[str, Callable[[], TrainConfig]] = {recipe.__name__: recipe for recipe in (animals28,)}
