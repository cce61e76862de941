"""`apps/experiments` on images of one's own, and what a kept result is of."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parents[2] / "apps" / "experiments"))  # apps are folders of flat modules
import experiment_jobs
from experiment_jobs import Job, run_jobs
from experiment_program import program
from experiment_setting import Setting

from app_runner import app_here, assert_refused
from made_up_jobs import double, noted


def images_in(folder: Path, count: int, classes: int, grey: int = 0) -> Path:
    for k in range(count):
        file = folder / (f"class-{k % classes}" if classes else "") / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), (k + grey) % 256, np.uint8)).save(file)
    return folder


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize(
    ("count", "classes", "message"),
    [
        (0, 0, "data none does not exist"),
        (210, 0, "none has no classes, and tables draw by class: put images into a folder for each"),
        (20, 2, "none has 20 images: a table takes 200 at least, of which some are held out"),
    ],
)
def test_images_of_which_no_table_can_be_made(
    count: int, classes: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images_in(Path("none"), count, classes)
    asked = ("made-up", "--quick", "--data", "none", "--size", 8, "--work", "work")
    assert_refused(app_here("experiments", *asked), message)
    assert not Path("work").exists()


@pytest.mark.usefixtures("here", "tables")
def test_what_was_kept_of_some_images_is_not_taken_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ("made-up", "--quick", "--size", 8, "--work", "work", "--overwrite", "--data")
    for grey in (0, 7):
        images_in(Path("there"), 210, 2, grey)
        done = app_here("experiments", *asked, "there")
        assert done.returncode == 0, done.stderr
        assert "made-up-there-8.json" in done.stdout
    assert len({*Path("work").glob("there-8-*-quick")}) == 2
    assert app_here("experiments", *asked, "there").returncode == 0
    assert len(noted(Setting(True, Path("work")))) == 4


@pytest.mark.usefixtures("here")
def test_another_program_does_its_jobs_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting, jobs = Setting(True, tmp_path), [Job("a", double, {"name": "a", "value": 1})]
    run_jobs(jobs, setting, 1, "")
    monkeypatch.setattr(experiment_jobs, "program", lambda work: "another")
    run_jobs(jobs, setting, 1, "")
    run_jobs(jobs, setting, 1, "")
    assert noted(setting) == ["a", "a"]


PLAIN = """
from functools import cache
from program_other import far

STEPS = 3

def work(setting):
    return near(STEPS)

@cache
def near(count):
    return far(count) + 1

def page(record):
    return "a page"
"""
OTHER = """
class Deep:
    def more(self):
        return 1

def far(count):
    return count + Deep().more()
"""
CHANGES: dict[str, tuple[str, str, bool]] = {
    "nothing": ("", "", False),
    "comment": ("    return near", "    # why\n\n    return near", False),
    "docstring": ("def near(count):\n", 'def near(count):\n    """What it is."""\n', False),
    "page": ("a page", "another page", False),
    "itself": ("near(STEPS)", "near(2 * STEPS)", True),
    "called": (") + 1", ") + 2", True),
    "constant": ("STEPS = 3", "STEPS = 4", True),
    "class afar": ("return 1", "return 2", True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_program_is_all_that_it_reaches(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no word that is only read."""
    old, new, differs = CHANGES[change]
    digests = []
    for name, texts in (("one", (PLAIN, OTHER)), ("two", [text.replace(old, new) for text in (PLAIN, OTHER)])):
        folder = tmp_path / name
        folder.mkdir()
        with monkeypatch.context() as patched:
            patched.syspath_prepend(folder)
            for module in ("program_plain", "program_other"):
                patched.delitem(sys.modules, module, raising=False)
            for module, text in zip(("program_plain", "program_other"), texts, strict=True):
                (folder / f"{module}.py").write_text(text)
            made: ModuleType = __import__("program_plain")
            digests.append(program(made.work))
            for module in ("program_plain", "program_other"):
                patched.delitem(sys.modules, module, raising=False)
    assert (digests[0] != digests[1]) == differs
