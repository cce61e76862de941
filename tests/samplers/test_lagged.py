"""Who moves next is chosen from what was last seen: what that leaves as it is, and what it costs."""

import math
from typing import Any, Literal, NamedTuple

import pytest
import torch
from torch import Generator, Tensor

from apd_models import ActiveTokens
from apd_samplers import DDIM, AtRandom, Changing, Predicted, Uncertainty, UncertaintyGuided, sample, sample_steps
from apd_schedules import Denoiser, GaussianDenoiser, GaussianMixtureDenoiser, NoiseMap, Posterior, RectifiedFlow
from dit_cases import inputs, random_model
from long_runs import unchecked
from oracles import covariance
from solver_cases import randn

Pace = Literal["level", "nats"]
SCHEDULE = RectifiedFlow(clean=7.0, noise=-9.0)
LONG = RectifiedFlow(clean=12.0, noise=-12.0)
CLEAN = SCHEDULE(torch.zeros((), dtype=torch.float64))
VARIANCES = torch.tensor([1.0, 0.3, 0.05, 0.001], dtype=torch.float64)
ALONE = GaussianDenoiser(VARIANCES.diag())  # independent tokens: nobody's error falls but by its own moves
N, B = 5, 3
MEANS = torch.randn(3, N, 1, generator=Generator().manual_seed(3), dtype=torch.float64)
SIZE = torch.tensor([1.0, 1.0, 0.6, 0.1, 0.05], dtype=torch.float64)
COV = SIZE[:, None] * covariance(N, 5) * SIZE
NORMAL = GaussianDenoiser(COV)
MIXTURE = GaussianMixtureDenoiser(torch.ones(3).double(), SIZE[:, None] * MEANS, 0.1 * COV.expand(3, -1, -1))
Z = torch.randn(B, N, 1, generator=Generator().manual_seed(0), dtype=torch.float64)


class Run(NamedTuple):
    """Of every step, ``(steps, *batch, n)``: log-SNR before and after, the tokens asked for, and all guesses."""

    before: Tensor
    after: Tensor
    asked: Tensor
    guesses: list[Posterior]
    tokens: Tensor

    @property
    def moved(self) -> Tensor:
        return self.after != self.before


def run(denoise: Denoiser, walk: UncertaintyGuided, z: Tensor) -> Run:
    """Ancestral; the denoiser tells all, and what it is asked for is written down."""
    asked: list[Tensor] = []

    def watched(z: Tensor, noise: NoiseMap, moving: Tensor) -> Posterior:
        asked.append(moving)
        return denoise(z, noise)

    states = list(sample_steps(watched, DDIM(1.0, randn), walk, z, only_moving=True))
    maps = torch.stack([now.noise.log_snr[..., 0] for now in states])
    guesses = [now.posterior for now in states[1:] if now.posterior is not None]
    return Run(maps[:-1], maps[1:], torch.stack(asked), guesses, states[-1].tokens)


@pytest.mark.parametrize("uncertainty", [Predicted(), AtRandom(randn, 1.5)], ids=["predicted", "at random"])
@pytest.mark.parametrize("patience", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("pace", ["level", "nats"])
def test_where_tokens_tell_each_other_nothing_there_is_no_lag(
    pace: Pace, patience: float, uncertainty: Uncertainty[Any]
) -> None:
    """A token's own moves are accounted for exactly, so what was last seen is what would be seen now."""
    plain = UncertaintyGuided(SCHEDULE, 20, uncertainty, pace, patience)
    lagged = UncertaintyGuided(SCHEDULE, 20, uncertainty, pace, patience, lagged=True)
    z = Z[:2, :4]
    whole, found = run(ALONE, plain, z), run(ALONE, lagged, z)
    assert torch.equal(found.moved, whole.moved)
    torch.testing.assert_close(found.after, whole.after, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.tokens, whole.tokens, rtol=1e-9, atol=1e-9)
    assert torch.equal(found.asked[1:], found.moved[1:])
    assert (found.before < CLEAN)[1:].sum() > found.asked[1:].sum() or patience == 0
    if (pace, patience) == ("nats", 0.5):  # some move, wait and move again: what was seen is then of another level
        moves = found.moved.long()
        assert ((moves[:-2] > moves[1:-1]) & (moves[1:-1] < moves[2:])).any()


@pytest.mark.parametrize("patience", [0.5, 1.0])
@pytest.mark.parametrize("pace", ["level", "nats"])
@pytest.mark.parametrize("denoise", [NORMAL, MIXTURE], ids=["normal", "mixture"])
def test_the_rule_token_by_token(denoise: Denoiser, pace: Pace, patience: float) -> None:
    """Written out in numbers: of each token the error and SNR when it was last asked for, and its way since."""
    steps, end = 14, math.exp(7.0)
    walk = UncertaintyGuided(SCHEDULE, steps, Predicted(), pace, patience, tolerance=1e-6, lagged=True)
    found = run(denoise, walk, Z)
    waited = 0
    for b in range(B):
        seen: list[tuple[float, float]] = [(0.0, 0.0)] * N
        chosen = [True] * N
        for k in range(steps):
            s, then = found.before[k, b].exp().tolist(), found.after[k, b].exp().tolist()
            assert found.asked[k, b].tolist() == chosen
            guess = found.guesses[k].log_var
            assert guess is not None
            seen = [(float(guess[b, i].exp()), s[i]) if chosen[i] else seen[i] for i in range(N)]
            y, moves = rule(seen, s, steps - k, end, pace, patience)
            moves = moves if k == 0 else chosen
            for i in range(N):
                v, since = seen[i]
                if not moves[i]:
                    assert then[i] == s[i]
                else:  # a token that moves was just seen
                    assert since == s[i]
                    assert then[i] == pytest.approx(min(s[i] + y / v, end), rel=1e-9)
            if k + 1 < steps:
                _, chosen = rule(seen, then, steps - k - 1, end, pace, patience)
                waited += sum(not here and then[i] < 0.99 * end for i, here in enumerate(chosen))
    assert waited > 20


def rule(
    seen: list[tuple[float, float]], s: list[float], left: int, end: float, pace: Pace, patience: float
) -> tuple[float, list[bool]]:
    """``y`` and who moves, of tokens at SNR ``s`` of which an error was seen at another."""
    v = [1 / (1 / error + now - since) for (error, since), now in zip(seen, s, strict=True)]
    under_way = [now < 0.999999 * end for now in s]
    r = [math.log(1 + each * (end - now)) if go else 0 for each, now, go in zip(v, s, under_way, strict=True)]
    if pace == "nats":
        even = [math.exp(each / left) - 1 for each in r]
    else:
        level = SCHEDULE.level_of(torch.tensor(s, dtype=torch.float64).log())
        further = SCHEDULE(level * (1 - 1 / left)).exp().tolist()
        even = [go * each * (on - now) for each, on, now, go in zip(v, further, s, under_way, strict=True)]
    y = max(even)
    late = patience * (max(r) - math.log(1 + y))
    return y, [go and (left == 1 or each > late - 1e-9) for each, go in zip(r, under_way, strict=True)]


@pytest.mark.parametrize("start", [None, torch.tensor([[1.0], [0.0], [0.7], [1.0], [1.0]])], ids=["noise", "soft"])
def test_it_looks_at_all_tokens_first_and_moves_all_that_are_left_last(start: Tensor | None) -> None:
    found = run(MIXTURE, UncertaintyGuided(SCHEDULE, 6, patience=1.0, start=start, lagged=True), Z)
    first, last = found.before[0] < CLEAN, found.before[-1] < CLEAN
    assert torch.equal(found.asked[0], first)
    assert not found.moved[0].all(-1).any()  # though some wait in it
    assert torch.equal(found.asked[-1], last)
    assert torch.equal(found.moved[-1], last)
    assert last.any(-1).all()
    assert (found.after[-1] == CLEAN).all()
    if start is not None:
        assert not found.asked[..., 1].any()
        assert torch.equal(found.tokens[:, 1], Z[:, 1])
    single = run(MIXTURE, UncertaintyGuided(SCHEDULE, 1, lagged=True), Z)
    assert single.moved.all()


def test_it_ends_when_all_is_clean_and_samples_do_not_meet() -> None:
    walk = UncertaintyGuided(SCHEDULE, 200, pace="nats", least_nats=0.5, tolerance=1e-6, lagged=True)
    z = torch.zeros(2, 4, 1, dtype=torch.float64)
    gain = math.log((1 + math.exp(7.0)) / (1 + math.exp(-9.0)))
    assert sample(ALONE, DDIM(), walk, z).evaluations == math.ceil(gain / math.log1p(2 * 0.5))
    walk = UncertaintyGuided(SCHEDULE, 9, start=torch.zeros(4, 1), lagged=True)
    assert sample(ALONE, DDIM(), walk, z).evaluations == 0
    walk = UncertaintyGuided(SCHEDULE, 12, lagged=True)
    batch = sample(MIXTURE, DDIM(), walk, Z).tokens
    alone = torch.cat([sample(MIXTURE, DDIM(), walk, z[None]).tokens for z in Z])
    torch.testing.assert_close(batch, alone, rtol=1e-9, atol=1e-9)


def test_changes_are_read_from_the_guesses_that_were_asked_for() -> None:
    """Of a token that waited the next change is that of its whole wait: so with one estimate for each of its looks."""
    walk = UncertaintyGuided(SCHEDULE, 16, Changing(), "nats", lagged=True)
    found = run(MIXTURE, walk, Z)
    estimate, waited = Changing(), 0
    y = torch.full((len(found.asked), B, N), torch.nan, dtype=torch.float64)
    for b in range(B):
        for i in range(N):
            state = estimate.init(Z[b : b + 1, i : i + 1])
            for k in found.asked[:, b, i].nonzero()[:, 0].tolist():
                noise = NoiseMap(found.before[k, b, i].reshape(1, 1, 1))
                error, state = estimate(noise, Posterior(found.guesses[k].mean[b : b + 1, i : i + 1]), state)
                if found.after[k, b, i] < CLEAN:
                    y[k, b, i] = error.exp() * (found.after[k, b, i].exp() - found.before[k, b, i].exp())
            waited += int((~found.asked[:, b, i] & (found.before[:, b, i] < CLEAN)).sum())
    assert waited > 20
    moving = found.moved & ~y.isnan()
    assert (moving.sum(-1) > 1).sum() > 10
    most = y.nan_to_num().amax(-1, keepdim=True).expand_as(y)
    torch.testing.assert_close(y[moving], most[moving], rtol=1e-9, atol=0)


@pytest.mark.parametrize(("pace", "patience"), [("level", 1.0), ("nats", 1.0)])
def test_the_law_is_met_at_first_order(pace: Pace, patience: float) -> None:
    """Linear denoiser, variances that do not depend on z: the sampler is a matrix, first order in its steps."""
    eye, errors = torch.eye(N, dtype=torch.float64)[..., None], []
    for steps in (200, 400):
        walk = UncertaintyGuided(LONG, steps, pace=pace, patience=patience, tolerance=1e-9, lagged=True)
        with unchecked():
            found = sample(NORMAL, DDIM(), walk, eye)
        pushed = found.tokens[..., 0]
        errors.append((pushed.T @ pushed - COV).abs().max().item())
        assert found.token_updates.min() < 0.7 * steps
    assert 0.8 < math.log2(errors[0] / errors[1]) < 1.2
    assert errors[-1] < 0.06


@pytest.mark.parametrize("patience", [0.5, 1.0])
def test_a_network_computes_what_moves(patience: float) -> None:
    """And what moved in the step before, whose keys and values are old; one-way attention changes nothing else."""
    z, _, label = inputs(1)
    make = lambda lagged: UncertaintyGuided(SCHEDULE, 24, AtRandom(randn, 3.0), patience=patience, lagged=lagged)
    for one_way in (True, False):
        model = random_model(one_way=one_way)
        settings: dict[str, Any] = {"only_moving": True, "trace": True, "label": label}
        some = sample(ActiveTokens(model, refresh=None), DDIM(), make(True), z, **settings)
        assert some.trace is not None
        moved = (some.trace.log_snr.diff(dim=0) != 0)[..., 0]
        plain = sample(ActiveTokens(model, refresh=None), DDIM(), make(False), z, **settings)
        assert plain.token_evaluations > 1.2 * some.token_evaluations
        assert some.token_evaluations < 1.3 * moved.sum()
        if one_way:
            whole = sample(model, DDIM(), make(True), z, label=label)
            torch.testing.assert_close(some.tokens, whole.tokens, rtol=1e-9, atol=1e-9)
        else:
            assert some.token_evaluations == z.shape[1] + (moved[1:] | moved[:-1]).sum()


def test_no_number_is_read_on_the_way() -> None:
    """On tensors without data any look of the host would fail."""
    z = Z.to("meta")
    for uncertainty in (Predicted(), Changing()):
        walk = UncertaintyGuided(SCHEDULE, 4, uncertainty, lagged=True)
        noise, state = walk.init(z)
        for _ in range(4):
            assert walk.moving(noise, state).shape == (B, N)
            noise, state = walk.next(noise, Posterior(z, z[..., 0]), state)


def test_together_leaves_nobody_to_choose() -> None:
    with pytest.raises(ValueError, match="lagged chooses which tokens wait, together lets none wait"):
        UncertaintyGuided(SCHEDULE, 5, together=True, lagged=True)
