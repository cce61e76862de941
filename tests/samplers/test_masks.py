"""Samplers of masks: a part known, a part unknown, and the law of which."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from apd_samplers import MaskSampler, blobs, box, brush, complement, either, half, scattered
from apd_samplers._training._perlin import gradient_noise
from level_checks import assert_mean, draw, rng
from strategies import seeds

Make = Callable[[tuple[int, int]], MaskSampler]
MASKS: dict[str, Make] = {
    "box": box,
    "half": half,
    "scattered": lambda grid: scattered(math.prod(grid)),
    "scattered, few": lambda grid: scattered(math.prod(grid), (0.0, 0.0)),
    "scattered, most": lambda grid: scattered(math.prod(grid), (1.0, 1.0)),
    "blobs": blobs,
    "blobs, few": lambda grid: blobs(grid, (0.0, 0.1), (1,)),
    "brush": brush,
    "brush, thin": lambda grid: brush(grid, thickness=(0.0, 0.0), length=(0.0, 0.1)),
    "brush, everywhere": lambda grid: brush(grid, strokes=(5, 5), thickness=(1.0, 1.0), length=(1.0, 1.0)),
    "complement": lambda grid: complement(box(grid)),
    "either": lambda grid: either([(1.0, half(grid)), (2.0, scattered(math.prod(grid)))]),
}
every_mask = pytest.mark.parametrize("make", MASKS.values(), ids=MASKS.keys())


@every_mask
@given(st.sampled_from([(1, 2), (2, 1), (3, 3), (1, 7), (4, 5)]), st.integers(0, 9), seeds)
def test_something_is_known_and_something_is_not(make: Make, grid: tuple[int, int], batch: int, seed: int) -> None:
    known = make(grid)(batch, rng(seed))
    assert known.shape == (batch, grid[0] * grid[1], 1)
    assert known.dtype == torch.bool
    assert known.any(1).all()
    assert not known.all(1).any()


@every_mask
def test_a_function_of_its_generator_and_of_nothing_global(make: Make) -> None:
    masks, before = make((5, 6)), torch.get_rng_state()
    first, second, other = masks(8, rng(3)), masks(8, rng(3)), masks(8, rng(4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_box_is_a_box_of_every_size_but_the_whole_equally_often() -> None:
    rows, columns = 3, 4
    known = draw(box((rows, columns)), 11 * 400).reshape(-1, rows, columns)
    height, width = known.any(2).sum(1), known.any(1).sum(1)
    assert torch.equal(height * width, known.sum((1, 2)))
    assert _runs(known.any(2))
    assert _runs(known.any(1))
    sizes = (columns * (height - 1) + width - 1).bincount(minlength=12)
    assert sizes.tolist() == [400] * 11 + [0]
    single = known[known.sum((1, 2)) == 1].flatten(1).float()  # a place is as good as another
    assert ((single.mean(0) - 1 / 12).abs() < 5 * math.sqrt(1 / 12 * 11 / 12 / len(single))).all()


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ((2, 2), ["##..", "..##", "#.#.", ".#.#"]),
        ((3, 2), ["##....", "....##", "#.#.#.", ".#.#.#"]),
        ((1, 3), ["#..", "..#"]),
        ((5, 1), ["##...", "...##"]),
    ],
)
def test_half_is_one_of_the_halves_equally_often(grid: tuple[int, int], expected: list[str]) -> None:
    known = draw(half(grid), 40)
    found: list[str] = ["".join(".#"[int(token)] for token in mask) for mask in known]
    assert {mask: found.count(mask) for mask in expected} == dict.fromkeys(expected, 40 // len(expected))


def test_scattered_numbers_are_evenly_spread_and_every_choice_is_equally_likely() -> None:
    known = draw(scattered(5, (0.2, 0.6)), 6000)
    assert known.sum(1).bincount().tolist() == [0, 2000, 2000, 2000]
    pairs = known[known.sum(1) == 2]
    for i, j in itertools.combinations(range(5), 2):
        assert_mean((pairs[:, i] & pairs[:, j]).float(), 1 / 10)


@pytest.mark.parametrize(("share", "least", "most"), [((0.0, 1.0), 1, 9), ((0.26, 0.34), 3, 3), ((0.5, 0.5), 5, 5)])
def test_shares_are_rounded_and_kept_from_none_and_all(share: tuple[float, float], least: int, most: int) -> None:
    number = draw(scattered(10, share), 900).sum(1)
    assert number.unique().tolist() == list(range(least, most + 1))


def test_complement_and_either_keep_their_word() -> None:
    assert torch.equal(draw(complement(half((4, 4)))), ~draw(half((4, 4))))
    few, many = scattered(10, (0.1, 0.1)), scattered(10, (0.9, 0.9))
    number = draw(either([(0.3, few), (0.7, many)]), 50).sum(1)
    assert number.bincount().tolist() == [0, 15, *[0] * 7, 35]
    assert repr(either([(1.0, half((2, 2)))])) == "either(parts=[(1.0, half(grid=(2, 2)))])"


@pytest.mark.parametrize("grid", [(5, 6), (8, 8)])
def test_blobs_hold_every_token_equally_often(grid: tuple[int, int]) -> None:
    """Noise that is stationary on the torus: no token is nearer to the lattice or to an edge than another."""
    known = draw(blobs(grid, (0.2, 0.2), (2, 4)), 8000).float()
    share = round(0.2 * known.shape[1]) / known.shape[1]
    assert (known.mean(1) == share).all()
    assert ((known.mean(0) - share).abs() < 5 * math.sqrt(share * (1 - share) / 8000)).all()


def test_blobs_are_blobs() -> None:
    """Neighbours agree in half of the cases in a shuffled mask; the coarser the noise, the more they do."""
    agreement = []
    for frequencies in ((2,), (2, 4, 8), (8,)):
        known = draw(blobs((16, 16), (0.5, 0.5), frequencies), 400).reshape(-1, 16, 16)
        agreement.append(float((known[:, 1:] == known[:, :-1]).float().mean()))
    assert agreement[0] > 0.87
    assert agreement[0] > agreement[1] > agreement[2] > 0.53


def test_gradient_noise_of_one_node_in_closed_form_and_without_steps() -> None:
    """With one node, all four corners of a cell, the noise is ``g · (p - fade(p))``; over unit gradients and shifts its
    mean square is the integral of ``(x - fade(x))²``."""
    x = torch.linspace(0, 1, 20001, dtype=torch.float64)
    expected = float(torch.trapezoid((x - x**3 * (x * (6 * x - 15) + 10)).square(), x))
    noise = gradient_noise((1, 1), 1, 40000, rng())[:, 0]
    assert_mean(noise, 0.0)
    assert_mean(noise.square(), expected)
    fine = gradient_noise((1, 20000), 4, 20, rng(1))
    assert fine.abs().amax() <= 1.0
    assert fine.diff(dim=1).abs().amax() < 2.5 * 4 / 20000  # and it has no steps, at the edges of cells neither
    assert (fine[:, 0] - fine[:, -1]).abs().amax() < 2.5 * 4 / 20000  # nor where the torus closes


def test_brush_touches_as_many_tokens_as_discs_cover() -> None:
    """Strokes of no length and no thickness are discs of 0.7072 tokens, one to three of them, anywhere."""
    side, r = 12, 0.7072
    cut = r**2 * math.acos(0.5 / r) - 0.5 * math.sqrt(r**2 - 0.25)  # of a disc, beyond an edge of the image
    edges = torch.tensor([1.0, *[0.0] * (side - 2), 1.0])
    covered = (math.pi * r**2 - cut * (edges[:, None] + edges)) / side**2
    expected = sum(float((1 - (1 - covered) ** k).sum()) for k in (1, 2, 3)) / 3
    known = draw(brush((side, side), strokes=(1, 3), length=(0.0, 0.0), thickness=(0.0, 0.0)), 9000)
    assert_mean((~known).sum(1).float(), expected)


def test_brush_strokes_are_as_thick_and_as_long_as_said() -> None:
    spot = ~draw(brush((20, 20), (1, 1), length=(0.0, 0.0), thickness=(0.5, 0.5)), 500).reshape(-1, 20, 20)
    assert 76 <= spot.sum((1, 2)).max() <= 82  # a disc of radius 5, 78.5 tokens large
    assert spot.any(2).sum(1).max() == spot.any(1).sum(1).max() == 10
    line = ~draw(brush((40, 40), (1, 1), (1, 1), length=(0.5, 0.5), thickness=(0.0, 0.0)), 500).reshape(-1, 40, 40)
    extent = torch.hypot(line.any(2).sum(1).float(), line.any(1).sum(1).float())
    assert 19.5 < extent.max() < 23.0  # 20 tokens and the ends of the brush
    assert extent.median() > 17.0  # but where it is reflected


def test_brush_strokes_turn_by_up_to_a_right_angle() -> None:
    """Two pieces of 12 tokens then end between 12 √2 and 24 tokens apart, unless an edge within 12 reflects them."""

    def extents(pieces: tuple[int, int]) -> Tensor:
        thin = brush((80, 80), (1, 1), pieces, length=(0.15, 0.15), thickness=(0.0, 0.0))
        stroke = ~draw(thin, 400).reshape(-1, 80, 80)
        inner = stroke[stroke[:, 13:-13, 13:-13].sum((1, 2)) == stroke.sum((1, 2))]
        assert len(inner) > 80
        return torch.hypot(inner.any(2).sum(1).float(), inner.any(1).sum(1).float())

    bent = extents((2, 2))
    assert 12 * math.sqrt(2) <= bent.min() < 21
    assert 24 < bent.max() < 27
    assert 0.4 < (extents((1, 2)) < 12 * math.sqrt(2)).float().mean() < 0.7  # half have one piece, and more of them fit


def test_a_stroke_is_in_one_piece() -> None:
    unknown = ~draw(brush((12, 12), (1, 1), (5, 5), thickness=(0.0, 0.1)), 200).reshape(-1, 12, 12)
    label = torch.where(unknown, torch.arange(1, 145).reshape(12, 12), 0).float()
    for _ in range(144):
        label = torch.where(unknown, torch.nn.functional.max_pool2d(label[:, None], 3, 1, 1)[:, 0], 0)
    assert (label.amax((1, 2), keepdim=True) == label.where(unknown, label.amax((1, 2), keepdim=True))).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: box((1, 1)), "two tokens"),
        (lambda: half((1, 1)), "two tokens"),
        (lambda: blobs((1, 1)), "two tokens"),
        (lambda: brush((1, 1)), "two tokens"),
        (lambda: scattered(1), "known and an unknown"),
        (lambda: scattered(4, (0.5, 0.4)), "share is a range"),
        (lambda: scattered(4, (0.5, 1.1)), "share is a range"),
        (lambda: blobs((4, 4), (-0.1, 0.5)), "share is a range"),
        (lambda: blobs((4, 4), frequencies=()), "frequencies"),
        (lambda: blobs((4, 4), frequencies=(2, 0)), "frequencies"),
        (lambda: brush((4, 4), strokes=(0, 2)), "strokes"),
        (lambda: brush((4, 4), pieces=(3, 2)), "pieces"),
        (lambda: brush((4, 4), length=(0.5, 0.1)), "length"),
        (lambda: brush((4, 4), thickness=(0.5, 2.0)), "thickness"),
        (lambda: either([]), "positive"),
        (lambda: either([(math.inf, half((2, 2)))]), "finite"),
    ],
)
def test_impossible_masks_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def _runs(row: Tensor) -> bool:
    """Whether every row is one run of True."""
    padded = torch.nn.functional.pad(row.long(), (1, 1))
    return bool((padded.diff(dim=1).abs().sum(1) == 2).all())
