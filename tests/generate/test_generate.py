"""Images from seeds: what may change an image and what may not."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from apd_generate import Given, Recipe, RecipeError, Step, generate
from apd_models import DiT, DiTConfig, Patchify
from long_runs import unchecked

PATCHIFY = Patchify(8, 8, 1, 2)


def a_model(seed: int = 0, **options: Any) -> DiT:
    given: dict[str, Any] = {"classes": 3, **options}
    model = DiT(DiTConfig((4, 4), 4, width=32, depth=2, heads=4, **given)).eval()
    generator = Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def model() -> DiT:
    return a_model(error_head=True)


WAYS: dict[str, dict[str, Any]] = {
    "synchronous": {},
    "sequential": {"order": "raster", "cells": 2},
    "random": {"order": "random", "cells": 2, "order_seed": 3},
    "checkerboard": {"order": "checkerboard"},
    "coarse-to-fine": {"order": "coarse-to-fine"},
    "drawn": {"order": "drawn", "drawn": tuple(tuple(float(i * j) for i in range(4)) for j in range(4)), "groups": 4},
    "staggered": {"scheduler": "staggered", "order": "spiral"},
    "sliding-window": {"scheduler": "sliding-window", "order": "hilbert"},
    "round-robin": {"scheduler": "round-robin", "groups": 2},
    "uncertainty-guided": {"scheduler": "uncertainty-guided", "uncertainty": "predicted"},
    "changing": {"scheduler": "uncertainty-guided", "uncertainty": "changing"},
    "most-certain-first": {
        **{"scheduler": "most-certain-first", "uncertainty": "predicted"},
        **{"groups": 4, "overlap": 0.5},
    },
    "by lot": {"scheduler": "most-certain-first", "groups": 4, "uncertainty": "random"},
    "dual-loop": {"scheduler": "dual-loop", "inner": 2},
    "restarts": {"restarts": 2, "restart_steps": 3},
    "look-ahead": {"look_ahead": True},
    "deterministic": {"eta": 0.0},
    "deterministic, staggered": {"scheduler": "staggered", "width": 0.3, "eta": 0.0},
    "euler": {"solver": "euler"},
    "heun": {"solver": "heun"},
    "dpm-solver++": {"solver": "dpm-solver++"},
    "adams": {"solver": "adams", "adams_order": 3},
    "churn": {"solver": "heun", "churn": 0.3},
    "interval": {"guidance": 3.0, "guidance_interval": (0.2, 0.8)},
    "unguided": {"guidance": 1.0},
    "edm": {"noise_schedule": "edm", "shift": -1.0},
    "cosine": {"noise_schedule": "cosine"},
    "vp-beta": {"noise_schedule": "vp-beta"},
    "linear": {"noise_schedule": "linear"},
}


def of(way: str) -> Recipe:
    fields: dict[str, Any] = {"steps": 4, **WAYS[way]}
    return Recipe(**fields)


each_way = pytest.mark.parametrize("way", [*WAYS])
SEEDS = [3, 1, 4, 15, 9]
LABELS = torch.tensor([0, 1, 2, 0, 1])


def some_known(rows: int, start: bool = False) -> Given:
    """A different mask in each row; tokens known whole, in part and not at all."""
    g = Generator().manual_seed(1)
    known = torch.rand(rows, 8, 8, generator=g) > 0.4
    known[:, :4, :4] = True
    known[:, 4:, 4:] = False
    known[1::2, 4:] = False
    levels = torch.rand(rows, 16, 1, generator=g) if start else None
    return Given(torch.rand(rows, 1, 8, 8, generator=g) * 2 - 1, known, levels)


@each_way
def test_a_seed_is_an_image_whatever_the_batch_and_the_other_seeds(model: DiT, way: str) -> None:
    """To the bit, on a CPU: in a larger batch, a smaller one, alone, and in another order."""
    recipe = of(way)
    whole = generate(model, PATCHIFY, recipe, SEEDS, LABELS).images
    assert whole.isfinite().all()
    assert len({tuple(image.flatten().tolist()) for image in whole}) == 5
    with unchecked():
        assert torch.equal(generate(model, PATCHIFY, recipe, SEEDS, LABELS, batch=2).images, whole)
        assert torch.equal(generate(model, PATCHIFY, recipe, SEEDS[::-1], LABELS.flip(0)).images.flip(0), whole)
        assert torch.equal(generate(model, PATCHIFY, recipe, SEEDS[2:3], LABELS[2:3]).images, whole[2:3])


@each_way
@pytest.mark.parametrize("soft", [False, True])
def test_a_completion_does_not_depend_on_its_batch_and_keeps_what_is_known(model: DiT, way: str, soft: bool) -> None:
    recipe, given = of(way), some_known(5, soft)
    whole = generate(model, PATCHIFY, recipe, SEEDS, LABELS, given=given).images
    pixels = given.known[:, None]
    assert torch.equal(whole[pixels], given.images[pixels])
    assert not torch.isclose(whole[~pixels], given.images[~pixels]).any()
    for part in (slice(0, 1), slice(1, 3)):
        with unchecked():
            some = generate(model, PATCHIFY, recipe, SEEDS[part], LABELS[part], given=given.rows(part)).images
        assert torch.equal(some, whole[part])


@pytest.mark.parametrize("method", ["native", "replacement", "repaint"])
def test_what_is_not_known_is_not_read(model: DiT, method: Any) -> None:
    recipe, given = Recipe(method=method, steps=3), some_known(5)
    other = dataclasses.replace(given, images=given.images.where(given.known[:, None], torch.nan))
    made = [generate(model, PATCHIFY, recipe, SEEDS, LABELS, given=each).images for each in (given, other)]
    assert torch.equal(*made)
    assert made[0].isfinite().all()


@pytest.mark.parametrize("way", ["deterministic", "staggered", "restarts", "heun", "most-certain-first"])
@pytest.mark.parametrize("soft", [False, True])
def test_nor_does_its_guidance_by_the_input(model: DiT, way: str, soft: bool) -> None:
    """Whose noise is new at each evaluation, but not for rows that rest while others move."""
    recipe, given = dataclasses.replace(of(way), input_guidance=2.0, context_level=0.7), some_known(5, soft)
    whole = generate(model, PATCHIFY, recipe, SEEDS, LABELS, given=given).images
    assert not torch.equal(whole, generate(model, PATCHIFY, of(way), SEEDS, LABELS, given=given).images)
    for part in (slice(0, 1), slice(1, 3)):
        with unchecked():
            some = generate(model, PATCHIFY, recipe, SEEDS[part], LABELS[part], given=given.rows(part)).images
        assert torch.equal(some, whole[part])


@pytest.mark.parametrize(
    "options",
    [
        {"conditioning": "separable"},
        {"conditioning": "joint"},
        {"position": "rope"},
        {"element_levels": True},
        {"one_way": True},
    ],
    ids=str,
)
def test_nor_in_models_of_other_kinds(options: dict[str, Any]) -> None:
    model, given = a_model(**options), some_known(5)
    # Tokens left out are computed in products of a few rows, which a CPU sums in another order.
    tolerance = 1e-4 if model.config.one_way else 0.0
    for recipe in (
        Recipe(steps=4),
        Recipe(order="raster", cells=2, steps=8),
        Recipe(scheduler="uncertainty-guided", steps=4),
    ):
        for known in (None, given):
            draw = lambda part, batch, model=model, recipe=recipe, known=known: (
                generate(
                    model,
                    PATCHIFY,
                    recipe,
                    SEEDS[part],
                    LABELS[part],
                    given=None if known is None else known.rows(part),
                    batch=batch,
                ).images
            )
            whole = draw(slice(0, 5), 64)
            with unchecked():
                torch.testing.assert_close(draw(slice(0, 5), 2), whole, rtol=0, atol=tolerance)
                torch.testing.assert_close(draw(slice(3, 4), 1), whole[3:4], rtol=0, atol=tolerance)


def test_one_way_attention_leaves_tokens_out_and_changes_nothing() -> None:
    model, recipe = a_model(one_way=True), Recipe(order="raster", cells=4, steps=32, guidance=1.0)
    some = generate(model, PATCHIFY, recipe, [0, 1], LABELS[:2])
    every = generate(model, PATCHIFY, recipe, [0, 1], LABELS[:2], leave_out=False)
    torch.testing.assert_close(some.images, every.images, rtol=0, atol=1e-5)
    assert some.evaluations == every.evaluations == 32
    assert every.token_evaluations == 32 * 16
    assert some.token_evaluations < 0.4 * every.token_evaluations


@pytest.mark.parametrize("one_way", [True, False])
def test_lagged_computes_only_what_moves(one_way: bool) -> None:
    """With one-way attention that changes nothing; else it is an approximation, of tokens at rest."""
    recipe = Recipe(scheduler="uncertainty-guided", patience=1.0, lagged=True, steps=16, guidance=1.0)
    draw = lambda recipe, leave_out: generate(
        a_model(one_way=one_way), PATCHIFY, recipe, [0, 1], LABELS[:2], leave_out=leave_out
    )
    apart = lambda one, other: float((one.images - other.images).abs().max())
    by_lot = dataclasses.replace(recipe, uncertainty="random")  # who moves does not depend on roundings
    some, every = draw(by_lot, True), draw(by_lot, False)
    assert some.evaluations == every.evaluations == 16
    assert some.token_evaluations < 0.8 * every.token_evaluations == 0.8 * 16 * 16
    assert (apart(some, every) < 1e-5) == one_way
    assert apart(draw(recipe, False), draw(dataclasses.replace(recipe, lagged=False), False)) > 0.1


@pytest.mark.parametrize("of_weak", [True, False])
@pytest.mark.parametrize("one_way", [True, False])
def test_a_weaker_model_guides_where_tokens_are_left_out(one_way: bool, of_weak: bool) -> None:
    """One whose tokens see all computes all of them, unless the recipe is lagged."""
    lagged = {"scheduler": "uncertainty-guided", "patience": 1.0, "uncertainty": "random", "lagged": True, "steps": 16}
    fields: dict[str, Any] = {"order": "raster", "cells": 4, "steps": 16} if one_way else lagged
    recipe = Recipe(guidance=1.0, autoguidance=1.5, **fields)
    model, weak = a_model(one_way=one_way), a_model(1, one_way=of_weak)
    some, every = (
        generate(model, PATCHIFY, recipe, [0, 1], LABELS[:2], weak=weak, leave_out=leave_out)
        for leave_out in (True, False)
    )
    assert some.token_evaluations < every.token_evaluations == 2 * 16 * 16
    assert float((some.images - every.images).abs().max()) < (1e-5 if one_way else 0.1)


def test_counts_are_those_of_one_image(model: DiT) -> None:
    labels = torch.tensor([0, 1, 2])
    plain = generate(model, PATCHIFY, Recipe(steps=5, guidance=1.0), [1, 2, 3], labels, batch=2)
    assert (plain.evaluations, plain.token_evaluations) == (5, 80)
    guided = generate(model, PATCHIFY, Recipe(steps=5, guidance=2.0), [1, 2, 3], labels, batch=2)
    assert (guided.evaluations, guided.token_evaluations) == (10, 160)
    heun = generate(model, PATCHIFY, Recipe(steps=5, guidance=2.0, solver="heun"), [1, 2, 3], labels, batch=2)
    assert (heun.evaluations, heun.token_evaluations) == (20, 320)
    unlabelled = generate(model, PATCHIFY, Recipe(steps=5), [1, 2, 3])
    assert unlabelled.evaluations == 5  # nothing to be guided by


def test_known_pixels_come_back_bit_equal_and_the_rest_differs_by_seed(model: DiT) -> None:
    originals = torch.rand(2, 1, 8, 8, generator=Generator().manual_seed(1)) * 2 - 1
    known = torch.zeros(2, 8, 8, dtype=torch.bool)
    known[0, :, :4] = True
    known[1, 1:, :] = True  # the upper row of tokens is known in part
    recipe, given = Recipe(order="raster", cells=2, steps=8, guidance=1.0), Given(originals, known)
    one = generate(model, PATCHIFY, recipe, [0, 1], torch.tensor([0, 1]), given=given).images
    two = generate(model, PATCHIFY, recipe, [2, 3], torch.tensor([0, 1]), given=given).images
    for images in (one, two):
        assert torch.equal(images[0, :, :, :4], originals[0, :, :, :4])
        assert torch.equal(images[1, :, 1:], originals[1, :, 1:])
        assert not torch.equal(images[1, :, 0], originals[1, :, 0])
    assert not torch.equal(one[0, :, :, 4:], two[0, :, :, 4:])


@pytest.mark.parametrize("method", ["native", "replacement", "repaint"])
def test_what_is_known_of_a_token_guides_the_rest_of_it(model: DiT, method: Any) -> None:
    known = torch.zeros(1, 8, 8, dtype=torch.bool)
    known[0, :, ::2] = True  # every other column: no token is known whole
    recipe = Recipe(steps=8, guidance=1.0, method=method)
    draw = lambda value: (
        generate(
            model, PATCHIFY, recipe, [0], torch.tensor([1]), given=Given(torch.full((1, 1, 8, 8), value), known)
        ).images
    )
    dark, light = draw(-1.0), draw(1.0)
    assert (dark[..., ::2] == -1).all()
    assert (light[..., ::2] == 1).all()
    assert not torch.allclose(dark[..., 1::2], light[..., 1::2])


def test_methods_are_the_library_s_own(model: DiT) -> None:
    """Replacement and RePaint as :mod:`apd_samplers` has them, with the seed's noise."""
    from apd_samplers import DDIM, PerSampleNoise, repaint, replacement
    from apd_schedules import RectifiedFlow, synchronous

    given, labels = some_known(2), LABELS[:2]
    x, known = PATCHIFY.to_tokens(given.images), given.known_elements(PATCHIFY)
    told: dict[str, Any] = {"schedule": RectifiedFlow(), "noise": PerSampleNoise([3, 1]), "label": labels}
    want = replacement(model, DDIM(), x, known, path=synchronous(16), steps=6, **told).tokens
    got = generate(
        model, PATCHIFY, Recipe(steps=6, guidance=1.0, method="replacement", eta=0.0), [3, 1], labels, given=given
    ).images
    assert torch.equal(got, PATCHIFY.to_images(want))
    told["noise"] = PerSampleNoise([3, 1])
    want = repaint(model, x, known, steps=6, jump=2, resamples=3, **told)
    recipe, seen = Recipe(steps=6, guidance=1.0, method="repaint", jump=2, resamples=3), []
    got = generate(model, PATCHIFY, recipe, [3, 1], labels, given=given, on_step=seen.append)
    assert torch.equal(got.images, PATCHIFY.to_images(want.tokens))
    assert got.evaluations == want.evaluations == seen[-1].progress.evaluations
    assert len(seen) == seen[-1].total > got.evaluations  # steps up ask nothing


def test_input_guidance_follows_the_known_tokens(model: DiT) -> None:
    given, labels = some_known(2), LABELS[:2]
    draw = lambda **how: generate(model, PATCHIFY, Recipe(steps=6, guidance=1.0, **how), [3, 1], labels, given=given)
    plain, none, strong = draw(), draw(input_guidance=0.0), draw(input_guidance=2.0)
    assert torch.equal(plain.images, none.images)
    assert (plain.evaluations, strong.evaluations) == (6, 12)
    hidden = ~given.known[:, None]
    assert not torch.allclose(strong.images[hidden], plain.images[hidden])
    assert not torch.allclose(draw(input_guidance=2.0, context_level=0.5).images[hidden], strong.images[hidden])
    with pytest.raises(RecipeError, match="input guidance follows known pixels, and none are known"):
        generate(model, PATCHIFY, Recipe(input_guidance=1.0), [0], LABELS[:1])


def test_autoguidance_by_the_model_itself_changes_nothing(model: DiT) -> None:
    recipe = Recipe(steps=4, guidance=1.0)
    plain = generate(model, PATCHIFY, recipe, [0], LABELS[:1])
    guided = dataclasses.replace(recipe, autoguidance=2.0)
    own = generate(model, PATCHIFY, guided, [0], LABELS[:1], weak=model)
    torch.testing.assert_close(own.images, plain.images, rtol=0, atol=1e-5)
    other = generate(model, PATCHIFY, guided, [0], LABELS[:1], weak=a_model(seed=1))
    assert not torch.allclose(other.images, plain.images, atol=1e-2)
    assert other.evaluations == 8
    with pytest.raises(RecipeError, match="autoguidance takes a weaker model, and none is given"):
        generate(model, PATCHIFY, guided, [0], LABELS[:1])
    with pytest.raises(ValueError, match="the weaker model has"):
        generate(model, PATCHIFY, guided, [0], LABELS[:1], weak=a_model(classes=2))


def test_the_first_noise_is_that_of_the_seed(model: DiT) -> None:
    seen: list[Tensor] = []
    watch = lambda step: seen.append(step.progress.tokens)
    generate(model, PATCHIFY, Recipe(steps=1), [7], None, on_step=watch)
    torch.manual_seed(5)
    generate(model, PATCHIFY, Recipe(steps=1), [7], None, on_step=watch)
    assert torch.equal(seen[0], seen[1])


def test_steps_are_told_of_batch_by_batch(model: DiT) -> None:
    seen: list[Step] = []
    generate(model, PATCHIFY, Recipe(steps=3), SEEDS, LABELS, batch=2, on_step=seen.append)
    assert [step.done for step in seen] == [*range(1, 10)]
    assert {step.total for step in seen} == {9}
    assert [step.rows for step in seen[::3]] == [range(0, 2), range(2, 4), range(4, 5)]
    assert [step.seeds for step in seen[::3]] == [(3, 1), (4, 15), (9,)]
    assert seen[-1].progress.tokens.shape == (1, 16, 4)


def test_an_exception_ends_it(model: DiT) -> None:
    class Enough(Exception):
        pass

    asked: list[int] = []

    def stop(step: Step) -> None:
        asked.append(step.done)
        if step.done == 4:
            raise Enough

    with pytest.raises(Enough):
        generate(model, PATCHIFY, Recipe(steps=3), SEEDS, LABELS, batch=2, on_step=stop)
    assert asked == [1, 2, 3, 4]


def test_what_is_reported_is_what_the_longest_batch_took(model: DiT) -> None:
    """A batch of known images takes no evaluation; another takes one a step."""
    known = torch.stack([torch.ones(8, 8), torch.zeros(8, 8)]).bool()
    recipe = Recipe(order="raster", cells=4, steps=16)
    for order in ([0, 1], [1, 0]):
        given = Given(torch.zeros(2, 1, 8, 8), known[order])
        drawn = generate(model, PATCHIFY, recipe, [0, 1], given=given, batch=1)
        assert (drawn.evaluations, drawn.token_evaluations) == (16, 16 * 16)


def test_a_model_of_levels_of_pixels_is_shown_which_pixels_are_known() -> None:
    """Not pasted: their level is clean from the first step to the last, and the others' is that of the path."""
    torch.manual_seed(0)
    model = DiT(DiTConfig((4, 4), 4, width=32, depth=1, heads=2, element_levels=True)).eval()
    torch.nn.init.normal_(model.head.weight, std=0.1)
    originals = torch.rand(1, 1, 8, 8, generator=Generator().manual_seed(1)) * 2 - 1
    known = torch.zeros(1, 8, 8, dtype=torch.bool)
    known[0, 1:, :] = True  # of the upper row of tokens, the lower half
    seen: list[Tensor] = []
    watch = lambda now: seen.append(PATCHIFY.to_images(now.progress.noise.flow_level.expand(1, 16, 4))[0, 0])
    images = generate(model, PATCHIFY, Recipe(steps=4), [0], given=Given(originals, known), on_step=watch).images
    assert torch.equal(images[0, :, 1:], originals[0, :, 1:])
    assert not torch.equal(images[0, :, 0], originals[0, :, 0])
    for level in seen[:-1]:
        assert (level[1:] < 2e-4).all()
        assert (level[0] > 0.1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": []}, "at least one image is drawn"),
        ({"batch": 0}, "at least one image is drawn"),
        ({"labels": torch.tensor([0])}, r"2 images have a label each, a tensor of int64, got \(1,\)"),
        ({"given": some_known(3)}, r"2 images are drawn given images of shape \(2, 1, 8, 8\)"),
        (
            {"given": Given(torch.zeros(2, 1, 8, 8), torch.ones(2, 8, 8).bool(), torch.ones(2, 15, 1))},
            "a soft mask has a level a token",
        ),
        ({"given": Given(torch.full((2, 1, 8, 8), torch.nan), torch.ones(2, 8, 8).bool())}, "no numbers"),
        (
            {"given": Given(torch.zeros(2, 1, 8, 8), torch.ones(2, 8, 8).bool(), torch.full((2, 16, 1), 1.5))},
            r"a soft mask has levels in \[0, 1\]",
        ),
        ({"recipe": Recipe(method="replacement")}, "replacement keeps known pixels, and none are given"),
        (
            {"recipe": Recipe(method="replacement"), "given": some_known(2, start=True)},
            "a soft mask is for the method native",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused(model: DiT, change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"recipe": Recipe(steps=2), "seeds": [0, 1], **change}
    with pytest.raises(ValueError, match=message):
        generate(model, PATCHIFY, **given)


def test_what_is_given_is_checked(model: DiT) -> None:
    """In words that say what would be right."""
    given, labels = some_known(2), LABELS[:2]
    draw: Any = lambda seeds=(3, 1), labels=labels, **how: generate(
        model, PATCHIFY, Recipe(steps=1), seeds, labels, **how
    )
    of = lambda **parts: dataclasses.replace(given, **parts)
    with unchecked():
        cases: list[tuple[str, Given]] = [
            (r"of each pixel, \(2, 8, 8\), in booleans, got .* of torch.float32", of(known=given.known.float())),
            (r"of each pixel, .* of torch.uint8", of(known=given.known.to(torch.uint8))),
            (r"in \[-1, 1\], in float32, got torch.uint8: x / 127", of(images=given.images.to(torch.uint8))),
            (r"in \[-1, 1\], in float32, got torch.float16", of(images=given.images.half())),
        ]
        for message, wrong in cases:
            with pytest.raises(ValueError, match=message):
                draw(given=wrong)
        with pytest.raises(ValueError, match=r"have a label each, a tensor of int64, got \[0, 1\]"):
            draw(labels=[0, 1])
        with pytest.raises(TypeError, match="integer"):
            draw(seeds=[0.5, 1])


def test_seeds_are_whole_numbers_of_any_kind(model: DiT) -> None:
    draw = lambda seeds: generate(model, PATCHIFY, Recipe(steps=2), seeds, LABELS[:2]).images
    with unchecked():
        for seeds in (torch.tensor([3, 1]), np.array([3, 1]), [np.int64(3), np.int64(1)]):
            assert torch.equal(draw(seeds), draw([3, 1]))


def test_input_guidance_does_not_depend_on_the_batch(model: DiT) -> None:
    """Of an image that no patch is known of whole there is none, alone as beside others."""
    known = torch.zeros(2, 8, 8, dtype=torch.bool)
    known[0, :4] = True
    known[1, ::2] = True
    given = Given(torch.rand(2, 1, 8, 8, generator=Generator().manual_seed(0)) * 2 - 1, known)
    draw = lambda batch: generate(
        model, PATCHIFY, Recipe(steps=2, input_guidance=1.0), [3, 1], LABELS[:2], given=given, batch=batch
    )
    assert torch.equal(draw(2).images, draw(1).images)
    with pytest.raises(RecipeError, match="none are known in whole patches: leave it out"):
        generate(model, PATCHIFY, Recipe(input_guidance=1.0), [1], LABELS[:1], given=given.rows([1]))
