"""Trackers: what they are given, and that nothing in them stops training."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from apd_train._trackers import Tracker, guarded, tensorboard, tracker, wandb


class Recorder:
    """Writes down its calls; fails when it is told to."""

    def __init__(self, fails: str = "") -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fails = fails

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._called("log", step, metrics)

    def image(self, step: int, name: str, file: Path) -> None:
        self._called("image", step, name, file)

    def close(self) -> None:
        self._called("close")

    def _called(self, *call: object) -> None:
        self.calls.append(call)
        if call[0] == self.fails:
            raise OSError(28, "No space\nleft on device")


def use(tracker: Tracker) -> None:
    tracker.log(1, {"loss": 0.5})
    tracker.image(1, "samples", Path("a.png"))
    tracker.log(2, {"loss": 0.4})
    tracker.close()


def test_a_guarded_tracker_gets_everything() -> None:
    inner, problems = Recorder(), []
    use(guarded("mine", lambda: inner, problems.append))
    assert inner.calls == [
        ("log", 1, {"loss": 0.5}),
        ("image", 1, "samples", Path("a.png")),
        ("log", 2, {"loss": 0.4}),
        ("close",),
    ]
    assert problems == []


@pytest.mark.parametrize(("fails", "calls"), [("log", 1), ("image", 2), ("close", 4)])
def test_the_first_exception_switches_it_off_and_is_told_once(fails: str, calls: int) -> None:
    inner, problems = Recorder(fails), []
    use(guarded("mine", lambda: inner, problems.append))
    assert len(inner.calls) == calls
    assert problems == ["mine is switched off, training goes on: OSError: [Errno 28] No space left on device"]


def test_nothing_is_done_after_it_is_closed() -> None:
    inner = Recorder()
    closed = guarded("mine", lambda: inner, lambda problem: None)
    closed.close()
    use(closed)
    assert inner.calls == [("close",)]


def test_an_interrupt_is_not_a_trackers_problem() -> None:
    def make() -> Tracker:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded("mine", make, lambda problem: None)


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "tensorboard"), ("wandb", "wandb")])
def test_a_missing_extra_is_named(name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for loaded in [*sys.modules]:
        if loaded.startswith(("torch.utils.tensorboard", module)):
            monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    problems: list[str] = []
    use(tracker(name, tmp_path, {}, 0, problems.append))
    assert problems == [
        f'{name} is switched off, training goes on: {module} is not installed: pip install "apd-train[{name}]"'
    ]
    assert [*tmp_path.iterdir()] == []


def test_there_are_two(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no tracker 'mlflow', only tensorboard and wandb"):
        tracker("mlflow", tmp_path, {}, 0, lambda problem: None)


def picture(folder: Path) -> Path:
    file = folder / "samples.png"
    Image.new("RGB", (5, 4), (10, 200, 30)).save(file)
    return file


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_was_logged_and_a_second_start_replaces_later_steps(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "tensorboard"
    first = tensorboard(folder)
    for step in (1, 2, 3):
        first.log(step, {"loss": step / 8, "loss_level/0.0-0.1": 1.5})
    first.image(2, "samples", picture(tmp_path))
    first.close()
    second = tensorboard(folder, first_step=3)
    second.log(3, {"loss": 0.75})
    second.close()
    events = EventAccumulator(str(folder), purge_orphaned_data=True).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 0.125), (2, 0.25), (3, 0.75)]
    assert events.Scalars("loss_level/0.0-0.1")[0].value == 1.5
    (image,) = events.Images("samples")
    assert (image.step, image.width, image.height) == (2, 5, 4)


def test_it_takes_nothing_from_the_global_generator(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    made = tracker("tensorboard", tmp_path, {}, 0, pytest.fail)
    made.log(1, {"loss": 1.0})
    made.close()
    assert torch.equal(torch.get_rng_state(), state)
    assert [*(tmp_path / "tensorboard").iterdir()]


class FakeWandB(SimpleNamespace):
    """The part of wandb that is used, writing down its calls."""

    def __init__(self, logged_in: bool) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any]] = []
        self.logged_in = logged_in

    def login(self, *, prompt: bool, verify: bool) -> bool:
        assert not prompt
        assert not verify
        return self.logged_in

    def Settings(self, **settings: object) -> dict[str, object]:
        return settings

    def Image(self, path: str) -> tuple[str, str]:
        return "image", path

    def init(self, **options: object) -> Any:
        self.calls.append(("init", options))
        note = lambda name: lambda *args, **options: self.calls.append((name, args[0] if args else options))
        return SimpleNamespace(log=note("log"), finish=note("finish"), define_metric=note("define_metric"))


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    return monkeypatch


def test_wandb_gets_the_run_its_numbers_and_its_pictures(tmp_path: Path, no_variables: pytest.MonkeyPatch) -> None:
    fake = FakeWandB(logged_in=True)
    no_variables.setitem(sys.modules, "wandb", fake)  # pyrefly: ignore
    folder = tmp_path / "animals28"
    made = wandb(folder, {"steps": 10})
    file = picture(tmp_path)
    made.log(1, {"loss": 0.5})
    made.image(1, "samples", file)
    made.close()
    (_, options), (_, axis), *rest = fake.calls
    assert options == {
        "project": "apd-train",
        "name": "animals28",
        "id": (folder / "wandb" / "id").read_text(),
        "resume": "allow",
        "dir": str(folder),
        "config": {"steps": 10},
        "mode": None,
        "settings": {"init_timeout": 30, "console": "off"},
    }
    assert axis == "*"
    assert rest == [
        ("log", {"step": 1, "loss": 0.5}),
        ("log", {"step": 1, "samples": ("image", str(file))}),
        ("finish", {}),
    ]


def test_a_run_that_goes_on_is_the_same_run_and_another_folder_another(
    tmp_path: Path, no_variables: pytest.MonkeyPatch
) -> None:
    fake = FakeWandB(logged_in=True)
    no_variables.setitem(sys.modules, "wandb", fake)  # pyrefly: ignore
    for name in ("a", "a", "b"):
        wandb(tmp_path / name, {})
    one, again, other = [options["id"] for call, options in fake.calls if call == "init"]
    assert one == again != other


@pytest.mark.parametrize(
    ("logged_in", "variables", "mode", "project"),
    [
        (False, {}, "offline", "apd-train"),
        (False, {"WANDB_MODE": "online"}, "offline", "apd-train"),
        (False, {"WANDB_MODE": "disabled"}, None, "apd-train"),
        (True, {"WANDB_PROJECT": "cats"}, None, "cats"),
    ],
)
def test_wandb_never_asks_for_a_key_and_its_own_variables_hold(
    logged_in: bool,
    variables: dict[str, str],
    mode: str | None,
    project: str,
    tmp_path: Path,
    no_variables: pytest.MonkeyPatch,
) -> None:
    fake = FakeWandB(logged_in)
    no_variables.setitem(sys.modules, "wandb", fake)  # pyrefly: ignore
    for name, value in variables.items():
        no_variables.setenv(name, value)
    wandb(tmp_path, {})
    assert (fake.calls[0][1]["mode"], fake.calls[0][1]["project"]) == (mode, project)
