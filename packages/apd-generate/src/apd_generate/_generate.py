"""Images from a model: a recipe, seeds, classes and what is known in, images out."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from apd_models import ActiveTokens, DiT, Patchify
from apd_samplers import PerSampleNoise, Progress, Sampled, inpaint_with, repaint, replacement, sample
from apd_schedules import Denoiser

from ._build import guided, path_of, schedule_of, scheduler_of, solver_of, takes_elements
from ._given import Given
from ._recipe import Recipe, RecipeError


@dataclass(frozen=True, slots=True)
class Generated:
    """Args:
    images: values about [-1, 1].
    evaluations: network evaluations of each image, guidance and second stages counted; the most of any batch.
    token_evaluations: tokens that went through the network, likewise.
    """

    images: Float[Tensor, "b c h w"]
    evaluations: int
    token_evaluations: int


@dataclass(frozen=True, slots=True)
class Step:
    """What is told of a generation under way.

    Args:
        rows: of all images, those that are being drawn.
        seeds: theirs.
        progress: tokens, noise map and cost, see :class:`apd_samplers.Progress`; its rows are these.
        done, total: steps, of all batches; the total is what it takes at most.
    """

    rows: range
    seeds: tuple[int, ...]
    progress: Progress
    done: int
    total: int


def generate(
    model: DiT,
    patchify: Patchify,
    recipe: Recipe,
    seeds: Sequence[int],
    labels: Int[Tensor, " b"] | None = None,
    *,
    given: Given | None = None,
    weak: DiT | None = None,
    batch: int = 64,
    leave_out: bool = True,
    on_step: Callable[[Step], None] | None = None,
) -> Generated:
    """Draws an image for each seed. An image does not depend on the others of its batch, nor on the batch's size: on a
    CPU to the bit, but where tokens that are computed are packed, or rows have maps of their own and the model's width
    is no multiple of 32, to rounding as on GPUs; schedulers that go by uncertainty may then take another way.

    Args:
        recipe: how; see :class:`Recipe`.
        labels: class of each image; without them, or for a model without classes, none.
        given: what is known of each image; all of it comes back to the bit. Tokens that are known whole stay clean
            throughout; in a token that is known in part, so do its known pixels if the model takes a level an element
            and the recipe follows a path, else they are put back after each step: see :func:`apd_samplers.inpaint`.
        weak: the weaker model of autoguidance, of the same tokens and classes.
        batch: images that go through the network together.
        leave_out: with one-way attention, and where the recipe is lagged, compute only the tokens whose guess is needed
            (see :class:`apd_models.ActiveTokens`); with one-way attention that is exact. Not for a model whose weights
            are divided among processes.
        on_step: called after each step of each batch, for progress, films and what else; an exception that it raises
            ends the generation.

    Raises:
        RecipeError: a recipe that this model cannot follow.
        ValueError: no seeds, or labels and known pixels that do not fit them.
        TypeError: seeds that are no whole numbers.
    """
    recipe, seeds = recipe.resolved(model), [*map(operator.index, seeds)]
    _check(model, patchify, recipe, seeds, labels, given, weak, batch)
    images: list[Tensor] = []
    evaluations = token_evaluations = 0
    count = _Count(on_step, -(-len(seeds) // batch))
    for start in range(0, len(seeds), batch):
        rows = range(start, min(start + batch, len(seeds)))
        part = slice(rows.start, rows.stop)
        count.begin(rows, tuple(seeds[part]))
        own = None if given is None else given.rows(part)
        label = None if labels is None else labels[part]
        result = _draw(model, patchify, recipe, seeds[part], label, own, weak, leave_out, count)
        images.append(patchify.to_images(result.tokens).cpu())
        evaluations = max(evaluations, result.evaluations)
        token_evaluations = max(token_evaluations, result.token_evaluations)
    return Generated(torch.cat(images), evaluations, token_evaluations)


@dataclass(slots=True)
class _Count:
    """Counts the steps of all batches, and tells of each."""

    on_step: Callable[[Step], None] | None
    batches_left: int
    rows: range = range(0)
    seeds: tuple[int, ...] = ()
    before: int = 0
    here: int = 0

    def begin(self, rows: range, seeds: tuple[int, ...]) -> None:
        self.batches_left -= bool(self.rows)
        self.rows, self.seeds, self.before, self.here = rows, seeds, self.before + self.here, 0

    def __call__(self, progress: Progress) -> None:
        self.here = progress.step
        if self.on_step is not None:
            total = self.before + self.batches_left * progress.max_steps
            self.on_step(Step(self.rows, self.seeds, progress, self.before + self.here, total))


def _draw(
    model: DiT,
    patchify: Patchify,
    recipe: Recipe,
    seeds: Sequence[int],
    labels: Tensor | None,
    given: Given | None,
    weak: DiT | None,
    leave_out: bool,
    on_step: Callable[[Progress], None],
) -> Sampled:
    """One batch, on the model's device."""
    device, count, schedule = model.device, len(seeds), schedule_of(recipe)
    null = torch.full((count,), model.null_label, device=device)
    label = null if labels is None else labels.to(device)
    known = whole = None
    if given is not None:
        known = given.known_elements(patchify).to(device)
        whole = known.all(-1, keepdim=True)
    leaves_out = leave_out and (model.config.one_way or recipe.lagged) and model.config.context_dim == 0
    network = ActiveTokens(model) if leaves_out else model  # it remembers one run
    told = None if labels is None else {"label": null}
    weaker = weak
    if weak is not None and leaves_out:
        weaker = ActiveTokens(weak) if weak.config.one_way or recipe.lagged else _all_of(weak)
    denoise = guided(recipe, network, schedule, seeds, told, whole, weaker)
    cond = {"label": label}
    solver = solver_of(recipe, denoise, cond, seeds)
    noise, scheduler = PerSampleNoise(seeds), scheduler_of(recipe, model, schedule, seeds)
    if given is None or known is None:
        like = torch.empty(count, patchify.tokens, patchify.token_dim, device=device)
        start = noise(like)
        return sample(denoise, solver, scheduler(None), start, on_step=on_step, only_moving=leaves_out, **cond)
    x = patchify.to_tokens(given.images.to(device))
    steps, path = recipe.steps or 1, path_of(recipe, model.config.grid)
    if recipe.method == "repaint":
        many = {"jump": recipe.jump or 1, "resamples": recipe.resamples or 1}
        return repaint(denoise, x, known, schedule=schedule, noise=noise, steps=steps, on_step=on_step, **many, **cond)
    if recipe.method == "replacement":
        assert path is not None
        both = {"schedule": schedule, "noise": noise}
        return replacement(denoise, solver, x, known, path=path, steps=steps, on_step=on_step, **both, **cond)
    return inpaint_with(
        denoise,
        solver,
        x,
        known,
        scheduler=scheduler,
        noise=noise,
        start=None if given.start is None else given.start.to(device),
        element_levels=takes_elements(recipe, model),
        on_step=on_step,
        only_moving=leaves_out,
        **cond,
    ).sampled


def _all_of(model: DiT) -> Denoiser:
    """A model that computes all tokens, whichever it is asked for."""
    return lambda z, noise, moving=None, **cond: model(z, noise, **cond)


def _check(
    model: DiT,
    patchify: Patchify,
    recipe: Recipe,
    seeds: Sequence[int],
    labels: Tensor | None,
    given: Given | None,
    weak: DiT | None,
    batch: int,
) -> None:
    if not seeds or batch < 1:
        raise ValueError(f"at least one image is drawn, in batches of at least one: {len(seeds)} seeds, batch {batch}")
    if labels is not None and (not isinstance(labels, Tensor) or labels.shape != (len(seeds),)):
        got = tuple(labels.shape) if isinstance(labels, Tensor) else f"{labels!r:.40}"
        raise ValueError(f"{len(seeds)} images have a label each, a tensor of int64, got {got}")
    if given is not None:
        given.check(patchify, len(seeds))
        if recipe.input_guidance and not given.known_elements(patchify).all(-1).any():
            raise RecipeError("input guidance follows known pixels, and none are known in whole patches: leave it out")
    if given is None and recipe.method != "native":
        raise RecipeError(f"{recipe.method} keeps known pixels, and none are given")
    if given is not None and given.start is not None and recipe.method != "native":
        raise RecipeError(f"a soft mask is for the method native: {recipe.method} keeps pixels or does not")
    if weak is not None:
        mine, other = (m.config for m in (model, weak))
        if (mine.grid, mine.token_dim, mine.classes) != (other.grid, other.token_dim, other.classes):
            raise ValueError(
                f"the weaker model has {other.grid} tokens of {other.token_dim} and {other.classes} classes, the model "
                f"{mine.grid} of {mine.token_dim} and {mine.classes}"
            )
