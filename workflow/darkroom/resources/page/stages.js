// The stages: what is made of the picture to start from, and of each picture then.

import { byId } from "./dom.js";
import { startPicture } from "./start.js";

const number = (id) => byId(id).valueAsNumber; // NaN becomes null in JSON, which leaves the setting to the server
const SETTINGS = {
  img2img: { denoising_strength: "strength" },
  inpaint: { denoising_strength: "strength", mask_blur: "mask_blur", masked_content: "masked_content", only_masked: "only_masked" },
  hires: { scale: "hires-scale", upscaler: "hires-upscaler", denoising_strength: "hires-strength", steps: "hires-steps" },
  upscale: { scale: "upscale-scale", upscaler: "upscale-upscaler" },
};
const OPTIONAL = ["hires", "upscale"];

function valueOf(id) {
  const field = byId(id);
  return field.type === "checkbox" ? field.checked : field.type === "number" ? number(id) : field.value;
}

/** A stage with the settings in its fields; an empty field is left out. */
function readStage(name, others = {}) {
  const settings = Object.entries(SETTINGS[name]).map(([key, id]) => [key, valueOf(id)]);
  return { [name]: { ...Object.fromEntries(settings.filter(([, value]) => !Number.isNaN(value))), ...others } };
}

/** Settings of the request for its stages, and the pictures that they name. */
export function readChain({ width, height }) {
  const start = startPicture();
  const stages = OPTIONAL.filter((name) => byId(name).checked).map((name) => readStage(name));
  if (!start) return { settings: stages.length ? { stages } : {}, pictures: {} };
  const pictures = { start: start.data };
  if (byId("start-mode").value === "redraw") {
    const up = (edge) => Math.ceil(edge / 8) * 8, isOther = width !== up(start.width) || height !== up(start.height);
    const size = isOther ? { width, height, resize_mode: "crop" } : {};
    if (start.isPainted) pictures.mask = start.mask();
    stages.unshift(start.isPainted ? readStage("inpaint", { ...size, mask: "mask" }) : readStage("img2img", size));
  }
  return { settings: { image: "start", width: null, height: null, stages }, pictures };
}

/** Puts a request's stages into the fields. */
export function writeStages(stages = []) {
  const given = Object.assign({}, ...stages);
  for (const name of OPTIONAL) byId(name).checked = name in given;
  for (const [name, settings] of Object.entries(given)) {
    for (const [key, id] of Object.entries(SETTINGS[name] ?? {})) {
      if (byId(id).type === "checkbox") byId(id).checked = settings[key];
      else byId(id).value = settings[key] ?? "";
    }
  }
  byId("then-part").open ||= OPTIONAL.some((name) => name in given);
  react();
}

/** What the stages of a request were, in words. */
export function describeStages(stages = []) {
  const words = stages.flatMap(Object.entries).map(([name, { scale, width, height, upscaler, denoising_strength: strength }]) => {
    const size = name in { hires: 0, upscale: 0, tile: 0 } ? (width || height ? `${width ?? "?"}x${height ?? "?"}` : `×${scale}`) : null;
    return [name, size, upscaler, strength === undefined ? null : `strength ${strength}`].filter(Boolean).join(" ");
  });
  return words.join(", then ");
}

/** Only the fields that matter are shown. */
function react() {
  for (const name of OPTIONAL) {
    for (const field of document.querySelectorAll(`.of-${name}`)) field.hidden = !byId(name).checked;
  }
  const isRedrawn = byId("start-mode").value === "redraw", start = startPicture();
  for (const field of document.querySelectorAll(".of-start")) field.hidden = !start;
  for (const field of document.querySelectorAll(".of-redraw")) field.hidden = !(start && isRedrawn);
  for (const field of document.querySelectorAll(".of-mask")) field.hidden = !(start?.isPainted && isRedrawn);
}

for (const id of [...OPTIONAL, "start-mode", "start-part"]) byId(id).addEventListener("change", react);
