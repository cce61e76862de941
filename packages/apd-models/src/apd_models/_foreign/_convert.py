"""From a foreign checkpoint to a model of this library."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .._config import DiTConfig
from .._dit import DiT
from .._hub import ModelFolderError, Pretrained
from .._patch import Patchify
from ._layouts import DIFFUSERS, Layout, check_names, layout_of
from ._read import Checkpoint, read
from ._sizes import measured
from ._weights import merged, rearranged, sincos_column_first

ForeignConvention = Literal["dit", "sit", "diffusers"]
PUBLISHED_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""By width: S, B, L, XL of the papers."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPUTED = {"pos_embed.pos_embed"}
"""Saved by old versions of diffusers, and computed by all."""


def from_foreign(
    source: str | Path,
    convention: ForeignConvention,
    *,
    heads: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Pretrained:
    """Loads weights of DiT (Peebles & Xie 2023, arXiv:2212.09748), SiT (Ma et al. 2024, arXiv:2401.08740) or diffusers'
    ``DiTTransformer2DModel`` as a :class:`DiT` that computes the same function.

    With equal levels it is the model that it was. It takes a level a token as it stands, but has seen none in
    training: fine-tune it for that, with ``model.train().requires_grad_(True)``. Sizes are read off the weights. A
    learned variance is left out.

    Args:
        source: a checkpoint, ``.safetensors`` or pickled ``.pt``, ``.pth``, ``.ckpt``; a folder that holds one; or a
            folder of diffusers, of the model or of its pipeline. Of a training checkpoint the average (``ema``) is
            taken where there is one. A pickle is read as weights only, and refused if it needs more.
        convention: what the weights were trained to do. ``dit``: predict the noise at a timestep of DDPM with linear
            betas. ``sit``: predict the velocity on the linear path. DiT and SiT have one layout, so this cannot be
            read off it. ``diffusers``: what diffusers computes, which is ``dit`` with other frequencies of the
            timestep's features; weights that diffusers has from the original DiT were trained as ``dit``. (In every
            second norm diffusers adds 1e-5 to the variance by default, where this model and DiT add 1e-6.)
        heads: attention heads, where neither diffusers' ``config.json`` nor the published sizes S, B, L, XL tell.
        class_names: by default those of the pipeline, or numbers. The label after the last class is "none".

    Returns:
        The model, in float32 at least, frozen, and the patches that it takes. Those of the published weights are of
        latents, which the autoencoder that they were trained with decodes, after division by 0.18215.

    Raises:
        ModelFolderError: nothing there, a pickle of more than weights, another network or another training, or a
            number of heads that is not known.
    """
    found = read(Path(source))
    tensors = {re.sub(r"^((module|_orig_mod)\.)+", "", name): tensor for name, tensor in found.tensors.items()}
    layout = layout_of(tensors)
    depth = layout.depth(tensors)
    check_names(tensors.keys() - COMPUTED, layout, depth)
    _check_training(found, layout, convention)
    names = layout.names(depth)
    state = {ours: _at_least_float32(theirs, tensors[theirs]) for ours, theirs in names.items()}
    if layout is DIFFUSERS:
        kernel = state["embed.weight"]
        state["position"] = sincos_column_first(_diffusers_side(found.config, kernel), kernel.shape[0]).to(kernel)
    sizes = measured(state, names, depth)
    state = rearranged(merged(state), sizes, negate=convention == "sit")
    patchify = Patchify(sizes.side * sizes.patch, sizes.side * sizes.patch, sizes.channels, sizes.patch)
    config = DiTConfig(
        patchify.grid,
        patchify.token_dim,
        width=sizes.width,
        depth=depth,
        heads=_heads(heads, found.config, sizes.width),
        mlp_ratio=_ratio(sizes.hidden, sizes.width),
        classes=sizes.rows - 1,
        conditioning="joint",
        qk_norm=False,
        biases=True,
        gelu="erf" if found.config.get("activation_fn") == "gelu" else "tanh",
        convention=convention,
        embedders="shared" if "label.weight" in state else "per_block",
    )
    with torch.device("meta"):
        model = DiT(config)
    model.load_state_dict(state, assign=True)
    return Pretrained(
        model.eval().requires_grad_(False),
        patchify,
        _class_names(class_names, found.labels, sizes.rows - 1),
        f"{found.source}, converted as {convention}" + ("; its learned variance left out" if sizes.variance else ""),
    )


def _check_training(found: Checkpoint, layout: Layout, convention: str) -> None:
    """Refuses what the checkpoint itself says was trained otherwise."""
    if convention not in layout.conventions:
        raise ModelFolderError(
            f"weights in {layout.name} are converted as {' or '.join(layout.conventions)}, not as {convention}"
        )
    path, prediction = found.arguments.get("path_type"), found.arguments.get("prediction")
    if convention == "dit" and path is not None:
        raise ModelFolderError(f"{found.source} was trained by SiT, on the path {path}: convert it as sit")
    if (path, prediction) not in ((None, None), ("Linear", "velocity")):
        raise ModelFolderError(
            f"{found.source} predicts the {prediction} on the path {path}; known is the velocity on the Linear path"
        )
    known: dict[str, tuple[Any, ...]] = {
        "norm_type": ("ada_norm_zero",),
        "activation_fn": ("gelu-approximate", "gelu"),
        "norm_eps": (1e-5, 1e-6),
        "beta_schedule": ("linear",),
        "beta_start": (1e-4,),
        "beta_end": (0.02,),
        "num_train_timesteps": (1000,),
        "rescale_betas_zero_snr": (False, None),
        "trained_betas": (None,),
        "prediction_type": ("epsilon",),
    }
    for name, values in known.items():
        for config in (found.config, found.scheduler):
            if config.get(name, values[0]) not in values:
                raise ModelFolderError(
                    f"{found.source} has {name} {config[name]!r}; known is {' or '.join(map(repr, values))}"
                )


def _at_least_float32(name: str, tensor: object) -> Tensor:
    if not isinstance(tensor, Tensor) or tensor.dtype not in FLOATS:
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ModelFolderError(f"{name} is not a tensor of floating point numbers, but {kind}")
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32), copy=True)


def _diffusers_side(config: Mapping[str, Any], kernel: Tensor) -> int:
    """Tokens a side, which diffusers' weights do not tell."""
    size = config.get("sample_size")
    if not isinstance(size, int) or kernel.ndim != 4 or size % kernel.shape[-1] or size < 1:
        raise ModelFolderError(
            f"diffusers' config.json beside the weights says how large images are, in sample_size; got {size!r}"
        )
    return size // kernel.shape[-1]


def _heads(given: int | None, config: Mapping[str, Any], width: int) -> int:
    known = config.get("num_attention_heads", PUBLISHED_HEADS.get(width))
    heads = known if given is None else given
    if not isinstance(heads, int):
        widths = ", ".join(map(str, PUBLISHED_HEADS))
        raise ModelFolderError(
            f"heads are not in the weights, and width {width} is not published ({widths}): give heads"
        )
    if heads < 1:
        raise ModelFolderError(f"heads must be at least 1, got {heads}")
    if width % heads or width % 4:
        raise ModelFolderError(f"{heads} heads do not divide a width of {width}, a multiple of 4")
    return heads


def _ratio(hidden: int, width: int) -> float:
    """The ratio whose product with the width, rounded down, is ``hidden``."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _class_names(given: Sequence[str] | None, labels: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    names = tuple(given) if given is not None else tuple(str(labels.get(str(k), k)) for k in range(classes))
    if len(names) != classes:
        raise ModelFolderError(f"{len(names)} class names for a model of {classes} classes")
    return names
