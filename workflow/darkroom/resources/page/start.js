// The picture to start from, and the mask that is painted on it: what it covers is made anew.

import { byId } from "./dom.js";

const KINDS = ["image/png", "image/jpeg", "image/webp"];
let start = null; // { data, url, width, height, strokes }, data being a data: URI
let stroke = null; // the one under way
let cursor = null; // where the keyboard's brush is

/** The picture, null if there is none; `mask` draws the mask, which counts where `isPainted`. */
export function startPicture() {
  return start && { data: start.data, width: start.width, height: start.height, isPainted: start.strokes.length > 0, mask: drawMask };
}

/** The picture and its mask, to be put back with `restore`. */
export const snapshot = () => start && { ...start, strokes: [...start.strokes] };

/** Shows a picture and its mask again, or none. */
export function restore(kept) {
  start = kept && { ...kept, strokes: [...kept.strokes] };
  stroke = cursor = null;
  show();
}

/** Starts from a file or another picture's bytes. */
export async function startFrom(blob) {
  const url = KINDS.includes(blob.type) ? URL.createObjectURL(blob) : "";
  const image = Object.assign(new Image(), { src: url });
  try {
    await image.decode(); // which an image without a source refuses too
  } catch {
    URL.revokeObjectURL(url);
    note("That is no PNG, JPEG or WebP that can be shown.");
    return;
  }
  restore({ data: await read(blob), url, width: image.naturalWidth, height: image.naturalHeight, strokes: [] });
  byId("width").value = Math.ceil(start.width / 8) * 8;
  byId("height").value = Math.ceil(start.height / 8) * 8;
}

function read(blob) {
  return new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.readAsDataURL(blob);
  });
}

function note(text) {
  byId("start-note").textContent = text;
  byId("start-part").open = true;
}

function show() {
  note("");
  byId("file").value = "";
  byId("start").hidden = start === null;
  byId("start-part").open ||= start !== null;
  if (start) {
    byId("start-image").src = start.url;
    Object.assign(byId("mask"), { width: start.width, height: start.height });
  }
  draw();
}

/** Draws the mask over the picture, with the keyboard's brush. */
function draw() {
  const isPainted = Boolean(start?.strokes.length);
  byId("undo").disabled = byId("clear").disabled = !isPainted;
  byId("start-part").dispatchEvent(new Event("change"));
  if (!start) return;
  const canvas = byId("mask"), context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  paint(context, getComputedStyle(canvas).color);
  if (cursor && document.activeElement === canvas) {
    context.lineWidth = Math.max(2, canvas.width / 200);
    context.beginPath();
    context.arc(...cursor, brush() / 2, 0, 2 * Math.PI);
    context.stroke();
  }
}

function paint(context, colour) {
  Object.assign(context, { strokeStyle: colour, fillStyle: colour, lineCap: "round", lineJoin: "round" });
  for (const { size, points } of start.strokes) {
    context.lineWidth = size;
    context.beginPath();
    context.arc(...points[0], size / 2, 0, 2 * Math.PI); // a line of no length is not drawn
    context.fill();
    context.beginPath();
    for (const point of points) context.lineTo(...point);
    context.stroke();
  }
}

/** The mask as a data: URI: white is made anew. */
function drawMask() {
  const canvas = Object.assign(document.createElement("canvas"), { width: start.width, height: start.height });
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, canvas.width, canvas.height);
  paint(context, "#fff");
  return canvas.toDataURL("image/png");
}

/** The brush's size in the picture's pixels. */
const brush = () => Math.max(1, (byId("brush").valueAsNumber / 100) * Math.min(start.width, start.height));

function place({ offsetX, offsetY }) {
  const canvas = byId("mask");
  return [(offsetX * canvas.width) / canvas.clientWidth, (offsetY * canvas.height) / canvas.clientHeight];
}

function begin(point) {
  stroke = { size: brush(), points: [point] };
  start.strokes.push(stroke);
  draw();
}

function undo() {
  start?.strokes.pop();
  draw();
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function onKey(event) {
  const canvas = byId("mask"), step = brush() / 2;
  cursor ??= [canvas.width / 2, canvas.height / 2];
  if (event.key in ARROWS) {
    const [across, down] = ARROWS[event.key];
    const within = (value, most) => Math.min(most, Math.max(0, value));
    cursor = [within(cursor[0] + across * step, canvas.width), within(cursor[1] + down * step, canvas.height)];
    draw();
  } else if (event.key === " ") begin(cursor);
  else if (event.key === "z" && (event.ctrlKey || event.metaKey)) undo();
  else if (event.key === "[" || event.key === "]") {
    byId("brush")[event.key === "[" ? "stepDown" : "stepUp"](5);
    draw();
  } else return;
  event.preventDefault();
}

const mask = byId("mask");
mask.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  mask.setPointerCapture(event.pointerId);
  begin(place(event));
});
mask.addEventListener("pointermove", (event) => {
  if (!stroke || !mask.hasPointerCapture(event.pointerId)) return;
  stroke.points.push(place(event));
  draw();
});
for (const end of ["pointerup", "pointercancel"]) mask.addEventListener(end, () => (stroke = null));
for (const kind of ["focus", "blur"]) mask.addEventListener(kind, draw);
mask.addEventListener("keydown", onKey);
byId("undo").addEventListener("click", undo);
byId("clear").addEventListener("click", () => restore({ ...start, strokes: [] }));
byId("remove-start").addEventListener("click", () => {
  restore(null);
  byId("file").focus();
});
byId("file").addEventListener("change", ({ target }) => target.files[0] && startFrom(target.files[0]));
document.addEventListener("dragover", (event) => {
  if (event.dataTransfer.types.includes("Files")) event.preventDefault();
});
document.addEventListener("drop", (event) => {
  const file = event.dataTransfer.files[0];
  if (!file || byId("form").hidden) return;
  event.preventDefault();
  startFrom(file);
});
