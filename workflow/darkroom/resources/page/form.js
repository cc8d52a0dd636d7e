// The form: what can be chosen, and the settings in it.

import { byId, make } from "./dom.js";

const TEXTS = ["prompt", "negative_prompt", "sampler", "schedule", "emphasis"];
const NUMBERS = ["width", "height", "steps", "cfg_scale", "clip_skip"];
let options;

function fill(select, values) {
  select.append(...values.map((value) => make("option", { value, textContent: value })));
}

/** Fills the lists, and the fields with the server's defaults. */
export function offer(found) {
  options = found;
  fill(byId("model"), options.models);
  fill(byId("sampler"), Object.keys(options.samplers));
  fill(byId("schedule"), options.schedules);
  fill(byId("preset"), Object.keys(options.presets));
  fill(byId("emphasis"), options.emphasis);
  fill(byId("vae"), options.vaes);
  fill(byId("hires-upscaler"), [...options.latent_upscalers, ...options.upscalers]);
  fill(byId("upscale-upscaler"), options.upscalers);
  fill(byId("masked_content"), options.masked_content);
  byId("masked_content").value = "original";
  byId("model").value = options.default_model;
  byId("lora-part").hidden = options.loras.length === 0;
  byId("vae-part").hidden = options.vaes.length === 0;
  write(options.defaults);
}

/** Puts a request's settings into the fields; all but its seed and its stages. */
export function write(request) {
  for (const name of [...TEXTS, ...NUMBERS]) byId(name).value = request[name];
  byId("vae").value = request.vae ?? "";
  byId("preset").value = "";
  byId("loras").replaceChildren();
  for (const use of request.loras) addLora(use.name, use.unet === use.te ? use.unet : `${use.unet}:${use.te}`);
  limitSchedules();
  growAll();
}

/** The settings in the fields. An empty field of numbers is null, which leaves the setting to the server. */
export function read() {
  const rows = [...byId("loras").children].map((row) => [...row.querySelectorAll("select, input")].map((f) => f.value.trim()));
  return {
    ...Object.fromEntries(TEXTS.map((name) => [name, byId(name).value])),
    ...Object.fromEntries(NUMBERS.map((name) => [name, byId(name).valueAsNumber])),
    seed: readSeed(),
    vae: byId("vae").value || null,
    loras: rows.map(([name, weight]) => (weight ? `${name}:${weight}` : name)),
  };
}

/** Text, as a seed may have more digits than a number of JavaScript's holds. */
function readSeed() {
  const given = byId("seed").value.trim();
  return given === "" || given === "-1" ? String(crypto.getRandomValues(new Uint32Array(1))[0]) : given;
}

/** Marks the field that an error is about, if there is one of that name, and goes there. */
export function mark(what) {
  for (const field of document.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  const name = what?.match(/^(?:request: )?(\w+)$/)?.[1];
  const field = [...TEXTS, ...NUMBERS, "seed", "vae"].includes(name) ? byId(name) : null;
  field?.closest("details")?.setAttribute("open", "");
  field?.setAttribute("aria-invalid", "true");
  field?.setAttribute("aria-errormessage", "error-message");
  field?.focus();
}

function addLora(name, weight) {
  const row = byId("lora-row").content.cloneNode(true).firstElementChild;
  const [select, input, remove] = row.children;
  const names = options.loras.includes(name) ? options.loras : [name, ...options.loras];
  fill(select, names);
  select.value = name;
  input.value = weight;
  remove.addEventListener("click", () => {
    (row.nextElementSibling?.querySelector("button") ?? byId("add-lora")).focus();
    row.remove();
  });
  byId("loras").append(row);
  return select;
}

/** Only schedules that the sampler can follow can be chosen. */
function limitSchedules() {
  const possible = options.samplers[byId("sampler").value];
  for (const option of byId("schedule").options) option.disabled = !possible.includes(option.value);
  if (!possible.includes(byId("schedule").value)) byId("schedule").value = "Automatic";
}

function applyPreset() {
  const settings = options.presets[byId("preset").value] ?? {};
  for (const [name, value] of Object.entries(settings)) byId(name).value = value;
  limitSchedules();
}

function grow(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
}

function growAll() {
  if (!CSS.supports("field-sizing", "content")) document.querySelectorAll("textarea").forEach(grow);
}

function react({ target }) {
  if (target.id === "preset") applyPreset();
  else if (target.id in (options.presets[byId("preset").value] ?? {})) byId("preset").value = "";
  if (target.id === "sampler") limitSchedules();
  growAll();
}

for (const kind of ["input", "change"]) byId("form").addEventListener(kind, react); // not all choices in a list are input
byId("add-lora").addEventListener("click", () => addLora(options.loras[0], "1").focus());
byId("dice").addEventListener("click", () => {
  byId("seed").value = "";
});
