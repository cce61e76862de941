"""Inpainting: what comes back untouched, what is sampled, in which order the rows lie."""

import functools
from collections.abc import Callable
from typing import Any

import inpainting_exact as benchmark
import pytest
import torch
from hypothesis import given, strategies as st
from torch import Generator, Tensor

from apd_samplers import (
    DDIM,
    Adams,
    Churn,
    DPMSolverPP2M,
    Heun,
    Inpainted,
    Overwrite,
    PerSampleNoise,
    Solver,
    classifier_free,
    extend,
    inpaint,
    replacement,
)
from apd_schedules import (
    Linear,
    NoiseMap,
    Path,
    Posterior,
    RectifiedFlow,
    corrupt,
    hold_at,
    hold_clean,
    logit_shift,
    staggered,
    synchronous,
)
from oracles import Gaussian
from solver_cases import PATHS, SOLVERS, N, coupled, randn
from strategies import masks, normals, paths, tokens

ORACLE = Gaussian(N, seed=4)
KNOWN = torch.tensor([[True], [False], [True], [False]])
X = torch.tensor([[1.3], [torch.nan], [-0.7], [torch.nan]], dtype=torch.float64)
FAR = Linear(clean=12.0, noise=-20.0)


def run(denoise: Any, solver: Solver[Any], x: Tensor, known: Tensor, **settings: Any) -> Inpainted:
    plain: dict[str, Any] = {"path": synchronous(x.shape[-2]), "schedule": RectifiedFlow(), "steps": 4, "noise": randn}
    return inpaint(denoise, solver, x, known, **{**plain, **settings})


# What comes back


@pytest.mark.parametrize("name", ["DDIM", "DDPM", "Heun", "DPM++2M"])
@given(st.data(), tokens, st.integers(1, 3), st.sampled_from([torch.float32, torch.float64]))
def test_known_tokens_come_back_bit_equal_and_others_are_not_read(
    name: str, data: st.DataObject, n: int, candidates: int, dtype: torch.dtype
) -> None:
    x, known = data.draw(normals(2, n, 2)).to(dtype), torch.stack([data.draw(masks(n)), data.draw(masks(n))])
    settings = {"path": data.draw(paths(n)), "candidates": candidates}
    blind = torch.where(known, x, torch.nan)
    result = run(coupled, SOLVERS[name](coupled, randn), blind, known, **settings)
    assert result.tokens.shape == (candidates, 2, n, 2)
    seen = known.expand_as(x)
    assert torch.equal(result.tokens[:, seen], x[seen].expand(candidates, -1))
    assert torch.equal(result.mean[seen], x[seen])
    assert result.tokens.isfinite().all()
    assert (result.sampled.noise.log_snr == RectifiedFlow()(torch.zeros((), dtype=torch.float64)).to(dtype)).all()
    assert (result.sampled.token_updates.unflatten(0, (candidates, 2)) * known[..., 0] == 0).all()


def test_tokens_start_at_the_levels_of_a_soft_mask() -> None:
    levels, x = torch.tensor([[0.0], [0.2], [0.7], [1.0]]), torch.arange(8.0).reshape(4, 2)
    seen: list[tuple[Tensor, NoiseMap]] = []

    def watch(z: Tensor, noise: NoiseMap) -> Posterior:
        seen.append((z, noise))
        return Posterior(z)

    run(watch, DDIM(), x, levels == 0, start=levels)
    z, noise = seen[0][0][0], seen[0][1]
    torch.testing.assert_close(noise.log_snr, RectifiedFlow()(levels.double()).float())
    eps = randn(x)
    assert torch.equal(z[0], x[0])
    torch.testing.assert_close(z[1:3], corrupt(x, noise, eps)[1:3])
    assert torch.equal(z[3], eps[3])


# What is sampled


def conditional_errors(solver: Solver[Any], path: Path, steps: int) -> tuple[float, float]:
    """Of mean and covariance. The sampler is affine in its noise: the origin and unit vectors are pushed through."""
    unknown = (~KNOWN[:, 0]).nonzero().flatten()
    eps = torch.zeros(3, N, 1, dtype=torch.float64)
    eps[[1, 2], unknown] = 1.0
    result = run(ORACLE, solver, X, KNOWN, path=path, schedule=FAR, steps=steps, noise=lambda like: eps, candidates=3)
    z, at = result.tokens[:, unknown, 0], result.sampled.noise
    exact = ORACLE.exact.conditional(X, KNOWN, at)
    alpha, sigma = at.alpha[1, 0], at.sigma[1, 0]
    root = z[1:] - z[0]
    cov = alpha**2 * exact.cov + sigma**2 * torch.eye(2)
    return (z[0] - alpha * exact.mean[:, 0]).abs().max().item(), (root.mT @ root - cov).abs().max().item()


@pytest.mark.parametrize("path", [PATHS["synchronous"], PATHS["staggered"]], ids=["synchronous", "staggered"])
@pytest.mark.parametrize(
    ("solver", "order"), [(DDIM(), 1), (Heun(ORACLE), 2), (DPMSolverPP2M(), 2)], ids=["DDIM", "Heun", "DPM++2M"]
)
def test_converges_to_the_conditional_law_with_the_order_of_the_solver(
    solver: Solver[Any], order: int, path: Path
) -> None:
    (mean, coarse), (_, fine) = conditional_errors(solver, path, 128), conditional_errors(solver, path, 256)
    assert mean < 2 * FAR(torch.ones(())).div(2).exp()  # alpha of the start, which is pure noise by this much
    assert abs(torch.tensor(coarse / fine).log2() - order) < 0.1
    assert fine < {1: 0.05, 2: 4e-3}[order]


@pytest.mark.parametrize(
    "path", [synchronous(N), staggered(torch.tensor([2, 0, 1, 1]), 0.5)], ids=["sync", "staggered"]
)
def test_soft_masks_keep_the_law_of_the_data(path: Path) -> None:
    """Images of the data's law, noised by the mask and made again, have it still: exact in the limit of small steps."""
    levels = torch.tensor([[0.0], [0.3], [0.6], [1.0]], dtype=torch.float64)
    data = torch.cat([torch.linalg.cholesky(ORACLE.cov).mT, torch.zeros(N, N)])[..., None]
    units = torch.cat([torch.zeros(N, N), torch.eye(N)]).double()[..., None]
    errors = []
    for steps in (150, 300):
        settings = {"path": path, "schedule": FAR, "steps": steps, "noise": lambda like: units}
        rows = run(ORACLE, DPMSolverPP2M(), data, levels == 0, start=levels, **settings).tokens[0, ..., 0]
        errors.append((rows.mT @ rows - ORACLE.cov).abs().max().item())
    assert errors[1] < 2e-3
    assert errors[1] < 0.3 * errors[0]


def test_components_come_up_as_often_as_they_should_and_with_replacement_they_do_not() -> None:
    """A mixture of four, two of three times as likely given the image as without; the negative control fails by far."""
    task = benchmark.problem()
    hidden = ~task.known[:, 0]
    for solver in ("DPM-Solver++(2M)", "ancestral"):
        assert task.score(benchmark.native(task, solver, 50, 1500, seed=1).tokens[:, hidden, 0]).p > 1e-4
    control = task.score(benchmark.replaced(task, "ancestral", 50, 1500, seed=1).tokens[:, hidden, 0])
    assert control.p < 1e-12
    assert abs(torch.tensor(control.frequencies) - task.data.weights).max() < 0.1  # it hardly saw the image


# Candidates


def told(z: Tensor, noise: NoiseMap, *, label: Tensor, shift: Tensor) -> Posterior:
    assert label.shape == z.shape[:1]
    assert shift.shape == (3,)
    return Posterior(coupled(z, noise).mean + label[:, None, None])


def test_row_order_is_candidates_then_images() -> None:
    x, known = torch.randn(2, 4, 3, generator=Generator().manual_seed(0)), torch.rand(2, 4, 1) < 0.5
    label, shift, seeds = torch.tensor([1.0, -1.0]), torch.zeros(3), [[3, 1], [4, 1], [5, 9]]
    settings = {"label": label, "shift": shift}
    all_at_once = run(told, DDIM(), x, known, noise=PerSampleNoise([3, 1, 4, 1, 5, 9]), candidates=3, **settings)
    for j, of_images in enumerate(seeds):
        alone = run(told, DDIM(), x, known, noise=PerSampleNoise(of_images), **settings).tokens
        torch.testing.assert_close(all_at_once.tokens[j : j + 1], alone)
    assert torch.equal(all_at_once.tokens.flatten(0, 1), all_at_once.sampled.tokens)


@pytest.mark.parametrize("own", [True, False], ids=["own paths and regions", "one for all"])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
def test_batch_axes_are_rows(batch: tuple[int, ...], own: bool) -> None:
    g = Generator().manual_seed(0)
    x, known = torch.randn(*batch, 4, 2, generator=g), torch.rand(*(batch if own else ()), 4, 1, generator=g) < 0.5
    late = torch.rand(*(batch if own else ()), 4, 1, generator=g).double()
    result = run(coupled, DDIM(), x, known, path=logit_shift(late), candidates=2, noise=torch.ones_like)
    each = (x.expand(*batch, 4, 2), known.expand(*batch, 4, 1), late.expand(*batch, 4, 1))
    for k in range(torch.Size(batch).numel()):
        image, region, shift = (of_image.reshape(-1, *of_image.shape[-2:])[k] for of_image in each)
        alone = run(coupled, DDIM(), image, region, path=logit_shift(shift), noise=torch.ones_like).tokens
        torch.testing.assert_close(result.tokens.reshape(2, -1, 4, 2)[:, k], alone.expand(2, 4, 2))


def test_mean_and_variance_are_of_the_candidates() -> None:
    x = torch.randn(2, 4, 3, generator=Generator().manual_seed(0))
    known = torch.tensor([True, False, False, True])[:, None]
    result = run(coupled, DDIM(), x, known, candidates=5, noise=PerSampleNoise(range(10)))
    torch.testing.assert_close(result.mean, result.tokens.sum(0) / 5)
    expected = (result.tokens - result.mean).square().sum(0).mean(-1) / 4
    torch.testing.assert_close(result.variance, expected)
    assert (result.variance[:, known[:, 0]] == 0).all()
    assert (result.variance[:, ~known[:, 0]] > 0).all()
    with pytest.raises(ValueError, match="two candidates or more, got 1"):
        run(coupled, DDIM(), x, known).variance  # noqa: B018


def test_evaluations_are_those_of_one_image_with_guidance_and_second_stages() -> None:
    def model(z: Tensor, noise: NoiseMap, *, label: Tensor) -> Posterior:
        return Posterior(z * label.reshape(-1, 1, 1))

    guided = classifier_free(2.0, {"label": torch.zeros(())})(model)
    x, known, label = torch.zeros(2, 4, 1), torch.tensor([[True], [False], [True], [False]]), torch.ones(2)
    bound = functools.partial(guided, label=torch.ones(()))
    assert run(guided, DDIM(), x, known, candidates=3, label=label).sampled.evaluations == 8
    assert run(bound, Heun(bound), x, known, candidates=3).sampled.evaluations == 16
    own = Heun(guided, {"label": label.repeat(3)})
    assert run(guided, own, x, known, candidates=3, label=label).sampled.evaluations == 16


# Tokens known in part


def test_known_elements_of_a_token_are_put_back_at_its_level() -> None:
    x = torch.randn(2, 3, 4, generator=Generator().manual_seed(0))
    known = torch.zeros(2, 3, 4, dtype=torch.bool)
    known[0, 0], known[0, 1, :2], known[1, 2, 3] = True, True, True
    partly = known.clone()
    partly[0, 0] = False
    levels: list[Tensor] = []

    def watch(z: Tensor, noise: NoiseMap) -> Posterior:
        assert noise.log_snr.shape == (6, 3, 1)
        put = partly.repeat(3, 1, 1)
        torch.testing.assert_close(z[put], corrupt(rows, noise, eps)[put])
        levels.append(noise.log_snr)
        return coupled(z, noise)

    rows = x.repeat(3, 1, 1)
    eps = PerSampleNoise(range(6))(rows)
    solvers: list[Solver[Any]] = [DDIM(), DPMSolverPP2M(), Adams(2)]
    for solver in solvers:
        levels.clear()
        settings = {"candidates": 3, "noise": PerSampleNoise(range(6))}  # new noise at each call, were it asked again
        result = run(watch, solver, torch.where(known, x, torch.nan), known, **settings)
        assert torch.equal(result.tokens[:, known], x[known].expand(3, -1))
        assert torch.equal(result.sampled.tokens, result.tokens.flatten(0, 1))
        assert result.tokens.isfinite().all()
        clean = RectifiedFlow()(torch.zeros(()))
        for log_snr in levels:
            assert (log_snr[::2, 0] == clean).all()
            assert (log_snr[:, 1] != clean).all()


def test_known_elements_are_clean_where_the_model_takes_levels_of_elements() -> None:
    cov = Gaussian(4, seed=2).cov
    oracle = benchmark.GaussianMixtureDenoiser(torch.ones(1).double(), torch.zeros(1, 2, 2).double(), cov[None])
    x, known = torch.tensor([[0.4, 2.0], [-1.0, 0.0]]).double(), torch.tensor([[True, False], [True, True]])
    start = torch.zeros(2, 2, 2, dtype=torch.float64)
    start[1, 0, 1] = 1.0
    settings = {"schedule": FAR, "steps": 300, "noise": lambda like: start, "candidates": 2, "element_levels": True}
    result = run(oracle, DPMSolverPP2M(), x, known, **settings)
    exact = oracle.conditional(x, known)
    zero, one = result.tokens[:, 0, 1]
    assert torch.equal(result.tokens[:, known], x[known].expand(2, -1))
    torch.testing.assert_close(zero, exact.mean[0, 0], rtol=0, atol=1e-3)
    torch.testing.assert_close((one - zero).square(), exact.cov[0, 0], rtol=0, atol=2e-3)


@given(st.data(), tokens)
def test_overwriting_puts_known_elements_at_the_level_reached(data: st.DataObject, n: int) -> None:
    z, x, fresh = (data.draw(normals(2, n, 3)) for _ in range(3))
    known = data.draw(normals(2, n, 3)) > 0
    a, b = NoiseMap(torch.full((n, 1), -1.0).double()), NoiseMap(torch.linspace(0, 1, n).double()[:, None])
    moved, _ = Overwrite(DDIM(), x, known, lambda like: fresh).step(z, Posterior(x), a, b, None)
    plain, _ = DDIM().step(z, Posterior(x), a, b, None)
    assert torch.equal(moved, torch.where(known, b.alpha * x + b.sigma * fresh, plain))


# Outpainting


def test_an_extended_image_keeps_its_tokens() -> None:
    x = torch.arange(12.0).reshape(1, 6, 2) + 1
    larger, known, grid = extend(x, (2, 3), top=1, left=2, right=1)
    assert (grid, larger.shape, known.shape) == ((3, 6), (1, 18, 2), (18, 1))
    assert torch.equal(larger.unflatten(1, grid)[:, 1:, 2:5].flatten(1, 2), x)
    assert known.reshape(grid).tolist() == [[False] * 6, *[[False, False, True, True, True, False]] * 2]
    assert (larger[:, ~known[:, 0]] == 0).all()
    assert torch.equal(larger[:, known[:, 0]], x)
    same, all_known, _ = extend(x[0], (2, 3))
    assert torch.equal(same, x[0])
    assert all_known.all()
    below, known, grid = extend(x, (2, 3), bottom=2)
    assert grid == (4, 3)
    assert torch.equal(below[:, :6], x)
    assert known[:, 0].tolist() == [True] * 6 + [False] * 6


# Refusals


@pytest.mark.parametrize("wrap", [lambda heun: heun, lambda heun: Churn(heun, 0.1, torch.zeros_like)])
def test_a_solver_must_hold_the_conditions_of_all_rows(wrap: Callable[[Heun], Solver[Any]]) -> None:
    def model(z: Tensor, noise: NoiseMap, *, label: Tensor) -> Posterior:
        return Posterior(z + label[:, None, None])

    x, known, label = torch.zeros(2, 4, 1), torch.zeros(4, 1) > 0, torch.ones(2)
    with pytest.raises(ValueError, match=r"own condition label has shape .*\(\[2\]\), the rows .* take .*\(\[6\]\)"):
        run(model, wrap(Heun(model, {"label": label})), x, known, candidates=3, label=label)
    with pytest.raises(ValueError, match=r"own condition label has shape .*\(\[6\]\)"):
        run(model, wrap(Heun(model, {"label": label.repeat(3)})), x, known, candidates=2, label=label)
    partly = torch.tensor([[True, False]] * 4)
    with pytest.raises(ValueError, match=r"conditions \[\], sample's have \['label'\]"):
        run(model, wrap(Heun(model)), torch.zeros(2, 4, 2), partly, label=label)
    with pytest.raises(ValueError, match=r"conditions \[\], sample's have \['label'\]"):
        replacement(
            *(model, wrap(Heun(model)), x, known),
            **{"path": synchronous(4), "schedule": RectifiedFlow(), "steps": 2, "noise": randn, "label": label},
        )


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: run(coupled, DDIM(), X, KNOWN, candidates=0), "at least one candidate, got 0"),
        (
            lambda: run(coupled, DDIM(), torch.zeros(4, 2), KNOWN, start=torch.zeros(4, 2)),
            "a soft mask has one level a token",
        ),
        (lambda: run(coupled, DDIM(), X, KNOWN, start=torch.full(KNOWN.shape, 2.0)), r"levels in \[0, 1\], got 2"),
        (lambda: run(coupled, DDIM(), X, KNOWN[1:]), "a mask of shape"),
        (lambda: extend(torch.zeros(1, 5, 2), (2, 3)), "2 by 3 has 6 tokens, got 5"),
        (lambda: extend(torch.zeros(1, 6, 2), (2, 3), right=-1), "0 tokens or more, got 0, 0, 0 and -1"),
    ],
)
def test_impossible_requests_are_refused(call: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def test_tokens_start_where_the_path_does() -> None:
    """A path that begins below noise: a token kept in part starts at its level, one that the path holds is the data."""
    x = torch.full((1, 4, 1), 5.0, dtype=torch.float64)
    unknown, region = torch.zeros(4, 1, dtype=torch.bool), torch.tensor([[True], [False], [False], [False]])
    seen: list[Tensor] = []

    def watch(z: Tensor, noise: NoiseMap) -> Posterior:
        seen.append(z)
        return Posterior(z)

    run(watch, DDIM(), x, unknown, path=hold_at(synchronous(4), region, 0.1), noise=lambda like: like * 0)
    torch.testing.assert_close(seen[0][0, 0, 0], 5 * RectifiedFlow()(torch.tensor(0.1).double()).sigmoid().sqrt())
    held = run(watch, DDIM(), x, unknown, path=hold_clean(synchronous(4), region), noise=lambda like: like * 0)
    assert held.tokens[0, 0, 0, 0] == 5


def test_an_image_without_batch_axes_shares_conditions_that_are_not_numbers() -> None:
    table, seen = torch.zeros(10, 8), list[Any]()

    def watch(z: Tensor, noise: NoiseMap, **cond: Any) -> Posterior:
        seen.append({name: tuple(value.shape) for name, value in cond.items()})
        return Posterior(z)

    unknown = torch.zeros(4, 1, dtype=torch.bool)
    run(watch, DDIM(), torch.zeros(4, 2), unknown, candidates=3, table=table, label=torch.tensor(3))
    assert seen[0] == {"table": (10, 8), "label": (3,)}
