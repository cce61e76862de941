"""Make a table of docs/results.md anew: `uv run apps/experiments NAME`.

  uv run apps/experiments levels --quick
  uv run apps/experiments levels --jobs 8
  uv run apps/experiments length --data FOLDER --size 32

A table is made of jobs: models that are trained, and measurements of them. Each runs on one thread, so many at once as
there are cores, and its result is kept: whatever ends the command, the same one goes on; a training loses 256 steps at
most. Tables share models. Where torch sees a GPU it is used, by one job at a time unless --jobs says more;
CUDA_VISIBLE_DEVICES= keeps to the CPU.
"""

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

# A job a core: processes inherit it before they import torch.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

if os.environ.get("APD_CHECK") == "1":  # shapes and types at every call; must precede the imports
    from jaxtyping import install_import_hook

    packages = ["apd_schedules", "apd_samplers", "apd_models", "apd_generate", "apd_metrics", "apd_train"]
    install_import_hook(packages, "beartype.beartype")

import torch
import tyro
from experiment_jobs import Done, Job, StoppedError, merged, run_jobs
from experiment_plots import png
from experiment_setting import Setting
from experiment_table import Table
from experiment_tables import ALL, TABLES, page_of
from rich.console import Console

from apd_generate import written_aside
from apd_train import DataError
from apd_train.app import UsageError, run_app


@dataclass(frozen=True)
class Options:
    table: tyro.conf.Positional[str]
    """Which one, see the list above; or all, but for length and mixtures, which train 9 and 27 models for longer."""
    quick: bool = False
    """A small version in a few minutes: that all works. Its numbers say nothing."""
    seeds: int | None = None
    """Training seeds of each model, where a table has several: levels, length, mixtures, solvers, reasoning, and some
    rows of conversion. By default 3; 1 with --quick."""
    jobs: int | None = None
    """Processes, a thread each. By default as many as there are cores; 1 on a GPU."""
    data: Path | None = None
    """Images instead of the embedded animals: what apps/train takes as --data, a folder for each class."""
    size: int = 28
    """Side of the square images in pixels, a multiple of 4."""
    work: Path = Path("runs/experiments")
    """Folder that keeps trained models and results of jobs."""
    out: Path | None = None
    """A .json file for the table, or a folder for NAME.json (of --data NAME-IMAGES.json); Markdown and pictures go
    beside it. By default the folder of the images in --work. Those of the documentation are in docs/results."""
    overwrite: bool = False
    """Replace files of --out that are there."""


def experiment(options: Options) -> None:
    tables = [
        table for table in TABLES.values() if options.table == table.name or (options.table == ALL and table.in_all)
    ]
    if not tables:
        rest = " and ".join(table.name for table in TABLES.values() if not table.in_all)
        raise UsageError(
            f"there is no table {options.table!r}: name one of {', '.join(TABLES)}, or {ALL} for all but {rest}"
        )
    setting, seeds = setting_of(options, tables), options.seeds or (1 if options.quick else 3)
    outs = {table.name: out_of(options, table, setting) for table in tables}
    console = Console(soft_wrap=True, markup=False, highlight=False)
    commit, processes = commit_of(), options.jobs or (1 if torch.cuda.is_available() else len(os.sched_getaffinity(0)))
    make(outs, setting, seeds, processes, commit, console)


def make(outs: Mapping[str, Path], setting: Setting, seeds: int, processes: int, commit: str, console: Console) -> None:
    """Does what is left of tables, all their jobs in one queue, and writes each table when its last job is done.

    Args:
        outs: file of each, by its name.

    Raises:
        UsageError: a table could not be written. The jobs of the others are done all the same, and they are written.
    """
    jobs_of, start = {name: TABLES[name].jobs(setting, seeds) for name in outs}, time.perf_counter()
    jobs, done, teller = merged(jobs_of.values()), dict[str, Done](), Teller(console)
    console.print(f"{', '.join(outs)}: {len(jobs)} jobs in {processes} processes; kept in {setting.folder}")
    waiting, failed = dict(jobs_of), list[Exception]()

    def told(job: Job, one: Done, left: int) -> None:
        teller(job, one, left)
        done[job.name] = one
        for name in [name for name, of in waiting.items() if all(each.name in done for each in of)]:
            found = {each.name: done[each.name] for each in waiting.pop(name)}
            try:
                text = finish(TABLES[name], outs[name], setting, seeds, found)
            except Exception as error:  # hours of jobs of other tables may be left
                failed.append(error)
                console.print(f"{name} is not written, the rest goes on: {error}")
            else:
                shown = [text] if len(outs) == 1 else []  # of many tables the pages are too much to read there
                console.print(*shown, f"{_minutes(found.values())} of jobs → {outs[name]}", sep="\n")

    try:
        run_jobs(jobs, setting, processes, commit, told)
    except StoppedError as error:
        print(f"apps/experiments: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    if failed:
        raise failed[0]
    console.print(f"{_minutes(done.values())} of jobs in all, {(time.perf_counter() - start) / 60:.0f} now")


def _minutes(done: Iterable[Done]) -> str:
    return f"{sum(each.seconds for each in done) / 60:.0f} minutes"


def finish(table: Table, out: Path, setting: Setting, seeds: int, done: Mapping[str, Done]) -> str:
    """Writes a table whose jobs are all done. Returns its page."""
    results = {name: each.result for name, each in done.items()}
    record = {
        "format": "apd-experiments",
        "version": 1,
        "table": table.name,
        "quick": setting.quick,
        "command": shlex.join(["uv", "run", "apps/experiments", *sys.argv[1:]]),
        "images": setting.name,
        "seeds": [*range(seeds)],
        "commits": sorted({each.commit for each in done.values()}),
        "machines": sorted({each.machine for each in done.values()}),
        "python": platform.python_version(),
        "packages": {each: version(each) for each in PACKAGES},
        "seconds_of_jobs": round(sum(each.seconds for each in done.values())),
        **table.record(setting, seeds, results),
    }
    text = page_of(record)
    pictures = {name: draw(results) for name, draw in table.pictures.items()}
    write(out, record, text, pictures if (figure := png(record)) is None else {"": figure, **pictures})
    return text


class Teller:
    """Says what is done, and how long the rest may take."""

    def __init__(self, console: Console) -> None:
        self._console, self._begun = console, time.perf_counter()
        self._found = self._fresh = 0

    def __call__(self, job: Job, done: Done, left: int) -> None:
        if not done.fresh:
            self._found += 1
            return
        self._fresh += 1
        pace = (time.perf_counter() - self._begun) / self._fresh
        found = f" ({self._found} were done before)" if self._found and self._fresh == 1 else ""
        self._console.print(
            f"{job.name}  {done.seconds:.0f} s, {left} jobs left, about {pace * left / 60:.0f} min{found}"
        )


def setting_of(options: Options, tables: Sequence[Table]) -> Setting:
    for name in ("seeds", "jobs"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}")
    if options.size < 8 or options.size % 4:
        raise UsageError(f"--size is a multiple of 4, at least 8, got {options.size}")
    if options.data is None and options.size != 28:
        raise UsageError("--size is of --data: the embedded animals have 28 pixels")
    if options.data is not None and (own := [table.name for table in tables if not table.data]):
        raise UsageError(f"--data is not for the tables that make their own images: {', '.join(own)}")
    if options.out is not None and options.out.suffix == ".json" and len(tables) > 1:
        raise UsageError(f"--out {options.out} is the file of one table: name a folder for {ALL}")
    setting = Setting(options.quick, options.work, options.data, options.size)
    return setting if options.data is None else replace(setting, digest=seen(setting, options.data))


def seen(setting: Setting, data: Path) -> str:
    """A digest of images, as far as 500 of them tell; refuses those that no table can be made of."""
    try:
        images = setting.source.load(setting.size)
    except DataError as error:
        raise UsageError(str(error)) from error
    if images.latents is not None:
        raise UsageError(f"{data} has latents: tables measure images, and draw their own")
    if not images.class_names:
        raise UsageError(f"{data} has no classes, and tables draw by class: put images into a folder for each")
    if len(images) < (least := setting.at(2000, 200)):
        raise UsageError(f"{data} has {len(images)} images: a table takes {least} at least, of which some are held out")
    some = images.squares([k * len(images) // 500 for k in range(500)])
    said = f"{len(images)} {images.class_names} {images.labels.tolist()}"
    return hashlib.sha256(said.encode() + some.numpy().tobytes()).hexdigest()[:8]


def out_of(options: Options, table: Table, setting: Setting) -> Path:
    name = table.name if options.data is None else f"{table.name}-{setting.name}"
    out = options.out or setting.folder
    if out.suffix in (".md", ".txt", ".png", ".csv"):
        raise UsageError(f"--out is a file named .json, or a folder, got {out}")
    if out.suffix != ".json":
        out = out / f"{name}.json"
    files = [out, out.with_suffix(".md"), *(picture_of(out, name) for name in ("", *table.pictures))]
    if found := [file for file in files if file.is_dir()]:
        raise UsageError(f"{found[0]} is a folder, and no file for the table")
    # what is in the folder --work can be made of kept jobs again
    if options.out is not None and not options.overwrite and (found := [file for file in files if file.exists()]):
        raise UsageError(f"{found[0]} is there already: pass --overwrite or another --out")
    there = next(folder for folder in out.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UsageError(f"{out} cannot be written: {there} is {'not writable' if there.is_dir() else 'a file'}")
    return out


def commit_of() -> str:
    """Of the code, with ``+`` where files differ from it but for those of tables; empty outside of a repository."""
    run = lambda *words: subprocess.run(
        ["git", *words], capture_output=True, text=True, check=True, cwd=HERE
    ).stdout.strip()
    try:
        changed = run("status", "--porcelain", "--", ":/", f":(top,exclude){RESULTS}", f":(top,exclude){LOCK}")
        # uv completes the lock in place: it differs where its pins do, which the filter of .gitattributes tells
        pins = run("-c", f"filter.neutral-lock.clean={FILTER}", "diff", "HEAD", "--name-only", "--", f":/{LOCK}")
        return run("rev-parse", "HEAD")[:12] + "+" * bool(changed or pins)
    except (OSError, subprocess.CalledProcessError):
        return ""


def write(out: Path, record: Mapping[str, Any], text: str, pictures: Mapping[str, bytes]) -> None:
    """All files or, where one of them cannot be written, none."""
    files = {picture_of(out, name): content for name, content in pictures.items()}
    files |= {
        out.with_suffix(".md"): text.encode(),
        out: (json.dumps(record, indent=1, allow_nan=False) + "\n").encode(),
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            for aside, content in [(stack.enter_context(written_aside(file)), files[file]) for file in files]:
                aside.write_bytes(content)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from error


def picture_of(out: Path, name: str) -> Path:
    return out.with_name(f"{out.stem}{name}.png")


HERE = Path(__file__).parent
RESULTS = Path("docs/results")
LOCK, FILTER = "uv.lock", f"{shlex.quote(sys.executable)} tools/neutral_lock.py"
PACKAGES = ("torch", "apd-schedules", "apd-samplers", "apd-models", "apd-generate", "apd-metrics", "apd-train")
DESCRIPTION = f"{__doc__}\nTables:\n" + "\n".join(f"  {name}: {table.question}" for name, table in TABLES.items())

if __name__ == "__main__":
    run_app("apps/experiments", Options, experiment, DESCRIPTION, sys.argv[1:])
