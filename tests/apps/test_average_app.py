"""`apps/average` as a user runs it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from apd_models import (
    DiT,
    DiTConfig,
    LatentScale,
    Patchify,
    from_pretrained,
    identity,
    load_codec,
    save_pretrained,
    with_error_head,
)
from apd_train._averages import Ema
from apd_train._snapshots import Snapshots
from app_runner import app_here, assert_refused

PATCHIFY = Patchify(4, 4, 1, 2)
SHAPE = DiTConfig((2, 2), 4, width=16, depth=1, heads=2, classes=2)


def train(model: DiT, folder: Path, weights: str) -> Ema:
    """Of all that is free in the model; returns the averages of the widths that are made."""
    ema, tracked = Ema(model), Ema(model, 0.08)
    random = torch.Generator().manual_seed(0)
    for step in range(1, 41):
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += torch.randn(parameter.shape, generator=random) / 40
        ema.update(model)
        tracked.update(model)
        if step % 2 == 0:
            Snapshots(folder / "averages").save(ema, step)
    with ema.lent(model):
        save_pretrained(folder / "model", model, PATCHIFY, ("fox", "owl"), weights.format(ema.describe()))
    return tracked


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ema]:
    folder = tmp_path_factory.mktemp("run")
    return folder, train(DiT(SHAPE), folder, "{}")


@pytest.fixture
def run(trained: tuple[Path, Ema], tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


def test_a_model_of_latents_keeps_its_scale_and_its_autoencoder(run: Path, tmp_path: Path) -> None:
    codec, of = identity(PATCHIFY.channels), from_pretrained(run / "model")
    codec.save(tmp_path / "codec")
    scale = LatentScale((0.5,) * codec.channels, (2.0,) * codec.channels, codec.digest)
    model = run / "model"
    save_pretrained(model, of.model, of.patchify, of.class_names, of.weights, scale, tmp_path / "codec")
    for more in ((), ("--overwrite",)):
        done = app_here("average", "--run", run, "--sigma-rel", 0.08, "--out", run / "other", *more)
        assert done.returncode == 0, done.stderr
    found = from_pretrained(run / "other")
    assert found.latents == scale
    assert found.codec is not None
    assert load_codec(found.codec).digest == codec.digest


def test_makes_a_model_of_the_width_asked_for(run: Path, trained: tuple[Path, Ema]) -> None:
    out = run / "model-0.08"
    done = app_here("average", "--run", run, "--sigma-rel", 0.08, "--out", out)
    assert done.returncode == 0, done.stderr
    found, before = from_pretrained(out), from_pretrained(run / "model")
    assert found.weights.startswith("ema(sigma_rel=0.08) at step 40, made of 20 snapshots, profile error ")
    assert f"weights  {found.weights}\n" in done.stdout
    assert f"→ {out}" in done.stdout
    assert "profile  " not in done.stdout
    with safe_open(out / "model.safetensors", framework="pt") as file:
        assert file.metadata()["weights"] == found.weights
    assert (found.class_names, found.patchify) == (before.class_names, before.patchify)
    state = found.model.state_dict()
    assert {*state} == {*trained[1].full()}
    away = max(float((state[name] - tensor).abs().max()) for name, tensor in trained[1].full().items())
    moved = max(float((state[name] - tensor).abs().max()) for name, tensor in before.model.state_dict().items())
    assert away < 1e-3 < 0.03 < moved


def test_a_width_that_was_tracked_is_the_runs_own(run: Path) -> None:
    done = app_here("average", "--run", run, "--sigma-rel", 0.05, "--out", run / "again")
    assert done.returncode == 0, done.stderr
    assert (run / "again" / "config.json").read_bytes() == (run / "model" / "config.json").read_bytes()
    again, own = (safe_open(run / name / "model.safetensors", framework="pt") for name in ("again", "model"))
    assert again.metadata() == own.metadata()  # the bytes may differ: safetensors writes these in any order
    assert [*again.keys()] == [*own.keys()]
    for name in own.keys():
        assert torch.equal(again.get_tensor(name), own.get_tensor(name))


def test_an_earlier_step(run: Path) -> None:
    done = app_here("average", "--run", run, "--sigma-rel", 0.1, "--step", 20, "--out", run / "early")
    assert done.returncode == 0, done.stderr
    found = from_pretrained(run / "early")
    assert found.weights == "ema(sigma_rel=0.1) at step 20"
    with safe_open(run / "averages" / "step-00000020.safetensors", framework="pt") as file:
        for name, tensor in found.model.state_dict().items():
            assert torch.equal(tensor, file.get_tensor(f"0.1/{name}"))


def test_says_when_a_width_is_out_of_reach(run: Path) -> None:
    for file in [*(run / "averages").iterdir()][:-2]:
        file.unlink()
    done = app_here("average", "--run", run, "--sigma-rel", 0.25, "--out", run / "wide")
    assert done.returncode == 0, done.stderr
    assert "% away from the one asked for: more snapshots, or widths nearer to 0.25" in done.stdout


def test_of_a_run_that_trained_an_error_head_all_else_is_left_alone(tmp_path: Path) -> None:
    model = with_error_head(DiT(SHAPE), torch.Generator().manual_seed(0))
    model.requires_grad_(False)
    assert model.error is not None
    model.error.requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, tmp_path, "ema(sigma_rel=0.05) at step 9; error head {}")
    done = app_here("average", "--run", tmp_path, "--sigma-rel", 0.1, "--out", tmp_path / "wider")
    assert done.returncode == 0, done.stderr
    found = from_pretrained(tmp_path / "wider")
    assert found.weights == "ema(sigma_rel=0.05) at step 9; error head ema(sigma_rel=0.1) at step 40"
    for name, tensor in found.model.state_dict().items():
        assert torch.equal(tensor, before[name]) != name.startswith("error."), name


def test_a_model_is_replaced_only_if_asked_and_the_runs_own_and_other_files_never(run: Path) -> None:
    average = lambda out, *more: app_here("average", "--run", run, "--sigma-rel", 0.08, "--out", out, *more)
    assert average(run / "new").returncode == 0
    assert_refused(average(run / "new"), "already holds a model: pass --overwrite")
    assert average(run / "new", "--overwrite").returncode == 0
    assert_refused(average(run / "model", "--overwrite"), "is the model that the run left: choose another --out")
    assert_refused(average(run, "--overwrite"), "holds other files than a model")
    assert json.loads((run / "model" / "config.json").read_text())["weights"] == "ema(sigma_rel=0.05) at step 40"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--run": "nowhere"}, "nowhere/model holds no model"),
        ({"--sigma-rel": 0.3}, "--sigma-rel must be in (0, 0.289), got 0.3"),
        ({"--sigma-rel": "nan"}, "--sigma-rel must be in (0, 0.289), got nan"),
        ({"--sigma-rel": "wide"}, "wide"),
        ({"--step": 41}, "--step must be from 1 to 40, that of the last snapshot, got 41"),
        ({"--step": 0}, "--step must be from 1 to 40, that of the last snapshot, got 0"),
        ({"--out": "/proc/no/model"}, "cannot be"),
        ({"--out": __file__}, "cannot be a model folder"),
    ],
)
def test_bad_input(run: Path, tmp_path: Path, change: dict[str, object], message: str) -> None:
    options = {"--run": run, "--sigma-rel": 0.08, "--out": tmp_path / "out"} | change
    assert_refused(app_here("average", *(word for pair in options.items() for word in pair)), message)
    assert not (tmp_path / "out").exists()


def test_bad_runs(run: Path, tmp_path: Path) -> None:
    average = lambda: app_here("average", "--run", run, "--sigma-rel", 0.08, "--out", tmp_path / "out")
    file = run / "averages" / "step-00000020.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert_refused(average(), "step-00000020.safetensors is damaged")
    shutil.rmtree(run / "model")
    file.unlink()
    save_pretrained(run / "model", DiT(DiTConfig((2, 2), 4, width=8, depth=1, heads=2)), PATCHIFY, (), "raw")
    assert_refused(average(), "averages is of another model than")
    shutil.rmtree(run / "averages")
    assert_refused(average(), "averages holds no snapshots of averages: train with --snapshot-every")
    assert not (tmp_path / "out").exists()


def test_help_teaches() -> None:
    done = app_here("average", "--help")
    assert done.returncode == 0
    words = " ".join(done.stdout.replace("│", " ").split())
    for line in (
        "apps/train --snapshot-every",
        "less than 0.289, which is the plain mean of all steps",
        "as if the run had",
    ):
        assert line in words
