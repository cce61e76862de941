// The board as a recipe file has it.

import { fromBase64, toBase64 } from "./codec.js";

export function readBoard(board) {
  if (board.pixels === null) return {};
  const { height, width, channels, rows, columns } = board;
  const row = (i) => Array.from(board.hole.subarray(i * width, (i + 1) * width), (cut) => ".#"[cut]).join("");
  const level = (value) => (Number.isNaN(value) ? null : value);
  const task = {
    image: { height, width, channels, pixels: toBase64(board.pixels) },
    hole: Array.from({ length: height }, (_, i) => row(i)),
  };
  if (board.levels.some((value) => !Number.isNaN(value))) {
    task.levels = Array.from({ length: rows }, (_, i) => Array.from(board.levels.subarray(i * columns, (i + 1) * columns), level));
  }
  return task;
}

export function writeBoard(board, { image, hole, levels, recipe }) {
  const blank = (length) => new Float64Array(length).fill(NaN);
  board.set({
    pixels: image ? Uint8ClampedArray.from(fromBase64(image.pixels)) : null,
    hole: hole ? Uint8Array.from(hole.join(""), (letter) => Number(letter === "#")) : new Uint8Array(board.height * board.width),
    levels: levels ? Float64Array.from(levels.flat(), (value) => value ?? NaN) : blank(board.tokens),
    turns: recipe.drawn ? ranks(recipe.drawn.flat()) : blank(board.tokens),
  });
}

// Any numbers as turns 0, 1, …; equal ones go together.
function ranks(numbers) {
  const sorted = [...new Set(numbers)].sort((a, b) => a - b);
  return Float64Array.from(numbers, (value) => sorted.indexOf(value));
}
