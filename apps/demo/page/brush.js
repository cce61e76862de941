// From the pointer and the keys to paint on the board.

const REACH = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// `brush` is what the tools set; `state` has the cursor and what lies under the pointer; `on` is told of both.
export function listen(canvas, board, brush, state, on) {
  let stroke = null; // { turn, x, y, keys } from press to release

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * board.width;
    const y = ((event.clientY - box.top) / box.height) * board.height;
    const inside = x >= 0 && y >= 0 && x < board.width && y < board.height;
    return { x, y, patch: inside ? board.patchOf(x, y) : null };
  };
  const centre = (index) => ({
    x: ((index % board.columns) + 0.5) * board.patch,
    y: (Math.floor(index / board.columns) + 0.5) * board.patch,
    patch: index,
  });

  function begin(at) {
    if (!ready()) return false;
    board.begin();
    if (brush.layer === "draw" && board.pixels === null) {
      board.setImage(new Uint8Array(board.height * board.width * board.channels).fill(brush.paper[0]));
    }
    stroke = { turn: board.nextTurn(), ...at };
    return true;
  }

  function ready() {
    if (board.pixels !== null || brush.layer === "draw" || brush.layer === "order") return true;
    on.needsImage();
    return false;
  }

  function value() {
    if (brush.layer === "draw") return brush.erase ? brush.paper : brush.colour;
    if (brush.layer === "hole") return brush.erase ? 0 : 1;
    if (brush.erase) return NaN;
    return brush.layer === "noise" ? brush.level : brush.together ? stroke.turn : board.nextTurn();
  }

  function touch(at) {
    if (brush.layer === "draw" || brush.layer === "hole") {
      board.paintDisc(brush.layer, at.x, at.y, brush.size[brush.layer], value());
    } else if (at.patch !== null) {
      board.paintPatches(brush.layer, at.patch, brush.size[brush.layer] - 1, value());
    }
  }

  function drag(at) {
    const gap = brush.layer === "draw" || brush.layer === "hole" ? 0.5 : board.patch / 2;
    const steps = Math.max(1, Math.ceil(Math.hypot(at.x - stroke.x, at.y - stroke.y) / gap));
    const { x, y } = stroke;
    for (let i = 1; i <= steps; i++) {
      const between = { x: x + ((at.x - x) * i) / steps, y: y + ((at.y - y) * i) / steps };
      const inside = between.x >= 0 && between.y >= 0 && between.x < board.width && between.y < board.height;
      touch({ ...between, patch: inside ? board.patchOf(between.x, between.y) : null });
    }
    Object.assign(stroke, at);
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    state.cursor = null;
    const at = place(event);
    if (!begin(at)) return;
    canvas.setPointerCapture(event.pointerId);
    touch(at);
  });
  canvas.addEventListener("pointermove", (event) => {
    const at = place(event);
    state.hover = at.patch;
    if (stroke !== null && !stroke.keys) drag(at);
    on.move(at);
  });
  for (const kind of ["pointerup", "pointercancel", "blur"]) canvas.addEventListener(kind, () => (stroke = null));
  canvas.addEventListener("pointerleave", () => {
    state.hover = null;
    on.move(null);
  });

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = REACH[event.key];
    if (step) {
      state.cursor = moved(state.cursor ?? 0, step, state.cursor !== null);
      if (stroke?.keys) keyPaint(event.shiftKey);
      on.move(centre(state.cursor), true);
    } else if (event.key === " " || event.key === "Enter") {
      state.cursor ??= 0;
      if (!event.repeat && begin({ ...centre(state.cursor), keys: true })) keyPaint(event.shiftKey);
      on.move(centre(state.cursor), true);
    } else {
      return;
    }
    event.preventDefault();
  });
  canvas.addEventListener("keyup", (event) => {
    if (event.key === " " || event.key === "Enter") stroke = null;
  });

  function keyPaint(larger) {
    const whole = brush.layer === "noise" || brush.layer === "order";
    const reach = Math.max(larger ? 1 : 0, whole ? brush.size[brush.layer] - 1 : 0);
    board.paintPatches(brush.layer, state.cursor, reach, value());
  }

  function moved(index, [right, down], already) {
    if (!already) return index;
    const column = Math.min(board.columns - 1, Math.max(0, (index % board.columns) + right));
    const row = Math.min(board.rows - 1, Math.max(0, Math.floor(index / board.columns) + down));
    return row * board.columns + column;
  }
}
