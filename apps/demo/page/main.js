// Brings the parts of the page together.

import { ask } from "./api.js";
import { makeBoard } from "./board.js";
import { listen } from "./brush.js";
import { fromBase64 } from "./codec.js";
import { makeControls } from "./controls.js";
import { $, make, say, showError } from "./dom.js";
import { listenToFiles } from "./files.js";
import { listenToKeys } from "./help.js";
import { fitToScreen, makeRamp, paste, toImageData } from "./pictures.js";
import { makeRunner } from "./runner.js";
import { makeStage } from "./stage.js";
import { writeBoard } from "./task.js";
import { makeTools } from "./tools.js";
import { drawBoard, shown } from "./view.js";

const model = await ask("/api/model").catch((error) => {
  $("model").textContent = error.message;
  throw error;
});
const ramp = makeRamp(model.ramp);
const board = makeBoard(model);
const paper = model.examples.length ? 0 : 255, ink = 255 - paper; // the animals are white on black
const brush = {
  layer: "hole", erase: false, level: 0.5, colour: [ink, ink, ink], paper: [paper, paper, paper], together: false,
  size: { draw: Math.max(1, Math.round(model.width / 14)), hole: Math.max(2, Math.round(model.width / 5)), noise: 1, order: 1 },
};
const state = { layer: brush.layer, cursor: null, hover: null };
const controls = makeControls(model, board);
const stage = makeStage(model, ramp, (chosen) => runner.link(chosen));
const runner = makeRunner(controls, board, stage);
const needsImage = () => tellImage("There is no image yet: open one, take an example, or draw one.");
const tools = makeTools(board, brush, { layer: redraw, needsImage });

$("model").textContent = `${model.name} · ${model.height}×${model.width} ${model.channels === 1 ? "grey" : "RGB"}${model.of_latents ? " by latents" : ""}, ${model.grid[0] * model.grid[1]} patches · ${model.weights}`;

let due = false;
function redraw() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    state.layer = brush.layer;
    drawBoard($("board"), board, state, ramp);
  });
}
fitToScreen($("board"), model.width / model.height, redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

let had = { image: false, order: null };
board.onChange(() => {
  redraw();
  reportHole();
  stage.preview(shown(board), board.startLevels());
  $("empty").hidden = board.pixels !== null;
  const has = { image: board.pixels !== null, order: board.hasOrder() ? String(board.order()) : null };
  if (has.order !== had.order) paintedOrder(has.order !== null);
  else if (has.image !== had.image) controls.refresh();
  had = has;
});

// Whoever paints an order wants it used.
function paintedOrder(has) {
  if (!has) {
    if (controls.wanted("order") === "drawn") controls.wants("order", undefined);
    return;
  }
  if (!["sequential", "staggered", "sliding-window"].includes(controls.settled("scheduler"))) {
    controls.wants("scheduler", "sequential");
  }
  controls.wants("order", "drawn");
}

function reportHole() {
  const made = board.startLevels().filter((level) => level > 0).length, { known } = board.cuts();
  const kept = known ? ` ${known} known pixels lie in patches that the hole cuts; they are put back.` : "";
  $("hole-report").textContent = board.pixels !== null && made ? `${made} of ${board.tokens} patches are made anew.${kept}` : "";
}

function tellImage(text) {
  $("image-report").textContent = text;
  say(text);
}

listen($("board"), board, brush, state, {
  needsImage,
  move(at, spoken) {
    redraw();
    const text = at?.patch == null ? "" : describe(at);
    $("readout").textContent = text;
    if (spoken) say(text);
  },
});

function describe({ x, y, patch }) {
  const parts = [`row ${Math.floor(patch / board.columns) + 1}, column ${(patch % board.columns) + 1}`];
  if (board.pixels !== null) {
    const at = board.channels * (Math.floor(y) * board.width + Math.floor(x));
    const value = [...board.pixels.subarray(at, at + board.channels)].join(" ");
    parts.push(`${board.channels === 1 ? "grey" : "RGB"} ${value}`);
    if (board.hole[Math.floor(y) * board.width + Math.floor(x)]) parts.push("hole");
  }
  parts.push(`starts at ${board.startLevels()[patch].toFixed(2)}`);
  if (!Number.isNaN(board.turns[patch])) parts.push(`turn ${board.turns[patch] + 1}`);
  return parts.join(" · ");
}

function takeImage(pixels, report) {
  board.begin();
  board.setImage(pixels);
  tellImage(report);
  showError(null);
}

async function openImage(file) {
  showError(null);
  try {
    if (file.size > model.most_uploaded) {
      throw Object.assign(new Error(`that is too large: at most ${model.most_uploaded / 1e6} MB are taken`), { field: "image" });
    }
    const { pixels, report } = await ask("/api/fit", file, "application/octet-stream");
    takeImage(fromBase64(pixels), report);
  } catch (error) {
    showError(error, "image");
  }
}

async function openRecipe(file) {
  showError(null);
  try {
    if (file.size > 5e6) throw new Error("a recipe file is not that large");
    const { task, note } = await ask("/api/check", file);
    board.begin();
    writeBoard(board, task);
    await controls.write(task);
    tellImage(note || "The recipe is loaded.");
  } catch (error) {
    showError(error, error.field ?? "recipe");
  }
}

for (const { name, pixels } of model.examples) {
  const canvas = make("canvas", { width: 56, height: 56 });
  paste(canvas, toImageData(fromBase64(pixels), model.width, model.height, model.channels));
  const button = make("button", { type: "button", "aria-label": `Example: ${name}`, title: name }, canvas);
  button.addEventListener("click", () => takeImage(fromBase64(pixels), `Example: ${name}.`));
  $("examples").append(button);
}
$("no-image").addEventListener("click", () => takeImage(null, ""));
listenToFiles(openImage, openRecipe);

$("run").addEventListener("click", runner.start);
$("cancel").addEventListener("click", runner.cancel);
$("recipe-reset").addEventListener("click", () => controls.reset());
$("reuse").addEventListener("click", () => takeImage(stage.pixels(), "This is the result, to paint on."));
listenToKeys({
  run: runner.start,
  cancel: runner.cancel,
  undo: () => board.undo(),
  layer: (index) => tools.choose(tools.layers[index]),
  erase: tools.toggleEraser,
  invert: () => $("invert")?.click(),
  size(step) {
    const slider = $("brush-size");
    slider.value = String(Number(slider.value) + step);
    slider.dispatchEvent(new Event("input"));
  },
});
stage.preview(shown(board), board.startLevels());
