"""What the page is told of the model: its sizes and classes, what a recipe can say, colours, examples."""

import base64
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from demo_drawing import eight_bit

from apd_generate import Recipe, level_colours
from apd_models import Pretrained
from apd_train import load_animals28


def about(pretrained: Pretrained, name: str, most_uploaded: int) -> dict[str, Any]:
    """Args:
    pretrained: with the patches of its images, see ``demo_web.build``.
    """
    patchify = pretrained.patchify
    return {
        "name": name,
        "weights": pretrained.weights,
        "height": patchify.height,
        "width": patchify.width,
        "channels": patchify.channels,
        "of_latents": pretrained.latents is not None,
        "patch": patchify.patch,
        "grid": list(patchify.grid),
        "classes": list(pretrained.class_names),
        "choices": _choices(pretrained),
        "defaults": Recipe().resolved(pretrained.model).to_dict(),
        "ramp": eight_bit(level_colours(torch.linspace(0, 1, 256).reshape(1, -1))[None])[0, 0].tolist(),
        "most_uploaded": most_uploaded,
        "examples": _examples(pretrained),
    }


def _choices(pretrained: Pretrained) -> dict[str, list[str]]:
    """The fields of a recipe that are one of a few names."""
    found = {}
    for name, hint in get_type_hints(Recipe).items():
        kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        names = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
        if names:
            found[name] = names
    if pretrained.model.error is None:
        found["uncertainty"].remove("predicted")
    return found


def _examples(pretrained: Pretrained) -> list[dict[str, str]]:
    """An animal of each kind, for models of their size."""
    patchify = pretrained.patchify
    if (patchify.height, patchify.width, patchify.channels) != (28, 28, 1):
        return []
    animals = load_animals28()
    firsts = [int(torch.nonzero(animals.labels == label)[7]) for label in range(len(animals.class_names))]
    return [
        {"name": name, "pixels": base64.b64encode(animals.images[index].numpy().tobytes()).decode()}
        for name, index in zip(animals.class_names, firsts, strict=True)
    ]
