"""Checkpoints that two processes share, and that one wrote and two read, or the reverse."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from apd_train._checkpoint import Checkpoints
from run_states import assert_equal, learn, some_state

SCRIPT = Path(__file__).with_name("checkpoint_on_two.py")
CHECKS = [
    *(f"{name} reads one" for name in ("copied", "divided")),
    *("copied reads divided", "divided reads copied"),
    *("parts are held", "parts are held after an evaluation"),
    *(f"{what} fails" for what in ("writing", "renaming", "a file")),
    *("damage is seen", "another model is refused"),
]


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    """Copied (as DDP has it) and divided (FSDP2): each reads what one process, and the other, wrote; to the bit."""
    state = some_state(0)
    learn(state, range(3))
    Checkpoints(tmp_path / "one").save(3, state.tensors(), state.facts())
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(problem for _, problem in outputs)
    for rank, (output, _) in enumerate(outputs):
        assert output.splitlines() == [f"{rank} {check}" for check in CHECKS]
    for name in ("copied", "divided"):
        alone = some_state(2)
        checkpoints = Checkpoints(tmp_path / name)
        found = checkpoints.newest()
        assert found
        assert len([*found.path.glob("*.safetensors")]) == 2  # each process wrote its share
        checkpoints.load(found, alone.tensors())
        assert_equal(alone.tensors(), state.tensors())
