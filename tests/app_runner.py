"""Runs an app as a user does, in a process of its own or, faster, in this one."""

import os
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

import torch

ROOT = Path(__file__).parents[1]
SMALL = ("--width", 16, "--depth", 1, "--heads", 2)
"""Of ``apps/train``: a transformer whose pictures, at the end, are drawn in a second."""


def app(name: str, *arguments: object, **environment: str) -> CompletedProcess[str]:
    """In a process of its own, with one thread."""
    command = [sys.executable, str(ROOT / "apps" / name), *map(str, arguments), "--threads", "1"]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, **environment}, check=False
    )


def app_here(name: str, *arguments: object) -> CompletedProcess[str]:
    """In this process: the imports, which take seconds, are done once."""
    command = [str(ROOT / "apps" / name), *map(str, arguments)]
    out, complaint, status, threads = StringIO(), StringIO(), 0, torch.get_num_threads()
    with redirect_stdout(out), redirect_stderr(complaint), patch.object(sys, "argv", command):
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        finally:
            torch.set_num_threads(threads)
    return CompletedProcess(command, status, out.getvalue(), complaint.getvalue())


def assert_refused(done: CompletedProcess[str], message: str) -> None:
    """One line that says what was wrong, and status 2."""
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert message in done.stderr
