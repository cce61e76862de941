"""An autoencoder with its losses around it, on images of which some are hidden in part."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from apd_models import Autoencoder, Moments

from ._autoencoder_config import AutoencoderTraining
from ._feature_loss import FeatureLoss

PARTS = ("reconstruction", "features", "code", "agreement")
TINY = 1e-10
"""Least squared error and variance, so that a perfect image has a PSNR."""


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """What becomes of images.

    Args:
        images: decoded.
        moments: of the latents that were decoded. Where a cell's pixels are all known they are those of the image with
            the rest hidden; elsewhere those of the whole image, in place of what a model would generate.
        latents: before they are quantised.
        code: number of each cell's code, with a codebook.
        apart: mean over the visible cells of masked images of the squared distance between both kinds of latents,
            relative to the variance of latents; 0 of images that are not masked. Moves only the former.
    """

    images: Float[Tensor, "b c h w"]
    moments: Moments
    latents: Float[Tensor, "b k i j"]
    code: Int[Tensor, "b i j"] | None
    apart: Float[Tensor, " b"]


class AutoencoderLoss(nn.Module):
    """An autoencoder whose forward pass is its training losses.

    The parts, each a mean over samples times its weight in the configuration:

    - ``reconstruction``: mean absolute error of the whole image, hidden pixels too.
    - ``features``: distance in feature maps (Zhang et al. 2018, arXiv:1801.03924), see :class:`FeatureLoss`.
    - ``code``: ``(m² + v - 1 - log v) / 2`` for latents of mean m and variance v, the divergence of their distribution
      from N(0, 1) (Kingma & Welling 2014, arXiv:1312.6114). With a codebook, the squared distance of a latent to the
      nearest code, and of a code to the nearest latent, which keeps alive the codes that no latent chooses; gradients
      of images pass through the quantisation as if it were not there (van den Oord et al. 2017, arXiv:1711.00937).
    - ``agreement``: see :class:`Reconstruction`, ``apart``.

    Args:
        features: None leaves that part at 0.

    The latents nearest to codes, and the variance of latents, are those of the samples computed at once: here, and
    nowhere else, micro-batches and devices make a difference beyond rounding.
    """

    def __init__(self, model: Autoencoder, config: AutoencoderTraining, features: FeatureLoss | None = None) -> None:
        super().__init__()
        self.model, self._config, self.features = model, config, features

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        known: Bool[Tensor, "b h w"],
        eps: Float[Tensor, "b k i j"] | None = None,
        masked: Int[Tensor, " m"] | None = None,
    ) -> tuple[Float[Tensor, " parts"], Float[Tensor, " sums"]]:
        """
        Args:
            x: images.
            known: their pixels that are not hidden.
            eps: standard normal noise, for a latent drawn from its distribution; its mean without.
            masked: see :func:`reconstruct`.

        Returns:
            The weighted parts, in the order of :data:`PARTS`, of which the sum is trained on; and, to be watched and
            without a gradient, what :func:`watched` makes metrics of.
        """
        config, found = self._config, reconstruct(self.model, x, known, eps, masked)
        nothing = found.images.new_zeros(())
        parts = torch.stack(
            [
                config.reconstruction_weight * (found.images - x).abs().mean(),
                nothing
                if self.features is None
                else config.features_weight * self.features(found.images, x).mean().to(x),
                config.code_weight * _code(self.model, found),
                config.agreement_weight * found.apart.mean(),
            ]
        )
        return parts, _watch(self.model, found, x, known)


def reconstruct(
    model: Autoencoder,
    x: Float[Tensor, "b c h w"],
    known: Bool[Tensor, "b h w"],
    eps: Float[Tensor, "b k i j"] | None = None,
    masked: Int[Tensor, " m"] | None = None,
) -> Reconstruction:
    """Encodes and decodes images of which a part may be hidden. Of those, the encoder also sees the whole.

    Args:
        masked: which of the samples these are. By default it is looked at, which waits for the device.
    """
    seen = _moments(model, x, known)
    if masked is None:
        masked = (~known).flatten(1).any(1).nonzero()[:, 0]
    moments, apart = seen, x.new_zeros(len(x))
    if len(masked):
        full = _moments(model, x[masked])
        whole = F.max_pool2d((~known[masked])[:, None].to(x), model.config.factor) == 0
        merged = lambda seen, full: seen.index_copy(0, masked, torch.where(whole, seen[masked], full))
        log_var = None if seen.log_var is None else merged(seen.log_var, full.log_var)
        moments = Moments(merged(seen.mean, full.mean), log_var)
        variance = moments.mean.detach().var((0, 2, 3), correction=0).clamp(min=TINY)[:, None, None]
        distance = ((seen.mean[masked] - full.mean.detach()).square() / variance).mean(1, keepdim=True)
        mean = (distance * whole).sum((1, 2, 3)) / whole.sum((1, 2, 3)).clamp(min=1)
        apart = apart.index_copy(0, masked, mean.to(apart))
    latents, code = moments.mean, None
    if moments.log_var is not None and eps is not None:
        latents = latents + (0.5 * moments.log_var).exp() * eps
    decoded = latents
    if model.codebook is not None:
        code = model.nearest(latents.detach())
        decoded = latents + (model.codebook[code].movedim(-1, 1) - latents).detach()
    return Reconstruction(_wide(model.decode(decoded, known)), moments, latents, code, apart)


def watched(sums: Float[Tensor, " sums"]) -> dict[str, float]:
    """Metrics from what was added up: ``psnr`` and ``psnr_masked``, the mean peak signal-to-noise ratio in decibels of
    whole images and of those that were hidden in part, their hidden pixels included; ``codes_used``, the share of the
    codebook that any latent chose. Waits for the device.

    Args:
        sums: what :class:`AutoencoderLoss` returned, or a sum of such.
    """
    whole, masked, of_whole, of_masked, *codes = sums.tolist()
    means = {"psnr": (whole, of_whole), "psnr_masked": (masked, of_masked)}
    metrics = {name: total / count for name, (total, count) in means.items() if count}
    used = {"codes_used": sum(count > 0 for count in codes) / len(codes)} if codes else {}
    return metrics | used


def watched_sums(config: AutoencoderTraining) -> int:
    """How many numbers :func:`watched` makes metrics of."""
    return 4 + (config.codes or 0)


def _wide(tensor: Tensor) -> Tensor:
    """In float32 at least, whatever precision the network computes in."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _moments(model: Autoencoder, x: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"] | None = None) -> Moments:
    mean, log_var = model.moments(x, known)
    return Moments(_wide(mean), None if log_var is None else _wide(log_var))


def _code(model: Autoencoder, found: Reconstruction) -> Float[Tensor, ""]:
    if model.codebook is None:
        mean, log_var = found.moments
        assert log_var is not None
        return 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean()
    assert found.code is not None
    cells, codebook = found.latents.movedim(1, -1).flatten(0, 2), model.codebook
    with torch.no_grad():
        nearest = torch.cat([torch.cdist(some, cells).argmin(1) for some in codebook.split(512)])
    to_code = (cells - codebook[found.code.flatten()]).square().mean()
    return to_code + (codebook - cells[nearest].detach()).square().mean()


@torch.no_grad()
def _watch(
    model: Autoencoder, found: Reconstruction, x: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"]
) -> Float[Tensor, " sums"]:
    error = (found.images - x).square().flatten(1).mean(1).clamp(min=TINY)
    psnr, whole = 10 * (4 / error).log10(), known.flatten(1).all(1)
    sums = torch.stack([(psnr * whole).sum(), (psnr * ~whole).sum(), whole.sum(), (~whole).sum()])
    if model.codebook is None or found.code is None:
        return sums
    chosen = found.code.flatten()
    # Whole numbers: their sum is the same in whatever order a GPU adds them.
    uses = sums.new_zeros(len(model.codebook)).index_add(0, chosen, torch.ones_like(chosen, dtype=sums.dtype))
    return torch.cat([sums, uses])
