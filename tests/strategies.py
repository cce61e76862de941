"""Hypothesis strategies: shapes and few levels are drawn by value and shrink, bulk data by seed."""

import torch
from hypothesis import strategies as st
from torch import Generator, Tensor

from apd_schedules import Cosine, Linear, NoiseSchedule, Path, RectifiedFlow, sequential, staggered, synchronous

tokens = st.integers(1, 6)
seeds = st.integers(0, 2**32 - 1)
schedules: st.SearchStrategy[NoiseSchedule] = st.sampled_from(
    [RectifiedFlow(), Cosine(), Linear(), RectifiedFlow(clean=8.0, noise=-6.0), Cosine(noise=-5.0)]
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
def paths(draw: st.DrawFn, n: int) -> Path:
    turn = draw(turns(n))
    return draw(
        st.one_of(
            st.just(synchronous(n)),
            st.just(sequential(turn)),
            st.floats(0.05, 1.0).map(lambda width: staggered(turn, width)),
        )
    )
