// Keys, and the dialog that lists them.

import { $, make } from "./dom.js";

const KEYS = [
  ["Ctrl + Enter", "run"],
  ["Escape", "cancel the run"],
  ["?", "this help"],
  ["Arrows", "on the board: to the next patch"],
  ["Space, Enter", "on the board: paint the patch; hold Space and move to paint on"],
  ["Shift + Space", "on the board: paint three by three patches"],
  ["1 2 3 4", "on the board: draw, hole, noise, order"],
  ["[ ]", "on the board: smaller and larger brush"],
  ["E", "on the board: eraser"],
  ["I", "on the board: invert the hole"],
  ["Ctrl + Z", "take the last stroke back"],
];

export function listenToKeys(on) {
  const help = $("help");
  $("keys").append(...KEYS.map(([keys, what]) => make("tr", {}, make("th", { scope: "row" }, make("kbd", {}, keys)), make("td", {}, what))));
  $("help-open").addEventListener("click", () => help.showModal());

  document.addEventListener("keydown", (event) => {
    if (help.open) return;
    const command = event.ctrlKey || event.metaKey;
    const typing = event.target.matches("input:not([type=range], [type=radio], [type=checkbox]), select, textarea");
    const act = command ? { Enter: on.run, z: typing ? null : on.undo }[event.key]
      : event.key === "Escape" ? on.cancel
      : event.key === "?" && !typing ? () => help.showModal()
      : event.target.id === "board" ? onBoard(event.key) : null;
    if (!act) return;
    event.preventDefault();
    act();
  });

  const onBoard = (key) => {
    const lower = key.toLowerCase();
    if (/^[1-4]$/.test(key)) return () => on.layer(Number(key) - 1);
    return { e: on.erase, i: on.invert, "[": () => on.size(-1), "]": () => on.size(1) }[lower];
  };
}
