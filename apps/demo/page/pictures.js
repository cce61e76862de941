// Pixels and levels as pictures on canvases.

// 8-bit pixels, row by row, grey or RGB, as RGBA.
export function toImageData(pixels, width, height, channels) {
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = pixels[channels * i + (channels === 3 ? c : 0)];
    image.data[4 * i + 3] = 255;
  }
  return image;
}

// The ramp as a function from [0, 1] to [r, g, b]; `colours` are the server's, dark for clean to light for noise.
export function makeRamp(colours) {
  return (level) => colours[Math.round(Math.min(1, Math.max(0, level)) * (colours.length - 1))];
}

// For how far candidates differ: not at all is light grey.
export const HEAT = (value) => {
  const anchors = [[240, 240, 240], [253, 200, 110], [226, 85, 60], [70, 10, 50]];
  const place = Math.min(1, Math.max(0, value)) * (anchors.length - 1), low = Math.min(anchors.length - 2, Math.floor(place));
  return anchors[low].map((part, c) => part + (place - low) * (anchors[low + 1][c] - part));
};

export function levelsToImageData(levels, [rows, columns], ramp) {
  const image = new ImageData(columns, rows);
  levels.forEach((level, i) => image.data.set([...ramp(level), 255], 4 * i));
  return image;
}

const scratch = document.createElement("canvas");

// Fills the canvas with the picture, each of its pixels a block; smooth only where it is larger than the canvas.
export function paste(canvas, image, context = canvas.getContext("2d")) {
  scratch.width = image.width;
  scratch.height = image.height;
  scratch.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = image.width > canvas.width;
  context.drawImage(scratch, 0, 0, canvas.width, canvas.height);
}

// Gives the canvas as many pixels as the screen has where it lies, and draws again whenever that changes.
export function fitToScreen(canvas, aspect, draw) {
  canvas.style.aspectRatio = String(aspect);
  const fit = () => {
    const width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
    const height = Math.max(1, Math.round(width / aspect));
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    draw();
  };
  new ResizeObserver(fit).observe(canvas);
  fit();
}

export function luminance([r, g, b]) {
  return (0.299 * r + 0.587 * g + 0.114 * b) / 255;
}
