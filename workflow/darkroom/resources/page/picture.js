// The picture shown, its settings, and the session's pictures: in memory, and no more of them than MOST.

import { byId, make } from "./dom.js";
import { describeStages } from "./stages.js";

const MOST = 24;
const pictures = []; // newest first
let shown = null, previewed = null;

/** The request of the picture shown, with its seed as text. */
export const shownRequest = () => shown.request;

/** Its bytes, and what it was made from (see start.js). */
export const shownBlob = () => shown.blob;
export const shownStart = () => shown.start;

/** Shows the picture of a "picture" event, and keeps it for the session. `seed` is text: it may have 19 digits. */
export function add(event, seed, start) {
  const bytes = Uint8Array.from(atob(event.png), (letter) => letter.charCodeAt(0));
  const blob = new Blob([bytes], { type: "image/png" }), url = URL.createObjectURL(blob);
  const head = new DataView(bytes.buffer); // width and height stand in a PNG's first chunk
  const [width, height] = [head.getUint32(16), head.getUint32(20)];
  const image = make("img", { src: url, alt: "" });
  const button = make("button", { type: "button", title: event.request.prompt }, image);
  button.setAttribute("aria-label", `Seed ${seed}: ${event.request.prompt}`);
  const picture = { ...event, png: null, request: { ...event.request, seed }, blob, url, width, height, start, item: make("li", {}, button) };
  button.addEventListener("click", () => show(picture));
  pictures.unshift(picture);
  byId("history").prepend(picture.item);
  for (const old of pictures.splice(MOST)) {
    old.item.remove();
    URL.revokeObjectURL(old.url);
  }
  byId("history-part").hidden = pictures.length < 2;
  show(picture);
}

/** Shows how the picture under way looks so far, in base64; the one shown before comes back with `endPreview`. */
export function preview(png) {
  endPreview();
  const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0)), image = byId("image");
  image.src = previewed = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
  image.classList.add("preview");
  image.alt = "Preview of the picture under way";
  image.style.maxWidth = `${Math.max(new DataView(bytes.buffer).getUint32(16), 640)}px`;
  image.hidden = false;
  byId("empty").hidden = true;
}

/** Takes the preview away. */
export function endPreview() {
  if (!previewed) return;
  URL.revokeObjectURL(previewed);
  previewed = null;
  byId("image").classList.remove("preview");
  if (shown) show(shown);
  else byId("image").hidden = !(byId("empty").hidden = false);
}

function show(picture) {
  shown = picture;
  const { request, url } = picture, image = byId("image");
  image.src = url;
  image.alt = request.prompt || "Picture without a prompt";
  // Small pictures are enlarged to a size one can look at, large ones only to fit the window.
  image.style.maxWidth = `${Math.max(picture.width, 640)}px`;
  byId("shown-prompt").textContent = request.prompt || "(empty)";
  byId("shown-negative").textContent = request.negative_prompt;
  byId("shown-negative-part").hidden = !request.negative_prompt;
  byId("settings").replaceChildren(...describe(picture).map(([key, value]) =>
    make("div", {}, make("dt", { textContent: key }), make("dd", { textContent: value }))));
  Object.assign(byId("download"), { href: url, download: `${picture.model}-${request.seed}.png` });
  byId("copy").textContent = "Copy parameters";
  byId("empty").hidden = true;
  image.hidden = byId("panel").hidden = false;
  byId("again").disabled = false;
  for (const each of pictures) each.item.firstChild.setAttribute("aria-current", String(each === picture));
}

/** Pairs of a label and a text; what has nothing to say is left out. */
function describe({ request, facts, model, model_hash, cached, width, height }) {
  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  const seconds = (value) => `${value.toFixed(value < 10 ? 2 : 1)} s`;
  return [
    ["Warning", (facts.warnings ?? []).join("; ")],
    ["Seed", request.seed],
    ["Size", `${width}x${height}`],
    ["Stages", describeStages(request.stages)],
    ["Sampler", request.sampler],
    ["Schedule", request.schedule],
    ["Steps", String(request.steps)],
    ["CFG scale", String(request.cfg_scale)],
    ["Model", model_hash ? `${model} [${model_hash}]` : model],
    ["VAE", request.vae],
    ["LoRAs", request.loras.map((use) => `${use.name} ${use.unet}${use.te === use.unet ? "" : `, ${use.te}`}`).join("; ")],
    ["Embeddings", request.embeddings.join(", ")],
    ["Emphasis", request.emphasis],
    ["Clip skip", request.clip_skip ? String(request.clip_skip) : ""],
    ["Tokens", "chunks" in facts ? `${facts.prompt_tokens} in ${plural(facts.chunks, "chunk")}` : ""],
    ["Time", cached ? "" : seconds(facts.total_s)],
    ["Source", cached ? "results/, made before" : ""],
  ].filter(([, text]) => text);
}

async function copyParameters() {
  try {
    await navigator.clipboard.writeText(shown.infotext);
  } catch {
    // Browsers keep the clipboard from pages without TLS; a selection still works.
    const area = make("textarea", { value: shown.infotext });
    byId("panel").append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  byId("copy").textContent = "Copied";
  byId("copy").focus();
}

byId("copy").addEventListener("click", copyParameters);
