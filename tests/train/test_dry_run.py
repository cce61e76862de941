"""What a run is said to be before it starts, against what it then takes."""

import pytest
import torch
from lightning_fabric import Fabric
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from apd_models import DiT, DiTConfig, Patchify, with_error_head
from apd_schedules import NoiseMap
from apd_train import ImageSet, TrainConfig, hold_out
from apd_train._batches import Batches
from apd_train._dry_run import facts_of, most_levels, scaled
from apd_train._execution import Execution
from apd_train._memory import activation_bytes, training_memory
from apd_train._model import make_model, make_optimizers
from tiny_runs import TINY, some_animals


def config_of(**options: object) -> TrainConfig:
    return TrainConfig(**{**TINY, **options})  # pyrefly: ignore


class Alive(TorchDispatchMode):
    """Notes the memory of all results, and which of it is still held."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        out = func(*args, **(kwargs or {}))
        for tensor in filter(torch.is_tensor, tree_leaves(out)):
            storage = tensor.untyped_storage()
            self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return out


def really_kept(model: DiT, samples: int, levels: int, half: bool) -> int:
    """Bytes that are held after a real forward pass, beside the weights."""
    tokens, d = model.config.grid[0] * model.config.grid[1], model.config.token_dim
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    noise = NoiseMap(torch.arange(samples * tokens).remainder(levels).view(samples, tokens, 1).float())
    z, label = torch.zeros(samples, tokens, d), torch.zeros(samples, dtype=torch.long)
    with Alive() as alive, torch.autocast("cpu", torch.bfloat16, enabled=half):
        total = model(z, noise, label).mean.sum()
    held = {key: size for key, (of, size) in alive.storages.items() if not of.expired() and key not in weights}
    assert total.requires_grad  # whose graph holds it
    return sum(held.values())


@pytest.mark.parametrize("half", [False, True], ids=["32-true", "bf16-mixed"])
@pytest.mark.parametrize(
    "options",
    [{}, {"conditioning": "separable"}, {"conditioning": "joint"}, {"position": "rope"}, {"one_way": True}],
    ids=str,
)
def test_activations_are_what_a_forward_pass_holds(options: dict[str, object], half: bool) -> None:
    config = DiTConfig((3, 4), 6, width=32, depth=2, heads=4, classes=3, **options)  # pyrefly: ignore
    model = DiT(config)
    state = torch.get_rng_state()
    told = activation_bytes(model, 4, 5, half)
    assert torch.equal(torch.get_rng_state(), state)
    assert told == pytest.approx(really_kept(model, 4, 5, half), rel=5e-3)


@pytest.mark.parametrize("half", [False, True], ids=["32-true", "bf16-mixed"])
def test_checkpointed_activations_are_what_a_forward_pass_holds_and_one_block(half: bool) -> None:
    shallow, deep = (DiT(DiTConfig((3, 4), 6, width=32, depth=depth, heads=4)) for depth in (2, 3))
    block = activation_bytes(deep, 4, 5, half) - activation_bytes(shallow, 4, 5, half)
    into_block = 4 * 32 * 4 * 12
    told = activation_bytes(shallow, 4, 5, half, checkpointed=True)
    shallow.checkpoint_activations = True
    assert told - (block - into_block) == pytest.approx(really_kept(shallow, 4, 5, half), rel=0.02)
    assert told < 2 * block


def test_memory_of_weights_is_what_a_run_then_holds() -> None:
    config, model = config_of(), make_model(config_of(), some_animals(), Patchify(28, 28, 1, 14))
    optimizers = make_optimizers(config, model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in optimizers:
        optimizer.step()
    size = lambda tensors: sum(t.numel() * t.element_size() for t in tensors)
    state = [
        value
        for optimizer in optimizers
        for of in optimizer.state.values()
        for name, value in of.items()
        if name != "step"
    ]
    told = training_memory(config, model, 4, 5, half=False, checkpointed=False)
    weights = size(model.parameters())
    assert told == {
        "weights": weights,
        "gradients": weights,
        "optimizer": size(state),
        "averages": 2 * weights,
        "activations": activation_bytes(model, 4, 5),
    }
    divided = training_memory(config, model, 4, 5, half=False, checkpointed=False, shards=3)
    assert divided["optimizer"] == -(-told["optimizer"] // 3)
    assert divided["activations"] == told["activations"]


def test_frozen_weights_have_no_gradients_and_no_averages() -> None:
    model = with_error_head(DiT(DiTConfig((2, 2), 4, width=16, depth=1, heads=2)), torch.Generator().manual_seed(0))
    everything = activation_bytes(model, 4, 5)
    model.requires_grad_(False)
    assert model.error is not None
    head = sum(4 * p.requires_grad_(True).numel() for p in model.error.parameters())
    told = training_memory(config_of(), model, 4, 5, half=False, checkpointed=False)
    assert (told["gradients"], told["optimizer"], told["averages"]) == (head, 2 * head, 2 * head)
    assert told["activations"] < everything / 3


def test_a_batch_has_no_more_levels_than_are_said() -> None:
    """Distinct ones in the batches of the default law."""
    images, patchify = some_animals(), Patchify(28, 28, 1, 4)
    for bins in (8, 64):
        config = config_of(patch=4, level_bins=bins)
        model = make_model(config, images, patchify)
        most = most_levels(config, model, config.batch_size)
        found = [len(Batches(config, images, patchify)(step).draw.noise.log_snr.unique()) for step in range(5)]
        assert bins / 2 < max(found) <= most == bins + 2
    assert most_levels(config_of(level_bins=256), model, 2) == 98


def facts(images: ImageSet, execution: Execution, **options: object) -> dict[str, str]:
    config, patchify = config_of(**options), Patchify(28, 28, images.channels, 14)
    training, held_out = hold_out(images, 10)
    model = make_model(config, training, patchify)
    return dict(facts_of(config, execution, model, training, held_out, patchify, Fabric(accelerator="cpu", devices=1)))


def test_what_is_said_of_a_run() -> None:
    told = facts(some_animals(), Execution(micro_batch=4), steps=100)
    assert told["images"] == "200 of 28×28, grey: 190 to train on, 10 held out"
    assert told["classes"].startswith("10: bear ")
    assert ", … with " in told["classes"]
    assert told["tokens"] == "4 in 2×2, of 14×14 with 196 elements; each has its own level"
    assert told["batch"] == "16 a step: 1 × cpu, each 4 × 4 samples, in 32-true"
    assert told["length"] == "100 steps, 1,600 samples, 8.4 times each image"
    model = make_model(config_of(), some_animals(), Patchify(28, 28, 1, 14))
    assert told["parameters"].startswith(f"{sum(p.numel() for p in model.parameters()):,}: attention ")
    assert "a sample" in told["arithmetic"]
    assert "at most" not in told["arithmetic"]
    assert told["memory"].startswith("about ")
    whole = facts(some_animals(), Execution(micro_batch=64), steps=100)
    assert whole["batch"] == "16 a step: 1 × cpu, each 1 × 16 samples, in 32-true"
    assert whole["arithmetic"] == told["arithmetic"]


def test_without_classes_and_with_unreadable_files() -> None:
    some = some_animals()
    images = ImageSet(some.images, torch.zeros(200, dtype=torch.long), (), 28, ("a.png: truncated",))
    told = facts(images, Execution())
    assert told["classes"] == "none"
    assert told["images"].endswith("; 1 unreadable ones skipped")


def test_a_known_gpu_gives_the_least_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apd_train._dry_run.peak_flops", lambda device, precision: 1e9)
    told = facts(some_animals(), Execution(), steps=1000)
    assert told["arithmetic"].endswith(" minutes at the 1.00 GFLOP/s that a device can do at most")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.0, "0.00 B"), (999.0, "999 B"), (1000.0, "1.00 kB"), (12345.0, "12.3 kB"), (999_499.0, "999 kB")),
        *((999_500.0, "1.00 MB"), (1.2345e9, "1.23 GB"), (9.996e12, "10.0 TB"), (2e23, "200 ZB")),
    ],
)
def test_three_digits_and_a_prefix(value: float, text: str) -> None:
    assert scaled(value, "B") == text
