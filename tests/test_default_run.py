"""What `uv run apps/train` promises, measured by running it: about twenty minutes on two cores."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from apd_train import read_metrics

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_default_run_keeps_its_promises(tmp_path: Path) -> None:
    start = time.perf_counter()
    subprocess.run([sys.executable, str(ROOT / "apps" / "train"), "--out", str(tmp_path)], check=True)
    seconds = time.perf_counter() - start
    if (os.cpu_count() or 1) >= 2:
        assert seconds <= 12 * 60
    losses = [line["heldout_loss"] for line in read_metrics(tmp_path) if "heldout_loss" in line]
    assert losses[-1] <= 0.2 * losses[0]
    script = [sys.executable, str(ROOT / "benchmarks" / "animals28.py")]
    subprocess.run([*script, str(tmp_path / "model"), str(tmp_path / "measured.json")], check=True)
    found = json.loads((tmp_path / "measured.json").read_text())
    assert found["classifier_accuracy_on_held_out"] > 0.97
    assert found["recognised"]["synchronous"]["accuracy"] >= 0.7
    assert found["recognised"]["raster, 16 cells"]["accuracy"] >= 0.7
    between_tokens, half = (found[f"completed, {shown} of 28 shown"] for shown in (16, 14))
    sides = ("left", "right", "top", "bottom")
    for side in sides:
        for part in (between_tokens[side], half[side]):
            assert part["shown_pixels_bit_equal"]
            assert part["between_two_seeds"] > 0.01
            assert part["native"] < part["replacement"], side
        assert between_tokens[side]["native"] < between_tokens[side]["mean_image"], side
    assert sum(half[side]["native"] for side in sides) < sum(half[side]["mean_image"] for side in sides)
