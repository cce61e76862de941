// The board on the screen: the image, and over it the layer that is painted.

import { luminance, paste, toImageData } from "./pictures.js";

const BLUE = [120, 150, 200];

// `state`: layer, cursor (a patch, or null), hover (a patch, or null).
export function drawBoard(canvas, board, state, ramp) {
  const context = canvas.getContext("2d");
  const side = canvas.width / board.columns;
  const style = getComputedStyle(canvas);
  context.clearRect(0, 0, canvas.width, canvas.height);
  paste(canvas, under(board, state.layer), context);
  if (state.layer === "noise") drawLevels(context, board, side, ramp);
  if (state.layer === "order") drawTurns(context, board, side);
  drawGrid(context, board, side, canvas);
  if (board.pixels !== null) outlineCuts(context, board, side, style.getPropertyValue("--accent"));
  if (state.hover !== null) frame(context, board, side, state.hover, "rgb(255 255 255 / 70%)", 1);
  if (state.cursor !== null) {
    frame(context, board, side, state.cursor, "#fff", 5);
    frame(context, board, side, state.cursor, style.getPropertyValue("--accent"), 3);
  }
}

// What a model is shown: RGB, flat blue where nothing is known.
export function shown(board) {
  const { data } = under(board, "shown");
  return Uint8Array.from({ length: (data.length / 4) * 3 }, (_, i) => data[4 * Math.floor(i / 3) + (i % 3)]);
}

// The image with a blue veil over the hole, thicker where the hole is what is painted.
function under(board, layer) {
  const { pixels, hole, width, height, channels } = board;
  const blank = pixels === null;
  const image = toImageData(blank ? new Uint8Array(width * height) : pixels, width, height, blank ? 1 : channels);
  const veil = blank ? 1 : { draw: 0.35, hole: 0.9, noise: 0.35, order: 0.6, shown: 1 }[layer];
  for (let i = 0; i < hole.length; i++) {
    if (!blank && !hole[i]) continue;
    for (let c = 0; c < 3; c++) image.data[4 * i + c] += veil * (BLUE[c] - image.data[4 * i + c]);
  }
  return image;
}

function eachPatch(board, side, act) {
  for (let i = 0; i < board.tokens; i++) act(i, (i % board.columns) * side, Math.floor(i / board.columns) * side);
}

function drawLevels(context, board, side, ramp) {
  const start = board.startLevels();
  eachPatch(board, side, (i, x, y) => {
    const painted = !Number.isNaN(board.levels[i]);
    if (!painted && start[i] === 0) return;
    const colour = ramp(start[i]);
    context.fillStyle = `rgb(${colour.join(" ")} / ${painted ? 92 : 75}%)`;
    context.fillRect(x, y, side, side);
    label(context, x, y, side, start[i].toFixed(2).replace(/^0(?=\.)/, ""), luminance(colour) > 0.5 ? "#111" : "#fff");
  });
}

function drawTurns(context, board, side) {
  const last = Math.max(1, board.nextTurn() - 1);
  eachPatch(board, side, (i, x, y) => {
    const turn = board.turns[i];
    if (Number.isNaN(turn)) return;
    const grey = Math.round(25 + (205 * turn) / last);
    context.fillStyle = `rgb(${grey} ${grey} ${grey} / 88%)`;
    context.fillRect(x, y, side, side);
    label(context, x, y, side, String(turn + 1), grey > 128 ? "#111" : "#fff");
  });
}

function label(context, x, y, side, text, colour) {
  const size = Math.min(side * 0.36, 15 * devicePixelRatio);
  if (size < 8 * devicePixelRatio) return;
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillStyle = colour;
  context.fillText(text, x + side / 2, y + side / 2);
}

function drawGrid(context, board, side, canvas) {
  if (side < 6 * devicePixelRatio) return;
  context.strokeStyle = "rgb(128 140 160 / 35%)";
  context.lineWidth = 1;
  context.beginPath();
  for (let i = 1; i < board.columns; i++) line(context, i * side, 0, i * side, canvas.height);
  for (let i = 1; i < board.rows; i++) line(context, 0, i * side, canvas.width, i * side);
  context.stroke();
}

// Around the patches that a hole cuts: these are generated whole.
function outlineCuts(context, board, side, colour) {
  const { hidden } = board.cuts();
  const cut = (r, c) => r >= 0 && c >= 0 && r < board.rows && c < board.columns && hidden[r * board.columns + c] > 0;
  context.strokeStyle = colour;
  context.lineWidth = 2 * devicePixelRatio;
  context.beginPath();
  for (let r = 0; r < board.rows; r++) {
    for (let c = 0; c < board.columns; c++) {
      if (!cut(r, c)) continue;
      const x = c * side, y = r * side;
      if (!cut(r - 1, c)) line(context, x, y, x + side, y);
      if (!cut(r + 1, c)) line(context, x, y + side, x + side, y + side);
      if (!cut(r, c - 1)) line(context, x, y, x, y + side);
      if (!cut(r, c + 1)) line(context, x + side, y, x + side, y + side);
    }
  }
  context.stroke();
}

function frame(context, board, side, index, colour, width) {
  context.strokeStyle = colour;
  context.lineWidth = width * devicePixelRatio;
  const x = (index % board.columns) * side, y = Math.floor(index / board.columns) * side;
  context.strokeRect(x + 1, y + 1, side - 2, side - 2);
}

function line(context, x0, y0, x1, y1) {
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
}
