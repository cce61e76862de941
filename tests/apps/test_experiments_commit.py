"""By which code `apps/experiments` says that a table was made."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from app_runner import ROOT

sys.path.append(str(ROOT / "apps" / "experiments"))  # apps are folders of flat modules


def test_the_commit_says_whether_code_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of tables are no code: a table after another one is made by the same commit."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # the module sets them
    spec = importlib.util.spec_from_file_location("experiments_app", ROOT / "apps" / "experiments" / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    app = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "experiments_app", app)
    spec.loader.exec_module(app)
    here, results = tmp_path / "apps", tmp_path / "docs" / "results"
    monkeypatch.setattr(app, "HERE", here)
    here.mkdir()
    results.mkdir(parents=True)
    assert app.commit_of() == ""
    (here / "code.py").write_text("1")
    (tmp_path / "tools").mkdir()
    for name in ("tools/neutral_lock.py", ".gitattributes"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    told = subprocess.run(
        [sys.executable, ROOT / "tools" / "neutral_lock.py"],
        input=(ROOT / "uv.lock").read_bytes(),
        capture_output=True,
        check=True,
    )
    lock, pins = tmp_path / "uv.lock", told.stdout.decode()
    lock.write_text(pins)
    (results / "t.json").write_text("1")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(tmp_path)]
    for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "m")):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout[:12]
    assert app.commit_of() == head
    (results / "t.json").write_text("2")
    (results / "new.json").touch()
    assert app.commit_of() == head
    lock.write_text((ROOT / "uv.lock").read_text().replace("revision = ", "revision = 1"))
    assert app.commit_of() == f"{head}+"
    lock.write_text(f"{pins}\n[[package.wheels]]\nsize = 1\n")
    assert app.commit_of() == head  # completed by uv
    (tmp_path / "other.py").touch()
    assert app.commit_of() == f"{head}+"
