"""Images from a model: seeds, labels and a path in, images out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from apd_models import DiT, Patchify
from apd_samplers import DDIM, FollowPath, PerSampleNoise, Progress, classifier_free, inpaint, sample
from apd_schedules import NoiseSchedule, Path, RectifiedFlow


@dataclass(frozen=True, slots=True)
class Generated:
    """Args:
    images: values about [-1, 1].
    evaluations: network evaluations of each image, guidance passes counted; the most of any batch.
    token_evaluations: tokens that went through the network, likewise.
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
            stay clean throughout; in a token that is partly known, so do its known pixels if the model takes a level an
            element, else they are put back after each step: see :func:`apd_samplers.inpaint`.
        batch: images that go through the network together.
        on_step: see :func:`apd_samplers.sample`; called for every batch.
    """
    device = model.device
    images: list[Tensor] = []
    evaluations = token_evaluations = 0
    for start in range(0, len(seeds), batch):
        rows = slice(start, start + batch)
        some = list(seeds[rows])
        noise, like = PerSampleNoise(some), torch.empty(len(some), patchify.tokens, patchify.token_dim, device=device)
        null = torch.full((len(some),), model.null_label, device=device)
        label = null if labels is None else labels[rows].to(device)
        denoise = model if labels is None else classifier_free(guidance, {"label": null})(model)
        if context is None:
            walk = FollowPath(path, schedule, steps)
            result = sample(denoise, DDIM(), walk, noise(like), on_step=on_step, label=label)
            tokens = result.tokens
        else:
            pixels = context[1][rows].to(device)[:, None].expand(-1, patchify.channels, -1, -1)
            found = inpaint(
                denoise,
                DDIM(),
                patchify.to_tokens(context[0][rows].to(device)),
                patchify.to_tokens(pixels),
                path=path,
                schedule=schedule,
                steps=steps,
                noise=noise,
                element_levels=model.config.element_levels,
                on_step=on_step,
                label=label,
            )
            (tokens,), result = found.tokens, found.sampled
        images.append(patchify.to_images(tokens).cpu())
        evaluations = max(evaluations, result.evaluations)
        token_evaluations = max(token_evaluations, result.token_evaluations)
    return Generated(torch.cat(images), evaluations, token_evaluations)
