"""What a recipe leaves out, filled in for a model; and what has no meaning in it, refused."""

from dataclasses import fields, replace
from typing import Any

from apd_models import DiT

from ._orders import count_turns, steps_of_a_turn
from ._recipe import BY_UNCERTAINTY, ORDERED, Recipe, RecipeError

MOST = 100_000
"""Steps of a generation."""
_CELLS = ("raster", "random")
_GROUPED = ("spiral", "hilbert", "drawn")


def defaults(recipe: Recipe, model: DiT) -> Recipe:
    """See :meth:`Recipe.resolved`."""
    tokens = model.config.grid[0] * model.config.grid[1]
    # All at once draws the best images, or as good ones as any way, with 4 to 48 evaluations; more do no good. Where an
    # order is asked for, staggered turns draw better ones than turns one after the other (measured in raster order, of
    # 16 cells and of tokens), but finish no part before the next one begins: docs/results.md, orders and acceleration.
    scheduler = recipe.scheduler or ("synchronous" if recipe.order is None else "sequential")
    recipe = replace(recipe, scheduler=scheduler)
    filled: dict[str, Any] = {}  # what has a meaning here, and its default
    if scheduler in ORDERED:
        order = filled["order"] = recipe.order or ("raster" if recipe.drawn is None else "drawn")
        recipe = replace(recipe, order=order)
        if order in _CELLS:
            filled["cells"] = min(4 if scheduler == "sequential" else max(model.config.grid), max(model.config.grid))
        if order in _GROUPED:
            filled["groups"] = min(16, tokens)
        if order == "random":
            filled["order_seed"] = 0
        if order == "drawn":
            filled["drawn"] = None
            _check_drawn(recipe, model)
    if scheduler == "most-certain-first":
        filled |= {"groups": min(16, tokens), "overlap": 0.0}
    elif scheduler == "round-robin":
        filled["groups"] = min(4, tokens)
    elif scheduler == "uncertainty-guided":
        filled["patience"] = 0.5
    elif scheduler == "staggered":
        # The most of an order that cost animals nothing; emoji .08 to .10 with errors of .04 (docs/results.md, orders).
        filled["width"] = 0.5
    elif scheduler == "dual-loop":
        filled["inner"] = 5
    by_head = scheduler == "dual-loop" or recipe.look_ahead
    if by_head:
        filled["share"] = 0.4
    if scheduler in BY_UNCERTAINTY or recipe.look_ahead:
        # Read off its changes, uncertainty led to better images than the error head's (docs/results.md, acceleration),
        # and to orders better here and worse there (orders, reasoning). The other two were measured with the head's.
        filled["uncertainty"] = "predicted" if by_head and model.error is not None else "changing"
    if recipe.restarts:
        filled |= {"restart_share": 0.25, "restart_steps": 20}
    if recipe.solver == "ddim" and recipe.method != "repaint":  # which has steps of its own
        # With 8 to 64 evaluations ancestral steps drew better images than deterministic ones: docs/results.md, solvers.
        filled["eta"] = 0.0 if recipe.churn else 1.0
    elif recipe.solver == "adams":
        filled["adams_order"] = 2
    if model.config.classes:
        # For images that show their class. KID, which does not ask for that, is not shown to be worse by it from 32
        # evaluations on: docs/results.md, solvers.
        filled["guidance"] = 2.0
        filled["guidance_interval"] = None
    filled["autoguidance"] = None
    if recipe.input_guidance:
        filled["context_level"] = 1.0
    if recipe.method == "repaint":
        filled |= {"jump": 10, "resamples": 10}
    filled["steps"] = None
    whole = replace(recipe, **{name: value for name, value in filled.items() if getattr(recipe, name) is None})
    _refuse_what_has_no_meaning(recipe, filled, model)
    if (whole.groups or 1) > tokens:
        raise RecipeError(f"groups are of at least one token each, and there are {tokens} tokens: got {whole.groups}")
    if scheduler in ORDERED:
        turns = count_turns(whole, model.config.grid)
        if scheduler == "sliding-window":
            filled["active"] = max(1.0, turns / 4)
        by_default = 8 * turns if scheduler == "sequential" else 100
    else:
        by_default = {"most-certain-first": 8 * (whole.groups or 1), "round-robin": 25 * (whole.groups or 1)}.get(
            scheduler, 50
        )
    steps = whole.steps or (250 if whole.method == "repaint" else by_default)
    if scheduler == "most-certain-first":
        groups, overlap = whole.groups or 1, whole.overlap or 0.0
        each = steps_of_a_turn(steps, groups, overlap)
        steps = round((groups - 1) * each * (1 - overlap)) + each
    if steps > MOST:
        raise RecipeError(f"at most {MOST:,} steps are made: take fewer turns or groups")
    whole = replace(whole, steps=steps, active=whole.active or filled.get("active"))
    _check_together(whole, model)
    return whole


def _check_drawn(recipe: Recipe, model: DiT) -> None:
    rows, columns = model.config.grid
    if recipe.drawn is None:
        raise RecipeError("a drawn order takes a number for each token, and none are given")
    if (len(recipe.drawn), len(recipe.drawn[0])) != (rows, columns):
        raise RecipeError(
            f"a drawn order of {len(recipe.drawn)}×{len(recipe.drawn[0])} numbers does not fit the model's "
            f"{rows}×{columns} tokens"
        )


def _refuse_what_has_no_meaning(recipe: Recipe, filled: dict[str, Any], model: DiT) -> None:
    always = {"scheduler", "solver", "method", "noise_schedule", "steps"}
    for item in fields(Recipe):
        value = getattr(recipe, item.name)
        if item.default is None and value is not None and item.name not in filled.keys() | always:
            if item.name == "active" and recipe.scheduler == "sliding-window":
                continue
            raise RecipeError(f"{item.name} has no meaning here: {_reason(item.name, recipe, model)}")


def _reason(name: str, recipe: Recipe, model: DiT) -> str:
    if name in ("guidance", "guidance_interval"):
        return "this model has no classes to be guided by"
    needs = {
        "order": f"the scheduler {recipe.scheduler} has no order; {', '.join(ORDERED)} have one",
        "drawn": "it is for the order drawn",
        "cells": "it is for the orders raster and random of sequential, staggered and sliding-window",
        "groups": "it is for the orders spiral, hilbert and drawn, and for most-certain-first and round-robin",
        "order_seed": "it is for the order random",
        "width": "it is for the scheduler staggered",
        "active": "it is for the scheduler sliding-window",
        "overlap": "it is for the scheduler most-certain-first",
        "share": "it is for the scheduler dual-loop and for look-ahead",
        "inner": "it is for the scheduler dual-loop",
        "patience": "it is for the scheduler uncertainty-guided",
        "uncertainty": f"it is for the schedulers {', '.join(BY_UNCERTAINTY)} and for look-ahead",
        "restart_share": "there are no restarts",
        "restart_steps": "there are no restarts",
        "eta": "it is for the solver ddim" if recipe.method != "repaint" else "steps of repaint are always ancestral",
        "adams_order": "it is for the solver adams",
        "context_level": "there is no input guidance",
        "jump": "it is for the method repaint",
        "resamples": "it is for the method repaint",
    }
    return needs[name]


def _check_together(recipe: Recipe, model: DiT) -> None:
    assert recipe.steps is not None
    if recipe.uncertainty == "predicted" and model.error is None:
        raise RecipeError("this model does not predict its error: use uncertainty changing, or train an error head")
    if recipe.look_ahead and recipe.uncertainty != "predicted":
        raise RecipeError(
            "look-ahead goes by what the model predicts of its error: it needs a model with an error head"
        )
    if recipe.restarts * (recipe.restart_steps or 0) > MOST:
        raise RecipeError(f"at most {MOST:,} steps are made: take fewer restarts, or fewer steps of each")
    if recipe.method == "repaint" and recipe.steps * (recipe.resamples or 1) > MOST:
        raise RecipeError(f"repaint with {recipe.steps} steps of {recipe.resamples} resamples makes more than {MOST:,}")
    if recipe.lagged and recipe.scheduler != "uncertainty-guided":
        raise RecipeError(f"lagged is for the scheduler uncertainty-guided, not for {recipe.scheduler}")
    if recipe.scheduler == "dual-loop" and recipe.share == 1:
        raise RecipeError("dual-loop leaves some tokens behind the certain ones: share is below 1")
    if recipe.scheduler == "dual-loop" and recipe.steps % (recipe.inner or 1):
        raise RecipeError(f"dual-loop takes steps that are a multiple of inner, {recipe.inner}: got {recipe.steps}")
    if recipe.scheduler == "round-robin" and recipe.steps % (recipe.groups or 1):
        raise RecipeError(f"round-robin takes steps that are a multiple of groups, {recipe.groups}: got {recipe.steps}")
    if recipe.method != "native":
        if recipe.scheduler in (*BY_UNCERTAINTY, "round-robin") or recipe.restarts:
            raise RecipeError(f"{recipe.method} goes along a path that is known before: not {recipe.scheduler}")
        if recipe.input_guidance:
            raise RecipeError("input guidance is for the method native: the baselines have no clean tokens to blur")
    if recipe.method == "repaint" and (recipe.scheduler, recipe.solver, recipe.churn) != ("synchronous", "ddim", 0):
        raise RecipeError("repaint is synchronous and has steps of its own: leave scheduler, solver and churn out")
