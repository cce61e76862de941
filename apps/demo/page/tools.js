// The layers that the brush paints on, and the tools of each.

import { $, make } from "./dom.js";

const LAYERS = [
  ["draw", "Draw", "The pixels of the image"],
  ["hole", "Hole", "What is hidden and made anew"],
  ["noise", "Noise", "The noise level that each patch starts from"],
  ["order", "Order", "Which patches are made first"],
];
const HINTS = {
  draw: "Paint on the image, or on a blank one.",
  hole: "Paint what is to be made anew. All else comes back exactly as it is.",
  noise: "0 keeps a patch, 1 makes it anew, between the two it is changed a little or a lot.",
  order: "Paint the patches in the order in which they are to be made; the others follow together.",
};

export function makeTools(board, brush, on) {
  const grey = board.channels === 1;
  const radios = LAYERS.map(([name, label, title], index) => {
    const input = make("input", { type: "radio", name: "layer", value: name, checked: name === brush.layer });
    input.addEventListener("change", () => choose(name));
    return make("label", { title: `${title} (${index + 1})` }, input, make("span", {}, label));
  });
  $("layers").append(...radios);

  function choose(name) {
    brush.layer = name;
    radios.forEach((label) => (label.firstChild.checked = label.firstChild.value === name));
    show();
    on.layer();
  }

  function act(label, title, change, extra = {}) {
    const button = make("button", { type: "button", title, ...extra }, label);
    button.addEventListener("click", () => {
      if (board.pixels === null && (brush.layer === "hole" || brush.layer === "noise")) return on.needsImage();
      board.begin();
      change();
    });
    return button;
  }

  function slider(id, label, { min, max, step = 1, value, text = String }, change) {
    const output = make("output", { htmlFor: id }, text(value));
    const input = make("input", { id, type: "range", min, max, step, value });
    input.addEventListener("input", () => {
      output.textContent = text(Number(input.value));
      change(Number(input.value));
    });
    return make("div", { className: "slider" }, make("label", { htmlFor: id }, label), input, output);
  }

  const eraser = () => {
    const button = make("button", { type: "button", id: "eraser", title: "Take paint away (E)" }, "Eraser");
    button.setAttribute("aria-pressed", String(brush.erase));
    button.addEventListener("click", toggleEraser);
    return button;
  };
  const undo = () => {
    const button = make("button", { type: "button", title: "Take the last stroke back (Ctrl+Z)" }, "Undo");
    button.addEventListener("click", () => board.undo());
    return button;
  };
  const size = (most, unit) =>
    slider("brush-size", "Brush", { min: 1, max: most, value: brush.size[brush.layer], text: unit },
      (value) => (brush.size[brush.layer] = value));
  const pixels = (n) => `${n} px`;
  const patches = (n) => `${2 * n - 1}×${2 * n - 1}`;
  const mostPixels = Math.max(8, Math.floor(board.width / 2));

  const panels = {
    draw: () => [
      size(mostPixels, pixels),
      grey
        ? slider("grey", "Grey", { min: 0, max: 255, value: brush.colour[0] }, (value) => (brush.colour = [value, value, value]))
        : colourChooser(),
      row(eraser(), act("Fill", "The whole image in this colour", () => {
        if (board.pixels === null) board.setImage(new Uint8Array(board.height * board.width * board.channels));
        board.fill("draw", brush.colour);
      }), undo()),
    ],
    hole: () => [
      size(mostPixels, pixels),
      row(eraser(), act("Invert", "Hide what is known and show what is hidden (I)", board.invertHole, { id: "invert" }),
        act("Clear", "No hole", () => board.fill("hole", 0)), act("All", "Hide everything", () => board.fill("hole", 1)), undo()),
    ],
    noise: () => [
      size(3, patches),
      slider("level", "Level", { min: 0, max: 1, step: 0.05, value: brush.level, text: (v) => v.toFixed(2) }, (v) => (brush.level = v)),
      row(eraser(), act("Clear", "Levels as the hole says", () => board.fill("noise", NaN)),
        act("Fill", "This level everywhere", () => board.fill("noise", brush.level)), undo()),
    ],
    order: () => [
      size(3, patches),
      row(together(), eraser(), act("Clear", "No order of your own", () => board.fill("order", NaN)), undo()),
    ],
  };

  function colourChooser() {
    const hex = `#${brush.colour.map((part) => part.toString(16).padStart(2, "0")).join("")}`;
    const input = make("input", { type: "color", id: "colour", value: hex });
    input.addEventListener("input", () => {
      brush.colour = [1, 3, 5].map((at) => parseInt(input.value.slice(at, at + 2), 16));
    });
    return make("div", { className: "slider" }, make("label", { htmlFor: "colour" }, "Colour"), input);
  }

  function together() {
    const input = make("input", { type: "checkbox", id: "together", checked: brush.together });
    input.addEventListener("change", () => (brush.together = input.checked));
    return make("label", { className: "check", title: "All patches of a stroke are made at the same time" }, input, "a stroke is one turn");
  }

  function toggleEraser() {
    brush.erase = !brush.erase;
    $("eraser").setAttribute("aria-pressed", String(brush.erase));
  }

  function show() {
    $("tools").replaceChildren(make("p", { className: "note muted" }, HINTS[brush.layer]), ...panels[brush.layer]());
  }

  show();
  return { choose, toggleEraser, layers: LAYERS.map(([name]) => name) };
}

function row(...children) {
  return make("div", { className: "row" }, ...children);
}
