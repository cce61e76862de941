"""What a run has learned, by name, whatever it is wrapped in."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from apd_models import DiT, with_error_head
from apd_train._averages import Ema
from apd_train._checkpoint import Checkpoints
from apd_train._model import make_optimizers
from apd_train._state import RunState, parameters_of
from apd_train._step import LossModule
from run_states import CONFIG, assert_equal, copies, learn, some_model, some_state


def test_names() -> None:
    """Every parameter, its optimizer's state, its averages."""
    state = some_state()
    names = {*state.tensors()}
    parameters = dict(state.model.named_parameters())
    matrices = {n for n, p in parameters.items() if n.startswith("blocks.") and p.ndim == 2 and "modulation" not in n}
    assert matrices
    assert matrices < parameters.keys()
    assert names == {
        *(f"model/{name}" for name in parameters),
        *(f"optimizer/{name}/momentum_buffer" for name in matrices),
        *(f"optimizer/{name}/{key}" for name in {*parameters} - matrices for key in ("step", "exp_avg", "exp_avg_sq")),
        *(f"ema/{width}/{name}" for name in parameters for width in ("0.05", "0.1")),
    }


def test_goes_on_to_the_bit(tmp_path: Path) -> None:
    """7 steps are 3, a checkpoint, another process's model and optimizers, and 4 more."""
    whole, first, second = some_state(0), some_state(0), some_state(1)
    learn(whole, range(7))
    learn(first, range(3))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, first.tensors(), first.facts())
    found = checkpoints.newest(pytest.fail)
    assert found
    assert found.facts == {"ema_steps": 3}
    checkpoints.load(found, second.tensors())
    second.set_facts(found.facts)
    learn(second, range(3, 7))
    assert_equal(whole.tensors(), second.tensors())
    assert second.ema.steps == whole.ema.steps == 7


def test_a_state_before_the_first_step(tmp_path: Path) -> None:
    """Optimizers that have not stepped are given zeros: they go on as without; and so do those that load these."""
    plain, asked, loaded = some_state(0), some_state(0), some_state(1)
    before = copies(dict(asked.model.named_parameters()))
    checkpoints = Checkpoints(tmp_path)
    found = checkpoints.save(0, asked.tensors(), asked.facts())
    assert_equal(before, dict(asked.model.named_parameters()))
    assert all(not tensor.any() for name, tensor in asked.tensors().items() if name.startswith("optimizer/"))
    learn(loaded, range(100, 102))
    checkpoints.load(found, loaded.tensors())
    loaded.set_facts(found.facts)
    for state in (plain, asked, loaded):
        learn(state, range(3))
    assert_equal(plain.tensors(), asked.tensors())
    assert_equal(plain.tensors(), loaded.tensors())


def test_asking_changes_nothing() -> None:
    """Weights to the sign of zero, gradients and learning rates, also of an optimizer that lacks some of its state."""
    state = some_state()
    parameters = [*state.model.parameters()]
    with torch.no_grad():
        parameters[0].view(-1)[0] = -0.0
    _, adam = state.optimizers
    chosen = adam.param_groups[0]["params"][0]
    chosen.grad = torch.ones_like(chosen)
    adam.step()
    before = {key: value.clone() for key, value in adam.state[chosen].items()}
    weights = [p.detach().clone() for p in parameters]
    state.tensors()
    for parameter, weight in zip(parameters, weights, strict=True):
        assert torch.equal(parameter.view(torch.int32), weight.view(torch.int32))
    assert_equal(before, adam.state[chosen])
    assert torch.equal(chosen.grad, torch.ones_like(chosen))
    assert sum(parameter.grad is not None for parameter in parameters) == 1
    assert {group["lr"] for optimizer in state.optimizers for group in optimizer.param_groups} == {CONFIG.learning_rate}


def test_tensors_are_the_things_themselves() -> None:
    state = some_state()
    learn(state, range(2))
    for tensor in state.tensors().values():
        tensor.fill_(0.5)
    assert all((parameter == 0.5).all() for parameter in state.model.parameters())
    values = [v for optimizer in state.optimizers for s in optimizer.state.values() for v in s.values()]
    assert all((value == 0.5).all() for value in values)
    assert all((tensor == 0.5).all() for tensor in state.ema.state_dict().values())


def compiled(module: nn.Module) -> nn.Module:
    wrapped = torch.compile(module)
    assert isinstance(wrapped, nn.Module)
    return wrapped


def by_fabric(module: nn.Module) -> nn.Module:
    return Fabric(accelerator="cpu", devices=1).setup_module(module)


WRAPPERS: dict[str, Callable[[DiT], nn.Module]] = {
    "loss": LossModule,
    "compiled": compiled,
    "compiled loss": lambda model: compiled(LossModule(model)),
    "fabric": by_fabric,
    "fabric loss": lambda model: by_fabric(LossModule(model)),
    "as DistributedDataParallel names it": lambda model: nn.ModuleDict({"module": model}),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=[*WRAPPERS])
def test_wrappers_leave_names_alone(wrap: Callable[[DiT], nn.Module]) -> None:
    model = some_model()
    wrapped = parameters_of(wrap(model))
    plain = dict(model.named_parameters())
    assert wrapped.keys() == plain.keys()
    assert all(wrapped[name] is plain[name] for name in plain)


def test_blocks_compiled_in_place_leave_names_alone() -> None:
    model = some_model(depth=2)
    names = [*dict(model.named_parameters())]
    for block in model.blocks:
        block.compile()
    assert [*parameters_of(model)] == names


def test_optimizers_of_fabric() -> None:
    model = some_model()
    optimizers = make_optimizers(CONFIG, model)
    network, *wrapped = Fabric(accelerator="cpu", devices=1).setup(LossModule(model), *optimizers)
    ema = Ema(model)
    assert_equal(RunState(network, wrapped, ema).tensors(), RunState(model, optimizers, ema).tensors())


def test_how_parameters_are_divided_among_groups_leaves_names_alone() -> None:
    model = some_model()
    parameters = [*model.parameters()]
    make: Sequence[list[torch.optim.Optimizer]] = (
        [torch.optim.AdamW(parameters)],
        [torch.optim.AdamW([{"params": parameters[3:]}, {"params": parameters[:3]}])],
        [torch.optim.AdamW(parameters[5:]), torch.optim.AdamW(parameters[:5], fused=True)],
    )
    first, *others = [{*RunState(model, optimizers, Ema(model)).tensors()} for optimizers in make]
    assert all(names == first for names in others)


def test_what_is_frozen_is_kept_and_has_no_optimizer() -> None:
    model = with_error_head(some_model(), torch.Generator().manual_seed(0)).requires_grad_(False)
    assert model.error is not None
    model.error.requires_grad_(True)
    names = {*RunState(model, make_optimizers(CONFIG, model), Ema(model)).tensors()}
    assert {f"model/{name}" for name, _ in model.named_parameters()} <= names
    optimized = {name.split("/")[1] for name in names if name.startswith("optimizer/")}
    assert optimized == {name for name, p in model.named_parameters() if p.requires_grad}
    assert 0 < len(optimized) < len([*model.parameters()])


def test_an_optimizer_of_another_model_is_refused() -> None:
    model = some_model()
    with pytest.raises(ValueError, match="an optimizer has a parameter that is not the model's"):
        RunState(model, make_optimizers(CONFIG, some_model()), Ema(model)).tensors()
