// The recipe as a form. It shows the fields that the server says matter; what is left alone follows its defaults.

import { askJson } from "./api.js";
import { $, make, showError } from "./dom.js";
import { GROUPS, OF_CLASSES, OF_IMAGES, SCHEDULERS } from "./fields.js";
import { formatSeeds, MOST, parseSeeds } from "./seeds.js";

const NAMES = { "": "none", drawn: "my own" };

export function makeControls(model, board) {
  const rows = new Map(); // field name to { row, input, output, kind }
  let wanted = {}; // what was chosen; all else is as the server has it
  let settled = model.defaults;
  let settling = Promise.resolve();
  let asked = 0, timer = null;

  const form = $("controls");
  form.addEventListener("submit", (event) => event.preventDefault());
  const classes = choice("class", "Class", "What is drawn. None: anything.", ["", ...model.classes]);
  classes.input.value = model.classes[0] ?? "";
  classes.row.hidden = !model.classes.length;
  classes.input.addEventListener("change", () => show());
  const seeds = make("input", { id: "field-seeds", type: "text", value: "0-3", spellcheck: false, inputMode: "numeric" });
  const dice = make("button", { type: "button", title: "Other seeds, as many", "aria-label": "Other seeds" }, "New");
  dice.addEventListener("click", () => {
    const count = parsed()?.length ?? 4, first = Math.floor(Math.random() * 1e6);
    seeds.value = formatSeeds(Array.from({ length: count }, (_, i) => first + i));
  });
  seeds.addEventListener("change", () => parsed());
  form.append(classes.row, labelled("seeds", "Seeds", `One candidate each, up to ${MOST}: numbers and ranges.`, make("div", { className: "joined" }, seeds, dice)));
  for (const [title, open, fields] of GROUPS) {
    const place = title === null ? form : make("details", { open }, make("summary", {}, title));
    for (const field of fields) place.append(addField(field).row);
    if (title === null) rows.get("scheduler").row.append(make("p", { id: "scheduler-hint", className: "note muted" }));
    else form.append(place);
  }
  show();

  function parsed() {
    try {
      const list = parseSeeds(seeds.value);
      showError(null);
      return list;
    } catch (error) {
      showError(error);
      return null;
    }
  }

  function labelled(name, label, tip, control) {
    const target = control.querySelector("input, select") ?? control;
    target.setAttribute("aria-describedby", `tip-${name}`);
    target.title = tip;
    return make("div", { className: "field" },
      make("label", { htmlFor: `field-${name}`, title: tip }, label), control,
      make("span", { id: `tip-${name}`, className: "hidden-text" }, tip),
      make("p", { className: "error", role: "alert", "data-error-of": name }));
  }

  function choice(name, label, tip, options) {
    const input = make("select", { id: `field-${name}` });
    input.append(...options.map((value) => make("option", { value }, NAMES[value] ?? value)));
    return { row: labelled(name, label, tip, input), input, kind: "choice" };
  }

  function addField([name, label, tip, kind, limits = {}]) {
    let entry;
    if (kind === "choice") {
      entry = choice(name, label, tip, model.choices[name]);
    } else {
      const input = make("input", { id: `field-${name}`, type: kind, ...limits });
      const output = kind === "range" ? make("output", { htmlFor: input.id }) : null;
      const box = make("div", { className: kind === "range" ? "ranged" : "joined" }, input, ...(output ? [output] : []));
      entry = { row: labelled(name, label, tip, box), input, output, kind };
      if (output) input.addEventListener("input", () => (output.textContent = plain(input.valueAsNumber)));
    }
    entry.input.addEventListener("change", () => {
      const value = kind === "choice" ? entry.input.value : entry.input.valueAsNumber;
      if (kind !== "choice" && Number.isNaN(value)) delete wanted[name];
      else wanted[name] = value;
      refresh();
    });
    rows.set(name, entry);
    return entry;
  }

  // Shows the fields that matter, with what holds.
  function show() {
    const hasImage = board.pixels !== null, hasClass = classes.input.value !== "";
    for (const [name, { row, input, output, kind }] of rows) {
      const matters = settled[name] !== undefined
        && (hasImage || !OF_IMAGES.includes(name)) && (hasClass || !OF_CLASSES.includes(name));
      row.hidden = !matters;
      if (!matters || input === document.activeElement && kind === "number") continue;
      input.value = settled[name];
      if (output) output.textContent = plain(settled[name]);
    }
    for (const place of form.querySelectorAll("details")) {
      place.hidden = ![...place.querySelectorAll(".field")].some((row) => !row.hidden);
    }
    $("scheduler-hint").textContent = SCHEDULERS[settled.scheduler] ?? "";
  }

  function chosen() {
    const recipe = { ...wanted };
    if (board.pixels === null) OF_IMAGES.forEach((name) => delete recipe[name]);
    if (recipe.order === "drawn") recipe.drawn = board.order();
    return recipe;
  }

  // Asks the server what the choice comes to; the last to ask is shown.
  function refresh() {
    const number = ++asked;
    clearTimeout(timer);
    settling = new Promise((done) => (timer = setTimeout(done, 60))).then(async () => {
      if (number !== asked) return settling;
      try {
        const answer = await askJson("/api/recipe", chosen());
        if (number !== asked) return settling;
        settled = answer;
        showError(null);
        show();
        return null;
      } catch (error) {
        if (number === asked) showError(error);
        return error;
      }
    });
    return settling;
  }

  return {
    refresh,
    wants: (name, value) => {
      if (value === undefined) delete wanted[name];
      else wanted[name] = value;
      return refresh();
    },
    wanted: (name) => wanted[name],
    settled: (name) => settled[name],
    reset: () => {
      wanted = {};
      return refresh();
    },
    // What is sent to run; throws what is wrong.
    async read() {
      const list = parseSeeds(seeds.value);
      await refresh();
      const error = await settling;
      if (error) throw error;
      return { class: classes.input.value || null, seeds: list, recipe: settled };
    },
    write(task) {
      classes.input.value = task.class ?? "";
      seeds.value = formatSeeds(task.seeds);
      wanted = { ...task.recipe };
      delete wanted.drawn;
      return refresh();
    },
  };
}

function plain(value) {
  return String(Math.round(value * 100) / 100);
}
