"""What a run of an autoencoder is said to be before it starts, against what it then takes."""

import pytest
import torch
from lightning_fabric import Fabric
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from apd_train import ConfigError, Execution, dry_run_autoencoder
from apd_train._dry_run_autoencoder import training_cost
from apd_train._fit_autoencoder import make_autoencoder
from autoencoder_cases import some_images, training_of


@pytest.mark.parametrize("options", [{}, {"codes": 5}, {"masked": 0.0}], ids=["normal", "codebook", "whole"])
def test_cost_is_what_a_step_takes(options: dict[str, object]) -> None:
    """Operations of a real step, and the memory that it holds between its two passes."""
    config = training_of(**options)
    module = make_autoencoder(config, 1)
    state = torch.get_rng_state()
    flops, kept = training_cost(config, module, 4, half=False)
    assert torch.equal(torch.get_rng_state(), state)
    x, known = torch.rand(4, 1, 8, 8), torch.ones(4, 8, 8, dtype=torch.bool)
    known[: round(4 * config.masked), :4, :4] = False
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    held: dict[int, int] = {}
    alive: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            parts, _ = module(x, known, None if config.codes else torch.randn(4, 2, 4, 4))
        parts.sum().backward()
    assert flops == counter.get_total_flops()
    assert kept == pytest.approx(sum(size for key, size in held.items() if key not in weights), rel=0.02)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_half_precision_keeps_less() -> None:
    config = training_of()
    module = make_autoencoder(config, 1)
    assert training_cost(config, module, 4, half=True)[1] < 0.8 * training_cost(config, module, 4, half=False)[1]


def test_what_is_said() -> None:
    config, fabric = training_of(steps=10), Fabric(accelerator="cpu", devices=1)
    told = dict(dry_run_autoencoder(config, some_images(), fabric, Execution(micro_batch=2)))
    model = make_autoencoder(config, 1).model
    assert told["images"] == "40 of 8×8, grey: 38 to train on, 2 held out"
    assert told["masks"] == "50 % of the samples are hidden in part"
    assert told["latents"] == "2×4×4 of 1×8×8, 2 times fewer numbers; with a normal distribution"
    assert told["parameters"].startswith(f"{sum(p.numel() for p in model.parameters()):,}: decoder ")
    assert told["batch"] == "4 a step: 1 × cpu, each 2 × 2 samples, in 32-true"
    assert told["length"] == "10 steps, 40 samples, 1.1 times each image"
    assert told["memory"].startswith("about ")
    assert (
        "the nearest of 5 codes"
        in dict(dry_run_autoencoder(training_of(codes=5), some_images(), fabric, Execution()))["latents"]
    )
    with pytest.raises(ConfigError, match="are of transformers"):
        dry_run_autoencoder(config, some_images(), fabric, Execution(compile=True))
