"""Images from a model: seeds, labels and a path in, images out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from apd_models import DiT, Patchify
from apd_samplers import DDIM, FollowPath, PerSampleNoise, Progress, classifier_free, sample
from apd_schedules import Denoiser, NoiseMap, NoiseSchedule, Path, Posterior, RectifiedFlow, corrupt, hold_clean


@dataclass(frozen=True, slots=True)
class Generated:
    """Args:
    images: values about [-1, 1].
    evaluations: network evaluations of each image, guidance passes counted.
    token_evaluations: tokens that went through the network, for each image.
    """

    images: Float[Tensor, "b c h w"]
    evaluations: int
    token_evaluations: int


def generate(
    model: DiT,
    patchify: Patchify,
    path: Path,
    steps: int,
    seeds: Sequence[int],
    labels: Int[Tensor, " b"] | None = None,
    *,
    guidance: float = 1.0,
    context: tuple[Float[Tensor, "b c h w"], Bool[Tensor, "b h w"]] | None = None,
    schedule: NoiseSchedule = RectifiedFlow(),
    batch: int = 64,
    on_step: Callable[[Progress], None] | None = None,
) -> Generated:
    """Deterministic (DDIM) generation, one seed an image; an image does not depend on the others of its batch.

    Args:
        path: of all tokens; unbatched.
        steps: along the path.
        labels: class of each image; without them, or for an unconditional model, none.
        guidance: scale of classifier-free guidance; 1 is none.
        context: images and which of their pixels are known; these come back to the bit. Tokens that are known whole
            stay clean throughout. In a token that is partly known, the known pixels are put back before each
            evaluation, at the noise level that the token has then (replacement; Song et al. 2021, arXiv:2011.13456,
            appendix I).
        batch: images that go through the network together.
        on_step: see :func:`apd_samplers.sample`; called for every batch.
    """
    device = model.position.device
    images: list[Tensor] = []
    evaluations = token_evaluations = 0
    for start in range(0, len(seeds), batch):
        rows = slice(start, start + batch)
        some = list(seeds[rows])
        z = PerSampleNoise(some)(torch.empty(len(some), patchify.tokens, patchify.token_dim, device=device))
        walked = path
        null = torch.full((len(some),), model.null_label, device=device)
        label = null if labels is None else labels[rows].to(device)
        denoise = model if labels is None else classifier_free(guidance, {"label": null})(model)
        if context is None:
            tokens, known = z, torch.zeros_like(z, dtype=torch.bool)
        else:
            tokens = patchify.to_tokens(context[0][rows].to(device))
            pixels = context[1][rows].to(device)[:, None].expand(-1, patchify.channels, -1, -1)
            known, whole = patchify.to_tokens(pixels), patchify.known_tokens(context[1][rows].to(device))
            denoise = put_back(denoise, tokens, known & ~whole, eps=z)
            z = torch.where(whole, tokens, z)
            walked = hold_clean(path, whole)
        result = sample(denoise, DDIM(), FollowPath(walked, schedule, steps), z, on_step=on_step, label=label)
        images.append(patchify.to_images(torch.where(known, tokens, result.tokens)).cpu())
        evaluations, token_evaluations = result.evaluations, result.token_evaluations
    return Generated(torch.cat(images), evaluations, token_evaluations)


def put_back(
    denoise: Denoiser, x: Float[Tensor, "b n d"], known: Bool[Tensor, "b n d"], eps: Float[Tensor, "b n d"]
) -> Denoiser:
    """A denoiser that sees the known elements of ``x`` at the noise level of their tokens, with noise ``eps``."""

    def seeing(z: Float[Tensor, "b n d"], noise: NoiseMap, **cond: Any) -> Posterior:
        return denoise(torch.where(known, corrupt(x, noise, eps), z), noise, **cond)

    return seeing
