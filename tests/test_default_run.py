"""What `uv run apps/train` promises, measured by running it: about a quarter of an hour on two cores."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from animals28 import measure

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
    found: dict[str, Any] = {
        "seconds": round(seconds, 1),
        "heldout_loss": [losses[0], losses[-1]],
        **measure(tmp_path / "model"),
    }
    (tmp_path / "measured.json").write_text(json.dumps(found, indent=2) + "\n")
    assert found["classifier_accuracy_on_held_out"] > 0.97
    assert found["recognised"]["synchronous"]["accuracy"] >= 0.7
    assert found["recognised"]["raster, 16 cells"]["accuracy"] >= 0.7
    for name, half in found["completed"].items():
        if name.endswith("half shown"):
            assert half["shown_pixels_bit_equal"]
            assert half["between_two_seeds"] > 0.01
            assert half["native"] < half["mean_image"], name
            assert half["native"] < half["replacement"], name
