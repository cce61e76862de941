"""Hypothesis strategies: shapes and few levels are drawn by value and shrink, bulk data by seed."""

import torch
from hypothesis import strategies as st
from torch import Generator, Tensor

from apd_schedules import (
    EDM,
    Cosine,
    InvertibleSchedule,
    LearnedSchedule,
    Linear,
    Path,
    RectifiedFlow,
    VPBeta,
    logit_shift,
    piecewise_linear,
    sequential,
    shifted,
    sliding_window,
    staggered,
    synchronous,
)

tokens = st.integers(1, 6)
seeds = st.integers(0, 2**32 - 1)
learned = LearnedSchedule(generator=Generator().manual_seed(0)).requires_grad_(False)
schedules: st.SearchStrategy[InvertibleSchedule] = st.sampled_from(
    [
        *(RectifiedFlow(), RectifiedFlow(clean=8.0, noise=-6.0), RectifiedFlow(clean=40.0, noise=-40.0)),
        *(Cosine(), Cosine(noise=-5.0), Linear(), VPBeta(), VPBeta(beta_min=0.0, beta_max=60.0, clean=20.0)),
        *(VPBeta(beta_min=5.0, beta_max=5.0, clean=8.0), EDM(), EDM(rho=1.0), EDM(rho=1000.0), learned),
        *(shifted(RectifiedFlow(), -3.0), shifted(Cosine(), 2.0), shifted(VPBeta(), -2.5), shifted(EDM(), 1.5)),
        *(shifted(Linear(), -1.0), shifted(learned, 1.5), shifted(shifted(EDM(), 2.0), -3.0)),
    ]
)


@st.composite
def log_snrs(draw: st.DrawFn, n: int) -> Tensor:
    """Log-SNR of n tokens, ``(n, 1)``, float64."""
    values = st.floats(-18.0, 18.0, allow_nan=False, allow_subnormal=False)
    return torch.tensor(draw(st.lists(values, min_size=n, max_size=n)), dtype=torch.float64)[:, None]


@st.composite
def normals(draw: st.DrawFn, *shape: int) -> Tensor:
    """Standard normal float64 data of a drawn seed."""
    return torch.randn(shape, generator=Generator().manual_seed(draw(seeds)), dtype=torch.float64)


@st.composite
def masks(draw: st.DrawFn, n: int) -> Tensor:
    """Known tokens, ``(n, 1)``."""
    return torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n)))[:, None]


@st.composite
def turns(draw: st.DrawFn, n: int) -> Tensor:
    """The turn of each of n tokens, none left out, ties allowed."""
    raw = torch.tensor(draw(st.lists(st.integers(0, n - 1), min_size=n, max_size=n)))
    return raw.unique(return_inverse=True)[1]


@st.composite
def plans(draw: st.DrawFn, n: int, e: int = 1) -> Tensor:
    """Levels for `piecewise_linear`, ``(k, n, e)`` float64: equal and repeated rows, ends and tiny steps among them."""
    rows = draw(st.integers(0, 4))
    level = st.floats(0.0, 1.0, allow_subnormal=False)
    inner = torch.tensor(draw(st.lists(level, min_size=rows * n * e, max_size=rows * n * e)), dtype=torch.float64)
    inner = inner.reshape(rows, n, e).sort(dim=0, descending=True).values
    return torch.cat([torch.ones(1, n, e), inner, torch.zeros(1, n, e)])


@st.composite
def paths(draw: st.DrawFn, n: int) -> Path:
    turn = draw(turns(n))
    offset = st.lists(st.floats(-12.0, 12.0), min_size=n, max_size=n).map(lambda each: torch.tensor(each)[:, None])
    return draw(
        st.one_of(
            st.just(synchronous(n)),
            st.just(sequential(turn)),
            st.floats(0.05, 1.0).map(lambda width: staggered(turn, width)),
            st.floats(1.0, 20.0).map(lambda active: sliding_window(turn, active)),
            offset.map(logit_shift),
            plans(n).map(piecewise_linear),
        )
    )
