"""What is watched in training: losses by cell of the level and of the spread, and memory."""

import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from apd_samplers import Draw
from apd_schedules import NoiseMap, corrupt
from apd_train._watch import LEVEL_BINS, SPREAD_BINS, binned, metrics_of, peak_memory


def noise_at(level: Tensor) -> NoiseMap:
    """The map of a flow level."""
    return NoiseMap(2 * (torch.log1p(-level.double()) - level.double().log()).clamp(-20, 20))


def drawn(level: Tensor, weight: Tensor | None = None) -> Draw:
    return Draw(noise_at(level), torch.ones(level.shape, dtype=torch.float64) if weight is None else weight)


def test_each_error_is_the_velocitys_and_in_the_cell_of_its_level() -> None:
    """Two samples by hand: the guess is off by a known multiple of the level."""
    level = torch.tensor([[0.05, 0.55, 0.99], [0.35, 0.35, 0.35]]).double()[..., None]
    off = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).double()[..., None]
    x = torch.randn(2, 3, 4, generator=Generator().manual_seed(0), dtype=torch.float64)
    found = metrics_of(binned(x + off * level, x, drawn(level)))
    expected = {
        "loss_level/0.0-0.1": 1.0,
        "loss_level/0.3-0.4": (16 + 25 + 36) / 3,
        "loss_level/0.5-0.6": 4.0,
        "loss_level/0.9-1.0": 9.0,
        "loss_spread/0.0-0.2": (16 + 25 + 36) / 3,
        "loss_spread/0.8-1.0": (1 + 4 + 9) / 3,
    }
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_mean_over_the_cells_is_the_flow_weighted_loss() -> None:
    """For a denoiser that returns zero, the error of the velocity is (x / t)², whatever the run's weights."""
    generator = Generator().manual_seed(1)
    level = 0.05 + 0.9 * torch.rand(8, 6, 1, generator=generator, dtype=torch.float64)
    x = torch.randn(8, 6, 2, generator=generator, dtype=torch.float64)
    for weight in (None, 3 * level, level**-2):
        sums, counts = binned(torch.zeros_like(x), x, drawn(level, weight))
        noise = noise_at(level)
        expected = float((x / noise.flow_level).square().mean())
        for cells in (slice(None, LEVEL_BINS), slice(LEVEL_BINS, None)):
            assert float(sums[cells].sum() / counts[cells].sum()) == pytest.approx(expected, rel=1e-5)
            assert counts[cells].sum() == 48


def test_a_model_that_knows_nothing_has_one_more_than_the_variance_at_every_level() -> None:
    """Its velocity is 0, so its error is E|eps - x|² = 1 + 1 for data of unit variance: no level looks better by its
    unit. Five standard errors."""
    generator = Generator().manual_seed(2)
    level = torch.rand(64, 256, 1, generator=generator, dtype=torch.float64)
    x, eps = torch.randn(2, 64, 256, 8, generator=generator, dtype=torch.float64)
    noise = noise_at(level)
    guess = corrupt(x, noise, eps) / (noise.alpha + noise.sigma)  # the flow's place, at velocity zero
    sums, counts = binned(guess, x, drawn(level))
    means = sums[:LEVEL_BINS] / counts[:LEVEL_BINS]
    errors = math.sqrt(8 / 8) / counts[:LEVEL_BINS].sqrt()  # var(chi²_1 · 2) = 8, over 8 elements
    assert ((means - 2).abs() < 5 * errors).all()


def test_what_weighs_nothing_is_left_out_but_spreads_the_map() -> None:
    level = torch.tensor([[0.0, 0.95]]).double()[..., None]
    weight = torch.tensor([[0.0, 2.0]]).double()[..., None]
    x = torch.zeros(1, 2, 3).double()
    found = metrics_of(binned(x + 0.95, x, drawn(level, weight)))
    assert found == pytest.approx({"loss_level/0.9-1.0": 1.0, "loss_spread/0.8-1.0": 1.0}, rel=1e-5)


def test_levels_of_elements_each_count_in_their_own_cell() -> None:
    level = torch.tensor([[[0.15, 0.78], [0.25, 0.25]]]).double()
    x = torch.zeros(1, 2, 2).double()
    sums, counts = binned(x + level, x, drawn(level, torch.tensor([[[1.0, 1.0], [0.0, 1.0]]]).double()))
    assert counts.tolist() == [0, 1, 1, 0, 0, 0, 0, 1, 0, 0, *(0, 0, 0, 3, 0)]  # from .15 to .78: .63
    torch.testing.assert_close(sums, counts, rtol=1e-5, atol=0)


def test_errors_that_are_not_finite_are_left_out() -> None:
    level, x = torch.full((1, 3, 1), 0.5).double(), torch.zeros(1, 3, 1).double()
    guess = torch.tensor([[[math.nan], [math.inf], [0.5]]]).double()
    found = metrics_of(binned(guess, x, drawn(level)))
    assert found == pytest.approx({"loss_level/0.5-0.6": 1.0, "loss_spread/0.0-0.2": 1.0}, rel=1e-5)


def test_parts_of_a_batch_add_up_to_the_batch() -> None:
    """As micro-batches, steps and processes do."""
    generator = Generator().manual_seed(3)
    level = torch.rand(6, 5, 1, generator=generator)
    x, guess = torch.randn(2, 6, 5, 2, generator=generator)
    whole = binned(guess, x, Draw(noise_at(level), torch.ones_like(level)))
    parts = [
        binned(guess[k], x[k], Draw(noise_at(level[k]), torch.ones_like(level[k]))) for k in ([0, 3, 4], [1, 2, 5])
    ]
    torch.testing.assert_close(parts[0] + parts[1], whole)
    assert metrics_of(whole) == pytest.approx(metrics_of(parts[0] + parts[1]))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float32])
def test_guesses_in_half_precision_are_summed_in_float32_and_leave_no_graph(half: torch.dtype) -> None:
    x = torch.zeros(1, 2, 2)
    guess = torch.ones(1, 2, 2, dtype=half, requires_grad=True)
    found = binned(guess, x, Draw(noise_at(torch.full((1, 2, 1), 0.5)), torch.ones(1, 2, 1)))
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert found.shape == (2, LEVEL_BINS + SPREAD_BINS)


def test_the_ends_of_the_level_are_in_the_outer_cells() -> None:
    ends = NoiseMap(torch.tensor([[[40.0], [-40.0]]]))
    sums, counts = binned(torch.zeros(1, 2, 1), torch.zeros(1, 2, 1), Draw(ends, torch.ones(1, 2, 1)))
    assert counts.tolist() == [1, *[0] * 8, 1, *(0, 0, 0, 0, 2)]
    assert not sums.any()


def test_no_cells_no_metrics() -> None:
    assert metrics_of(torch.zeros(2, LEVEL_BINS + SPREAD_BINS)) == {}


def test_peak_memory_is_the_most_that_this_process_had() -> None:
    cpu, reset = torch.device("cpu"), Path("/proc/self/clear_refs")
    assert 20e6 < peak_memory(cpu) < 100e9
    if not os.access(reset, os.W_OK):
        pytest.skip("no way to forget the peak")
    # in a process of its own: what other tests left is given back in between, whenever that is
    script = """
import torch
from pathlib import Path
from apd_train._watch import peak_memory
cpu = torch.device("cpu")
Path("/proc/self/clear_refs").write_text("5")
before = peak_memory(cpu)
big = torch.ones(25_000_000)
grown = peak_memory(cpu) - before
del big
print(grown, peak_memory(cpu) - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    grown, after = (int(each) for each in done.stdout.split())
    assert 90e6 < grown < 120e6
    assert after == pytest.approx(grown, abs=2e6)  # kernels count pages by rule of thumb


def test_the_kernel_counts_in_kibibytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apd_train._watch.Path.exists", lambda path: True)
    monkeypatch.setattr("apd_train._watch.Path.read_text", lambda path: "Name:\tpython\nVmHWM:\t     100 kB\n")
    assert peak_memory(torch.device("cpu")) == 102_400


def test_without_proc_the_peak_is_what_the_system_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apd_train._watch.Path.exists", lambda path: False)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert peak_memory(torch.device("cpu")) == pytest.approx(kilobytes * (1 if sys.platform == "darwin" else 1024))


def test_on_a_gpu_tensors_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 123)
    assert peak_memory(torch.device("cuda", 0)) == 123


def test_a_perfect_guess_has_no_loss() -> None:
    level = torch.rand(3, 4, 1, generator=Generator().manual_seed(4))
    x = torch.randn(3, 4, 2, generator=Generator().manual_seed(5))
    found = metrics_of(binned(x, x, Draw(noise_at(level), torch.ones_like(level))))
    assert found
    assert set(found.values()) == {0.0}
