"""A short run that several tests look at."""

import fcntl
import os
from pathlib import Path

import pytest

from app_runner import app


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default recipe, cut to 20 steps."""
    of_all = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the processes that test share it: who comes second waits
        of_all = of_all.parent
    out = of_all / "short" / "run"
    out.parent.mkdir(exist_ok=True)
    with (out.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "samples.png").exists():
            done = app("train", "--steps", 20, "--out", out)
            assert done.returncode == 0, done.stderr
            assert "10000 images (0 unreadable ones skipped) of 28×28 pixels, grey, 10 classes" in done.stdout
            assert "step 20/20" in done.stdout
    return out
