"""A short run that several tests look at, and pictures that cost little."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from app_runner import SMALL, app


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default recipe with a small transformer, cut to 20 steps of few images, in a process of its own."""
    of_all = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the processes that test share it: who comes second waits
        of_all = of_all.parent
    out = of_all / "short" / "run"
    out.parent.mkdir(exist_ok=True)
    with (out.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "samples.png").exists():
            done = app("train", "--steps", 20, "--batch-size", 32, *SMALL, "--out", out)
            assert done.returncode == 0, done.stderr
            assert "10000 images (0 unreadable ones skipped) of 28×28 pixels, grey, 10 classes" in done.stdout
            assert "step 20/20" in done.stdout
    return out


@pytest.fixture(scope="module", autouse=True)
def pictures_of_few_steps() -> Iterator[None]:
    """At the end of runs in this process: those of ``short_run`` are drawn in as many as a user's."""
    with patch("apd_train.showcase.STEPS", 4):
        yield


@pytest.fixture
def here() -> Iterator[None]:
    """Jobs of ``apps/experiments`` are done in this process."""
    import made_up_jobs

    with patch("experiment_jobs.ProcessPoolExecutor", made_up_jobs.Here):
        yield


@pytest.fixture
def tables() -> Iterator[None]:
    """``apps/experiments`` has the tables of next to nothing too."""
    from experiment_tables import TABLES

    from made_up_jobs import OWN, TABLE

    with patch.dict(TABLES, {each.name: each for each in (TABLE, OWN)}):
        yield
