"""Runs that start from a trained model: they begin with its weights, to the bit, and with no other model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file
from torch import Generator

from apd_models import DiT, DiTConfig, LatentScale, Patchify, Pretrained, from_pretrained, interpolated, save_pretrained
from apd_samplers import eps_weighting
from apd_train import (
    Batches,
    ConfigError,
    DataError,
    Execution,
    Latents,
    RunFolder,
    TrainConfig,
    Trained,
    dry_run,
    fit,
    hold_out,
    load_animals28,
    read_metrics,
)
from apd_train._held_out import HeldOutLoss
from apd_train._model import make_optimizers
from apd_train._step import LossModule
from tiny_runs import TINY, some_animals

NAMES = load_animals28().class_names
STD = 0.7
"""Of no data set: what the model takes the data for, and has to go on with."""


def tiny(**options: Any) -> TrainConfig:
    return TrainConfig(**{**TINY, "steps": 1, "log_every": 1, **options})  # pyrefly: ignore


def model(names: tuple[str, ...] = NAMES, **options: Any) -> Pretrained:
    """Nothing of it is as a run would begin it."""
    patchify = Patchify(28, 28, 1, 14)
    fields: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2, "classes": len(names), "data_std": STD}
    torch.manual_seed(0)
    made = DiT(DiTConfig(patchify.grid, patchify.token_dim, **(fields | options)))
    for parameter in made.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return Pretrained(made.eval().requires_grad_(False), patchify, names, "made up {}")


def run(start: Pretrained | None, path: Path, config: TrainConfig | None = None, **more: Any) -> Trained:
    folder = RunFolder(path, resume=more.pop("resume", False))
    fabric = Fabric(accelerator="cpu", devices=1)
    tell = more.pop("on_message", lambda message: None)
    return fit(config or tiny(), some_animals(), folder, fabric, on_message=tell, start=start, **more)


def weights(path: Path) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in from_pretrained(path / "model").model.state_dict().items()}


KINDS: dict[str, dict[str, Any]] = {
    "own": {},
    "with an error head": {"error_head": True},
    "dit": {"conditioning": "joint", "qk_norm": False, "biases": True, "gelu": "tanh", "convention": "dit"},
    "sit": {"conditioning": "joint", "qk_norm": False, "biases": True, "gelu": "tanh", "convention": "sit"},
    "diffusers": {"conditioning": "joint", "biases": True, "convention": "diffusers", "embedders": "per_block"},
}
PREDICT_NOISE = ("dit", "diffusers")


def config_for(kind: str, **options: Any) -> TrainConfig:
    said = {name: value for name, value in KINDS[kind].items() if name in ("conditioning", "error_head")}
    weighting = {"weighting": eps_weighting} if KINDS[kind].get("convention") in PREDICT_NOISE else {}
    return tiny(**said, **weighting, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_step_is_of_the_model_as_it_is(kind: str, tmp_path: Path) -> None:
    start = model(**KINDS[kind])
    before = {name: tensor.clone() for name, tensor in start.model.state_dict().items()}
    config = config_for(kind)
    trained = run(start, tmp_path, config)
    training, held_out = hold_out(some_animals(), 10)
    first = Batches(config, training, start.patchify)(0)
    expected, _ = LossModule(start.model.train())(*first.tensors)
    (line,) = [line for line in read_metrics(tmp_path) if "loss" in line]
    assert line["loss"] == float(expected[0])
    assert trained.heldout_loss[0] == HeldOutLoss(config, held_out, start.patchify)(start.model).loss
    after = from_pretrained(tmp_path / "model")
    assert after.model.config == start.model.config  # the scale of its data, too
    learned = after.model.state_dict()
    moved = [name for name, tensor in before.items() if not torch.equal(learned[name], tensor)]
    assert len(moved) == len(before)
    assert all(torch.equal(start.model.state_dict()[name], tensor) for name, tensor in before.items())
    assert after.weights == "ema(sigma_rel=0.05) at step 1, from (made up {})"
    record = json.loads((tmp_path / "config.json").read_text())
    assert (record["start_weights"], record["start_sha256"]) == ("made up {}", start.digest)
    assert record["data_std"] != STD


def test_the_digest_is_of_what_is_computed() -> None:
    """Not of the file, nor of what is said of the weights."""
    start, digest = model(), model().digest
    assert replace(start, weights="other").digest == digest
    assert model(data_std=0.71).digest != digest
    start.model.head.bias.data[0] += 1e-6
    assert start.digest != digest


def test_matrices_of_the_blocks_alone_are_muons() -> None:
    """Blocks of diffusers have embeddings of their own, whose rows are no matrix of a product."""
    made = model(**KINDS["diffusers"]).model.requires_grad_(True)
    muon, adam = ({id(p) for group in o.param_groups for p in group["params"]} for o in make_optimizers(tiny(), made))
    named = {name for name, parameter in made.named_parameters() if id(parameter) in muon}
    inner = ("attention.qkv", "attention.out", "feed_forward.hidden", "feed_forward.out")
    assert named == {f"blocks.0.{name}.weight" for name in inner}
    assert len(muon) + len(adam) == len([*made.parameters()])


@pytest.mark.parametrize("kind", PREDICT_NOISE)
def test_errors_of_the_noise_count_alike_at_every_level(kind: str, tmp_path: Path) -> None:
    """A model that says nothing errs by the noise itself, whose square is 1 on average, but on clean tokens."""
    start = model(**KINDS[kind])
    start.model.head.weight.data.zero_()
    start.model.head.bias.data.zero_()
    run(start, tmp_path, config_for(kind, batch_size=128))
    (line,) = [line for line in read_metrics(tmp_path) if "loss" in line]
    noisy = float(
        (Batches(config_for(kind, batch_size=128), some_animals(), start.patchify)(0).draw.weight > 0).float().mean()
    )
    assert line["loss"] == pytest.approx(noisy, rel=0.02)  # five standard errors of 100,000 squares


def test_a_head_can_be_new(tmp_path: Path) -> None:
    start = model()
    with_head, without = (run(start, tmp_path / str(head), tiny(error_head=head)) for head in (True, False))
    assert with_head.model.error is not None
    for name, tensor in without.model.state_dict().items():
        assert torch.equal(with_head.model.state_dict()[name], tensor), name


def test_goes_on_to_the_bit_and_with_this_model_only(tmp_path: Path) -> None:
    start, config = model(), tiny(steps=6, evaluate_every=3)
    run(start, tmp_path / "whole", config)

    class StopError(Exception):
        pass

    def stop(progress: Any) -> None:
        if progress.step == 4:
            raise StopError

    told = {"execution": Execution(checkpoint_every=3)}
    with pytest.raises(StopError):
        run(start, tmp_path / "parts", config, on_progress=stop, **told)
    other = model()
    other.model.head.bias.data[0] += 1e-3
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "parts").rglob("*")}
    for wrong, message in ((other, other.digest[:20]), (None, "None"), (model(width=32), "was begun with width 16")):
        as_wrong = config if wrong is None else replace(config, width=wrong.model.config.width)
        with pytest.raises(ConfigError, match=r"was begun with .*, now it is .*: resume with what it was") as refused:
            run(wrong, tmp_path / "parts", as_wrong, resume=True)
        assert message in str(refused.value)
    darker = [image // 2 + 64 for image in some_animals().images]
    with pytest.raises(ConfigError, match="data of standard deviation"):
        fit(
            config,
            replace(some_animals(), images=darker),
            RunFolder(tmp_path / "parts", resume=True),
            Fabric(accelerator="cpu", devices=1),
            start=start,
        )
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "parts").rglob("*")} == before
    said: list[str] = []
    run(start, tmp_path / "parts", config, resume=True, on_message=said.append, **told)
    assert "step 3 of 6" in said[0]
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    kept = ("loss", "heldout_loss", "step", "learning_rate")
    lines = [
        [{name: line[name] for name in kept if name in line} for line in read_metrics(tmp_path / of)]
        for of in ("parts", "whole")
    ]
    assert lines[0] == lines[1]
    run(None, tmp_path / "other")
    with pytest.raises(ConfigError, match="was begun with start sha256 None, now it is"):
        run(start, tmp_path / "other", resume=True)


def test_goes_on_from_a_folder(tmp_path: Path) -> None:
    """A model of the same weights in another folder is the same start, and a tuned one can be tuned."""
    start = model()
    for name in ("a", "b"):
        of = start
        save_pretrained(tmp_path / name, of.model, of.patchify, of.class_names, of.weights)
    assert from_pretrained(tmp_path / "a").digest == start.digest
    run(from_pretrained(tmp_path / "a"), tmp_path / "run")
    run(from_pretrained(tmp_path / "b"), tmp_path / "run", tiny(steps=2), resume=True)
    again = run(from_pretrained(tmp_path / "run" / "model"), tmp_path / "again")
    assert again.model.config.data_std == STD
    assert from_pretrained(tmp_path / "again" / "model").weights == (
        "ema(sigma_rel=0.05) at step 1, from (ema(sigma_rel=0.05) at step 2, from (made up {}))"
    )


def shard(folder: Path, scale: LatentScale, codec: str | None) -> Latents:
    """Of the same latents always, whatever the scale that is said."""
    folder.mkdir()
    z = torch.randn(40, 2, 4, 4, generator=Generator().manual_seed(0))
    said = {"mean": json.dumps(scale.mean), "std": json.dumps(scale.std), **({} if codec is None else {"codec": codec})}
    save_file({"latents": z}, folder / "0.safetensors", said)
    return Latents(folder)


def test_latents_of_another_set_are_seen_at_the_scale_of_the_model(tmp_path: Path) -> None:
    """Of the same autoencoder; a model that was trained on some images goes on with others."""
    fabric, digest = Fabric(accelerator="cpu", devices=1), "a" * 64
    scale, other = LatentScale((0.5, -1.0), (2.0, 0.1), digest), LatentScale((0.0, 0.3), (1.0, 0.9))
    fields: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2}
    start = Pretrained(DiT(DiTConfig((2, 2), 8, **fields)).eval(), Patchify(4, 4, 2, 2), (), "random", scale)
    seen = []
    for name, said, codec in (("own", scale, digest), ("other", other, digest), ("silent", other, None)):
        data = shard(tmp_path / name, said, codec)
        config = tiny(data=data, image_size=4, patch=2, flip=False, batch_size=4)
        trained = fit(config, data.load(4), RunFolder(tmp_path / f"{name} run"), fabric, start=start)
        assert from_pretrained(tmp_path / f"{name} run" / "model").latents == scale
        seen.append(trained.training.squares())
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
    data = shard(tmp_path / "foreign", scale, "b" * 64)
    with pytest.raises(DataError, match="latents of the autoencoder bbbbbbbbbbbb…, the model of aaaaaaaaaaaa…"):
        fit(tiny(data=data), data.load(4), RunFolder(tmp_path / "no"), fabric, start=start)
    assert not (tmp_path / "no").exists()


def other_size(start: Pretrained) -> Pretrained:
    return replace(start, model=interpolated(start.model, (4, 4)), patchify=Patchify(56, 56, 1, 14))


REFUSED: dict[str, tuple[Callable[[], Pretrained], dict[str, Any], type[Exception], str]] = {
    "patch": (model, {"patch": 7}, ConfigError, "has patch 14, and the run 7: give the run what the model has"),
    "width": (lambda: model(width=32), {}, ConfigError, "has width 32, and the run 16"),
    "depth": (model, {"depth": 2}, ConfigError, "has depth 1, and the run 2"),
    "heads": (model, {"heads": 1}, ConfigError, "has heads 2, and the run 1"),
    "conditioning": (lambda: model(conditioning="joint"), {}, ConfigError, "has conditioning joint, and the run token"),
    "position": (model, {"position": "rope"}, ConfigError, "has position learned, and the run rope"),
    "one way": (model, {"one_way": True}, ConfigError, "has one_way False, and the run True"),
    "elements": (model, {"element_levels": True}, ConfigError, "has element_levels False, and the run True"),
    "head": (lambda: model(error_head=True), {}, ConfigError, "has error_head True, and the run False"),
    "noise": (lambda: model(convention="dit"), {}, ConfigError, "predicts the noise, .*: give the run eps_weighting"),
    "context": (lambda: model(context_dim=3), {}, ConfigError, "takes tokens in context, which training cannot give"),
    "classes": (lambda: model(("cats",)), {}, DataError, "the class 'bear' is not one of the model's: cats"),
    "size": (
        lambda: other_size(model()),
        {},
        DataError,
        "1 channels and 28 pixels a side, those of the model 1 and 56",
    ),
    "latents": (
        lambda: replace(model(), latents=LatentScale((0.0,), (1.0,))),
        {},
        DataError,
        "not standardised as the model's",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_runs_of_another_model(name: str, tmp_path: Path) -> None:
    make, options, kind, message = REFUSED[name]
    start, config = make(), tiny(**options)
    with pytest.raises(kind, match=message):
        run(start, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
    with pytest.raises(kind, match=message):
        dry_run(config, some_animals(), Fabric(accelerator="cpu", devices=1), Execution(), start)


def test_names_of_a_thousand_classes_are_not_all_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the model's: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 990 more$"):
        run(model(tuple(map(str, range(1000)))), tmp_path)


def test_a_dry_run_is_of_the_model() -> None:
    start = model(**KINDS["dit"])
    config = config_for("dit")
    told = dict(dry_run(config, some_animals(), Fabric(accelerator="cpu", devices=1), Execution(), start))
    assert told["parameters"].startswith(f"{sum(p.numel() for p in start.model.parameters()):,}: ")
