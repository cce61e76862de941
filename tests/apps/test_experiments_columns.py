"""The columns that tables of training have in common, and the tables of laws, lengths and mixtures."""

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

sys.path.append(str(Path(__file__).parents[2] / "apps" / "experiments"))  # apps are folders of flat modules
import experiment_columns as columns
import experiment_measures as measures
import table_length
import table_levels
import table_mixtures
from experiment_jobs import carry_out, run_jobs
from experiment_kid import apart, mean_pulled, over_models, pulls
from experiment_laws import DEFAULT, LAWS, LENGTHS, LONG_DEFAULT, MIXTURES, MODELS, longer
from experiment_models import Model, divided
from experiment_plots import png
from experiment_setting import Setting
from experiment_table import Table, number

from apd_generate import MASK_FAMILIES, Recipe
from apd_metrics import kernel_distance
from apd_models import DiT, DiTConfig, Patchify, Pretrained
from apd_train import Animals28, TrainConfig, read_metrics
from made_up_columns import FLOORS, result

SETTING = Setting(True, Path("nowhere"))
OF_LAWS = [table_levels.TABLE, table_length.TABLE, table_mixtures.TABLE]
TABLES = pytest.mark.parametrize("table", OF_LAWS, ids=lambda each: each.name)


def test_differences_are_paired() -> None:
    """What two models have in common is not in the error of their difference."""
    one, other = result(0.25, 0), result(0.0, 0)
    for name in columns.COLUMNS:
        found = columns.difference([one], [other], name)
        assert found.value == pytest.approx(0.25)
        assert found.standard_error == pytest.approx(0, abs=1e-9)
        of_one = columns.column([one], name)
        assert of_one.value - columns.column([other], name).value == pytest.approx(0.25)
        assert of_one.standard_error is not None
        assert of_one.standard_error > 0.1
    elsewhere = columns.difference([one], [result(0.0, 1)], "filled")
    assert elsewhere.standard_error is not None
    assert elsewhere.standard_error > 0.1
    parts = [one["filled"][name]["distance"] for name in MASK_FAMILIES]
    assert columns.column([one], "filled").value == pytest.approx(sum(map(sum, parts)) / 32)
    assert columns.column([one], "thin").value == pytest.approx(sum(one["filled"]["thin"]["distance"]) / 8)
    assert columns.column([one], "KID filled").value == pytest.approx(0.25 + 3 + 1.5)
    for wrong in ("FID", "bits/dim spiral", "loss"):
        with pytest.raises(ValueError, match=f"there is no column {wrong}, only KID, raster KID"):
            columns.column([one], wrong)


def test_the_mean_of_kernel_distances_has_the_error_of_their_common_images() -> None:
    draw = lambda count, seed: torch.randn(count, 5, generator=Generator().manual_seed(seed), dtype=torch.float64)
    y, x = draw(40, 0), draw(30, 1)

    one, two = _pulled(x, y), _pulled(2 * x, y)
    thrice = mean_pulled([one] * 3)
    assert (thrice["value"], thrice["standard_error"]) == pytest.approx((one["value"], one["standard_error"]))
    half = apart(mean_pulled([one, two]), one)
    assert half.value == pytest.approx((two["value"] - one["value"]) / 2)
    assert half.standard_error == pytest.approx((apart(two, one).standard_error or 0) / 2)
    assert over_models([one]).value == one["value"]
    assert over_models([one]).standard_error == pytest.approx(one["standard_error"], rel=0.1)
    assert over_models([two], [one]) == apart(two, one)
    same = over_models([one, one, one])  # models that draw the same images have no spread, and images count once
    assert same.standard_error == pytest.approx(one["standard_error"], rel=0.1)


def test_errors_over_seeds_and_images_are_their_spread() -> None:
    """Of kernel distances: models differ, images are the same for all of them, the reference is one."""
    y = torch.randn(60, 4, generator=Generator().manual_seed(99), dtype=torch.float64)
    found, apart_by = [], []
    for k in range(100):
        stream = Generator().manual_seed(k)
        draw = lambda *shape: torch.randn(*shape, generator=stream, dtype=torch.float64)  # noqa: B023
        common, models = draw(40, 4), []
        for _ in range(3):
            shift, own = 0.3 * draw(4), 0.5 * draw(40, 4)
            models.append([common + own + shift, common + own + shift + 0.4 + 0.2 * draw(4)])
        made = [[_pulled(x, y) for x in pair] for pair in models]
        found.append(over_models([pair[1] for pair in made]))
        apart_by.append(over_models([pair[1] for pair in made], [pair[0] for pair in made]))
    for estimates, within in ((found, 1.6), (apart_by, 1.4)):
        spread = float(torch.tensor([each.value for each in estimates]).std())
        said = math.sqrt(sum((each.standard_error or 0) ** 2 for each in estimates) / len(estimates))
        assert 1 / within < said / spread < within


def _pulled(features: torch.Tensor, reference: torch.Tensor) -> dict[str, Any]:
    of_images, of_reference = (each.tolist() for each in pulls(features, reference))
    estimate = kernel_distance(features, reference)
    told = {"value": estimate.value, "standard_error": estimate.standard_error}
    return {**told, "pulls": {"images": of_images, "reference": of_reference}}


def test_losses_and_bounds_are_of_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another image changes its own numbers, and no others."""
    images = torch.randint(256, (5, 1, 28, 28), generator=Generator().manual_seed(0)) / 127.5 - 1
    pretrained = Pretrained(DiT(DiTConfig((7, 7), 16, 8, 1, 2)).eval(), Patchify(28, 28, 1, 4), (), "random")

    def found(shown: torch.Tensor) -> list[torch.Tensor]:
        known = measures.Real(lambda *_: None, torch.zeros(0), None, shown, None, shown[0])  # pyrefly: ignore
        monkeypatch.setattr(columns, "real", lambda setting: known)
        losses = columns.losses(pretrained, SETTING, looks=3)
        bits = columns.bits_per_dim(pretrained, SETTING, count=5, points=2)
        assert [*losses, *bits] == ["shared", "fronts", "context", "synchronous", "raster", "quad"]
        return [torch.tensor(each) for each in (*losses.values(), *bits.values())]

    other = images.clone()
    other[2] = 1.0
    for one, changed in zip(found(images), found(other), strict=True):
        assert one.shape == (5,)
        assert bool((one > 0).all())
        assert ((one - changed).abs() > 1e-4).tolist() == [False, False, True, False, False]


def test_classes_are_as_often_as_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)
    known = measures.Real(lambda *_: None, torch.zeros(0), labels, torch.zeros(0), None, torch.zeros(0))  # pyrefly: ignore
    monkeypatch.setattr(measures, "real", lambda setting: known)
    found = measures.classes(range(200), SETTING)
    assert found is not None
    assert (found.bincount() - torch.tensor([140, 40, 20])).abs().max() <= 2
    later = measures.classes(range(50, 60), SETTING)
    assert later is not None
    assert torch.equal(later, found[50:60])  # a seed's class is its own
    monkeypatch.setattr(measures, "real", lambda setting: known.__class__(*[None] * 6))  # pyrefly: ignore
    assert measures.classes(range(3), SETTING) is None


def test_no_image_is_measured_that_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few images, training holds out fewer than 500."""
    images = Animals28().load(28)
    few = images.subset(range(0, len(images), len(images) // 300))
    monkeypatch.setattr(Animals28, "load", lambda source, size: few)
    training, held_out = divided(SETTING)
    assert len(held_out) <= len(few) // 20 < 500
    seen = lambda some: {some.squares([k]).numpy().tobytes() for k in range(len(some))}
    assert not seen(training) & seen(held_out)
    from apd_train._model import divided_images

    trained_on, _ = divided_images(Model(DEFAULT).config(SETTING), few)
    assert seen(trained_on) == seen(training)


def test_a_training_that_is_found_done_says_how_long_it_took(tmp_path: Path) -> None:
    setting, model = Setting(True, tmp_path), Model(DEFAULT)
    job = model.job(setting)
    first = carry_out(job, setting, {"job": job.name}, "")
    log = model.folder(setting) / "metrics.jsonl"
    # as many bytes as before: what is longer than when the run ended is cut off where it goes on
    log.write_text(re.sub(r'(?<="seconds": )[\d.]+', lambda digits: "9" * len(digits[0]), log.read_text()))
    later = max(line["seconds"] for line in read_metrics(log.parent) if "seconds" in line)
    again = carry_out(job, setting, {"job": job.name}, "")
    assert again.result == first.result
    assert first.seconds < later == again.seconds
    assert json.loads(job.file(setting).read_text())["seconds"] == later


def made_up(table: Table, seeds: int) -> dict[str, Any]:
    names = {*LAWS, *map(longer, (*LENGTHS, *MIXTURES))}
    bad = lambda name: 0.0 if name in ("shared-logit-normal", "long-synchronous") else 0.5
    made = {f"columns/{name}-{seed}": result(bad(name) + seed, seed) for name in names for seed in range(seeds)}
    ways = lambda kid: {way: {"kid": {**kid, "value": kid["value"] + k}} for k, way in enumerate(table_mixtures.WAYS)}
    in_ways = {name.replace("columns", "mixtures"): ways(of["kid"]) for name, of in made.items()}
    return {**made, **in_ways, "floors/kid": FLOORS}


def drawn(record: dict[str, Any]) -> bool:
    """A figure was, and the same again."""
    figure = png(record)
    return figure is not None and figure[:4] == b"\x89PNG" and png(record) == figure


@TABLES
@pytest.mark.parametrize("seeds", [1, 3])
def test_differences_are_seed_by_seed(table: Table, seeds: int) -> None:
    record = json.loads(json.dumps(table.record(SETTING, seeds, made_up(table, seeds)), allow_nan=False))
    for row in record["rows"]:
        for name in columns.COLUMNS:
            assert len(row["of_seeds"][name]) == seeds
            assert row["minus_bar"][name]["value"] == pytest.approx(0.0 if row["law"] == record["bar"] else 0.5)
            assert row["minus_bar"][name]["standard_error"] == pytest.approx(0, abs=1e-9)
    assert drawn({**record, "table": table.name})
    page = table.page({**record, "seeds": [*range(seeds)]})
    assert ("95 % is 4.3 errors" in page, "With one seed they are over images" in page) == (seeds == 3, seeds == 1)
    assert "KID of 500 held-out images 0.100 ± 0.010" in page
    assert page.count(f"\n| {DEFAULT}") == {"levels": 2, "length": 4, "mixtures": 3}[table.name]


@pytest.mark.parametrize("seeds", [1, 3])
def test_what_mixtures_draw_is_paired_too(seeds: int) -> None:
    record = table_mixtures.record(SETTING, seeds, made_up(table_mixtures.TABLE, seeds))
    for row in record["rows"]:
        behind = 0.0 if row["law"] == record["bar"] else 0.5
        differing = [*row["minus_default"].values(), *(told["minus_default"] for told in row["drawn"].values())]
        assert [told["value"] for told in differing] == pytest.approx([behind - 0.5] * len(differing))
        for k, told in enumerate(row["drawn"].values()):
            assert told["kid"]["value"] == pytest.approx(1.0 + behind + k + (seeds - 1) / 2)
            assert told["minus_bar"] == {"value": pytest.approx(behind), "standard_error": pytest.approx(0, abs=1e-9)}
            assert told["of_seeds"] == pytest.approx([1.0 + behind + k + seed for seed in range(seeds)])
    page = table_mixtures.page({**record, "seeds": [*range(seeds)]})
    line = next(line for line in page.splitlines()[::-1] if line.startswith(f"| {DEFAULT}"))
    assert [cell.split(" ± ")[0] for cell in line.split(" | ")[1::2]] == [
        number(told["kid"]).split(" ± ")[0]
        for told in next(row for row in record["rows"] if row["law"] == DEFAULT)["drawn"].values()
    ]


def test_mixtures_are_drawn_as_by_default_too() -> None:
    network = DiT(DiTConfig((7, 7), 16, 8, 1, 2, classes=3))
    resolved = [recipe.resolved(network) for recipe in table_mixtures.WAYS.values()]
    assert Recipe().resolved(network) in resolved
    assert all(recipe.eta == 1 for recipe in resolved)


def test_the_default_is_the_librarys() -> None:
    full = Setting(False, Path())
    for law in (LAWS[DEFAULT], MODELS[LONG_DEFAULT](full).levels):
        assert repr(law((7, 7))) == repr(TrainConfig(data=Animals28(), image_size=28).levels((7, 7)))


def test_lengths_compare_what_differs_in_levels_alone() -> None:
    full = Setting(False, Path())
    for names in (LENGTHS, [longer(law) for law in LENGTHS], [longer(law) for law in MIXTURES]):
        configs = [MODELS[name](full) for name in names]
        assert len({config.steps for config in configs}) == 1
        assert len({config.levels for config in configs}) == len(configs)
        alike = {repr(replace(config, levels=configs[0].levels, error_head=False)) for config in configs}
        assert len(alike) == 1  # a head changes nothing else: see tests/train/test_error_head.py


@pytest.mark.slow
@TABLES
def test_the_tables_in_small(table: Table, tmp_path: Path) -> None:
    setting = Setting(True, tmp_path)
    done = run_jobs(table.jobs(setting, 1), setting, 2, "")
    record = table.record(setting, 1, {name: each.result for name, each in done.items()})
    for row in json.loads(json.dumps(record, allow_nan=False))["rows"]:
        for name in columns.COLUMNS:
            assert math.isfinite(row["over_seeds"][name]["value"])
            assert row["over_seeds"][name]["standard_error"] > 0
    assert "nan" not in table.page({**record, "seeds": [0]})
