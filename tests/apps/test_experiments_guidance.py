"""The table of input guidance: its textures, what is held against what, and the whole of it in small."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "apps" / "experiments"))  # apps are folders of flat modules
import experiment_textures as of
import table_guidance as table
from experiment_completions import EACH
from experiment_jobs import run_jobs
from experiment_plots import png
from experiment_setting import Setting

from apd_train import DataError


def test_textures_repeat_themselves_after_one_of_the_periods() -> None:
    some = of.textures(300, 3)
    assert some.shape == (300, 28, 28)
    assert some.abs().max() <= 1
    for image in some:
        for each in (image, image.T):
            assert any(torch.equal(each[period:], each[:-period]) for period in of.PERIODS)
    flat = sum(float(image.std()) < 0.05 for image in some)
    assert flat < 15
    assert torch.equal(some, of.textures(300, 3))
    assert not torch.equal(some, of.textures(300, 4))


def test_every_kind_and_pair_of_periods_is_there() -> None:
    some = of.textures(2000, 0)
    shortest = lambda image: next(p for p in range(1, 9) if torch.equal(image[p:], image[:-p]))
    pairs = {(shortest(image), shortest(image.T)) for image in some[:300]}
    assert {(down, across) for down in of.PERIODS for across in of.PERIODS} <= pairs
    greys = torch.tensor([len(image.unique()) for image in some])
    smooth = (greys > 4).float().mean()  # sums of waves have more than two greys; a quarter of all is of them
    assert abs(float(smooth) - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 2000)


@pytest.mark.parametrize("mask", of.MASKS)
def test_what_is_shown_of_a_texture_tells_the_rest(mask: str) -> None:
    shown = of.shown(mask)
    assert shown.sum() == {"left": 16 * 28, "corner": 16 * 16}[mask]
    assert shown[:16, :16].all()
    for image in of.textures(300, 5)[:, None]:
        seen = torch.where(shown, image, torch.nan)
        assert torch.equal(of.continued(seen, mask), image)


def test_textures_are_images_without_classes_some_of_them_held_out() -> None:
    images = of.Textures(50).load(28)
    assert (len(images), images.class_names, images.channels) == (50, (), 1)
    assert (images.squares()[:, 0] - of.textures(50, 0)).abs().max() <= 1 / 255 + 1e-6
    with pytest.raises(DataError, match="textures have 28 pixels a side, not 32"):
        of.Textures().load(32)


def row(weight: float, level: float, steps: int, *distances: float) -> dict[str, Any]:
    told = {"weight": weight, "level": level, "steps": steps, "evaluations": 4, "recipe": {}}
    told |= {"known_pixels": 2, "differing": 0}
    kid = {"value": 0.1, "standard_error": 0.1, "pulls": {"images": [0.0, 1.0], "reference": [0.0, 2.0]}}
    columns = {name: [*distances] for name in EACH}
    return {**told, "kid": kid, **columns}


def test_the_best_weight_is_chosen_on_other_images_than_it_is_measured_on() -> None:
    rows = [row(0, 1, 8, 5, 5, 5, 6), row(1, 1, 8, 4, 7, 4, 9), row(2, 1, 8, 6, 1, 6, 1), row(3, 0.5, 8, 0, 0, 0, 0)]
    rows.append(row(0, 1, 16, 1, 6, 1, 8))  # of more steps, so no choice
    best = table.best(rows, "distance", least=True)
    assert best["weight"] == 1  # 2 is better on the second half of the images, 3 has another context
    assert best["minus"] == {"value": 2.5, "standard_error": pytest.approx(0.5)}
    assert best["minus_twice"] == {"value": 1.0, "standard_error": 0.0}
    assert table.best(rows, "psnr", least=False)["weight"] == 2


def made_up(setting: Setting) -> dict[str, Any]:
    distance = lambda weight, level: [10 + weight + level, 12 + weight + level, 20 + weight + level]
    results: dict[str, Any] = {}
    for which, some in table.ways(setting).items():
        rows = [row(*way, *distance(*way[:2])) for way in some]
        for family in table.FAMILIES:
            for sampler in table.SAMPLERS:
                results[f"guidance/{family}-{sampler}-{which}"] = {"rows": rows}
    rows = [row(*way, *distance(*way[:2])) for each in table.ways(setting).values() for way in each]
    for each in rows:
        each["found"] = [float(value >= table.GOOD) for value in each["psnr"]]
    floors = {name: {"psnr": [5.0, 7.0], "found": [0.0, 0.5]} for name in ("one grey", "nearest texture")}
    for mask in of.MASKS:
        results[f"guidance/textures-{mask}"] = {"rows": rows, "floors": floors, "determined": 3}
    return results


def test_differences_are_from_no_guidance() -> None:
    setting = Setting(False, Path())
    record = table.record(setting, 1, made_up(setting))
    assert len(record["completions"]) == len(table.FAMILIES) * len(table.SAMPLERS)
    for part in (*record["completions"], *record["textures"]):
        found = {(each["weight"], each["level"], each["steps"]): each for each in part["rows"]}
        assert len(found) == 8 + 1 + 6
        for (weight, level, _), each in found.items():
            assert each["minus"]["psnr"]["value"] == pytest.approx(weight + level - 1)
    left = record["textures"][0]
    assert [each["found"]["value"] for each in left["rows"]][:2] == [pytest.approx(1 / 3), pytest.approx(1 / 3)]
    assert left["rows"][7]["found"]["value"] == 1  # 21, 23, 31 dB
    assert left["best"]["weight"] == 10
    assert record["completions"][0]["best"]["weight"] == 0
    page = table.page(json.loads(json.dumps(record, allow_nan=False)))
    assert "| extrema, ancestral | 0 | 0 | 0 | distance |" in page
    assert "nearest texture has 6.0 ± 1.0 dB, found 0.25 ± 0.25; the shortest period" in page
    assert "| left, textures | 10 |" in page


@pytest.mark.slow
def test_the_table_in_small(tmp_path: Path) -> None:
    setting = Setting(True, tmp_path)
    jobs = table.jobs(setting, 1)
    done = run_jobs(jobs, setting, 2, "")
    record = json.loads(json.dumps(table.record(setting, 1, {name: each.result for name, each in done.items()})))
    json.dumps(record, allow_nan=False)
    for part in (*record["completions"], *record["textures"]):
        assert [(each["weight"], each["level"]) for each in part["rows"]] == [(0, 1), (1, 1), (10, 1), (0, 1), (1, 0.5)]
        for each in part["rows"]:
            both = 2 if part.get("sampler") == "guidance-2" else 1
            assert each["evaluations"] == each["steps"] * both * (2 if each["weight"] else 1)
            assert each["differing"] == 0
            assert math.isfinite(each["psnr"]["value"])
            assert each["pixel_diversity"]["value"] > 0
        assert part["rows"][0]["minus"]["psnr"]["value"] == 0
        assert all(each["minus"]["psnr"]["value"] != 0 for each in part["rows"][1:])  # the guidance does something
    assert all(part["determined"] == record["images"] for part in record["textures"])
    assert (png({**record, "table": "guidance"}) or b"")[:4] == b"\x89PNG"
    assert len(table.page(record).splitlines()) > 60
