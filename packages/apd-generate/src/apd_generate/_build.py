"""From a recipe to the parts that it names: noise schedule, scheduler, solver, guidance."""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from apd_models import DiT
from apd_samplers import (
    DDIM,
    Adams,
    AtRandom,
    Changing,
    Churn,
    DPMSolverPP2M,
    DualLoop,
    Euler,
    FollowPath,
    Heun,
    InferenceScheduler,
    LookAhead,
    MostCertainFirst,
    PerSampleNoise,
    Predicted,
    Renoise,
    Restarts,
    RoundRobin,
    Solver,
    UncertaintyGuided,
    autoguidance,
    classifier_free,
    input_guidance,
    on_interval,
)
from apd_schedules import (
    EDM,
    Cosine,
    Denoiser,
    InvertibleSchedule,
    Linear,
    Path,
    RectifiedFlow,
    VPBeta,
    capped,
    sequential,
    shifted,
    sliding_window,
    staggered,
    synchronous,
)

from ._orders import steps_of_a_turn, turns_of
from ._recipe import ORDERED, Recipe, RecipeError


def schedule_of(recipe: Recipe) -> InvertibleSchedule:
    match recipe.noise_schedule:
        case "rectified-flow":
            schedule = RectifiedFlow()
        case "cosine":
            schedule = Cosine()
        case "linear":
            schedule = Linear()
        case "vp-beta":
            schedule = VPBeta()
        case "edm":
            schedule = EDM()
    return shifted(schedule, recipe.shift) if recipe.shift else schedule


def path_of(recipe: Recipe, grid: tuple[int, int]) -> Path | None:
    """The path of all tokens, unbatched; None for schedulers that choose their maps on the way."""
    if recipe.scheduler == "synchronous":
        return synchronous(grid[0] * grid[1])
    if recipe.scheduler not in ORDERED:
        return None
    turns = turns_of(recipe, grid)
    match recipe.scheduler:
        case "staggered":
            return staggered(turns, recipe.width or 1.0)
        case "sliding-window":
            return sliding_window(turns, recipe.active or 1.0)
    return sequential(turns)


def takes_elements(recipe: Recipe, model: DiT) -> bool:
    """Whether known pixels of tokens that are not known whole are shown to the model as clean."""
    plain = recipe.method == "native" and not recipe.restarts
    return plain and model.config.element_levels and recipe.scheduler in ("synchronous", *ORDERED)


def scheduler_of(
    recipe: Recipe, model: DiT, schedule: InvertibleSchedule, seeds: Sequence[int]
) -> Callable[[Float[Tensor, "*batch n e"] | None], InferenceScheduler[Any]]:
    """From the levels that tokens start from, None for noise, to the scheduler.

    Args:
        recipe: with its defaults filled in.
        seeds: of the rows, for what a scheduler draws.
    """
    steps, groups = recipe.steps or 1, recipe.groups or 1
    path = path_of(recipe, model.config.grid)

    def first(start: Tensor | None) -> InferenceScheduler[Any]:
        uncertainty = _uncertainty(recipe, model, seeds)
        match recipe.scheduler:
            case "round-robin":
                return RoundRobin(schedule, steps, groups, start)
            case "uncertainty-guided":
                more = {"patience": recipe.patience or 0.0, "lagged": recipe.lagged}
                return UncertaintyGuided(schedule, steps, uncertainty, pace="level", start=start, **more)
            case "most-certain-first":
                overlap = recipe.overlap or 0.0
                each = steps_of_a_turn(steps, groups, overlap)
                return MostCertainFirst(schedule, groups, each, overlap, uncertainty, start)
            case "dual-loop":
                inner = recipe.inner or 1
                return DualLoop(schedule, steps // inner, inner, recipe.share or 0.0, uncertainty, start)
        assert path is not None
        return FollowPath(path if start is None else capped(path, start), schedule, steps)

    def with_restarts(start: Tensor | None) -> InferenceScheduler[Any]:
        scheduler = first(start)
        if not recipe.restarts:
            return scheduler
        each, share = recipe.restart_steps or 1, recipe.restart_share or 1.0
        keys = stream(seeds, "restarts")
        return Restarts(
            scheduler,
            synchronous(model.config.grid[0] * model.config.grid[1]),
            schedule,
            each,
            recipe.restarts,
            keys,
            share,
        )

    return with_restarts


def _uncertainty(recipe: Recipe, model: DiT, seeds: Sequence[int]) -> Any:
    if recipe.uncertainty == "changing":
        return Changing(variance=model.config.data_std**2)
    return AtRandom(stream(seeds, "uncertainty")) if recipe.uncertainty == "random" else Predicted()


def solver_of(recipe: Recipe, denoise: Denoiser, cond: Mapping[str, Any], seeds: Sequence[int]) -> Solver[Any]:
    """Args:
    denoise, cond: what is sampled, guided or not: for solvers that ask for a second guess.
    """
    solver: Solver[Any]
    match recipe.solver:
        case "ddim":
            solver = DDIM(recipe.eta or 0.0, stream(seeds, "solver") if recipe.eta else None)
        case "euler":
            solver = Euler()
        case "heun":
            solver = Heun(denoise, cond)
        case "dpm-solver++":
            solver = DPMSolverPP2M()
        case "adams":
            solver = Adams(recipe.adams_order or 2)
    if recipe.churn:
        solver = Churn(solver, recipe.churn, stream(seeds, "churn"))
    return Renoise(solver, stream(seeds, "renoise")) if recipe.restarts else solver


def guided(
    recipe: Recipe,
    model: Denoiser,
    schedule: InvertibleSchedule,
    seeds: Sequence[int],
    null: Mapping[str, Any] | None,
    known: Bool[Tensor, "b n 1"] | None,
    weak: Denoiser | None,
) -> Denoiser:
    """The model with the recipe's guidance.

    The weaker model is innermost, then the class, within its interval; the input around both, as published; looking
    ahead outermost, so that both of its guesses are guided.

    Args:
        null: the conditions that stand for none; None where there are no classes to guide by.
        known: tokens that are known whole, or None where nothing is.
        weak: for autoguidance.
    """
    denoise = model
    if recipe.autoguidance is not None:
        if weak is None:
            raise RecipeError("autoguidance takes a weaker model, and none is given")
        denoise = autoguidance(weak, recipe.autoguidance)(denoise)
    if null is not None and recipe.guidance is not None:
        guide = classifier_free(recipe.guidance, null)
        if recipe.guidance_interval is not None:
            guide = on_interval(guide, *recipe.guidance_interval)
        denoise = guide(denoise)
    if recipe.input_guidance:
        if known is None:
            raise RecipeError("input guidance follows known pixels, and none are known: leave it out")
        level = 1.0 if recipe.context_level is None else recipe.context_level
        noise = stream(seeds, "input guidance")
        denoise = input_guidance(recipe.input_guidance, known, level, schedule=schedule, noise=noise)(denoise)
    if recipe.look_ahead:
        denoise = LookAhead(schedule, recipe.share or 0.0)(denoise)
    return denoise


def stream(seeds: Sequence[int], purpose: str) -> PerSampleNoise:
    """Noise of each row for one purpose, apart from that of its start."""
    return PerSampleNoise([_mixed(seed, purpose) for seed in seeds])


@functools.cache
def _mixed(seed: int, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{purpose} {seed}".encode()).digest()[:7], "big")
