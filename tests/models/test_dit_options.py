"""The options of the transformer, each against something exact."""

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

import long_runs
from apd_models import (
    DiT,
    DiTConfig,
    Levels,
    Patchify,
    dit_config,
    from_pretrained,
    interpolated,
    save_pretrained,
)
from apd_models._attention import turned, turns
from apd_models._modulation import distinct_levels
from apd_schedules import NoiseMap, RectifiedFlow, x_from_flow
from dit_cases import GRID, D, N, inputs, random_model, written_out
from strategies import seeds

CONDITIONINGS = ("token", "separable", "joint")


def parameter_count(model: DiT) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@settings(max_examples=12)
@given(seeds, st.sampled_from(CONDITIONINGS), st.sampled_from([None, 1, 2, 5]))
def test_the_model_is_the_textbook_token_by_token(seed: int, conditioning: str, few: int | None) -> None:
    """Table, gather and short cuts against one modulation a token, in float64: values and every gradient."""
    model = random_model(seed % 7, conditioning=conditioning, biases=seed % 2 == 0, gelu=("erf", "tanh")[seed % 2])
    model.kernels = seed % 3 == 0
    z, noise, label = inputs(3, seed, few=few)
    expected = x_from_flow(written_out(model, z, noise, label), z, noise)
    mean = model(z, noise, label).mean
    torch.testing.assert_close(mean, expected, rtol=1e-9, atol=1e-10)
    probe = torch.randn_like(mean)
    names, weights = zip(*model.named_parameters(), strict=True)
    ours, theirs = (torch.autograd.grad((each * probe).sum(), weights) for each in (mean, expected))
    for name, a, b in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9, msg=name)


def test_without_qk_norm_too() -> None:
    model = random_model(qk_norm=False)
    z, noise, label = inputs()
    torch.testing.assert_close(
        model(z, noise, label).mean,
        x_from_flow(written_out(model, z, noise, label), z, noise),
        rtol=1e-9,
        atol=1e-10,
    )


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_float32_is_the_reference_to_rounding(conditioning: str) -> None:
    model = random_model(conditioning=conditioning)
    z, noise, label = inputs()
    expected = model(z, noise, label).mean
    found = model.float()(z.float(), NoiseMap(noise.log_snr.float()), label).mean
    # A level in float32 gives the fastest feature, 1000 radians a unit, its phase to 6e-5.
    torch.testing.assert_close(found.double(), expected, rtol=5e-4, atol=3e-4)


@pytest.mark.parametrize(("conditioning", "rows"), [("token", 2), ("separable", 2), ("joint", 6)])
def test_rows_of_the_table(conditioning: str, rows: int) -> None:
    """Two levels, three labels: levels + samples rows where the label is apart, their product where it is not."""
    model = random_model(conditioning=conditioning)
    label = torch.tensor([0, 1, 3, 1])
    found = model.modulations(Levels(torch.tensor([-1.0, 2.0]).double(), torch.arange(2).expand(4, 2)), label)
    for each in (*found.blocks, found.head):
        assert len(each.table) == rows
        assert (each.sample is not None) == (conditioning == "separable")


def test_a_synchronous_map_is_not_copied_to_the_tokens() -> None:
    model = random_model()
    levels = torch.full((3, N, 1), 0.4, dtype=torch.float64)
    seen: list[Any] = []
    model.blocks[0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[1]))
    model(inputs()[0], NoiseMap(RectifiedFlow()(levels)))
    assert seen[0].part(0).shape == (3, 1, 32)


# the family


@pytest.mark.parametrize(("size", "million"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_published_sizes(size: str, million: float) -> None:
    """Parameters of DiT's paper, whose table rounds to these."""
    with torch.device("meta"):
        model = DiT(dit_config(size, Patchify(32, 32, 4, 2), classes=1000, conditioning="joint", biases=True))
    assert parameter_count(model) / 1e6 == pytest.approx(million, rel=0.015)
    assert model.config.width // model.config.heads == 64


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_sizes_take_the_patch_from_patchify(patch: int) -> None:
    config = dit_config("S", Patchify(32, 16, 4, patch), heads=12)
    assert config.grid == (32 // patch, 16 // patch)
    assert config.token_dim == 4 * patch**2
    assert config.heads == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conditioning": "none"}, "conditioning must be one of token, separable, joint, got 'none'"),
        ({"position": "sin"}, "position must be one of learned, rope"),
        ({"convention": "edm"}, "convention must be one of flow, dit, diffusers, sit"),
        ({"gelu": "exact"}, "gelu must be one of erf, tanh"),
        ({"embedders": "none"}, "embedders must be one of"),
        ({"embedders": "per_block"}, "for conditioning='joint'"),
        ({"position": "rope", "width": 24, "heads": 4}, "multiple of 4, got 6"),
        ({"position_grid": (2, 2)}, "position_grid is for rope"),
        ({"context_dim": -1}, "0 elements of context or more"),
        ({"mlp_ratio": 1e-9}, "leaves nothing of a width of 384"),
        ({"mlp_ratio": float("inf")}, "positive and finite, got inf"),
        ({"data_std": float("inf")}, "positive and finite"),
        ({"one_way": "false"}, "one_way is true or false, got 'false'"),
    ],
)
def test_unknown_options_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unchecked({"grid": GRID, "token_dim": D, **change})


def unchecked(fields: dict[str, Any]) -> DiTConfig:
    """A configuration as from a file: the hook of these tests would see wrong literals before the class does."""
    config = object.__new__(DiTConfig)
    for field in dataclasses.fields(DiTConfig):
        object.__setattr__(config, field.name, fields.get(field.name, field.default))
    config.__post_init__()
    return config


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="size must be one of S, B, L, XL, got 'M'"):
        dit_config("M", Patchify(4, 4, 1, 2))


def test_a_folder_that_says_nothing_of_later_options_has_none(tmp_path: Path) -> None:
    """Those of the first version; :mod:`test_dit` holds what that model computes."""
    first = DiTConfig((2, 3), 4, 32, 1, 2, 4.0, 3, 0.5)
    save_pretrained(tmp_path / "model", DiT(first), Patchify(4, 6, 1, 2), ("a", "b", "c"), "raw")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    names = ("grid", "token_dim", "width", "depth", "heads", "mlp_ratio", "classes", "data_std")
    config["model"] = {name: config["model"][name] for name in names}
    file.write_text(json.dumps(config))
    assert from_pretrained(tmp_path / "model").model.config == first


def test_a_rotary_model_of_another_grid_comes_back_from_its_folder(tmp_path: Path) -> None:
    model = interpolated(DiT(DiTConfig((2, 3), 4, 32, 1, 2, position="rope")), (4, 6))
    save_pretrained(tmp_path / "model", model, Patchify(8, 12, 1, 2), (), "raw")
    assert from_pretrained(tmp_path / "model").model.config == model.config


@pytest.mark.parametrize("kernels", [False, True])
def test_an_empty_batch_stays_empty(kernels: bool) -> None:
    model = random_model()
    model.kernels = kernels
    z, noise, label = inputs()
    mean = model(z[:0], NoiseMap(noise.log_snr[:0]), label[:0]).mean
    assert mean.shape == (0, N, D)
    mean.sum().backward()


# positions


def test_rotary_positions_are_relative_along_both_axes() -> None:
    """Products of turned queries and keys are equal wherever the pair of tokens has the same offset."""
    grid = (4, 5)
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=generator, dtype=torch.float64)
    cos, sin = (part.double() for part in turns(grid, grid, 8, 0, torch.device("cpu")))
    q, k = (turned(each.expand(1, 1, 20, 8), (cos, sin)) for each in (q, k))
    products = (q[0, 0] @ k[0, 0].T).reshape(*grid, *grid)
    assert products[0, 0, 1, 2] == pytest.approx(products[2, 1, 3, 3].item(), rel=1e-6)
    assert products[0, 0, 1, 0] != pytest.approx(products[0, 0, 0, 1].item(), rel=1e-3)  # the axes are told apart
    assert products[0, 0, 1, 0] != pytest.approx(products[1, 0, 0, 0].item(), rel=1e-3)  # and the directions


def test_rotary_positions_are_scaled_to_the_grid_of_training() -> None:
    """Twice the grid: each old token lies in the middle of its four new ones."""
    at = torch.device("cpu")
    cos, sin = turns((4, 6), (2, 3), 8, 0, at)
    angle = torch.atan2(sin, cos).reshape(2, 2, 3, 2, -1).mean((1, 3))
    cos, sin = turns((2, 3), (2, 3), 8, 0, at)
    torch.testing.assert_close(angle.flatten(0, 1), torch.atan2(sin, cos), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("position", ["learned", "rope"])
def test_interpolated_to_its_own_grid_is_itself(position: str) -> None:
    model = random_model(position=position)
    z, noise, label = inputs()
    same = interpolated(model, GRID)
    torch.testing.assert_close(same(z, noise, label).mean, model(z, noise, label).mean, rtol=1e-9, atol=1e-9)
    assert same.embed.weight.data_ptr() == model.embed.weight.data_ptr()


@pytest.mark.parametrize("position", ["learned", "rope"])
def test_interpolated_to_another_grid(position: str) -> None:
    model = random_model(position=position)
    other = interpolated(model, (4, 6))
    z = torch.randn(2, 24, D, dtype=torch.float64)
    assert other(z, NoiseMap(torch.zeros(24, 1))).mean.shape == z.shape
    again = interpolated(other, (8, 12))  # rotary positions remember the grid of training
    assert again.config.position_grid == (GRID if position == "rope" else None)


def test_learned_positions_are_resized_like_an_image() -> None:
    """A plane stays a plane where bicubic interpolation sees no edge."""
    model = DiT(DiTConfig((8, 8), 1, width=4, depth=1, heads=1))
    assert model.position is not None
    row, column = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    model.position.data = torch.stack([row, column, row + column, torch.ones(8, 8)], -1).reshape(64, 4)
    position = interpolated(model, (16, 16)).position
    assert position is not None
    at = (torch.arange(16) + 0.5) / 2 - 0.5
    inner = position.reshape(16, 16, 4)[5:11, 5:11]
    torch.testing.assert_close(inner[..., 0], at[5:11, None].expand(6, 6), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(inner[..., 1], at[None, 5:11].expand(6, 6), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(inner[..., 3], torch.ones(6, 6))


def test_tokens_with_rotary_positions_are_no_set() -> None:
    model = random_model(position="rope")
    z, noise, label = inputs()
    order = torch.tensor([1, 0, 2, 3, 4, 5])
    mixed = model(z[:, order], NoiseMap(noise.log_snr[:, order]), label).mean[:, order]
    assert not torch.allclose(mixed, model(z, noise, label).mean, rtol=1e-3)


@pytest.mark.parametrize("position", ["learned", "rope"])
def test_interpolated_is_frozen_and_computed_as_the_model_is(position: str) -> None:
    model = random_model(position=position).requires_grad_(False)
    model.kernels = True
    model.head.weight.requires_grad_(True)
    other = interpolated(model, (4, 6))
    assert [name for name, weight in other.named_parameters() if weight.requires_grad] == ["head.weight"]
    assert other.kernels
    assert interpolated(model.bfloat16(), (4, 6)).embed.weight.dtype == torch.bfloat16


# what is refused


def test_tokens_of_another_grid_are_refused() -> None:
    model = random_model()
    z, noise, label = inputs()
    for wrong in (z[:, :1], z[:, :5], z[..., :3]):
        with pytest.raises(ValueError, match=r"expected tokens of shape \(batch, 6, 4\), those of a grid of 2×3, got"):
            model(wrong, NoiseMap(noise.log_snr[:, :1]), label)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("wrong", [-1, 4])
def test_labels_that_are_none_are_refused(conditioning: str, wrong: int) -> None:
    model = random_model(conditioning=conditioning)
    z, noise, label = inputs()
    label[1] = wrong
    with pytest.raises(ValueError, match="labels are 0 to 3, which is none, got"):
        model(z, noise, label)
    # Where nothing looks at numbers beforehand, the embedding does.
    with pytest.raises(IndexError):
        model.enter(z, noise, label).sum() + model.modulations(distinct_levels(noise.log_snr[..., 0]), label).head.table


def test_maps_of_neither_tokens_nor_elements_are_refused() -> None:
    z, noise, label = inputs(elements=3)
    with pytest.raises(ValueError, match="one level a token or one for each of its 4 elements, got 3"):
        random_model(element_levels=True)(z, noise, label)


def test_weights_in_half_precision_are_refused() -> None:
    z, noise, label = inputs()
    with pytest.raises(ValueError, match=r"half precision is torch.autocast's, got torch.bfloat16"):
        random_model().bfloat16()(z.bfloat16(), noise, label)


@pytest.mark.parametrize("convention", ["flow", "dit", "diffusers", "sit"])
def test_tokens_in_half_precision_are_taken(convention: str) -> None:
    model = random_model(convention=convention, conditioning="joint").float()
    z, noise, label = inputs()
    half, noise = z.bfloat16(), NoiseMap(noise.log_snr.float())
    found, expected = model(half, noise, label).mean, model(half.float(), noise, label).mean
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# levels of elements


def test_equal_levels_of_elements_are_a_level_of_the_token() -> None:
    model = random_model(element_levels=True)
    z, noise, label = inputs()
    each = NoiseMap(noise.log_snr.expand(-1, -1, D))
    torch.testing.assert_close(model(z, each, label).mean, model(z, noise, label).mean, rtol=1e-10, atol=1e-10)


def test_a_token_goes_by_its_noisiest_element_and_sees_how_clean_the_others_are() -> None:
    model = random_model(element_levels=True)
    z, noise, label = inputs(elements=D)
    torch.testing.assert_close(model.token_levels(noise), noise.log_snr.amin(-1), rtol=0, atol=0)
    base = model(z, noise, label).mean
    for element in range(D):
        log_snr = noise.log_snr.clone()
        log_snr[:, 2, element] += 3.0
        other = model(z, NoiseMap(log_snr), label).mean
        assert not torch.allclose(other[:, 2], base[:, 2], rtol=1e-4)
        assert not torch.allclose(other[:, 3], base[:, 3], rtol=1e-6)  # told to the others too


def test_known_elements_of_a_token_come_back() -> None:
    """An element without noise is what it is, whatever the network says."""
    model = random_model(element_levels=True).float()
    z, noise, label = inputs(elements=D)
    log_snr = noise.log_snr.float().clone()
    log_snr[:, :, 1] = RectifiedFlow()(torch.zeros(()))
    mean = model(z.float(), NoiseMap(log_snr), label).mean
    torch.testing.assert_close(mean[..., 1], z[..., 1].float(), rtol=2e-3, atol=2e-3)


def test_an_untrained_model_with_levels_of_elements_is_the_one_without() -> None:
    torch.manual_seed(0)
    plain = DiT(DiTConfig(GRID, D, width=32, depth=1, heads=2))
    more = DiT(dataclasses.replace(plain.config, element_levels=True))
    more.load_state_dict(plain.state_dict(), strict=False)
    torch.nn.init.normal_(more.head.weight)
    plain.head.weight.data = more.head.weight.data
    z, noise, _ = inputs()
    found = [model(z.float(), NoiseMap(noise.log_snr.float())).mean for model in (plain, more)]
    torch.testing.assert_close(*found)


# tokens in context


def test_every_token_sees_the_context_and_the_context_its_own_level() -> None:
    model = random_model(context_dim=5)
    z, noise, label = inputs()
    context = torch.randn(3, 2, 5, dtype=torch.float64).requires_grad_()
    mean = model(z, noise, label, context=context).mean
    for i in range(N):
        (by,) = torch.autograd.grad(mean[0, i].sum(), context, retain_graph=True)
        assert (by[0].abs().sum(-1) > 0).all()
        assert by[1:].abs().sum() == 0
    swapped = model(z, noise, label, context=context.flip(1)).mean
    torch.testing.assert_close(swapped, mean, rtol=1e-9, atol=1e-9)  # a set
    assert model.context is not None
    model.context.level.data += 0.5
    assert not torch.allclose(model(z, noise, label, context=context).mean, mean, rtol=1e-3)


def test_context_is_refused_by_a_model_without() -> None:
    z, noise, label = inputs()
    with pytest.raises(ValueError, match="takes no context: its context_dim is 0"):
        random_model()(z, noise, label, context=torch.randn(3, 2, 5).double())


@pytest.mark.parametrize("options", [{}, {"one_way": True}, {"position": "rope"}, {"conditioning": "separable"}])
def test_no_tokens_in_context_are_no_context(options: dict[str, Any]) -> None:
    model = random_model(context_dim=5, **options)
    z, noise, label = inputs()
    empty = torch.zeros(3, 0, 5, dtype=torch.float64)
    torch.testing.assert_close(model(z, noise, label, context=empty).mean, model(z, noise, label).mean)


# one-way attention


def influence(model: DiT, z: Tensor, noise: NoiseMap, label: Tensor) -> Tensor:
    """How much the mean of each token (row) depends on the value of each token (column), in the first sample."""
    z = z.clone().requires_grad_()
    mean = model(z, noise, label).mean
    rows = [torch.autograd.grad(mean[0, i].sum(), z, retain_graph=True)[0][0].abs().sum(-1) for i in range(N)]
    return torch.stack(rows)


@settings(max_examples=15)
@given(st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]), min_size=N, max_size=N), st.booleans())
def test_one_way_information_flows_from_clean_to_noisy_only(levels: list[float], rope: bool) -> None:
    """Gradients are exactly zero where the rule forbids, and not where it does not: equals see each other between."""
    model = random_model(one_way=True, position="rope" if rope else "learned")
    z, _, label = inputs()
    t = torch.tensor(levels, dtype=torch.float64)
    found = influence(model, z, NoiseMap(RectifiedFlow()(t)[None, :, None].expand(3, N, 1)), label) > 0
    between = (t[:, None] > 0) & (t[:, None] < 1)
    allowed = (t[None] < t[:, None]) | ((t[None] == t[:, None]) & between) | torch.eye(N, dtype=torch.bool)
    assert torch.equal(found, allowed)


def test_one_way_levels_flow_as_values_do() -> None:
    model = random_model(one_way=True)
    z, noise, label = inputs()
    log_snr = noise.log_snr.clone().requires_grad_()
    mean = model(z, NoiseMap(log_snr), label).mean
    level = -noise.log_snr[0, :, 0]
    for i in range(N):
        (by,) = torch.autograd.grad(mean[0, i].sum(), log_snr, retain_graph=True)
        assert torch.equal(by[0, :, 0] != 0, level <= level[i])


def test_one_way_with_all_tokens_at_one_level_is_the_ordinary_model() -> None:
    z, _, label = inputs()
    noise = NoiseMap(torch.full((3, N, 1), 0.7, dtype=torch.float64))
    plain, way = random_model(), random_model(one_way=True)
    torch.testing.assert_close(way(z, noise, label).mean, plain(z, noise, label).mean, rtol=1e-9, atol=1e-9)


def test_one_way_context_is_seen_by_all_and_sees_itself_alone() -> None:
    model = random_model(one_way=True, context_dim=5)
    z, noise, label = inputs()
    log_snr = noise.log_snr.clone()
    log_snr[:, 0] = 18.0  # clean: sees itself and the context
    context = torch.randn(3, 2, 5, dtype=torch.float64).requires_grad_()
    z = z.requires_grad_()
    mean = model(z, NoiseMap(log_snr), label, context=context).mean
    by_z, by_context = torch.autograd.grad(mean[0, 0].sum(), (z, context))
    assert (by_context[0].abs().sum(-1) > 0).all()
    assert by_z[0, 1:].abs().sum() == 0


# compilation: in a process of its own, since checked shapes and torch.compile do not live together


def compiled_checks(options: dict[str, Any]) -> None:
    script = Path(__file__).parents[1] / "compiled_checks.py"
    done = subprocess.run([sys.executable, script, json.dumps(options)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["whole" if options.get("whole", True) else "blocks"]


@pytest.mark.slow
def test_compiled_is_eager() -> None:
    compiled_checks({"depth": 1})


@pytest.mark.slow
def test_blocks_compiled_in_place_are_the_model() -> None:
    compiled_checks({"whole": False})


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"conditioning": "separable"}, {"one_way": True}, {"position": "rope"}], ids=str)
def test_compiled_is_eager_with_options(options: dict[str, Any]) -> None:
    compiled_checks(options)


def test_other_than_a_label_for_each_is_refused() -> None:
    model, (z, noise, label) = random_model(), inputs()
    for wrong in (label[:2], label[:, None]):
        with long_runs.unchecked(), pytest.raises(ValueError, match="3 samples have a label each, got"):
            model(z, noise, label=wrong)


@pytest.mark.parametrize("one_way", [False, True])
def test_one_level_for_a_sample_is_that_of_all_its_tokens(one_way: bool) -> None:
    model, (z, _, label) = random_model(one_way=one_way), inputs()
    levels = torch.tensor([-13.0, 1.0, 13.0], dtype=z.dtype)[:, None, None]
    with long_runs.unchecked():
        whole = model(z, NoiseMap(levels.expand(3, N, 1)), label=label).mean
        torch.testing.assert_close(model(z, NoiseMap(levels), label=label).mean, whole, rtol=0, atol=1e-12)
        with pytest.raises(ValueError, match=r"a level for each of 6 tokens, got \(3, 5, 1\)"):
            model(z, NoiseMap(levels.expand(3, 5, 1)), label=label)


def test_what_is_not_for_a_model_is_refused() -> None:
    """In a line that says what is, before anything is computed."""
    model, (z, noise, label) = random_model(context_dim=5), inputs()
    same = noise.log_snr
    cases: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        (r"have one precision, got torch.float32 and torch.float64: z.to\(torch.float64\)", (z.float(), noise), {}),
        (r"have one precision, got torch.int64 and torch.float64", (z.long(), noise), {}),
        (r"a map is for 3 samples, or one for all, got \(2, 6, 1\)", (z, NoiseMap(same[:2])), {}),
        (r"a map is for 1 samples, or one for all, got \(3, 6, 1\)", (z[:1], noise), {}),
        (r"labels are a tensor of int64, one for each sample, got 1", (z, noise, 1), {}),
        (r"labels are a tensor of int64, one for each sample, got \[0, 1, 2\]", (z, noise, [0, 1, 2]), {}),
        (r"labels are a tensor of int64, one for each sample, got torch.float32", (z, noise, label.float()), {}),
        (r"labels are a tensor of int64, one for each sample, got torch.bool", (z, noise, label > 0), {}),
        (r"tokens in context are \(3, any, 5\), got \(2, 1, 5\)", (z, noise), {"context": z.new_zeros(2, 1, 5)}),
        (r"tokens in context are \(3, any, 5\), got \(3, 1, 4\)", (z, noise), {"context": z.new_zeros(3, 1, 4)}),
    ]
    with long_runs.unchecked():
        cases.append((r"a level for each of 6 tokens, got \(\)", (z, NoiseMap(same[0, 0, 0])), {}))
        for message, given, context in cases:
            with pytest.raises(ValueError, match=message):
                model(*given, **context)


@pytest.mark.parametrize("convention", ["flow", "dit", "diffusers", "sit"])
def test_a_model_can_be_pickled(convention: str) -> None:
    """As processes that are spawned, and `torch.save` of a whole model, do."""
    model = random_model(convention=convention, conditioning="joint")
    other = pickle.loads(pickle.dumps(model))
    assert torch.equal(other(*inputs()).mean, model(*inputs()).mean)
    assert other.convention is model.convention
