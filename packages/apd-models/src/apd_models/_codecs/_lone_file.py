"""What a file of weights without a configuration says of its autoencoder, by the names and shapes of its tensors."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ._codec import Codec, CodecError
from ._diffusers import KL
from ._diffusers_files import CONFIG, loaded, renamed, shapes_in

PREFIXES = ("first_stage_model.", "vae.")
"""Of the autoencoder in a checkpoint that holds a whole model."""

GROUPS = 32
"""Of the normalisation: no shape tells it, and all published ones have it."""

RENAMED = (  # from the code of latent diffusion to diffusers
    (r"\.down\.(\d+)\.", r".down_blocks.\1."),
    (r"(?<=\d)\.block\.", ".resnets."),
    (r"\.(down|up)sample\.", r".\1samplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"(?<=attentions\.0\.)norm\.", "group_norm."),
    (r"(?<=attentions\.0\.)([qkv])\.", r"to_\1."),
    (r"(?<=attentions\.0\.)proj_out\.", "to_out.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"coder\.norm_out\.", "coder.conv_norm_out."),
)


def without_config(file: Path, device: str | torch.device) -> Codec:
    """An ``AutoencoderKL`` from its weights alone, in the names of the latent-diffusion code or of diffusers.

    Its ``stats`` are None: no tensor says at which scale its latents are diffused.

    Raises:
        CodecError: diffusers is not installed, or the file holds no such autoencoder, or is damaged.
    """
    shapes = shapes_in(KL, file)
    prefix = next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in shapes)), "")
    ours = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    resolutions = len({level for name in ours if (level := _level(name)) is not None})
    names = {name: _in_diffusers_names(name, resolutions) for name in ours}
    try:
        config = _config({names[name]: shape for name, shape in ours.items()}, resolutions)
    except KeyError as error:
        raise CodecError(
            f"{file} is no {KL.name}: it has no tensor {error} by that name or the latent-diffusion code's, and no "
            f"{CONFIG} is beside it"
        ) from error
    return loaded(KL, config, file, file, {prefix + name: new for name, new in names.items()}, device)


def _level(name: str) -> str | None:
    found = re.match(r"encoder\.down(?:_blocks)?\.(\d+)\.", name)
    return found and found[1]


def _in_diffusers_names(name: str, resolutions: int) -> str:
    """There the blocks of the decoder are counted from the coarsest."""
    name = re.sub(r"\.up\.(\d+)\.", lambda at: f".up_blocks.{resolutions - 1 - int(at[1])}.", renamed(name))
    for old, new in RENAMED:
        name = re.sub(old, new, name)
    return name


def _config(shapes: Mapping[str, tuple[int, ...]], resolutions: int) -> dict[str, Any]:
    finest = r"encoder\.down_blocks\.0\.resnets\.\d+\.conv1\.weight"
    return {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": [
            shapes[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"][0] for level in range(max(resolutions, 1))
        ],
        "layers_per_block": sum(re.fullmatch(finest, name) is not None for name in shapes),
        "down_block_types": ["DownEncoderBlock2D"] * resolutions,
        "up_block_types": ["UpDecoderBlock2D"] * resolutions,
        "norm_num_groups": GROUPS,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "mid_block_add_attention": "encoder.mid_block.attentions.0.to_q.weight" in shapes,
        "scaling_factor": None,
    }
