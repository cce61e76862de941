// The controls of a recipe: what each is called, what it does. Which of them matter, and their defaults, the server says.

export const SCHEDULERS = {
  "synchronous": "All patches together: ordinary diffusion.",
  "sequential": "One group of patches after the other.",
  "staggered": "Patch after patch, each starting a little later than the one before.",
  "sliding-window": "A window of half-made patches slides over the image.",
  "round-robin": "Interleaved groups move in turn. A control for the others.",
  "uncertainty-guided": "Patches the model is sure of take long steps, the others short ones.",
  "most-certain-first": "The model chooses the order: what it is most certain of comes first.",
  "dual-loop": "Certain patches go ahead, the others follow in small steps.",
};

// [name, label, what it does, kind, options]; in groups: [title, open, fields]. Kind range: min, max, step.
export const GROUPS = [
  [null, true, [
    ["scheduler", "Scheduler", "Which noise maps lead from noise to the image.", "choice"],
    ["order", "Order", "Which patches come first.", "choice"],
    ["cells", "Cells a side", "The image is cut into so many cells a side; each is a turn.", "number", { min: 1 }],
    ["groups", "Groups", "Patches are made in so many turns.", "number", { min: 1 }],
    ["order_seed", "Order seed", "Another one, another random order.", "number", { min: 0 }],
    ["width", "Width", "The share of the way that each patch takes. Small: nearly one after the other.", "range", { min: 0.05, max: 1, step: 0.05 }],
    ["active", "Window", "Turns that are under way at the same time.", "number", { min: 1, step: "any" }],
    ["overlap", "Overlap", "How early the next group begins: 0 waits for the one before.", "range", { min: 0, max: 0.95, step: 0.05 }],
    ["patience", "Patience", "0: certain patches run ahead. 1: they wait as long as they can.", "range", { min: 0, max: 1, step: 0.05 }],
    ["share", "Certain share", "Part of the patches that count as certain.", "range", { min: 0.05, max: 0.95, step: 0.05 }],
    ["inner", "Inner steps", "Small steps in each large one.", "number", { min: 1 }],
    ["uncertainty", "Uncertainty", "Predicted by the model, or read off how its guess changes.", "choice"],
    ["steps", "Steps", "More steps: finer, and slower.", "number", { min: 1, max: 2000 }],
  ]],
  ["Guidance", true, [
    ["guidance", "By class", "How strongly the class is followed. 1 is the model itself, at half the cost.", "range", { min: 0, max: 8, step: 0.1 }],
    ["input_guidance", "By input", "How much more the kept pixels count. 0 is the model itself; above, twice the cost.", "range", { min: 0, max: 4, step: 0.1 }],
    ["context_level", "Context level", "The noise put on the kept pixels in the guess that is guided away from.", "range", { min: 0.05, max: 1, step: 0.05 }],
  ]],
  ["Solver and more", false, [
    ["method", "Method", "Native keeps known patches clean. Replacement and RePaint are the usual ways of models without levels per patch.", "choice"],
    ["jump", "Jump", "Steps that RePaint goes back at a time.", "number", { min: 1 }],
    ["resamples", "Resamples", "How often RePaint goes over each stretch.", "number", { min: 1 }],
    ["solver", "Solver", "How patches move from one noise map to the next.", "choice"],
    ["eta", "Eta", "Fresh noise at each step: 0 none, 1 ancestral sampling.", "range", { min: 0, max: 1, step: 0.05 }],
    ["adams_order", "Adams order", "Guesses that a step looks back on.", "number", { min: 1, max: 4 }],
    ["churn", "Churn", "Noise put on top of each step.", "range", { min: 0, max: 1, step: 0.05 }],
    ["restarts", "Restarts", "Rounds at the end in which some patches are made again.", "number", { min: 0 }],
    ["restart_share", "Restart share", "Part of the patches that each round makes again.", "range", { min: 0.05, max: 1, step: 0.05 }],
    ["restart_steps", "Restart steps", "Steps of each round.", "number", { min: 1 }],
    ["noise_schedule", "Schedule", "How the steps are spread over noise levels.", "choice"],
    ["shift", "Shift", "Negative spends more steps at high noise.", "range", { min: -4, max: 4, step: 0.25 }],
  ]],
];

// Fields that have no meaning without kept pixels.
export const OF_IMAGES = ["method", "jump", "resamples", "input_guidance", "context_level"];
// Fields that have no meaning without a class.
export const OF_CLASSES = ["guidance", "guidance_interval"];
