"""Exact denoisers: by Bayes' rule, by Tweedie's formula, by integration."""

from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Generator, Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from torch.utils._python_dispatch import TorchDispatchMode

from apd_schedules import GaussianDenoiser, GaussianMixtureDenoiser, NoiseMap, corrupt, gaussian_texture
from oracles import covariance
from strategies import log_snrs, normals, seeds

N, D, K = 3, 2, 3
M = N * D


def mixture(seed: int = 0, scale: float = 1.0) -> GaussianMixtureDenoiser:
    g = Generator().manual_seed(seed)
    weights = torch.rand(K, generator=g, dtype=torch.float64) + 0.2
    means = torch.randn(K, N, D, generator=g, dtype=torch.float64)
    return GaussianMixtureDenoiser(weights, means, torch.stack([scale * covariance(M, seed + k) for k in range(K)]))


def standard_density(model: GaussianMixtureDenoiser) -> MixtureSameFamily:
    parts = MultivariateNormal(model.means.flatten(1), model.covs)
    return MixtureSameFamily(Categorical(model.weights), parts)


def normal_log_density(z: Tensor, x: Tensor, noise: NoiseMap) -> Tensor:
    return torch.distributions.Normal(noise.alpha * x, noise.sigma.expand_as(x)).log_prob(z).sum((-2, -1))


@given(st.data(), seeds)
def test_density_is_the_standard_one(data: st.DataObject, seed: int) -> None:
    model, x = mixture(seed), data.draw(normals(5, N, D))
    torch.testing.assert_close(model.log_prob(x), standard_density(model).log_prob(x.flatten(1)), rtol=1e-9, atol=1e-9)


@given(st.data(), seeds, st.booleans())
def test_bayes_rule_holds_at_every_point(data: st.DataObject, seed: int, per_element: bool) -> None:
    """log p(x | z) = log p(x) + log p(z | x) - log p(z), on the right three of the model's own closed forms."""
    model, x, z = mixture(seed), data.draw(normals(N, D)), data.draw(normals(N, D))
    log_snr = data.draw(log_snrs(M)).reshape(N, D) / 3 if per_element else data.draw(log_snrs(N)) / 3
    noise = NoiseMap(log_snr)
    right = model.log_prob(x) + normal_log_density(z, x, noise) - model.log_prob(z, noise)
    torch.testing.assert_close(model.given(z, noise).log_prob(x), right, rtol=1e-7, atol=1e-7)


@given(st.data(), seeds)
def test_mean_and_variance_are_the_posteriors(data: st.DataObject, seed: int) -> None:
    model, z, noise = mixture(seed), data.draw(normals(N, D)), NoiseMap(data.draw(log_snrs(N)) / 3)
    found, exact = model(z, noise), model.given(z, noise)
    torch.testing.assert_close(found.mean, exact.mean, rtol=1e-9, atol=1e-9)
    assert found.log_var is not None
    variance = exact.cov.diagonal().reshape(N, D).mean(-1)
    torch.testing.assert_close(found.log_var.exp(), variance, rtol=1e-6, atol=1e-9)


@given(st.data(), seeds)
def test_tweedie(data: st.DataObject, seed: int) -> None:
    """x̂ = (z + sigma² grad log p(z)) / alpha (Robbins 1956; Efron 2011): the mean from the density's slope."""
    model, noise = mixture(seed), NoiseMap(data.draw(log_snrs(N)) / 3)
    z = data.draw(normals(N, D)).requires_grad_()
    (slope,) = torch.autograd.grad(model.log_prob(z, noise), z)
    expected = (z.detach() + noise.sigma**2 * slope) / noise.alpha
    torch.testing.assert_close(model(z.detach(), noise).mean, expected, rtol=1e-6, atol=1e-7)


@given(st.data(), seeds)
def test_conditional_density_is_joint_over_marginal(data: st.DataObject, seed: int) -> None:
    model, x = mixture(seed), data.draw(normals(N, D))
    known = torch.tensor(data.draw(st.lists(st.booleans(), min_size=M, max_size=M))).reshape(N, D)
    known[0, 0], known[-1, -1] = True, False
    seen = known.flatten()
    parts = MultivariateNormal(model.means.flatten(1)[:, seen], model.covs[:, seen][:, :, seen])
    marginal = MixtureSameFamily(Categorical(model.weights), parts).log_prob(x.flatten()[seen])
    found = model.conditional(x, known).log_prob(x.flatten()[~seen][:, None])
    torch.testing.assert_close(found, model.log_prob(x) - marginal, rtol=1e-8, atol=1e-8)


@given(st.data(), seeds)
def test_conditional_on_noisy_context_is_the_posterior_of_the_rest(data: st.DataObject, seed: int) -> None:
    """Where the unknown tokens are pure noise, the denoiser's posterior of them knows the context alone."""
    model, z = mixture(seed), data.draw(normals(N, D))
    known = torch.tensor([[True], [False], [True]])
    noise = NoiseMap(torch.where(known, data.draw(log_snrs(N)) / 6, -1e3))
    exact = model.conditional(z, known, noise)
    torch.testing.assert_close(model(z, noise).mean[1], exact.mean[:, 0], rtol=1e-7, atol=1e-7)
    inner = model.given(z, noise).cov[2:4, 2:4]
    torch.testing.assert_close(inner, exact.cov, rtol=1e-7, atol=1e-7)


def test_conditional_given_nothing_of_use_is_the_marginal() -> None:
    model = mixture()
    known = torch.tensor([[True], [False], [False]])
    useless = NoiseMap(torch.full((N, 1), -80.0, dtype=torch.float64))
    found = model.conditional(torch.randn(N, D, dtype=torch.float64), known, useless)
    torch.testing.assert_close(found.mean[:, 0], model.mean[1:].flatten())
    torch.testing.assert_close(found.cov, model.cov[2:, 2:])


def test_points_have_the_posterior_of_bayes_rule() -> None:
    points = torch.tensor([[[-1.0]], [[0.0]], [[2.0]]], dtype=torch.float64)
    weights = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    model = GaussianMixtureDenoiser(weights, points, torch.zeros(3, 1, 1, dtype=torch.float64))
    z, noise = (
        torch.tensor([[[0.7]], [[-3.0]]], dtype=torch.float64),
        NoiseMap(torch.tensor([[0.3]], dtype=torch.float64)),
    )
    logits = weights.log() - 0.5 * ((z[:, 0] - noise.alpha * points[:, 0, 0]) / noise.sigma).square()
    share = logits.softmax(-1)
    mean = share @ points[:, 0, 0]
    found = model(z, noise)
    torch.testing.assert_close(found.mean[:, 0, 0], mean)
    assert found.log_var is not None
    torch.testing.assert_close(found.log_var[:, 0].exp(), share @ points[:, 0, 0].square() - mean.square())
    assert set(model.sample(50, Generator().manual_seed(0)).flatten().tolist()) == {-1.0, 0.0, 2.0}


def test_a_gaussian_is_a_mixture_of_one() -> None:
    cov, mean = covariance(M, 5), torch.randn(N, D, dtype=torch.float64)
    one = GaussianDenoiser(cov, mean)
    many = GaussianMixtureDenoiser(torch.ones(1, dtype=torch.float64), mean[None], cov[None])
    z, noise = torch.randn(4, N, D, dtype=torch.float64), NoiseMap(torch.randn(4, N, 1, dtype=torch.float64))
    torch.testing.assert_close(one(z, noise).mean, many(z, noise).mean)
    torch.testing.assert_close(one.log_prob(z, noise), many.log_prob(z, noise))
    torch.testing.assert_close(
        one.given(z[0], NoiseMap(noise.log_snr[0])).cov, many.given(z[0], NoiseMap(noise.log_snr[0])).cov
    )
    known = torch.tensor([[True], [False], [True]])
    torch.testing.assert_close(one.conditional(z[0], known).mean, many.conditional(z[0], known).mean)


def test_samples_have_the_moments() -> None:
    """At five standard errors, seed fixed."""
    model, count = mixture(2), 200_000
    drawn = model.sample(count, Generator().manual_seed(1)).flatten(1)
    off = drawn - model.mean.flatten()
    assert (off.mean(0).abs() < 5 * drawn.std(0) / count**0.5).all()
    products = off[:, :, None] * off[:, None, :]
    assert ((products.mean(0) - model.cov).abs() < 5 * products.std(0) / count**0.5).all()


def test_samples_and_noise_follow_the_density() -> None:
    """E over z of x̂ is the mean of x, and of x̂ z the covariance of x and z; 5 standard errors, seed fixed."""
    model, g, count = mixture(3), Generator().manual_seed(2), 100_000
    noise = NoiseMap(torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64))
    x = model.sample(count, g)
    z = corrupt(x, noise, torch.randn(x.shape, generator=g, dtype=x.dtype))
    error = model(z, noise).mean - x
    for moment in (error, error * z, error * z.roll(1, 1)):
        assert (moment.mean(0).abs() < 5 * moment.std(0) / count**0.5).all()


def test_texture_is_stationary() -> None:
    cov = gaussian_texture((3, 4), length=1.5, grain=0.1).cov.reshape(3, 4, 3, 4)
    torch.testing.assert_close(cov[0, 0, 1, 2], cov[1, 1, 2, 3])
    torch.testing.assert_close(cov[2, 1, 0, 3], cov[0, 1, 2, 3])  # mirrored: the distance counts alone
    near = 0.9 * torch.exp(torch.tensor(-1 / 4.5, dtype=torch.float64))
    torch.testing.assert_close(cov[1, 1, 1, 2], near)
    torch.testing.assert_close(cov[1, 1, 1, 1], torch.tensor(1.0, dtype=torch.float64))


def test_no_component_is_confused_at_either_end() -> None:
    """Nearly clean, x̂ is z; nearly pure noise, x̂ is the mean."""
    model, z = mixture(4), torch.randn(2, N, D, dtype=torch.float64)
    clean, noise = (NoiseMap(torch.full((N, 1), value, dtype=torch.float64)) for value in (36.0, -60.0))
    torch.testing.assert_close(model(z, clean).mean, z, rtol=0, atol=1e-7)
    torch.testing.assert_close(model(z, noise).mean, model.mean.expand(2, N, D), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianDenoiser(torch.eye(3), torch.zeros(2, 2)), "take weights"),
        (lambda: GaussianDenoiser(torch.tensor([[1.0, 2.0], [2.0, 1.0]])), "semi-definite"),
        (lambda: GaussianDenoiser(torch.tensor([[1.0, 0.5], [0.0, 1.0]])), "symmetric"),
        (lambda: GaussianDenoiser(torch.full((1, 1), torch.nan)), "symmetric"),
        (
            lambda: GaussianMixtureDenoiser(torch.tensor([1.0, 0.0]), torch.zeros(2, 1, 1), torch.ones(2, 1, 1)),
            "must be positive",
        ),
        (
            lambda: GaussianDenoiser(torch.eye(2)).conditional(torch.zeros(2, 1), torch.ones(2, 1) > 0),
            "nothing is left",
        ),
        (lambda: GaussianDenoiser(torch.eye(2))(torch.zeros(3, 1), NoiseMap(torch.zeros(3, 1))), "expected tokens"),
        (lambda: gaussian_texture((2, 2), length=0.0), "length > 0"),
        (
            lambda: GaussianDenoiser(torch.eye(2), torch.zeros(2, 1).double()),
            "one precision on one device, got torch.f",
        ),
        (lambda: gaussian_texture((2, 2), grain=0.0), "grain in"),
    ],
)
def test_impossible_data_are_refused(make: "object", message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # pyrefly: ignore


def test_components_far_apart_stay_a_mixture() -> None:
    """Though the share of one is less than a number can be."""
    means, covs = torch.tensor([1.0, -1.0]).double()[:, None, None], torch.zeros(2, 1, 1).double()
    model = GaussianMixtureDenoiser(torch.full((2,), 0.5).double(), means, covs + 1e-9)
    z, noise = torch.ones(1, 1).double(), NoiseMap(torch.full((1, 1), 10.0).double())
    torch.testing.assert_close(model.given(z, noise).means[0], means[0], rtol=0, atol=1e-4)


def test_weights_may_be_of_another_precision() -> None:
    covs = torch.eye(3).double().expand(2, 3, 3)
    model = GaussianMixtureDenoiser(torch.tensor([1.0, 3.0]), torch.zeros(2, 3, 1).double(), covs)
    assert model.weights.dtype == model.mean.dtype == torch.float64


def test_samples_take_no_more_memory_than_their_numbers_and_one_root_each() -> None:
    class Largest(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for each in result if isinstance(result, tuple | list) else (result,):
                if isinstance(each, Tensor):
                    self.found = max(self.found, each.numel())
            return result

    two = GaussianMixtureDenoiser(torch.ones(2), torch.zeros(2, 9, 1), torch.stack([torch.eye(9), 2 * torch.eye(9)]))
    for model in (gaussian_texture((3, 3)), two):
        with Largest() as largest:
            model.sample(1000, Generator().manual_seed(0))
        assert largest.found == 9000


def test_each_component_has_its_own_covariance_in_samples() -> None:
    covs = torch.stack([torch.eye(2), torch.tensor([[4.0, 1.0], [1.0, 2.0]])]).double()
    means = torch.tensor([[[-50.0], [0.0]], [[50.0], [0.0]]]).double()
    x = GaussianMixtureDenoiser(torch.tensor([0.3, 0.7]), means, covs).sample(40_000, Generator().manual_seed(0))
    right = x[:, 0, 0] > 0
    assert abs(float(right.double().mean()) - 0.7) < 5 * (0.21 / 40_000) ** 0.5
    for k, of in enumerate((~right, right)):
        torch.testing.assert_close(x[of].flatten(1).T.cov(), covs[k], atol=0.2, rtol=0)
