"""Recipes: what they fill in, what they refuse, and that they come back from JSON."""

import dataclasses
import json
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, strategies as st

from apd_generate import Recipe, RecipeError
from apd_generate._build import path_of, schedule_of, scheduler_of, solver_of
from apd_generate._orders import turns_of
from apd_generate._recipe import NoiseScheduleName, OrderName, SchedulerName, SolverName
from apd_models import DiT, DiTConfig
from apd_samplers import DDIM, Adams, Churn, FollowPath, Heun, MostCertainFirst, Renoise, Restarts
from apd_schedules import raster, sequential


def a_model(**options: Any) -> DiT:
    return DiT(DiTConfig((4, 6), 4, width=32, depth=1, heads=2, **options)).eval()


@pytest.fixture(scope="module")
def model() -> DiT:
    return a_model(classes=3, error_head=True)


@pytest.mark.parametrize(
    ("recipe", "filled"),
    [
        (Recipe(), {"scheduler": "synchronous", "steps": 50, "guidance": 2.0, "solver": "ddim", "eta": 1.0}),
        (Recipe(order="raster"), {"scheduler": "sequential", "cells": 4, "steps": 8 * 16}),
        (Recipe(order="checkerboard"), {"scheduler": "sequential", "steps": 16, "cells": None}),
        (Recipe(order="spiral"), {"groups": 16, "steps": 128}),
        (Recipe(scheduler="staggered"), {"order": "raster", "cells": 6, "width": 0.5, "steps": 100}),
        (Recipe(scheduler="sliding-window"), {"active": 6.0, "steps": 100}),
        (Recipe(scheduler="round-robin"), {"groups": 4, "steps": 100}),
        (Recipe(scheduler="most-certain-first", groups=8), {"steps": 64, "overlap": 0.0, "uncertainty": "changing"}),
        (Recipe(scheduler="uncertainty-guided"), {"steps": 50, "patience": 0.5, "uncertainty": "changing"}),
        (Recipe(scheduler="dual-loop"), {"steps": 50, "inner": 5, "share": 0.4, "uncertainty": "predicted"}),
        (Recipe(look_ahead=True), {"scheduler": "synchronous", "share": 0.4, "uncertainty": "predicted"}),
        (Recipe(solver="adams"), {"adams_order": 2, "eta": None}),
        (Recipe(method="repaint"), {"steps": 250, "jump": 10, "resamples": 10, "eta": None}),
        (Recipe(restarts=1), {"restart_share": 0.25, "restart_steps": 20}),
        (Recipe(input_guidance=1.0), {"context_level": 1.0}),
        (Recipe(churn=0.2), {"eta": 0.0}),
        (Recipe(steps=7, guidance=1.0, eta=0.5), {"steps": 7, "guidance": 1.0, "eta": 0.5}),
    ],
    ids=lambda value: "-".join(map(str, value.to_dict().values()))[:60] if isinstance(value, Recipe) else "",
)
def test_what_is_left_out_is_filled_in(model: DiT, recipe: Recipe, filled: dict[str, Any]) -> None:
    whole = recipe.resolved(model)
    assert {name: getattr(whole, name) for name in filled} == filled
    assert whole.resolved(model) == whole
    assert Recipe.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole


def test_what_a_model_lacks_is_not_filled_in() -> None:
    plain = a_model()
    whole = Recipe(scheduler="uncertainty-guided").resolved(plain)
    assert (whole.guidance, whole.uncertainty) == (None, "changing")
    with pytest.raises(RecipeError, match="guidance has no meaning here: this model has no classes"):
        Recipe(guidance=2.0).resolved(plain)
    with pytest.raises(RecipeError, match="does not predict its error: use uncertainty changing"):
        Recipe(scheduler="dual-loop", uncertainty="predicted").resolved(plain)
    with pytest.raises(RecipeError, match="look-ahead goes by what the model predicts"):
        Recipe(look_ahead=True).resolved(plain)
    with pytest.raises(RecipeError, match="lagged is for the scheduler uncertainty-guided, not for sequential"):
        Recipe(order="raster", lagged=True).resolved(plain)
    assert Recipe(scheduler="uncertainty-guided", lagged=True).resolved(plain).lagged


OWNERS: dict[str, tuple[Any, Recipe]] = {
    "order": ("raster", Recipe(scheduler="staggered")),
    "drawn": (((1.0,) * 6,) * 4, Recipe(order="drawn")),
    "cells": (2, Recipe(order="random")),
    "groups": (2, Recipe(scheduler="round-robin")),
    "order_seed": (1, Recipe(order="random")),
    "width": (0.3, Recipe(scheduler="staggered")),
    "active": (3.0, Recipe(scheduler="sliding-window")),
    "overlap": (0.5, Recipe(scheduler="most-certain-first")),
    "share": (0.5, Recipe(scheduler="dual-loop")),
    "inner": (2, Recipe(scheduler="dual-loop")),
    "patience": (0.1, Recipe(scheduler="uncertainty-guided")),
    "uncertainty": ("random", Recipe(scheduler="most-certain-first")),
    "restart_share": (0.5, Recipe(restarts=1)),
    "restart_steps": (5, Recipe(restarts=1)),
    "eta": (0.5, Recipe(solver="ddim")),
    "adams_order": (3, Recipe(solver="adams")),
    "context_level": (0.5, Recipe(input_guidance=1.0)),
    "jump": (2, Recipe(method="repaint")),
    "resamples": (2, Recipe(method="repaint")),
}


@pytest.mark.parametrize("name", [*OWNERS])
def test_a_field_without_a_meaning_is_refused(model: DiT, name: str) -> None:
    value, owner = OWNERS[name]
    with_owner = dataclasses.replace(owner, **{name: value})
    assert getattr(with_owner.resolved(model), name) == value
    if name == "drawn":
        other = Recipe(order="raster", drawn=value)
    elif name == "eta":
        other = Recipe(solver="heun", eta=0.5)
    else:
        other = Recipe(scheduler="synchronous", **{name: value})
    with pytest.raises(RecipeError, match=f"{name} has no meaning here: "):
        other.resolved(model)


def test_repaint_takes_no_eta(model: DiT) -> None:
    with pytest.raises(RecipeError, match="eta has no meaning here: steps of repaint are always ancestral"):
        Recipe(method="repaint", eta=0.0).resolved(model)


def test_every_optional_field_is_known_to_the_test_above() -> None:
    optional = {item.name for item in dataclasses.fields(Recipe) if item.default is None}
    elsewhere = {"scheduler", "steps", "guidance", "guidance_interval", "autoguidance"}
    assert optional == OWNERS.keys() | elsewhere


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps must be from 1 to 100,000, got 0"),
        ({"steps": 2.5}, "steps must be a whole number, got 2.5"),
        ({"steps": True}, "steps must be a whole number, got True"),
        ({"scheduler": "rastre"}, "scheduler must be one of synchronous, sequential, .*, got 'rastre'"),
        ({"guidance": float("nan")}, "guidance must be from -1000 to 1,000, got nan"),
        ({"guidance": "2"}, "guidance must be a number, got '2'"),
        ({"width": 0.0}, "width is a part of something, above 0"),
        ({"overlap": 1.0}, "overlap must be below 1"),
        ({"eta": 1.1}, "eta must be from 0 to 1, got 1.1"),
        ({"adams_order": 5}, "adams_order must be from 1 to 4"),
        ({"active": float("inf")}, "active must be at least 1"),
        ({"guidance_interval": (0.8, 0.2)}, "from low to high, got 0.8 to 0.2"),
        ({"guidance_interval": (0.2,)}, "guidance_interval must be a list of 2: a number, a number"),
        ({"guidance_interval": [0.2, 0.8, 1.0]}, "a list of 2"),
        ({"drawn": ()}, "rows of equal length"),
        ({"drawn": ((1.0,), (1.0, 2.0))}, "rows of equal length"),
        ({"drawn": ((float("inf"),),)}, "a finite number for each token"),
        ({"look_ahead": 1}, "look_ahead must be true or false, got 1"),
        ({"shift": 30}, "shift must be from -20 to 20"),
        ({"sheduler": "raster"}, "a recipe has no field 'sheduler'"),
        ({"restarts": -1}, "restarts must be from 0 to 1,000"),
    ],
    ids=str,
)
def test_what_is_no_recipe_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict(fields)


@pytest.mark.parametrize("record", [[], "raster", 3, None], ids=str)
def test_a_recipe_is_an_object(record: Any) -> None:
    with pytest.raises(RecipeError, match="a recipe is an object of named fields"):
        Recipe.from_dict(record)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(scheduler="dual-loop", share=1.0), "share is below 1"),
        (Recipe(method="repaint", steps=2000, resamples=1000), "makes more than 100,000"),
        (Recipe(scheduler="most-certain-first", groups=25), "there are 24 tokens: got 25"),
        (Recipe(order="spiral", groups=24, steps=None, restarts=0, solver="heun", inner=3), "inner has no meaning"),
        (Recipe(restarts=1000, restart_steps=1000), "at most 100,000 steps"),
        (Recipe(order="drawn"), "takes a number for each token, and none are given"),
        (Recipe(order="drawn", drawn=((1.0,),)), "1×1 numbers does not fit the model's 4×6 tokens"),
        (Recipe(scheduler="dual-loop", steps=7), "multiple of inner, 5: got 7"),
        (Recipe(scheduler="round-robin", steps=7), "multiple of groups, 4: got 7"),
        (Recipe(method="replacement", scheduler="dual-loop"), "replacement goes along a path that is known before"),
        (Recipe(method="replacement", input_guidance=1.0), "input guidance is for the method native"),
        (Recipe(method="repaint", order="raster"), "repaint is synchronous and has steps of its own"),
        (Recipe(look_ahead=True, uncertainty="random"), "look-ahead goes by what the model predicts"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(map(str, value.to_dict().values()))[:60],
)
def test_what_does_not_go_together_is_refused(model: DiT, recipe: Recipe, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe.resolved(model)


@given(st.data())
def test_any_recipe_comes_back_from_json(data: st.DataObject) -> None:
    drawn = data.draw(st.none() | st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=3))
    recipe = Recipe(
        scheduler=data.draw(st.none() | st.sampled_from(get_args(SchedulerName))),
        order=data.draw(st.none() | st.sampled_from(get_args(OrderName))),
        solver=data.draw(st.sampled_from(get_args(SolverName))),
        noise_schedule=data.draw(st.sampled_from(get_args(NoiseScheduleName))),
        drawn=None if drawn is None else tuple(drawn),
        steps=data.draw(st.none() | st.integers(1, 1000)),
        guidance=data.draw(st.none() | st.floats(-5, 5)),
        guidance_interval=data.draw(st.none() | st.just((0.1, 0.9))),
        churn=data.draw(st.floats(0, 1)),
        look_ahead=data.draw(st.booleans()),
    )
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_names_stand_for_the_library_s_parts(model: DiT) -> None:
    whole = lambda **how: Recipe(**how).resolved(model)
    recipe, schedule = whole(order="raster", cells=2, steps=12), schedule_of(Recipe())
    path, s = path_of(recipe, (4, 6)), torch.linspace(0, 1, 9)
    assert path is not None
    assert torch.equal(path(s), sequential(raster((4, 6), 2, 2))(s))
    walk = scheduler_of(recipe, model, schedule, [0])(None)
    assert isinstance(walk, FollowPath)
    assert walk.max_steps == 12
    for order in get_args(OrderName):
        drawn = tuple(tuple(float(6 * i + j) for j in range(6)) for i in range(4))
        turns = turns_of(whole(order=order, drawn=drawn if order == "drawn" else None), (4, 6))
        assert sorted({*turns.tolist()}) == [*range(int(turns.max()) + 1)]
    certain = scheduler_of(whole(scheduler="most-certain-first", groups=4, steps=12), model, schedule, [0])(None)
    assert isinstance(certain, MostCertainFirst)
    assert (certain.max_steps, certain.steps_per_group) == (12, 3)
    assert isinstance(scheduler_of(whole(restarts=2), model, schedule, [0])(None), Restarts)
    solver = lambda **how: solver_of(whole(**how), model, {}, [0])
    assert solver(eta=0.0) == DDIM()
    ancestral = solver()
    assert isinstance(ancestral, DDIM)
    assert ancestral.eta == 1
    assert isinstance(solver(solver="heun"), Heun)
    assert solver(solver="adams", adams_order=3) == Adams(3)
    assert isinstance(solver(churn=0.2), Churn)
    assert isinstance(solver(restarts=1), Renoise)


def test_a_drawn_order_goes_dark_first(model: DiT) -> None:
    drawn = tuple(tuple(float(-(6 * i + j)) for j in range(6)) for i in range(4))
    turns = turns_of(Recipe(order="drawn", drawn=drawn, groups=24).resolved(model), (4, 6))
    assert turns.tolist() == [*range(23, -1, -1)]


def test_steps_about_as_many_as_asked_for_with_overlap(model: DiT) -> None:
    recipe = Recipe(scheduler="most-certain-first", groups=4, steps=40, overlap=0.5).resolved(model)
    assert scheduler_of(recipe, model, schedule_of(recipe), [0])(None).max_steps == 40


@pytest.mark.parametrize(
    ("groups", "steps", "overlap", "made"), [(16, 5, 0.0, 16), (16, 50, 0.0, 48), (7, 50, 0.3, 52)]
)
def test_a_recipe_says_the_steps_that_are_made(model: DiT, groups: int, steps: int, overlap: float, made: int) -> None:
    recipe = Recipe(scheduler="most-certain-first", groups=groups, steps=steps, overlap=overlap).resolved(model)
    assert recipe.steps == made == scheduler_of(recipe, model, schedule_of(recipe), [0])(None).max_steps
    assert recipe.resolved(model) == recipe
