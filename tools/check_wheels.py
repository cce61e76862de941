"""Builds the six wheels, and installs and imports each in an environment that is empty but for what it asks for.

uv neither checks the version ranges between members of a workspace nor keeps a member from importing what it does not
declare; a fresh environment does both.
"""

import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEEDS = {  # each package with those of the others that it brings along
    "apd-schedules": [],
    "apd-samplers": ["apd-schedules"],
    "apd-models": ["apd-schedules"],
    "apd-generate": ["apd-models", "apd-samplers", "apd-schedules"],
    "apd-metrics": [],
    "apd-train": ["apd-generate", "apd-models", "apd-samplers", "apd-schedules"],
}


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True)
    return done.stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        dist = Path(folder) / "dist"
        run("uv", "build", "--quiet", "--all-packages", "--no-sources", "--wheel", "--out-dir", dist)
        for package, needs in NEEDS.items():
            environment = Path(folder) / package
            python = environment / "bin" / "python"
            run("uv", "venv", "--quiet", environment)
            (wheel,) = dist.glob(f"{package.replace('-', '_')}-*.whl")
            run("uv", "pip", "install", "--quiet", "--python", python, "--find-links", dist, wheel)
            run("uv", "pip", "check", "--quiet", "--python", python)
            ours = [name.replace("-", "_") for name in (package, *needs)]
            code = (
                "import importlib, importlib.util as u, sys\n"
                f"for name in {ours}: importlib.import_module(name)\n"
                f"present = [n for n in {[n.replace('-', '_') for n in NEEDS]} if u.find_spec(n)]\n"
                f"assert sorted(present) == {sorted(ours)}, present\n"
            )
            if package == "apd-train":
                code += "import apd_train; assert len(apd_train.load_animals28()) == 10_000\n"
            run(python, "-c", code)
            print(f"{wheel.name}: installs alone, imports with {', '.join(needs) or 'none of the others'}")


if __name__ == "__main__":
    main()
