"""Signals that end a run: remembered once, at once the second time."""

import signal
import subprocess
import sys

import pytest

from apd_train._signals import HEEDED, Signals


@pytest.mark.parametrize("number", HEEDED)
def test_the_first_one_is_remembered_and_handlers_are_put_back(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in HEEDED}
    with Signals() as signals:
        assert signals.asked is None
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)  # within a second: from a launcher that passes on what was sent to all
        assert signals.asked is number
    assert {each: signal.getsignal(each) for each in HEEDED} == before


def test_a_second_ctrl_c_interrupts() -> None:
    with Signals() as signals:
        signal.raise_signal(signal.SIGTERM)
        signals._time -= 2  # two seconds pass
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_a_second_one_ends_the_process(number: signal.Signals) -> None:
    script = f"""
import os, sys
from apd_train._signals import Signals
with Signals() as signals:
    os.kill(os.getpid(), {int(number)})
    sys.stdout.write("first\\n"); sys.stdout.flush()
    signals._time -= 2
    os.kill(os.getpid(), {int(number)})
    sys.stdout.write("second\\n"); sys.stdout.flush()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("first\n", -number), done.stderr
