"""The training loop, on a model small enough for seconds."""

import itertools
import json
import math
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric

from apd_models import Patchify, _dit, from_pretrained
from apd_samplers import LevelSampler, shared
from apd_train import (
    ConfigError,
    DataError,
    DivergedError,
    Execution,
    ImageSet,
    Progress,
    RunFolder,
    TrainConfig,
    WriteError,
    _loop,
    fit,
    read_metrics,
)
from apd_train._gradients import accumulate, clip_gradients
from apd_train._held_out import HeldOutLoss
from apd_train._model import make_model, make_optimizers
from tiny_runs import TINY, some_animals


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return some_animals()


def run(images: ImageSet, path: Path, progress: Callable[[Progress], None] = lambda p: None, **options: object):  # noqa: ANN201
    config = TrainConfig(**{**TINY, **options})  # pyrefly: ignore
    return fit(config, images, RunFolder(path, overwrite=True), Fabric(accelerator="cpu", devices=1), progress)


def test_it_learns_and_says_so(images: ImageSet, tmp_path: Path) -> None:
    seen: list[Progress] = []
    trained = run(images, tmp_path, seen.append, steps=60, learning_rate=1e-2)
    first, last = trained.heldout_loss
    assert last < 0.8 * first
    assert [p.step for p in seen] == [*range(4, 60, 4), 60]
    metrics = read_metrics(tmp_path)
    assert [line["step"] for line in metrics if "heldout_loss" in line] == [0, 8, 16, 24, 32, 40, 48, 56, 60]
    assert metrics[0]["heldout_loss"] == first
    steps = [line for line in metrics if "loss" in line]
    named = {"step", "loss", "grad_norm", "learning_rate", "skipped_steps", "seconds"}
    named |= {"images_per_second", "peak_memory"}
    cells = {name for name in steps[0] if "/" in name}
    assert {*steps[0]} - cells == named
    assert {name.split("/")[0] for name in cells} == {"loss_level", "loss_spread"}
    assert seen[-1].loss == steps[-1]["loss"]
    assert seen[-1].seconds_left == 0


def test_the_model_folder_holds_the_average_and_says_so(images: ImageSet, tmp_path: Path) -> None:
    trained = run(images, tmp_path, steps=5)
    loaded = from_pretrained(tmp_path / "model")
    assert loaded.weights == "ema(sigma_rel=0.05) at step 5"
    assert loaded.class_names == images.class_names
    for name, tensor in trained.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)


def test_runs_of_one_seed_are_equal_and_others_are_not(images: ImageSet, tmp_path: Path) -> None:
    torch.manual_seed(1)
    one = run(images, tmp_path / "a", steps=5)
    torch.manual_seed(2)  # the global generator plays no part
    torch.rand(7)
    two = run(images, tmp_path / "b", steps=5)
    three = run(images, tmp_path / "c", steps=5, seed=1)
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.model.embed.weight, three.model.embed.weight)


def test_data_scale_and_shape_are_read_off_the_data(images: ImageSet, tmp_path: Path) -> None:
    trained = run(images, tmp_path, steps=1)
    config = trained.model.config
    some = trained.training.squares()
    assert config.data_std == pytest.approx(some.square().mean().sqrt().item(), abs=0.02)
    assert (config.grid, config.token_dim, config.classes) == ((2, 2), 196, 10)
    assert len(trained.held_out) == 10  # a twentieth of 200


def test_held_out_loss_is_the_same_for_every_seed_and_chunk(images: ImageSet, tmp_path: Path) -> None:
    trained = run(images, tmp_path, steps=1)
    values = []
    for options in ({"seed": 0}, {"seed": 5}, {"batch_size": 3}):
        config = TrainConfig(**{**TINY, **options})  # pyrefly: ignore
        values.append(HeldOutLoss(config, trained.held_out, trained.patchify)(trained.model))
    assert values[0] == values[1]
    assert values[2].loss == pytest.approx(values[0].loss, rel=1e-5)
    assert values[0].error_nll is None


def test_what_the_model_is_is_said_by_the_run(images: ImageSet) -> None:
    options = {"conditioning": "separable", "position": "rope", "one_way": True}
    patchify = Patchify(28, 28, 1, 14)
    shape = make_model(TrainConfig(**{**TINY, **options}), images, patchify).config  # pyrefly: ignore
    assert {name: getattr(shape, name) for name in options} == options
    assert not shape.error_head
    plain = make_model(TrainConfig(**TINY), images, patchify).config  # pyrefly: ignore
    assert (plain.conditioning, plain.position, plain.one_way) == ("token", "learned", False)


def test_every_parameter_has_one_optimizer_and_decay_is_on_matrices_alone(images: ImageSet, tmp_path: Path) -> None:
    model = run(images, tmp_path, steps=1).model.requires_grad_(True)
    muon, adam = make_optimizers(TrainConfig(**TINY), model)  # pyrefly: ignore
    names = {id(p): name for name, p in model.named_parameters()}
    of_muon, (decayed, rest) = muon.param_groups[0], adam.param_groups
    taken = [names[id(p)] for group in (of_muon, decayed, rest) for p in group["params"]]
    assert sorted(taken) == sorted(names.values())
    inner = {names[id(p)] for p in of_muon["params"]}
    parts = ("attention.qkv", "attention.out", "feed_forward.hidden", "feed_forward.out")
    assert inner == {f"blocks.{k}.{part}.weight" for k in range(model.config.depth) for part in parts}
    assert all(names[id(p)].endswith("weight") and p.ndim == 2 for p in decayed["params"])
    assert {"position", "label.weight"} <= {names[id(p)] for p in rest["params"]}
    assert of_muon["weight_decay"] == decayed["weight_decay"] > rest["weight_decay"] == 0


def test_gradients_of_both_optimizers_are_clipped(images: ImageSet, tmp_path: Path) -> None:
    """With a limit far below both eps, nothing moves; without, both parts do. The norm logged is unclipped."""
    start = run(images, tmp_path / "start", steps=1, learning_rate=1e-12).model
    free, held = (run(images, tmp_path / str(c), steps=4, weight_decay=0.0, clip_norm=c).model for c in (1.0, 1e-13))
    for name in ("head.weight", "blocks.0.attention.out.weight"):
        moved = [(model.get_parameter(name) - start.get_parameter(name)).norm() for model in (free, held)]
        assert moved[1] < 0.05 * moved[0], name
    norms = [read_metrics(tmp_path / name)[-1]["grad_norm"] for name in ("1.0", "1e-13")]
    assert norms[1] > 0.1 * norms[0] > 0


def test_an_interrupt_keeps_what_was_learned(images: ImageSet, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step == 8:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)  # as when a launcher passes on what the terminal has sent already

    trained = run(images, tmp_path, interrupt, steps=1000)
    assert trained.steps == 9  # asked after the eighth, heard after the ninth
    assert from_pretrained(tmp_path / "model").weights == "ema(sigma_rel=0.05) at step 9"


def test_a_diverged_run_is_stopped_and_leaves_no_model(images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="smaller learning rate"):
        run(images, tmp_path, steps=200, learning_rate=1e30, clip_norm=1e30)
    assert not (tmp_path / "model").exists()


def test_a_run_that_diverges_in_its_last_step_leaves_no_model(images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(DivergedError):
        run(images, tmp_path, steps=1, learning_rate=1e38, clip_norm=1e30)
    assert not (tmp_path / "model").exists()


def test_evaluations_and_reports_have_their_own_rhythm(images: ImageSet, tmp_path: Path) -> None:
    run(images, tmp_path, steps=12, log_every=5, evaluate_every=3)
    metrics = read_metrics(tmp_path)
    assert [line["step"] for line in metrics if "heldout_loss" in line] == [0, 3, 6, 9, 12]
    assert [line["step"] for line in metrics if "loss" in line] == [5, 10, 12]


def test_too_few_images_are_refused(images: ImageSet, tmp_path: Path) -> None:
    """And the run that is there already is not lost to it."""
    run(images, tmp_path, steps=1)
    before = sorted((file, file.stat().st_mtime_ns) for file in tmp_path.rglob("*"))
    with pytest.raises(DataError, match="too few"):
        run(images.subset([0]), tmp_path, steps=1)
    assert sorted((file, file.stat().st_mtime_ns) for file in tmp_path.rglob("*")) == before


def test_learning_rate_warms_up_and_decays_to_its_floor() -> None:
    config = TrainConfig(**{**TINY, "steps": 1000, "warmup_steps": 10, "final_rate": 0.1, "learning_rate": 1.0})  # pyrefly: ignore
    rates = [config.rate(step) for step in range(1000)]
    assert rates[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[505] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1, abs=1e-4)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    short = TrainConfig(**{**TINY, "steps": 20, "warmup_steps": 500})  # pyrefly: ignore
    assert short.rate(2) == short.learning_rate  # a short run warms up for a tenth of its steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": -1}, "batch_size must be at least 1"),
        ({"image_size": 30}, "multiple of the patch of 14 pixels, got 30"),
        ({"image_size": 14}, "needs at least two tokens: image_size must be above the patch, 14, got 14"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"label_drop": 1.5}, "label_drop"),
        ({"seed": -1}, "seed"),
        ({"width": 15}, "width must be a multiple of 4"),
        ({"ema_sigma_rels": (0.05, 0.5)}, "ema_sigma_rels must be in"),
        ({"ema_sigma_rels": ()}, "ema_sigma_rels must name at least one"),
        ({"ema_sigma_rels": (0.1, 0.1)}, "ema_sigma_rels must differ"),
        ({"max_skipped": 0}, "max_skipped must be at least 1"),
        ({"rate_constant_steps": 0}, "rate_constant_steps must be at least 1"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"final_rate": -5.0}, "final_rate"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"momentum": 1.0}, "momentum"),
        ({"position": "rope", "width": 20}, "multiple of 4, got 10"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite"),
    ],
)
def test_impossible_runs_are_refused_before_anything_happens(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**{**TINY, **options})  # pyrefly: ignore


def test_the_record_of_a_run_can_be_read_back(tmp_path: Path) -> None:
    def synchronous(grid: tuple[int, int]) -> LevelSampler:
        return shared(grid[0] * grid[1])

    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.write_config(TrainConfig(**{**TINY, "levels": synchronous}), {"recipe": "tiny"})  # pyrefly: ignore
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["recipe"] == "tiny"
    assert record["config"]["levels"] == "synchronous"
    assert record["config"]["schedule"].startswith("RectifiedFlow(")
    assert record["config"]["betas"] == [0.9, 0.99]
    assert record["packages"]["torch"] == torch.__version__.split("+")[0]


def test_a_step_without_a_finite_gradient_is_left_out_and_counted(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run without it has the same weights: one step fewer, at the same rates."""

    def spoil(step: int) -> None:
        calls = itertools.count()

        def instead(groups: list[list[torch.nn.Parameter]], limit: float) -> list[float]:
            if next(calls) == step:
                groups[0][0].grad[0] = math.inf  # pyrefly: ignore
            return clip_gradients(groups, limit)

        monkeypatch.setattr(_loop, "clip_gradients", instead)

    spoil(5)
    shown: list[Progress] = []
    trained = run(images, tmp_path / "skipped", shown.append, steps=6, rate_schedule="constant")
    assert (trained.steps, trained.skipped_steps) == (6, 1)
    assert [progress.skipped for progress in shown] == [0, 1]
    spoil(2)
    assert run(images, tmp_path / "early", steps=6).skipped_steps == 1  # those after it do not suffer
    spoil(-1)
    shorter = run(images, tmp_path / "whole", steps=5, rate_schedule="constant", warmup_steps=0)
    assert from_pretrained(tmp_path / "skipped" / "model").weights == "ema(sigma_rel=0.05) at step 5"
    for a, b in zip(trained.model.parameters(), shorter.model.parameters(), strict=True):
        assert torch.equal(a, b)
    (line,) = [line for line in read_metrics(tmp_path / "skipped") if line["step"] == 6 and "skipped_steps" in line]
    assert line["skipped_steps"] == 1
    assert "grad_norm" not in line  # it has none
    assert all(math.isfinite(value) for value in line.values())


def test_the_last_lines_reach_the_folder_or_the_run_says_why(images: ImageSet, tmp_path: Path) -> None:
    def block(progress: Progress) -> None:
        if progress.step == 4:
            (tmp_path / "run" / "metrics.jsonl").rename(tmp_path / "elsewhere")
            (tmp_path / "run" / "metrics.jsonl").mkdir()

    with pytest.raises(WriteError, match=r"metrics\.jsonl cannot be written: Is a directory"):
        run(images, tmp_path / "run", block, steps=8)


def test_the_rate_of_a_step_is_its_own(images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW's first step is as long as the rate in each element, which begins at zero here."""

    def first(*args: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)  # so the first step is the last
        return accumulate(*args)

    monkeypatch.setattr(_loop, "accumulate", first)
    trained = run(images, tmp_path, steps=100, warmup_steps=10, learning_rate=0.01)
    assert trained.steps == 1
    assert trained.model.head.bias.abs().amax().item() == pytest.approx(0.001, rel=1e-4)


def test_the_held_out_loss_is_that_of_the_average(images: ImageSet, tmp_path: Path) -> None:
    trained = run(images, tmp_path, steps=8, learning_rate=0.02)
    config = TrainConfig(**TINY)  # pyrefly: ignore
    assert HeldOutLoss(config, trained.held_out, trained.patchify)(trained.model).loss == trained.heldout_loss[1]


def test_activations_are_computed_again_where_asked(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    again = _dit.checkpoint
    monkeypatch.setattr(_dit, "checkpoint", lambda *args, **kwargs: (calls.append(args), again(*args, **kwargs))[1])
    config = TrainConfig(**{**TINY, "steps": 3})  # pyrefly: ignore
    execution, fabric = Execution(checkpoint_activations=True), Fabric(accelerator="cpu", devices=1)
    less = fit(config, images, RunFolder(tmp_path / "less"), fabric, execution=execution).model
    assert len(calls) >= 3
    for a, b in zip(less.parameters(), run(images, tmp_path / "more", steps=3).model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_levels_of_elements_are_for_tokens_that_have_several(images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="element_levels are for tokens of several elements"):
        run(images, tmp_path, patch=1, element_levels=True)
    assert not any(tmp_path.iterdir())
