// What is painted: the image, the hole in it, the noise level and the turn of each patch. Knows nothing of the screen.

const UNDO = 60;

export function makeBoard({ height, width, channels, patch, grid: [rows, columns] }) {
  const tokens = rows * columns;
  const listeners = [];
  const past = [];
  const board = {
    pixels: null, // 8-bit, or null: everything is generated
    hole: new Uint8Array(height * width), // 1 is hidden
    levels: new Float64Array(tokens).fill(NaN), // painted ones
    turns: new Float64Array(tokens).fill(NaN), // painted ones, from 0
    height, width, channels, patch, rows, columns, tokens,
  };
  const changed = () => listeners.forEach((listener) => listener());
  const copy = () => ({
    pixels: board.pixels?.slice() ?? null,
    hole: board.hole.slice(),
    levels: board.levels.slice(),
    turns: board.turns.slice(),
  });
  const patchOf = (x, y) => Math.floor(y / patch) * columns + Math.floor(x / patch);

  // Which patches have a hidden pixel, and how many known pixels lie in those.
  function cuts() {
    const hidden = new Uint32Array(tokens);
    board.hole.forEach((cut, i) => (hidden[patchOf(i % width, Math.floor(i / width))] += cut));
    const known = hidden.reduce((sum, count) => sum + (count ? patch * patch - count : 0), 0);
    return { hidden, known };
  }

  return Object.assign(board, {
    cuts,
    patchOf,
    onChange: (listener) => listeners.push(listener),
    // Call before a change that may be undone.
    begin() {
      past.push(copy());
      if (past.length > UNDO) past.shift();
    },
    undo() {
      if (!past.length) return false;
      Object.assign(board, past.pop());
      changed();
      return true;
    },
    setImage(pixels) {
      board.pixels = pixels === null ? null : Uint8ClampedArray.from(pixels);
      board.hole.fill(0);
      board.levels.fill(NaN);
      changed();
    },
    set(parts) {
      Object.assign(board, parts);
      changed();
    },
    // The level that each patch starts from, as the server has it too: painted, else by the hole.
    startLevels() {
      if (board.pixels === null) return new Float64Array(tokens).fill(1);
      const { hidden } = cuts();
      return board.levels.map((level, i) => (Number.isNaN(level) ? Number(hidden[i] > 0) : level));
    },
    // The turn of every patch: those without one come together, after all others.
    order() {
      const last = board.turns.reduce((most, turn) => (turn > most ? turn : most), -1) + 1;
      const whole = Array.from(board.turns, (turn) => (Number.isNaN(turn) ? last : turn));
      return Array.from({ length: rows }, (_, i) => whole.slice(i * columns, (i + 1) * columns));
    },
    hasOrder: () => board.turns.some((turn) => !Number.isNaN(turn)),
    nextTurn: () => board.turns.reduce((most, turn) => (turn > most ? turn : most), -1) + 1,
    // Pixels of the disc about a point in pixels; `value` is 0 or 1 for the hole, a colour for the image.
    paintDisc(layer, x, y, diameter, value) {
      const radius = diameter / 2;
      for (let j = Math.max(0, Math.floor(y - radius)); j < Math.min(height, y + radius); j++) {
        for (let i = Math.max(0, Math.floor(x - radius)); i < Math.min(width, x + radius); i++) {
          const inside = (i + 0.5 - x) ** 2 + (j + 0.5 - y) ** 2 <= radius ** 2;
          const under = i === Math.floor(x) && j === Math.floor(y);
          if (inside || under) setPixel(layer, j * width + i, value);
        }
      }
      changed();
    },
    // The patches `reach` about one; `value` as of the layer.
    paintPatches(layer, index, reach, value) {
      const row = Math.floor(index / columns), column = index % columns;
      for (let r = Math.max(0, row - reach); r <= Math.min(rows - 1, row + reach); r++) {
        for (let c = Math.max(0, column - reach); c <= Math.min(columns - 1, column + reach); c++) {
          if (layer === "noise") board.levels[r * columns + c] = value;
          else if (layer === "order") setTurn(r * columns + c, value);
          else {
            for (let k = 0; k < patch * patch; k++) {
              setPixel(layer, (r * patch + Math.floor(k / patch)) * width + c * patch + (k % patch), value);
            }
          }
        }
      }
      changed();
    },
    fill(layer, value) {
      if (layer === "hole") board.hole.fill(value);
      if (layer === "noise") board.levels.fill(value);
      if (layer === "order") board.turns.fill(value);
      if (layer === "draw") for (let i = 0; i < height * width; i++) setPixel("draw", i, value);
      changed();
    },
    invertHole() {
      board.hole.forEach((cut, i) => (board.hole[i] = 1 - cut));
      changed();
    },
  });

  function setPixel(layer, index, value) {
    if (layer === "hole") board.hole[index] = value;
    else value.slice(0, channels).forEach((part, c) => (board.pixels[channels * index + c] = part));
  }

  // A patch that has a turn keeps it, unless it is taken away (NaN).
  function setTurn(index, value) {
    if (Number.isNaN(value) || Number.isNaN(board.turns[index])) board.turns[index] = value;
  }
}
