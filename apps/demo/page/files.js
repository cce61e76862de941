// Files that come in: by the chooser, dropped, or pasted.

import { $ } from "./dom.js";

export function listenToFiles(onImage, onRecipe) {
  const chooser = (button, input, take) => {
    $(button).addEventListener("click", () => $(input).click());
    $(input).addEventListener("change", () => {
      const [file] = $(input).files;
      $(input).value = "";
      if (file) take(file);
    });
  };
  chooser("open", "file", onImage);
  chooser("recipe-load", "recipe-file", onRecipe);

  const hint = $("drop-hint");
  const holdsFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  window.addEventListener("dragover", (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    hint.hidden = false;
  });
  window.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) hint.hidden = true;
  });
  window.addEventListener("drop", (event) => {
    hint.hidden = true;
    const [file] = event.dataTransfer?.files ?? [];
    if (!file) return;
    event.preventDefault();
    if (file.name.endsWith(".json")) onRecipe(file);
    else onImage(file);
  });
  window.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
    if (file) onImage(file);
  });
}
