"""Processes of `apps/experiments` whose parent is killed end too."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app_runner import ROOT

SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {app!r}]
from experiment_jobs import Job, run_jobs
from experiment_setting import Setting
from made_up_jobs import double
if __name__ == "__main__":
    jobs = [Job(name, double, {{"name": name, "value": 1, "seconds": 600}}) for name in ("a", "b", "c")]
    run_jobs(jobs, Setting(True, Path(sys.argv[1])), 2, "")
"""


def processes_that_name(text: str) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (place / "environ").read_bytes():
                found.append(int(place.name))
        except OSError:
            pass
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="tells processes apart by /proc")
def test_no_process_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "some_jobs.py"
    script.write_text(SCRIPT.format(tests=str(ROOT / "tests"), app=str(ROOT / "apps" / "experiments")))
    mark = f"JOBS_OF={tmp_path}"
    environment = {**os.environ, "JOBS_OF": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path / "work")], env=environment)
    try:
        until = time.monotonic() + 120
        while not (noted := tmp_path / "work" / "noted").exists() or len(noted.read_text().split()) < 2:
            assert parent.poll() is None
            assert time.monotonic() < until
            time.sleep(0.2)
        assert len(processes_that_name(mark)) >= 3
        parent.kill()
        parent.wait()
        until = time.monotonic() + 20
        while processes_that_name(mark):
            assert time.monotonic() < until, "processes wait for jobs that nobody gives them"
            time.sleep(0.2)
    finally:
        parent.kill()
        for left in processes_that_name(mark):
            os.kill(left, signal.SIGKILL)
