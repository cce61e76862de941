"""Jobs that do next to nothing, and a table of them: spawned processes import them. Started as a script, this is
`apps/experiments` with that table."""

import os
import runpy
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "apps" / "experiments"))  # apps are folders of flat modules
from experiment_jobs import Job
from experiment_setting import Setting
from experiment_table import Results, Table, grid, number


class Here:
    """A pool of no processes: work is done at once, in this one."""

    def __init__(self, *args: object) -> None: ...

    def submit(self, act: Callable[..., Any], *args: Any) -> Future[Any]:
        future = Future[Any]()
        try:
            future.set_result(act(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, **options: object) -> None: ...


def noted(setting: Setting) -> list[str]:
    """Names of the jobs that were done, in the order in which they began."""
    file = setting.work / "noted"
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def note(setting: Setting, name: str) -> None:
    setting.work.mkdir(parents=True, exist_ok=True)
    with (setting.work / "noted").open("a", encoding="utf-8") as file:
        file.write(f"{name}\n")


def double(setting: Setting, name: str, value: float, seconds: float = 0.0) -> Mapping[str, Any]:
    note(setting, name)
    time.sleep(seconds)
    return {"value": 2 * value}


def parity(setting: Setting, name: str, value: int) -> Mapping[str, Any]:
    """Two values may have one result."""
    note(setting, name)
    return {"value": value % 2}


def fail(setting: Setting, name: str) -> Mapping[str, Any]:
    note(setting, name)
    raise ArithmeticError("made to fail")


def die(setting: Setting, name: str) -> Mapping[str, Any]:
    """The first time; later it is done."""
    before = noted(setting)
    note(setting, name)
    if name not in before:
        os.abort()
    return {"value": 0}


def jobs(setting: Setting, seeds: int) -> Sequence[Job]:
    """Two chains for each seed."""
    found = []
    for seed in range(seeds):
        seconds = setting.at(0.4, 0.0)
        first = Job(f"made-up/first-{seed}", double, {"name": f"first-{seed}", "value": seed, "seconds": seconds})
        given = {"name": f"second-{seed}", "value": seed + 0.25, "seconds": seconds}
        found += [first, Job(f"made-up/second-{seed}", double, given, (first.name,))]
    return found


def record(setting: Setting, seeds: int, results: Results) -> Mapping[str, Any]:
    rows = [[results[f"made-up/{name}-{seed}"]["value"] for name in ("first", "second")] for seed in range(seeds)]
    return {"rows": rows}


def page(record: Mapping[str, Any]) -> str:
    return grid(["first", "second"], [[number({"value": value}) for value in row] for row in record["rows"]])


TABLE = Table(
    "made-up", "Does the app do what it says?", jobs, record, page, pictures={"-more": lambda results: b"a picture"}
)
OWN = Table("own", "Of images that it makes itself", jobs, record, page, data=False)

if __name__ == "__main__":
    import experiment_tables

    import made_up_jobs  # by its name, under which spawned processes know it

    experiment_tables.TABLES[TABLE.name] = made_up_jobs.TABLE
    runpy.run_path(str(Path(__file__).parents[1] / "apps" / "experiments"), run_name="__main__")
