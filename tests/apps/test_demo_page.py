"""The demo's page in a real browser: with the mouse, by keyboard alone, and against hostile files."""

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from apd_models import save_pretrained
from app_runner import ROOT
from demo_client import SIDE, picture, tiny_model
from image_bytes import png_header, png_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The app itself, in a process of its own, and its address."""
    folder = tmp_path_factory.mktemp("model")
    tiny = tiny_model()
    save_pretrained(folder, tiny.model, tiny.patchify, tiny.class_names, tiny.weights)
    command = [sys.executable, str(ROOT / "apps" / "demo"), "--model", folder, "--port", "0", "--threads", "1"]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder.parent
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().split()[0]
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: tuple[subprocess.Popen[str], str]) -> Iterator[Page]:
    """A page on which nothing may go wrong that the page itself does not say, and which asks nobody else."""
    _, address = server
    context = browser.new_context(viewport={"width": 1400, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("request", lambda request: None if request.url.startswith(address) else wrong.append(request.url))
    page.set_default_timeout(15_000)
    page.goto(address)
    expect(page.locator("#model")).to_contain_text("8×8 grey, 16 patches")
    yield page
    context.close()
    refusals = re.compile(r"Failed to load resource.* 4\d\d ")  # the browser's own line about an answer that says no
    assert [each for each in wrong if not refusals.search(each)] == []


def give(page: Page, name: str, content: bytes, button: str = "#open") -> None:
    give_file(page, {"name": name, "mimeType": "image/png", "buffer": content}, button)


def give_file(page: Page, file: Any, button: str = "#open") -> None:
    with page.expect_file_chooser() as chooser:
        page.click(button)
    chooser.value.set_files(file)


def stroke(page: Page, *points: tuple[float, float]) -> None:
    """With the mouse; in pixels of the image."""
    box = page.locator("#board").bounding_box()
    assert box is not None
    side = box["width"] / SIDE
    for k, (x, y) in enumerate(points):
        page.mouse.move(box["x"] + x * side, box["y"] + y * side, steps=3)
        if k == 0:
            page.mouse.down()
    page.mouse.up()


def saved(page: Page, button: str) -> bytes:
    with page.expect_download() as download:
        page.click(button)
    path = download.value.path()
    return Path(path).read_bytes()


def run_to_end(page: Page, start: Callable[[], Any] | None = None) -> None:
    (start or page.locator("#run").click)()
    expect(page.locator("#figures")).to_contain_text("Done")
    expect(page.locator("#keep")).to_be_visible()


def test_a_painted_hole_is_filled_and_all_else_comes_back(page: Page) -> None:
    give(page, "a.png", png_of(picture(0)))
    expect(page.locator("#image-report")).to_contain_text("8×8 pixels")
    page.fill("#field-steps", "6")
    page.locator("#brush-size").evaluate("slider => { slider.value = 2; slider.dispatchEvent(new Event('input')); }")
    stroke(page, (4, 4), (7.9, 4), (7.9, 7.9), (4, 7.9), (4, 6), (7.9, 6))
    expect(page.locator("#hole-report")).to_contain_text("patches are made anew")
    run_to_end(page)
    recipe = json.loads(saved(page, "#save-recipe"))
    hole = np.array([[letter == "#" for letter in row] for row in recipe["hole"]])
    assert 12 <= hole.sum() <= 30
    with Image.open(io.BytesIO(saved(page, "#save-image"))) as image:
        made = np.asarray(image)
    assert np.array_equal(made[~hole], picture(0)[..., 0][~hole])
    assert not np.array_equal(made[hole], picture(0)[..., 0][hole])
    assert saved(page, "#save-film")[8:12] == b"WEBP"
    assert saved(page, "#save-strip")[1:4] == b"PNG"
    assert page.locator("#candidates button").count() == 5  # four seeds, and where they differ
    page.get_by_label("Candidate of seed 2").click()
    assert page.get_attribute("#save-image", "href").endswith("/2.png")  # type: ignore[union-attr]
    page.get_by_label("Where the candidates differ").click()
    expect(page.locator("#caption-map")).to_have_text("Where candidates differ")
    page.click("#original")
    expect(page.locator("#caption-image")).to_have_text("Original")
    page.locator("#scrubber").fill("1")
    expect(page.locator("#scrubber-step")).to_have_text("step 2 of 6")


def test_all_of_it_by_keyboard_alone(page: Page) -> None:
    """An image is drawn, a hole, a level and an order are painted, and it is run; the recipe says what was painted."""
    reached: list[str] = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.name"))
        if reached[-1] == "board":
            break
    assert reached[0] == "" or "help-open" in reached
    assert {"open", "no-image", "layer"} <= set(reached)
    assert reached[-1] == "board"
    outline = page.locator("#board").evaluate("canvas => getComputedStyle(canvas).outlineStyle")
    assert outline == "solid"
    press = page.keyboard.press
    press("1")  # draw
    press("Shift+Space")
    press("2")  # hole
    for key in ("ArrowRight", "Enter", "ArrowDown", "Space"):
        press(key)
    press("3")  # noise
    press("ArrowDown")
    press("Space")
    press("4")  # order
    press("Space")
    press("ArrowUp")
    page.keyboard.down("Space")
    press("ArrowUp")
    page.keyboard.up("Space")
    expect(page.locator("#status")).to_contain_text("row 1, column 2 · grey 0 · hole · starts at 1.00 · turn 3")
    expect(page.locator("#field-order")).to_have_value("drawn")
    run_to_end(page, lambda: press("Control+Enter"))
    recipe = json.loads(saved(page, "#save-recipe"))
    assert recipe["hole"] == ["..##....", "..##....", "..##....", "..##....", *["........"] * 4]
    assert recipe["levels"][2] == [None, 0.5, None, None]
    assert [row[1] for row in recipe["recipe"]["drawn"]] == [2, 1, 0, 3]
    press("?")
    expect(page.locator("#help")).to_be_visible()
    press("Escape")
    expect(page.locator("#help")).not_to_be_visible()


def test_strokes_can_be_taken_back(page: Page) -> None:
    page.locator("#board").focus()
    for key in ("1", "Space", "2", "Space", "i"):
        page.keyboard.press(key)
    expect(page.locator("#hole-report")).to_contain_text("15 of 16")
    page.keyboard.press("Control+z")
    expect(page.locator("#hole-report")).to_contain_text("1 of 16")
    page.keyboard.press("Control+z")
    expect(page.locator("#hole-report")).to_be_empty()


def test_a_recipe_that_is_loaded_draws_the_same_again(page: Page) -> None:
    give(page, "a.png", png_of(picture(3)))
    page.select_option("#field-class", "owl")
    page.fill("#field-seeds", "7, 20-21")
    page.select_option("#field-scheduler", "staggered")
    expect(page.locator("#field-width")).to_be_visible()
    page.fill("#field-steps", "5")
    page.locator("#board").focus()
    page.keyboard.press("2")
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("4")
    page.keyboard.press("Enter")
    expect(page.locator("#field-order")).to_have_value("drawn")
    run_to_end(page)
    first, recipe = saved(page, "#save-image"), saved(page, "#save-recipe")
    page.reload()
    expect(page.locator("#field-seeds")).to_have_value("0-3")
    give(page, "recipe.json", recipe, "#recipe-load")
    expect(page.locator("#field-class")).to_have_value("owl")
    expect(page.locator("#field-seeds")).to_have_value("7, 20-21")
    expect(page.locator("#field-scheduler")).to_have_value("staggered")
    expect(page.locator("#field-order")).to_have_value("drawn")
    run_to_end(page)
    assert saved(page, "#save-image") == first
    assert json.loads(saved(page, "#save-recipe")) == json.loads(recipe)
    give(page, "recipe.json", b'{"recipe": {"speed": 3}}', "#recipe-load")
    expect(page.locator("[data-error-of=recipe]")).to_contain_text("no field 'speed'")


def test_what_is_wrong_is_said_at_its_control(page: Page) -> None:
    page.fill("#field-seeds", "3-1")
    page.click("#run")
    expect(page.locator("[data-error-of=seeds]")).to_contain_text("as in 0-3, 17")
    page.fill("#field-seeds", "1")
    page.fill("#field-steps", "-4")
    page.click("#run")
    expect(page.locator("[data-error-of=steps]")).to_contain_text("steps must be")
    page.fill("#field-steps", "")
    run_to_end(page)
    expect(page.locator("[data-error-of=steps]")).to_be_empty()
    give(page, "a.png", png_of(picture(0)))
    page.click("#run")
    expect(page.locator("[data-error-of~=hole]")).to_contain_text("paint a hole")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("picture.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><script>document.title = "hit"</script></svg>'),
        ("large.png", png_header(20_000, 20_000)),
        ("text.png", b"only words"),
        ("..%2f..%2fetc%2fpasswd", b"root:x:0:0"),
    ],
    ids=["svg", "huge", "text", "path"],
)
def test_hostile_files_are_refused_with_a_word(page: Page, name: str, content: bytes) -> None:
    give(page, name, content)
    expect(page.locator("[data-error-of~=image]")).to_have_text(re.compile("the image .*(no image|too large)"))
    assert page.title() == "AsyncPatch Diffusion"
    expect(page.locator("#run")).to_be_enabled()


def test_a_file_that_is_too_long_is_not_sent(page: Page, tmp_path: Path) -> None:
    with (tmp_path / "long.png").open("wb") as file:
        file.truncate(20_000_001)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    give_file(page, tmp_path / "long.png")
    expect(page.locator("[data-error-of~=image]")).to_contain_text("at most 20 MB")
    assert sent == []


def test_a_run_can_be_cancelled_and_the_next_in_the_queue_goes_on(page: Page, browser: Browser) -> None:
    other = browser.new_page()  # before the run, which would not wait for it on a busy machine
    other.goto(page.url)
    expect(other.locator("#run")).to_be_enabled()
    page.fill("#field-steps", "2000")
    page.fill("#field-seeds", "0-15")
    page.click("#run")
    expect(page.locator("#figures")).to_contain_text("of 2000")
    other.click("#run")
    expect(other.locator("#figures")).to_contain_text("1 before this one")
    page.keyboard.press("Escape")
    expect(page.locator("#figures")).to_have_text("Cancelled.")
    expect(page.locator("#run")).to_be_enabled()
    expect(other.locator("#figures")).to_contain_text("Done", timeout=15_000)
    other.close()


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_narrow_and_wide_screens(page: Page, width: int, scheme: Any) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    run, board = page.locator("#run").bounding_box(), page.locator("#board").bounding_box()
    assert run is not None
    assert board is not None
    assert run["y"] + run["height"] <= 800  # at hand without scrolling
    assert 280 <= board["width"] <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 200) == (scheme == "dark")


def test_ctrl_c_ends_it_at_once_in_the_middle_of_a_run(server: tuple[subprocess.Popen[str], str]) -> None:
    """The last test here: it ends the server."""
    process, address = server
    run = httpx.post(f"{address}/api/runs", json={"seeds": [0], "recipe": {"steps": 2000}}).json()["id"]
    with httpx.stream("GET", f"{address}/api/runs/{run}/events", timeout=20) as stream:
        lines = stream.iter_lines()
        assert any(line == "event: frame" for line in lines)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert "event: done" not in list(lines)
        assert time.monotonic() - began < 1
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)
    assert time.monotonic() - began < 2
    process.wait(20)  # taking PyTorch apart is what takes longest
    assert process.returncode == 130
    assert process.stderr is not None
    assert process.stderr.read() == "apps/demo: interrupted\n"
