// One run after another: starts it, shows how far it is, and what came of it.

import { ask, startRun } from "./api.js";
import { fromBase64 } from "./codec.js";
import { $, say, showError } from "./dom.js";
import { readBoard } from "./task.js";

export function makeRunner(controls, board, stage) {
  let run = null; // the latest: { id, cancel, underWay, cancelled }

  async function start() {
    if (run?.underWay) return;
    showError(null);
    $("result-note").textContent = "";
    $("run").disabled = true;
    const mine = (run = { underWay: true, id: null, cancel: () => (mine.cancelled = true) });
    try {
      const task = { ...(await controls.read()), ...readBoard(board) };
      if (task.recipe.order === "drawn") task.recipe = { ...task.recipe, drawn: board.order() };
      if (mine.cancelled) return finish("Cancelled.");
      const given = board.pixels?.slice() ?? null;
      Object.assign(mine, await startRun(task, handlers(mine)));
      stage.start(task.seeds, given);
      $("result-panel").scrollIntoView({ block: "nearest" });
      if (mine.cancelled) mine.cancel();
    } catch (error) {
      finish("");
      showError(error);
    }
  }

  function handlers(mine) {
    let quarter = 0, drawn = -Infinity;
    const pace = matchMedia("(prefers-reduced-motion: reduce)").matches ? 500 : 0;
    $("cancel").disabled = false;
    return {
      waiting({ ahead }) {
        figures(ahead ? `waiting, ${ahead} before this one` : "starting…");
        $("progress").removeAttribute("value");
        if (ahead) say(`Waiting, ${ahead} before this one.`);
      },
      frame({ step, total, evaluations, seconds, images, levels }) {
        $("progress").value = total ? step / total : 0;
        figures(`step ${step} of ${total} · ${evaluations} evaluations · ${seconds.toFixed(1)} s`);
        if (performance.now() - drawn >= pace) {
          drawn = performance.now();
          stage.live(step, fromBase64(images), fromBase64(levels));
        }
        if (Math.floor((4 * step) / total) > quarter) {
          quarter = Math.floor((4 * step) / total);
          if (quarter < 4) say(`${25 * quarter} percent`);
        }
      },
      async done({ evaluations, seconds, spread, note }) {
        $("progress").value = 1;
        finish(`Done: ${evaluations} evaluations an image, ${seconds.toFixed(1)} s.`);
        $("result-note").textContent = note;
        try {
          const frames = await ask(`/api/runs/${mine.id}/frames`);
          stage.end(unpack(frames), spread);
          $("keep").hidden = false;
          link(stage.chosen());
        } catch (error) {
          showError(error);
        }
      },
      cancelled: () => finish("Cancelled."),
      failed({ error, field }) {
        finish("");
        showError(Object.assign(new Error(error), { field }));
      },
    };
  }

  function unpack({ steps, images, levels }) {
    const all = { images: fromBase64(images), levels: fromBase64(levels) };
    const part = (bytes, i) => bytes.subarray((i * bytes.length) / steps.length, ((i + 1) * bytes.length) / steps.length);
    return steps.map((step, i) => ({ step, images: part(all.images, i), levels: part(all.levels, i) }));
  }

  function figures(text) {
    $("figures").textContent = text;
  }

  function finish(text) {
    run.underWay = false;
    $("run").disabled = false;
    $("cancel").disabled = true;
    if (!$("progress").hasAttribute("value")) $("progress").value = 0;
    figures(text);
    say(text);
  }

  // Where the chosen candidate is to be had.
  function link(index) {
    if (!run?.id) return;
    const of = `/api/runs/${run.id}`;
    $("save-image").href = `${of}/${index}.png`;
    $("save-film").href = `${of}/${index}.webp`;
    $("save-strip").href = `${of}/${index}-levels.png`;
    $("save-recipe").href = `${of}/recipe.json`;
  }

  return { start, link, cancel: () => run?.underWay && run.cancel() };
}
