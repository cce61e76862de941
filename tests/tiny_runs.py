"""Runs small enough for a test: images, and what a configuration says of them."""

from apd_train import Animals28, ImageSet, load_animals28

TINY: dict[str, object] = {
    "data": Animals28(),
    "image_size": 28,
    "patch": 14,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "batch_size": 16,
    "log_every": 4,
    "evaluate_every": 8,
}


def some_animals() -> ImageSet:
    """Two hundred of them."""
    return load_animals28().subset(range(0, 10_000, 50))
