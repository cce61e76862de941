"""The power-function averages, against their definition."""

import io
import socket
from collections.abc import Iterator

import pytest
import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from apd_train._averages import Ema, power_of_width


@pytest.fixture
def one_process() -> Iterator[None]:
    """A process group of this process alone: enough for sharded parameters."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    distributed.init_process_group("gloo", init_method=f"tcp://localhost:{port}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def fill(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


@pytest.mark.parametrize("sigma_rel", [0.02, 0.05, 0.1, 0.25])
def test_the_power_has_the_asked_for_width(sigma_rel: float) -> None:
    """Standard deviation of the density (g + 1) t^g on [0, 1], by quadrature."""
    power = power_of_width(sigma_rel)
    t = (torch.arange(2_000_000, dtype=torch.float64) + 0.5) / 2_000_000
    density = (power + 1) * t**power / len(t)
    mean = (density * t).sum()
    assert (density * (t - mean) ** 2).sum().sqrt().item() == pytest.approx(sigma_rel, rel=1e-4)


def test_each_step_weighs_what_the_power_function_gives_it() -> None:
    """Step k, after n: the integral of the density between (k - 1) / n and k / n; exact, not a limit."""
    n, widths = 400, (0.05, 0.1, 0.25)
    model = nn.Linear(n, 1, bias=False, dtype=torch.float64)
    ema = Ema(model, widths)
    for k in range(n):
        fill(model, 0.0)
        with torch.no_grad():
            model.weight[0, k] = 1.0
        ema.update(model)
    for sigma_rel in widths:
        weights = ema.full(sigma_rel)["weight"][0]
        edges = (torch.arange(n + 1, dtype=torch.float64) / n) ** (power_of_width(sigma_rel) + 1)
        torch.testing.assert_close(weights, edges.diff(), rtol=1e-10, atol=1e-15)


def test_the_first_update_forgets_the_initial_weights() -> None:
    model = nn.Linear(2, 2)
    ema = Ema(model)
    fill(model, 3.0)
    ema.update(model)
    for sigma_rel in (0.05, 0.1):
        assert torch.equal(ema.full(sigma_rel)["weight"], model.weight)


def test_it_says_which_weights_it_holds() -> None:
    model = nn.Linear(2, 2)
    ema = Ema(model, (0.05, 0.1))
    ema.update(model)
    assert ema.describe() == "ema(sigma_rel=0.05) at step 1"
    assert ema.describe(0.1) == "ema(sigma_rel=0.1) at step 1"
    assert Ema(model, 0.2).describe() == "ema(sigma_rel=0.2) at step 0"


def test_averages_are_copies() -> None:
    model = nn.Linear(2, 2)
    ema = Ema(model)
    before = ema.full()["weight"]
    fill(model, 7.0)
    assert torch.equal(ema.full()["weight"], before)
    assert not any(tensor.requires_grad for tensor in ema.state_dict().values())
    ema.update(model)
    assert not torch.equal(before, ema.full()["weight"])


def test_averages_of_half_precision_are_in_float32() -> None:
    """Steps of less than half the distance of two numbers of bfloat16 would be lost."""
    model = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    ema = Ema(model, 0.05)
    fill(model, 1.0)
    for _ in range(1000):
        ema.update(model)
    with torch.no_grad():
        model.weight.fill_(1 + 2**-7)
    ema.update(model)
    fresh = 1 - (1 - 1 / 1001) ** (power_of_width(0.05) + 1)
    average = ema.full()["weight"]
    assert average.dtype == torch.float32
    assert average.item() - 1 == pytest.approx(fresh * 2**-7, rel=1e-2)
    with ema.lent(model):
        assert model.weight.dtype == torch.bfloat16


def test_frozen_parameters_come_out_as_they_are_and_take_no_memory() -> None:
    frozen, free = nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 3)
    model = nn.Sequential(frozen, free)
    ema = Ema(model, 0.05)
    for value in (1.0, 2.0):
        fill(free, value)
        ema.update(model)
    assert {*ema.state_dict()} == {"0.05/1.weight", "0.05/1.bias"}
    full = ema.full()
    assert {*full} == {*model.state_dict()}
    assert torch.equal(full["0.weight"], frozen.weight)
    assert 1 < full["1.weight"][0, 0] < 2


def test_the_model_computes_with_what_it_is_lent_and_is_then_as_before_to_the_bit() -> None:
    model = nn.Linear(4, 4)
    ema = Ema(model)
    fill(model, 1.0)
    ema.update(model)
    torch.nn.init.normal_(model.weight, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.weight[0, 0] = torch.nan
    before, place = model.weight.detach().clone(), model.weight.data_ptr()
    bits = lambda tensor: tensor.detach().view(torch.int32)
    for sigma_rel in (None, 0.1):
        with ema.lent(model, sigma_rel):
            assert model.weight.data_ptr() == place
            assert torch.equal(model(torch.ones(4)), torch.full((4,), 5.0))
            assert model.weight.requires_grad
        assert torch.equal(bits(model.weight), bits(before))
    with pytest.raises(KeyboardInterrupt), ema.lent(model):
        raise KeyboardInterrupt
    assert torch.equal(bits(model.weight), bits(before))


def test_lending_within_lending() -> None:
    model = nn.Linear(1, 1, bias=False)
    ema = Ema(model)
    for value in (1.0, 2.0):
        fill(model, value)
        ema.update(model)
    narrow, wide = ema.full(0.05)["weight"], ema.full(0.1)["weight"]
    assert narrow > wide
    with ema.lent(model, 0.05):
        with ema.lent(model, 0.1):
            assert torch.equal(model.weight, wide)
        assert torch.equal(model.weight, narrow)
    assert model.weight.item() == 2


def test_names_are_those_inside_of_wrappers() -> None:
    first = nn.Linear(2, 2)
    model = nn.Sequential(first, nn.Linear(2, 2))
    wrapped = nn.ModuleDict({"_forward_module": nn.ModuleDict({"module": nn.ModuleDict({"_orig_mod": model})})})
    ema = Ema(model)
    fill(model, 1.0)
    ema.update(wrapped)
    assert {*Ema(wrapped).full()} == {*ema.full()} == {*model.state_dict()}
    fill(model, 2.0)
    with ema.lent(wrapped):
        assert torch.equal(first.weight, torch.ones(2, 2))


def test_state_goes_through_a_file() -> None:
    model = nn.Linear(2, 2)
    ema = Ema(model)
    for value in (1.0, 5.0):
        fill(model, value)
        ema.update(model)
    file = io.BytesIO()
    torch.save(ema.state_dict(), file)
    file.seek(0)
    other = Ema(nn.Linear(2, 2))
    other.load_state_dict(torch.load(file))
    other.steps = ema.steps
    fill(model, 3.0)
    ema.update(model)
    other.update(model)
    assert list(other.state_dict()) == ["0.05/weight", "0.05/bias", "0.1/weight", "0.1/bias"]
    for name, tensor in ema.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


def test_sharded_parameters_are_averaged_and_lent(one_process: None) -> None:
    """FSDP2 leaves its root gathered after an evaluation: it would not see the average, or keep it for training."""
    torch.manual_seed(0)
    model, plain = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 3)), nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 3))
    plain.load_state_dict(model.state_dict())
    mesh = distributed.init_device_mesh("cpu", (1,))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    ema, reference = Ema(model), Ema(plain)
    assert all(isinstance(tensor, DTensor) for tensor in ema.state_dict().values())
    x = torch.ones(3)
    for learning in (model, plain):
        average = ema if learning is model else reference
        for _ in range(3):
            learning(x).square().sum().backward()
            with torch.no_grad():
                for parameter in learning.parameters():
                    assert parameter.grad is not None
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None
            average.update(learning)
    for sigma_rel in (0.05, 0.1):
        for name, tensor in reference.full(sigma_rel).items():
            assert torch.equal(ema.full(sigma_rel)[name], tensor)
    with torch.no_grad():
        after = model(x)
        with reference.lent(plain, 0.1):
            lent = plain(x)
        with ema.lent(model, 0.1):
            assert torch.equal(model(x), lent)
        assert torch.equal(model(x), after)
        assert torch.equal(plain(x), after)
    assert not torch.equal(lent, after)


@pytest.mark.parametrize("sigma_rel", [0.0, 0.3, -1.0, float("nan")])
def test_impossible_widths_are_refused(sigma_rel: float) -> None:
    with pytest.raises(ValueError, match="sigma_rel must be in"):
        power_of_width(sigma_rel)
    with pytest.raises(ValueError, match="sigma_rel must be in"):
        Ema(nn.Linear(1, 1), (0.05, sigma_rel))


def test_what_cannot_be_is_refused() -> None:
    model = nn.Linear(2, 2)
    for widths in ((), (0.05, 0.05), (0.05, 0.05 + 1e-9)):
        with pytest.raises(ValueError, match="one or more different widths"):
            Ema(model, widths)
    ema = Ema(model)
    with pytest.raises(ValueError, match=r"no average of sigma_rel 0\.2, only of 0\.05, 0\.1"):
        ema.full(0.2)
    with pytest.raises(ValueError, match="no average"), ema.lent(model, 0.2):
        pass
    other = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="the model has no parameter 'weight'"):
        ema.update(other)
    assert ema.steps == 0
    with pytest.raises(ValueError, match=r"the averages have no '0\.05/0\.bias'"):
        ema.load_state_dict(Ema(other).state_dict())
    with pytest.raises(ValueError, match=r"the averages to load have no '0\.1/bias'"):
        ema.load_state_dict(Ema(model, 0.05).state_dict())
    with pytest.raises(ValueError, match=r"0\.05/bias has the shape \(2,\), and to load \(3,\)"):
        ema.load_state_dict(Ema(nn.Linear(2, 3)).state_dict())
