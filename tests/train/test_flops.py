"""Operations of a training step, against a count by hand; what devices can do."""

import pytest
import torch

from apd_models import DiT, DiTConfig, Patchify, dit_config, with_error_head
from apd_train._flops import peak_flops, peak_of, training_flops, utilisation


def by_hand(config: DiTConfig, samples: int, levels: int) -> int:
    """Two operations a weight, token and direction; the backward pass goes two ways but for what the network is shown.

    Of an unconditional or token-conditioned model with learned positions.
    """
    tokens, width = config.grid[0] * config.grid[1], config.width
    of_token = config.depth * (4 + 2 * config.mlp_ratio) * width**2 + width * config.token_dim
    attention = config.depth * 2 * tokens * width  # the products of queries and keys, and with values
    features = 2 * DiT(config).convention.frequencies
    of_level = config.depth * 6 * width**2 + 2 * width**2 + width**2
    there = samples * tokens * (of_token + attention) + levels * of_level
    shown = samples * tokens * config.token_dim * width + levels * features * width
    return round(2 * (3 * there + 2 * shown))


@pytest.mark.parametrize(("samples", "levels"), [(1, 1), (8, 5), (3, 40)])
def test_operations_are_those_counted_by_hand(samples: int, levels: int) -> None:
    config = DiTConfig((3, 5), 12, width=32, depth=2, heads=4, mlp_ratio=2.0, classes=7)
    assert training_flops(DiT(config), samples, levels) == by_hand(config, samples, levels)


def test_the_published_size_has_the_published_operations() -> None:
    """DiT-XL/2 at 256 pixels: 118.6 billion multiply-adds (Peebles & Xie 2023, table 4), forward, in which the
    modulation is counted once an image, as here where an image has one level; this one has 18 heads instead of 16."""
    with torch.device("meta"):
        model = DiT(dit_config("XL", Patchify(32, 32, 4, 2), classes=1000))
    assert training_flops(model, 1, 1) == pytest.approx(3 * 2 * 118.6e9, rel=5e-3)


def test_what_is_not_trained_is_not_counted_backwards() -> None:
    model = with_error_head(DiT(DiTConfig((2, 2), 4, width=16, depth=2, heads=2)), torch.Generator().manual_seed(0))
    everything = training_flops(model, 4, 3)
    model.requires_grad_(False)
    assert model.error is not None
    model.error.requires_grad_(True)
    head = training_flops(model, 4, 3)
    assert everything / 3 < head < everything / 2.5


@pytest.mark.parametrize(
    "options",
    [
        {"conditioning": "joint", "classes": 3},
        {"conditioning": "separable", "classes": 3},
        {"one_way": True},
        {"position": "rope"},
        {"element_levels": True, "error_head": True},
    ],
    ids=str,
)
def test_every_kind_of_model_is_counted_and_nothing_is_drawn(options: dict[str, object]) -> None:
    config = DiTConfig((2, 2), 4, width=32, depth=1, heads=2, **options)  # pyrefly: ignore
    model = DiT(config)
    before, state = [p.clone() for p in model.parameters()], torch.get_rng_state()
    plain = training_flops(DiT(DiTConfig((2, 2), 4, width=32, depth=1, heads=2)), 4, 3)
    torch.set_rng_state(state)
    assert plain <= training_flops(model, 4, 3) < 1.5 * plain
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert training_flops(model, 8, 6) == 2 * training_flops(model, 4, 3)


def test_peaks_are_found_by_the_names_that_drivers_give() -> None:
    bf16 = {
        "NVIDIA H100 80GB HBM3": 989.4e12,
        "NVIDIA H100 PCIe": 756.5e12,
        "NVIDIA GH200 480GB": 989.4e12,
        "NVIDIA A100-SXM4-40GB": 312e12,
        "NVIDIA L4": 121e12,
        "NVIDIA L40S": 362e12,
        "NVIDIA RTX 6000 Ada Generation": 364.2e12,
        "NVIDIA GeForce RTX 4090": 165.2e12,
    }
    for name, peak in bf16.items():
        assert peak_of(name, "bf16-mixed") == peak
        assert peak_of(name, "32-true", tf32=True) == peak / 2
        assert 0 < (peak_of(name, "32-true") or 0) < peak
    unknown = ("NVIDIA A10G", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "Some GPU")
    assert [peak_of(name, "bf16-mixed") for name in unknown] == [None] * 4
    assert peak_of("NVIDIA L4", "64-true") is None


def test_a_cpu_has_no_peak_and_a_gpu_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak_flops(torch.device("cpu"), "32-true") is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    gpu, precision = torch.device("cuda", 0), torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        assert peak_flops(gpu, "32-true") == 19.5e12
        torch.set_float32_matmul_precision("high")
        assert peak_flops(gpu, "32-true") == 156e12
    finally:
        torch.set_float32_matmul_precision(precision)
    assert peak_flops(gpu, "bf16-mixed") == 312e12


def test_utilisation_is_a_share_of_all_devices() -> None:
    assert utilisation(50.0, 100.0, 2) == 0.25
    assert utilisation(50.0, None, 2) is None
