// The generation on the screen: image and noise map side by side, live and again, and the candidates in a row.

import { $, make } from "./dom.js";
import { fitToScreen, HEAT, levelsToImageData, paste, toImageData } from "./pictures.js";

export function makeStage(model, ramp, onChoose) {
  const { height, width, channels, grid } = model;
  const tokens = grid[0] * grid[1], size = height * width * channels;
  let film = []; // { step, images, levels }, of all candidates
  let at = -1; // which of them is shown; -1 the last
  let chosen = 0, count = 1, spread = null, showsSpread = false, original = null, showsOriginal = false;
  let before = { pixels: new Uint8Array(3 * height * width), levels: new Float64Array(tokens).fill(1) };
  let playing = null;
  const tiles = [];

  const frame = () => film.at(at);
  const image = (i) => frame()?.images.subarray(i * size, (i + 1) * size) ?? null;
  const levels = () => film.length
    ? Array.from(frame().levels.subarray(chosen * tokens, (chosen + 1) * tokens), (level) => level / 255)
    : before.levels;

  fitToScreen($("stage-image"), width / height, draw);
  fitToScreen($("stage-map"), grid[1] / grid[0], draw);

  function draw() {
    const pixels = showsOriginal && original ? original : image(chosen);
    paste($("stage-image"), pixels ? toImageData(pixels, width, height, channels) : toImageData(before.pixels, width, height, 3));
    const most = Math.max(1, ...(spread ?? []));
    const map = showsSpread ? spread.map((value) => value / most) : levels();
    paste($("stage-map"), levelsToImageData(map, grid, showsSpread ? HEAT : ramp));
    drawLegend();
    tiles.forEach((tile, i) => {
      if (i < count && film.length) paste(tile.canvas, toImageData(image(i), width, height, channels));
      if (i >= count) paste(tile.canvas, levelsToImageData(spread.map((value) => value / most), grid, HEAT));
    });
    $("caption-image").textContent = showsOriginal ? "Original" : film.length ? "Image" : "What the model is shown";
    $("caption-map").textContent = showsSpread ? "Where candidates differ" : film.length ? "Noise map" : "Where it starts";
    $("legend-low").textContent = showsSpread ? "alike" : "clean";
    $("legend-high").textContent = showsSpread ? `${Math.round(most)} of 255` : "noise";
    $("stage-map").setAttribute("aria-label", describe(map));
  }

  function describe(map) {
    const mean = map.reduce((sum, value) => sum + value, 0) / map.length;
    if (showsSpread) return "How much the candidates differ in every patch";
    return `Noise level of every patch: ${mean.toFixed(2)} on average, from ${Math.min(...map).toFixed(2)} to ${Math.max(...map).toFixed(2)}`;
  }

  function tile(name, label, press) {
    const canvas = make("canvas", { width: 96, height: Math.round((96 * height) / width) });
    const button = make("button", { type: "button", "aria-label": name, title: name, "aria-pressed": "false" }, canvas, label);
    button.addEventListener("click", press);
    tiles.push({ canvas, button });
    return button;
  }

  function press(index, isSpread) {
    showsSpread = isSpread;
    if (!isSpread) chosen = index;
    tiles.forEach(({ button }, i) => button.setAttribute("aria-pressed", String(i < count ? i === chosen : showsSpread)));
    draw();
    onChoose(chosen);
  }

  function seek(index) {
    at = index;
    $("scrubber").value = String(index);
    $("scrubber-step").textContent = `step ${frame()?.step ?? 0} of ${film.at(-1)?.step ?? 0}`;
    draw();
  }

  function stop() {
    clearInterval(playing);
    playing = null;
    $("play").textContent = "▶";
    $("play").setAttribute("aria-label", "Replay");
  }

  $("scrubber").addEventListener("input", () => {
    stop();
    seek(Number($("scrubber").value));
  });
  $("play").addEventListener("click", () => {
    if (playing !== null) return stop();
    let next = Number($("scrubber").value) >= film.length - 1 ? 0 : Number($("scrubber").value);
    $("play").textContent = "❚❚";
    $("play").setAttribute("aria-label", "Pause");
    playing = setInterval(() => {
      seek(next++);
      if (next >= film.length) stop();
    }, Math.min(200, Math.max(30, 4000 / film.length)));
  });
  $("original").addEventListener("click", () => {
    showsOriginal = !showsOriginal;
    $("original").setAttribute("aria-pressed", String(showsOriginal));
    draw();
  });

  function drawLegend() {
    const shades = Array.from({ length: 64 }, (_, i) => i / 63);
    paste($("ramp"), levelsToImageData(shades, [1, 64], showsSpread ? HEAT : ramp));
  }

  return {
    // What the board says, as RGB and levels, until something has run.
    preview(pixels, start) {
      before = { pixels, levels: start };
      if (!film.length) draw();
    },
    start(seeds, given) {
      stop();
      [film, at, count, spread, showsSpread, showsOriginal] = [[], -1, seeds.length, null, false, false];
      original = given;
      chosen = Math.min(chosen, count - 1);
      tiles.length = 0;
      $("candidates").replaceChildren(...(count > 1 ? seeds.map((seed, i) => tile(`Candidate of seed ${seed}`, `seed ${seed}`, () => press(i, false))) : []));
      $("replay").hidden = $("keep").hidden = true;
      $("original").setAttribute("aria-pressed", "false");
      $("original").hidden = given === null;
      press(chosen, false);
    },
    live(step, images, levelsOfAll) {
      film = [{ step, images, levels: levelsOfAll }];
      at = -1;
      draw();
    },
    // All frames, to go through again.
    end(frames, spreadOfTokens) {
      film = frames;
      if (spreadOfTokens) {
        spread = spreadOfTokens;
        $("candidates").append(tile("Where the candidates differ", "spread", () => press(chosen, true)));
      }
      $("scrubber").max = String(film.length - 1);
      $("replay").hidden = film.length < 2;
      seek(film.length - 1);
    },
    chosen: () => chosen,
    pixels: () => film.at(-1)?.images.slice(chosen * size, (chosen + 1) * size) ?? null,
  };
}
