"""A run that was left off and gone on with is the run that was not: the same bits, and the same lines of metrics."""

import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from safetensors.torch import load_file

from apd_models import from_pretrained
from apd_samplers import LevelSampler, shared
from apd_train import (
    Batch,
    Batches,
    CheckpointError,
    ConfigError,
    DataError,
    DataLostError,
    Execution,
    ImageFolder,
    Progress,
    RunFolder,
    RunFolderError,
    TrainConfig,
    Trained,
    WriteError,
    _grids,
    _held_out,
    fit,
    read_metrics,
)
from apd_train._model import data_std
from tiny_runs import TINY, some_animals

CONFIG = TrainConfig(**{**TINY, "steps": 11, "log_every": 3, "evaluate_every": 4, "error_head": True})  # pyrefly: ignore
EXECUTION = Execution(checkpoint_every=100)
IGNORED = ("seconds", "images_per_second", "peak_memory")


def run(
    path: Path,
    config: TrainConfig = CONFIG,
    execution: Execution = EXECUTION,
    resume: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    said: list[str] | None = None,
    facts: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Trained:
    said = [] if said is None else said
    fabric = Fabric(accelerator="cpu", devices=1)
    folder = RunFolder(path, overwrite=overwrite, resume=resume)
    return fit(config, some_animals(), folder, fabric, on_progress, facts or {}, execution, said.append)


def kill(number: signal.Signals, at: int) -> Callable[[Progress], None]:
    """Sends itself a signal when it hears of a step."""

    def on_progress(progress: Progress) -> None:
        if progress.step == at:
            os.kill(os.getpid(), number)

    return on_progress


def disturbed(act: Callable[..., Any], number: signal.Signals, call: int) -> Callable[..., Any]:
    """The same, but just before one of the calls, counted from 1, a signal arrives."""
    calls = itertools.count(1)

    def instead(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), number)
        return act(*args, **kwargs)

    return instead


def learned(path: Path, step: int = 11) -> dict[str, list[float]]:
    """All that a checkpoint holds: weights, averages, the optimizers' state, the sums of the metrics."""
    (file,) = (path / "checkpoints" / f"step-{step:08d}").glob("*.safetensors")
    return {name: tensor.flatten().tolist() for name, tensor in load_file(file).items()}


def lines(path: Path) -> list[dict[str, float]]:
    return [{name: value for name, value in line.items() if name not in IGNORED} for line in read_metrics(path)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "undisturbed"
    run(path)
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
@pytest.mark.parametrize("at", [3, 9])
def test_a_stopped_run_goes_on_to_the_bit(undisturbed: Path, tmp_path: Path, number: signal.Signals, at: int) -> None:
    path = tmp_path / "run"
    first = run(path, on_progress=kill(number, at))
    assert (first.stopped, first.steps) == (number, at + 1)  # asked after the report, heard after the next step
    assert from_pretrained(path / "model").weights == f"ema(sigma_rel=0.05) at step {at + 1}"
    said: list[str] = []
    second = run(path, resume=True, said=said)
    assert said == [f"resuming from {path}/checkpoints/step-{at + 1:08d}, step {at + 1} of 11"]
    assert (second.stopped, second.steps) == (None, 11)
    assert learned(path) == learned(undisturbed)
    assert lines(path) == lines(undisturbed)
    one, other = (from_pretrained(place / "model") for place in (path, undisturbed))
    assert one.weights == other.weights
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)
    record = json.loads((path / "config.json").read_text())
    assert [each["step"] for each in record["resumed"]] == [at + 1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_an_evaluation_which_is_done_when_the_run_goes_on(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, evaluate_every=3, batch_size=4)  # ten images held out: an evaluation is three batches
    whole, path = tmp_path / "whole", tmp_path / "run"
    run(whole, config)
    with monkeypatch.context() as patched:
        patched.setattr("apd_train._held_out.losses", disturbed(_held_out.losses, number, call=7))
        first = run(path, config)
    assert (first.stopped, first.steps) == (number, 6)
    assert [line["step"] for line in lines(path) if "heldout_loss" in line] == [0, 3]
    run(path, config, resume=True)
    assert lines(path) == lines(whole)
    assert learned(path) == learned(whole)


def test_a_signal_ends_pictures_and_pictures_change_nothing(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, execution = tmp_path / "run", replace(EXECUTION, grid_every=3)
    state = torch.get_rng_state()
    with monkeypatch.context() as patched:
        patched.setattr("apd_train._grids.generate", disturbed(_grids.generate, signal.SIGTERM, call=3))
        first = run(path, execution=execution)
    assert (first.stopped, first.steps) == (signal.SIGTERM, 6)
    names = lambda: sorted(file.name for file in (path / "grids").iterdir())
    assert names() == ["inpainting-00000003.png", "samples-00000003.png"]
    run(path, execution=execution, resume=True)
    steps = (3, 6, 9, 11)
    assert names() == [f"{name}-{step:08d}.png" for name in ("inpainting", "samples") for step in steps]
    assert learned(path) == learned(undisturbed)
    assert lines(path) == lines(undisturbed)
    assert torch.equal(state, torch.get_rng_state())


def test_how_a_run_is_carried_out_changes_nothing(undisturbed: Path, tmp_path: Path) -> None:
    execution = Execution(checkpoint_every=2, keep_last=3, keep_every=4, snapshot_every=5, workers=2)
    run(tmp_path / "run", execution=execution)
    assert learned(tmp_path / "run") == learned(undisturbed)
    assert lines(tmp_path / "run") == lines(undisturbed)
    kept = sorted(int(file.name[5:]) for file in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert kept == [4, 8, 10, 11]
    snapshots = sorted(file.name for file in (tmp_path / "run" / "averages").iterdir())
    assert snapshots == [f"step-{step:08d}.safetensors" for step in (5, 10, 11)]


def test_micro_batches_are_the_batch(undisturbed: Path, tmp_path: Path) -> None:
    one, two = (replace(CONFIG, steps=4, learning_rate=1e-3, batch_size=64) for _ in range(2))
    whole, parts = run(tmp_path / "whole", one), run(tmp_path / "parts", two, replace(EXECUTION, micro_batch=16))
    for (name, a), b in zip(whole.model.named_parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    for a, b in zip(lines(tmp_path / "whole"), lines(tmp_path / "parts"), strict=True):
        assert a == pytest.approx(b, rel=1e-3)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run with checkpoints of steps 3 and 4."""
    run(tmp_path / "run", execution=replace(EXECUTION, checkpoint_every=3), on_progress=kill(signal.SIGTERM, 3))
    return tmp_path / "run"


def test_another_law_of_the_same_name_is_refused(stopped: Path) -> None:
    def asynchronous(grid: tuple[int, int]) -> LevelSampler:
        return shared(grid[0] * grid[1])

    with pytest.raises(ConfigError, match=r"begun with level sampler mixture.*, now it is shared\(tokens=4"):
        run(stopped, replace(CONFIG, levels=asynchronous), resume=True)


def test_a_line_that_could_not_be_written_is_in_no_checkpoint(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the disk has room again by then."""
    logs, place = RunFolder.log, tmp_path / "run"

    def fails_once(self: RunFolder, **values: Any) -> None:
        if values["step"] == 6:
            monkeypatch.setattr(RunFolder, "log", logs)
            raise WriteError("no space left")
        logs(self, **values)

    monkeypatch.setattr(RunFolder, "log", fails_once)
    with pytest.raises(WriteError, match="no space left"):
        run(place, execution=replace(EXECUTION, checkpoint_every=3))
    run(place, execution=replace(EXECUTION, checkpoint_every=3), resume=True)
    assert lines(place) == lines(undisturbed)


def test_a_damaged_checkpoint_is_passed_over(undisturbed: Path, stopped: Path) -> None:
    shard = max((stopped / "checkpoints" / "step-00000004").glob("*.safetensors"), key=lambda file: file.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    (stopped / "checkpoints" / "LATEST").unlink()
    said: list[str] = []
    run(stopped, resume=True, said=said)
    assert "LATEST is missing" in said[0]
    assert f"step-00000004 is passed over: {shard.name} is damaged" in said[1]
    assert said[2].endswith("step-00000003, step 3 of 11")
    assert learned(stopped) == learned(undisturbed)
    assert lines(stopped) == lines(undisturbed)


def test_where_all_checkpoints_are_damaged_nothing_is_lost(stopped: Path) -> None:
    for folder in (stopped / "checkpoints").glob("step-*"):
        (folder / "manifest.json").unlink()
    before = {file: file.stat().st_mtime_ns for file in stopped.rglob("*")}
    said: list[str] = []
    with pytest.raises(RunFolderError, match=r"has no complete checkpoint, but had one: put it back"):
        run(stopped, resume=True, said=said)
    assert [line.endswith("manifest.json is missing") for line in said] == [True, True]
    assert {file: file.stat().st_mtime_ns for file in stopped.rglob("*")} == before


def test_a_run_without_checkpoints_begins(undisturbed: Path, stopped: Path) -> None:
    shutil.rmtree(stopped / "checkpoints")
    before = {file: file.stat().st_mtime_ns for file in stopped.rglob("*")}
    with pytest.raises(RunFolderError, match="put it back"):  # that there is a model says that there was one
        run(stopped, resume=True)
    assert {file: file.stat().st_mtime_ns for file in stopped.rglob("*")} == before
    shutil.rmtree(stopped / "model")
    said: list[str] = []
    run(stopped, resume=True, said=said)
    assert said == [f"{stopped} was stopped before its first checkpoint: beginning at step 0"]
    assert learned(stopped) == learned(undisturbed)
    assert lines(stopped) == lines(undisturbed)


def test_where_there_is_no_run_one_begins(undisturbed: Path, tmp_path: Path) -> None:
    said: list[str] = []
    run(tmp_path / "run", resume=True, said=said)
    assert said == [f"there is no run in {tmp_path / 'run'} yet: beginning one"]
    assert learned(tmp_path / "run") == learned(undisturbed)


def test_the_steps_to_come_may_be_other_ones(stopped: Path) -> None:
    """As for a run that has diverged: it is said, kept in the record, and not said again."""
    careful, said = replace(CONFIG, learning_rate=1e-4, rate_schedule="constant"), []
    run(stopped, careful, resume=True, said=said, on_progress=kill(signal.SIGTERM, 6))
    assert said[1:] == [
        "from step 5 on with learning_rate 0.0001, which was 0.008",
        "from step 5 on with rate_schedule constant, which was cosine",
    ]
    record = json.loads((stopped / "config.json").read_text())
    assert record["resumed"][0]["changed"] == {"learning_rate": 1e-4, "rate_schedule": "constant"}
    assert record["resumed"][0]["execution"]["checkpoint_every"] == EXECUTION.checkpoint_every
    assert [line["learning_rate"] for line in lines(stopped) if "loss" in line][1:] == [1e-4]
    said = []
    run(stopped, careful, resume=True, said=said)
    assert len(said) == 1


def test_other_data_of_the_same_number_are_not_gone_on_with(stopped: Path) -> None:
    fabric, images = Fabric(accelerator="cpu", devices=1), some_animals()
    darker = replace(images, images=[image // 2 + 64 for image in images.images])
    with pytest.raises(ConfigError, match=r"was begun with data of standard deviation .*, now it is"):
        fit(CONFIG, darker, RunFolder(stopped, resume=True), fabric, execution=EXECUTION)


def test_data_that_are_read_elsewhere_may_differ_by_a_rounding(stopped: Path) -> None:
    """The network has learned with one standard deviation, and keeps it."""
    fabric, images = Fabric(accelerator="cpu", devices=1), some_animals()
    darker = replace(images, images=[image - (image > 0).to(image) for image in images.images])
    said: list[str] = []
    trained = fit(CONFIG, darker, RunFolder(stopped, resume=True), fabric, execution=EXECUTION, on_message=said.append)
    assert "the images differ by a rounding from those before, so others of them are held out from now on" in said
    before = json.loads((stopped / "config.json").read_text())["data_std"]
    assert trained.model.config.data_std == before
    assert data_std(trained.training) != before
    said.clear()
    fit(CONFIG, darker, RunFolder(stopped, resume=True), fabric, execution=EXECUTION, on_message=said.append)
    assert not any("rounding" in line for line in said)  # they are what it has gone on with


def test_a_run_can_be_made_longer_but_not_shorter(stopped: Path) -> None:
    longer = run(stopped, replace(CONFIG, steps=13), resume=True)
    assert longer.steps == 13
    again = run(stopped, replace(CONFIG, steps=13), resume=True)  # nothing is left to do
    assert again.steps == 13
    for a, b in zip(longer.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    before = {file: file.stat().st_mtime_ns for file in stopped.rglob("*")}
    with pytest.raises(RunFolderError, match=r"is at step 13 already: --steps 12 would go back"):
        run(stopped, replace(CONFIG, steps=12), resume=True)
    assert {file: file.stat().st_mtime_ns for file in stopped.rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "facts", "message"),
    [
        ({"width": 32}, {}, "was begun with width 16, now it is 32: resume with what it was begun with, or choose"),
        ({"seed": 3}, {}, "was begun with seed 0, now it is 3"),
        ({"one_way": True}, {}, "was begun with one_way False, now it is True"),
        ({}, {"recipe": "other"}, "was begun with recipe None, now it is other"),
        ({"held_out": 3}, {}, "was begun with held_out 500, now it is 3"),
    ],
)
def test_another_run_is_not_gone_on_with(
    stopped: Path, options: dict[str, Any], facts: dict[str, Any], message: str
) -> None:
    before = {file: file.stat().st_mtime_ns for file in stopped.rglob("*")}
    with pytest.raises(ConfigError, match=message):
        run(stopped, replace(CONFIG, **options), resume=True, facts=facts)
    assert {file: file.stat().st_mtime_ns for file in stopped.rglob("*")} == before


def test_other_data_is_not_gone_on_with(stopped: Path) -> None:
    fabric, fewer = Fabric(accelerator="cpu", devices=1), some_animals().subset(range(100))
    with pytest.raises(ConfigError, match="was begun with images 200, now it is 100: resume with the same data"):
        fit(CONFIG, fewer, RunFolder(stopped, resume=True), fabric, execution=EXECUTION)


def test_a_run_is_resumed_or_replaced_but_not_both(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="leave out --resume or --overwrite"):
        RunFolder(tmp_path, overwrite=True, resume=True)


def test_a_folder_of_something_else_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(RunFolderError, match="but not of a run: nothing is resumed"):
        run(tmp_path, resume=True)


def test_two_runs_do_not_share_a_folder(stopped: Path) -> None:
    """Another process would hold it until its end; it is the same to the system when this one does twice."""
    before = {file: file.stat().st_mtime_ns for file in stopped.rglob("*")}
    with RunFolder(stopped).held():
        for resume in (True, False):
            with pytest.raises(RunFolderError, match="is in use by another process: wait for its end"):
                run(stopped, resume=resume, overwrite=not resume)
    assert {file: file.stat().st_mtime_ns for file in stopped.rglob("*")} == before
    run(stopped, resume=True)


def test_a_checkpoint_of_another_version_is_refused(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apd_train._loop.VERSION", 2)
    with pytest.raises(CheckpointError, match="is of another version of apd-train"):
        run(stopped, resume=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0"),
        ({"micro_batch": 0}, "micro_batch must be at least 1"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"keep_every": 300}, "keep_every must be a multiple of checkpoint_every, 500"),
        ({"trackers": ("tensorbord",)}, "there is no tracker 'tensorbord', only tensorboard and wandb"),
    ],
)
def test_what_cannot_be_carried_out(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Execution(**options)


def test_data_that_are_lost_on_the_way_end_a_run_which_goes_on(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def until_the_sixth(batches: Batches, rank: int, world: int, first: int, steps: int, *rest: Any) -> Iterator[Batch]:
        for step in range(first, steps):
            if step == 6:
                raise DataError("images of class 'cat' cannot be read")
            yield batches(step, rank, world)

    with monkeypatch.context() as patched:
        patched.setattr("apd_train._loop.loader", until_the_sixth)
        with pytest.raises(DataLostError, match="images of class 'cat' cannot be read"):
            run(tmp_path)
    assert (tmp_path / "checkpoints" / "step-00000005").is_dir()  # found out before the sixth step was finished
    run(tmp_path, resume=True)
    assert learned(tmp_path) == learned(undisturbed)
    assert lines(tmp_path) == lines(undisturbed)


def test_other_images_are_other_data(tmp_path: Path) -> None:
    """Of as many, of the same classes and the same scale: what was held out may be among them."""
    run(tmp_path / "run", on_progress=kill(signal.SIGTERM, 3))
    images = some_animals()
    order = torch.arange(len(images)).flip(0)
    mirrored = [image.flip(-1) for image in images.images]
    for others in (
        images.subset(order.tolist()),
        replace(images, images=mirrored),
        replace(images, labels=images.labels.flip(0)),
    ):
        folder, fabric = RunFolder(tmp_path / "run", resume=True), Fabric(accelerator="cpu", devices=1)
        with pytest.raises(ConfigError, match="was begun with other images, of other classes or in another order"):
            fit(CONFIG, others, folder, fabric)


def test_a_run_that_does_not_say_which_images_goes_on(undisturbed: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", on_progress=kill(signal.SIGTERM, 3))
    file = tmp_path / "run" / "config.json"
    record = json.loads(file.read_text())
    for name in ("data_sha256", "labels_sha256", "data_quarters"):
        del record[name]
    file.write_text(json.dumps(record))
    run(tmp_path / "run", resume=True)
    assert learned(tmp_path / "run") == learned(undisturbed)


def test_what_lies_ahead_of_the_checkpoint_is_forgotten(tmp_path: Path) -> None:
    """Snapshots and grids of steps that the run may go on to otherwise; others' files stay."""
    execution = Execution(checkpoint_every=500, snapshot_every=2, grid_every=2)
    run(tmp_path, execution=execution, on_progress=kill(signal.SIGTERM, 3))
    made = lambda folder: sorted(file.name for file in (tmp_path / folder).iterdir())
    before = made("averages"), made("grids")
    assert before[0] == ["step-00000002.safetensors"]  # stopped after step 4, and before its own
    for name in ("averages/step-00000010.safetensors", "grids/samples-00000010.png", "grids/mine-10.png"):
        (tmp_path / name).write_text("of another way to go on")
    run(tmp_path, execution=replace(execution, snapshot_every=None, grid_every=None), resume=True)
    assert (made("averages"), made("grids")) == (before[0], sorted([*before[1], "mine-10.png"]))


def test_other_images_of_the_same_names_are_other_data(tmp_path: Path) -> None:
    """Of those that are read when needed, whose names alone are known; a few damaged ones do not matter."""
    images = some_animals()
    for k, image in enumerate(images.images):
        name = tmp_path / "data" / images.class_names[images.labels[k]]
        name.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(name / f"{k:03}.png")
    source, fabric = ImageFolder(tmp_path / "data", in_memory=False), Fabric(accelerator="cpu", devices=1)
    config = replace(CONFIG, data=source)

    def go_on(act: Callable[[Progress], None] = lambda progress: None, **how: Any) -> Trained:
        folder = RunFolder(tmp_path / "run", **how)
        return fit(config, source.load(config.image_size), folder, fabric, act, execution=EXECUTION)

    go_on(kill(signal.SIGTERM, 3))
    files = sorted((tmp_path / "data").rglob("*.png"))
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, reversed(contents), strict=True):
        file.write_bytes(content)
    with pytest.raises(ConfigError, match="was begun with other images, of other classes or in another order"):
        go_on(resume=True)
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    files[0].write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="stands in"):
        assert go_on(resume=True).steps == 11
