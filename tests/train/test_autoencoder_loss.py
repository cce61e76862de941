"""The losses of an autoencoder against the same sums, sample by sample and cell by cell."""

import math
import sys

import pytest
import torch
from lightning_fabric import Fabric
from torch import Generator, Tensor

from apd_metrics import efficientnet_lite0, feature_distance
from apd_models import Autoencoder
from apd_train import AutoencoderLoss, ConfigError
from apd_train._autoencoder_loss import PARTS, reconstruct, watched, watched_sums
from apd_train._feature_loss import FeatureLoss
from apd_train._gradients import accumulate
from autoencoder_cases import some_autoencoder, some_batch, training_of

WEIGHTS = {"reconstruction_weight": 1.5, "code_weight": 0.7, "agreement_weight": 0.3}


def cells(known: Tensor) -> Tensor:
    """Cells of 2×2 pixels that are known whole."""
    return known.reshape(4, 2, 4, 2).all(3).all(1)


def one_by_one(model: Autoencoder, batch: tuple[Tensor, ...]) -> dict[str, list[Tensor]]:
    """Latents, their means and variances, images, of each sample by itself."""
    found: dict[str, list[Tensor]] = {"mean": [], "log_var": [], "seen": [], "full": [], "image": [], "latent": []}
    for x, known, eps in zip(*batch, strict=True):
        seen, full = model.moments(x[None], known[None]), model.moments(x[None])
        pick = lambda a, b, known=known: torch.where(cells(known), a[0], b[0])
        mean = pick(seen.mean, full.mean)
        latent = mean
        if seen.log_var is not None and full.log_var is not None:
            log_var = pick(seen.log_var, full.log_var)
            found["log_var"].append(log_var)
            latent = mean + (0.5 * log_var).exp() * eps
        found["mean"].append(mean)
        found["seen"].append(seen.mean[0])
        found["full"].append(full.mean[0])
        found["latent"].append(latent)
        found["image"].append(model.decode(model.quantised(latent[None]), known[None])[0])
    return found


@pytest.mark.parametrize("codes", [None, 5], ids=["normal", "codebook"])
def test_each_part_is_what_it_says(codes: int | None) -> None:
    model, batch = some_autoencoder(codes), some_batch()
    x, known, eps = batch
    parts, sums = AutoencoderLoss(model, training_of(codes=codes, **WEIGHTS))(x, known, None if codes else eps)
    found = one_by_one(model, batch)
    images, mean = torch.stack(found["image"]), torch.stack(found["mean"])
    torch.testing.assert_close(parts[0], (1.5 * (images - x).abs().mean()))
    assert parts[1] == 0
    variance = mean.var((0, 2, 3), correction=0)
    apart = []
    for seen, full, known_here in zip(found["seen"], found["full"], known, strict=True):
        errors = ((seen - full).square() / variance[:, None, None]).mean(0)
        apart.append(errors[cells(known_here)].mean() * (not known_here.all()))
    torch.testing.assert_close(parts[3], (0.3 * torch.stack(apart).mean()))
    assert parts[3] > 0.001
    if codes is None:
        log_var = torch.stack(found["log_var"])
        normal = torch.distributions.Normal(mean, (0.5 * log_var).exp())
        standard = torch.distributions.Normal(torch.zeros_like(mean), 1.0)
        code = torch.distributions.kl_divergence(normal, standard).mean()
    else:
        assert model.codebook is not None
        latents = torch.stack(found["latent"]).movedim(1, -1).reshape(-1, 2)
        distance = (latents[:, None] - model.codebook).square().mean(-1)
        code = distance.min(1).values.mean() + distance.min(0).values.mean()
        used = len({*distance.argmin(1).tolist()})
        assert watched(sums)["codes_used"] == pytest.approx(used / 5)
    torch.testing.assert_close(parts[2], (0.7 * code))
    psnr = [10 * math.log10(4 / float((a - b).detach().square().mean())) for a, b in zip(images, x, strict=True)]
    told = watched(sums)
    assert told["psnr"] == pytest.approx((psnr[0] + psnr[2] + psnr[4]) / 3)
    assert told["psnr_masked"] == pytest.approx((psnr[1] + psnr[3]) / 2)
    assert len(sums) == watched_sums(training_of(codes=codes))
    assert len(parts) == len(PARTS)


def test_visible_latents_know_nothing_of_hidden_pixels() -> None:
    """And those of the other cells are of the whole image: what a model would generate there."""
    model, (x, known, _) = some_autoencoder(), some_batch()
    other = torch.where(known[:, None], x, -x)
    one, two = (reconstruct(model, images, known).moments.mean for images in (x, other))
    for a, b, mask, image in zip(one, two, known, x, strict=True):
        assert torch.equal(a[:, cells(mask)], b[:, cells(mask)])
        if not mask.all():
            whole = model.moments(image[None]).mean[0]
            assert not torch.equal(a[:, cells(mask)], whole[:, cells(mask)])
            torch.testing.assert_close(a[:, ~cells(mask)], whole[:, ~cells(mask)])
            assert not torch.equal(a[:, ~cells(mask)], b[:, ~cells(mask)])


def gradients(model: Autoencoder, value: Tensor) -> dict[str, Tensor | None]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True), strict=True))


def test_agreement_moves_only_the_latents_of_what_is_shown() -> None:
    """Its gradient is that of the same sum with the whole image's latents as numbers."""
    model, (x, known, _) = some_autoencoder(), some_batch()
    masked = [1, 3]
    with torch.no_grad():
        full = model.moments(x).mean
        seen = model.moments(x, known).mean
        whole = torch.stack([cells(mask) for mask in known])[:, None]
        variance = torch.where(whole, seen, full).var((0, 2, 3), correction=0)[:, None, None]
    distance = ((model.moments(x, known).mean - full).square() / variance).mean(1, keepdim=True) * whole
    by_hand = sum(distance[i].sum() / whole[i].sum() for i in masked) / len(x)
    assert isinstance(by_hand, Tensor)
    found = reconstruct(model, x, known).apart.mean()
    torch.testing.assert_close(found, by_hand)
    for (name, a), b in zip(gradients(model, found).items(), gradients(model, by_hand).values(), strict=True):
        assert (a is None) == (b is None), name
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


def test_gradients_pass_through_the_quantisation() -> None:
    """Those of the encoder are what they are where the decoder is a linear function of latents around the codes."""
    model, (x, known, _) = some_autoencoder(codes=5), some_batch()
    found = reconstruct(model, x, known)
    codes = model.quantised(found.latents.detach()).detach().requires_grad_()
    pull = torch.autograd.grad(model.decode(codes, known).square().sum(), codes)[0]
    a, b = (gradients(model, value) for value in (found.images.square().sum(), (found.latents * pull).sum()))
    assert b["encoder_in.weight"] is not None
    for name in b:
        if name.startswith("encoder"):
            torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-5)


def test_codes_that_no_latent_chooses_are_drawn_to_latents() -> None:
    model, (x, known, _) = some_autoencoder(codes=5), some_batch()
    assert model.codebook is not None
    with torch.no_grad():
        model.codebook[3] = torch.tensor([50.0, 50.0])
    config = training_of(codes=5, code_weight=1.0, reconstruction_weight=0.0, agreement_weight=0.0)
    parts, sums = AutoencoderLoss(model, config)(x, known)
    assert sums[4 + 3] == 0
    grad = gradients(model, parts.sum())["codebook"]
    assert grad is not None
    assert (grad[3] > 1).all()  # down, to where latents are


@pytest.mark.parametrize("pieces", [2, 3])
def test_pieces_of_a_batch_are_the_batch(pieces: int) -> None:
    """All but what is relative to the variance of the samples at hand, or nearest among them."""
    batch, config = some_batch(), training_of(agreement_weight=0.0, code_weight=0.7)
    found = []
    for micro in (None, -(-5 // pieces)):
        model, fabric = some_autoencoder(), Fabric(accelerator="cpu", devices=1)
        losses, sums = accumulate(fabric, fabric.setup_module(AutoencoderLoss(model, config)), batch, micro)
        found.append((losses, sums, [p.grad for p in model.parameters()]))
    (losses, sums, grads), (other_losses, other_sums, other_grads) = found
    torch.testing.assert_close(losses, other_losses)
    torch.testing.assert_close(sums, other_sums)
    for a, b in zip(grads, other_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("which", ["all", "none"])
def test_every_parameter_has_a_gradient_whatever_is_masked(which: str) -> None:
    """Else several processes would wait for each other."""
    x, known, eps = some_batch()
    known[:] = which == "none"
    known[:, :4] = True
    for codes in (None, 5):
        model = some_autoencoder(codes)
        parts, _ = AutoencoderLoss(model, training_of(codes=codes))(x, known, None if codes else eps)
        assert all(grad is not None for grad in gradients(model, parts.sum()).values())
        assert parts.isfinite().all()


def test_samples_that_are_said_to_be_masked_are_not_looked_for() -> None:
    module, (x, known, eps) = AutoencoderLoss(some_autoencoder(), training_of()), some_batch()
    a, b = module(x, known, eps), module(x, known, eps, torch.tensor([1, 3]))
    assert all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def test_no_visible_cell_is_no_fault() -> None:
    module, (x, known, eps) = AutoencoderLoss(some_autoencoder(), training_of()), some_batch()
    known[:] = False
    known[:, 0, 0] = True
    parts, _ = module(x, known, eps)
    assert parts[3] == 0
    assert parts.isfinite().all()


@pytest.fixture(scope="module")
def features() -> FeatureLoss:
    return FeatureLoss(32)


@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_those_that_are_measured(features: FeatureLoss, channels: int) -> None:
    """Of images of 8 bits, which rounding leaves alone."""
    pixels = torch.randint(0, 256, (2, 2, channels, 32, 32), generator=Generator().manual_seed(0)).float()
    images = (pixels / 127.5 - 1).requires_grad_()
    extractor = efficientnet_lite0(32)
    one, two = (extractor(each.detach(), maps=True).maps for each in images)
    found = features(images[0], images[1])
    torch.testing.assert_close(found, feature_distance(one, two), rtol=1e-4, atol=1e-6)
    (grad,) = torch.autograd.grad(found.sum(), images)
    assert grad[0].abs().sum() > 0
    assert grad[1].abs().sum() == 0  # of what it is compared with
    assert not any(parameter.requires_grad for parameter in features.parameters())


def test_features_count_by_their_weight(features: FeatureLoss) -> None:
    model, (x, known, eps) = some_autoencoder().float(), some_batch()
    x, eps = x.float(), eps.float()
    module = AutoencoderLoss(model, training_of(features_weight=0.5, features_side=32), features)
    parts, _ = module(x, known, eps)
    images = reconstruct(model, x, known, eps).images
    torch.testing.assert_close(parts[1], (0.5 * features(images, x).mean()).float())
    assert parts[1] > 0.1


def test_features_need_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apd_metrics", None)
    with pytest.raises(ConfigError, match=r'needs the package apd-metrics: pip install "apd-train\[features\]"'):
        FeatureLoss(32)
