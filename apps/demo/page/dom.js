// Elements without a framework.

export const $ = (id) => document.getElementById(id);

// make("button", { type: "button", onclick: … }, "text", child): properties, or attributes where the name has a dash.
export function make(kind, properties = {}, ...children) {
  const element = document.createElement(kind);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "for" || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

// Shows a message at the place of its field, and takes all others away; without an error only that.
export function showError(error, field = error?.field) {
  const places = [...document.querySelectorAll("[data-error-of]")];
  places.forEach((place) => (place.textContent = ""));
  if (!error) return;
  const of = (name) => places.find((place) => place.dataset.errorOf.split(" ").includes(name));
  const place = of(field) ?? of("run");
  place.textContent = error.message;
  place.closest("details")?.setAttribute("open", "");
}

let nextWord = null;

// Tells those who listen to the page rather than see it.
export function say(text) {
  clearTimeout(nextWord);
  nextWord = setTimeout(() => ($("status").textContent = text), 60);
}
