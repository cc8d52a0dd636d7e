// The pictures: their columns, loaded at once, and texts and details in chunks that are loaded when they are asked for.
// Other parts of the page add to it through `Gallery` (see the functions that begin with `add`).
const head = JSON.parse(byId("head").textContent);
const KEPT = { blocks: 0, texts: 128, details: 12, times: 1 }; // chunks in memory
const NONE = "";
const ARE_NOT_SETTINGS = new Set(["sheet", "checkpoint", "id", "seed", "stage", "stages", "path", "width", "height", "text", "warnings", "sha256", "made by", "prompt id"]);

const loader = (() => {
  const waiting = new Map(), kept = new Map();

  function receive(kind, number, rows) {
    waiting.get(`${kind}-${number}`)?.resolve(rows);
  }

  function fetchChunk(kind, number) {
    const key = `${kind}-${number}`, file = kind === "times" ? "times.js" : head.chunks[kind][number];
    return new Promise((resolve, reject) => {
      const script = make("script", { src: `${head.folder}/${file}`, async: true });
      const end = (done) => (value) => {
        waiting.delete(key);
        script.remove();
        done(value);
      };
      const fail = () => end(reject)(new Error(`${file} is missing or damaged`));
      waiting.set(key, { resolve: end(resolve) });
      script.addEventListener("error", fail);
      script.addEventListener("load", () => waiting.has(key) && fail());
      document.head.append(script);
    });
  }

  // The rows of a chunk: a promise, the same one for all who ask. The latest few are kept.
  function load(kind, number) {
    const key = `${kind}-${number}`;
    const found = kept.get(key) ?? { kind, promise: fetchChunk(kind, number), rows: null };
    kept.delete(key);
    kept.set(key, found);
    if (!found.rows) {
      found.promise.then((rows) => (found.rows = rows), (error) => {
        kept.delete(key);
        Gallery.fail(error);
      });
      const others = [...kept].filter(([, each]) => each.kind === kind);
      if (others.length > Math.max(1, KEPT[kind])) kept.delete(others[0][0]);
    }
    return found.promise;
  }

  return { receive, load, at: (kind, number) => kept.get(`${kind}-${number}`)?.rows };
})();

// Values of all pictures: `values[codes[i]]`; a code of -1 stands for none.
class Column {
  constructor(name) {
    this.name = name;
    this.values = [];
    this.codes = new Int32Array(head.count).fill(-1);
    this.known = new Map();
  }

  add(start, count, [values, codes]) {
    const isAlone = this.name === "sha256"; // all different: no need to look each up
    const local = values.map((value) => {
      const key = typeof value === "object" ? JSON.stringify(value) : value;
      if (!isAlone && this.known.has(key)) return this.known.get(key);
      if (!isAlone) this.known.set(key, this.values.length);
      return this.values.push(value) - 1;
    });
    const isSame = !codes && values.length === 1;
    for (let n = 0; n < count; n++) {
      const code = codes ? codes[n] : isSame ? 0 : n;
      this.codes[start + n] = code < 0 ? -1 : local[code];
    }
  }

  of(i) {
    const code = this.codes[i];
    return code < 0 ? undefined : this.values[code];
  }

  get isNumeric() {
    return this.values.length > 0 && this.values.every((value) => typeof value === "number");
  }
}

const columns = new Map(); // by name, in the order of the data
const columnOf = (name) => columns.get(name);
const valueOf = (name, i) => columns.get(name)?.of(i);
const encodePath = (path) => path.split("/").map(encodeURIComponent).join("/");

// One picture. What isn't in the columns is read with `text()` and `details()`.
class Picture {
  constructor(i) { this.i = i; }

  get sheet() { return valueOf("sheet", this.i); }
  get checkpoint() { return valueOf("checkpoint", this.i); }
  get id() { return valueOf("id", this.i); }
  get seed() { return valueOf("seed", this.i); } // a text: it may be larger than a number can be
  get stage() { return valueOf("stage", this.i) ?? ""; }
  get stages() { return valueOf("stages", this.i) ?? ""; }
  get width() { return valueOf("width", this.i); }
  get height() { return valueOf("height", this.i); }
  get size() { return `${this.width} × ${this.height}`; }
  get sha256() { return valueOf("sha256", this.i); }
  get warnings() { return valueOf("warnings", this.i) ?? []; }
  get loras() { return valueOf("loras", this.i) ?? []; }
  get name() { return `${this.sheet}/${this.checkpoint}/${this.id}-${this.seed}${this.stages && `.${this.stages}`}`; }
  get path() { return valueOf("path", this.i) ?? `${this.name}.png`; }
  get url() { return encodePath(this.path); }
  get thumbnail() { return `thumbnails/${encodePath(this.name)}.webp`; }
  get textNumber() { return valueOf("text", this.i); }
  get prompt() { return this.knownText?.[0] ?? ""; }
  get negative_prompt() { return this.knownText?.[1] ?? ""; }

  // Labels of a study's axes by their names.
  get labels() { return this.collect((name) => name.startsWith("axis "), (name) => name.slice(5)); }

  // steps, cfg_scale, sampler, … and loras as [name, weight]; a stage's as "hires steps".
  get settings() { return { ...this.collect(isSetting, (name) => name), loras: this.loras }; }

  // External scores and a study's measures by their names.
  get numbers() { return this.collect(isNumber, (name) => name.replace(/^score /, "")); }

  collect(isWanted, rename) {
    const found = {};
    for (const [name, column] of columns) {
      const value = isWanted(name) ? column.of(this.i) : undefined;
      if (value !== undefined) found[rename(name)] = value;
    }
    return found;
  }

  get knownText() {
    const rows = loader.at("texts", Math.floor(this.textNumber / head.sizes.texts));
    return rows?.[this.textNumber % head.sizes.texts];
  }

  // [prompt, negative prompt, …second ones], also in `prompt` and `negative_prompt` for a while.
  async text() {
    const rows = await loader.load("texts", Math.floor(this.textNumber / head.sizes.texts));
    return rows[this.textNumber % head.sizes.texts];
  }

  // {entry: the line of manifest.jsonl, request, prompt, negative_prompt, infotext, earlier: [[stage, address]…]}
  async details() {
    const rows = await loader.load("details", Math.floor(this.i / head.sizes.details));
    const [entry, infotext, earlier = []] = rows[this.i % head.sizes.details];
    const { request } = entry;
    return { entry, request, prompt: request.prompt, negative_prompt: request.negative_prompt ?? "", infotext, earlier };
  }
}

const NUMBERS = { difference: "Difference", ssim: "SSIM", hash_distance: "Hash distance", clipped: "Clipped", contrast: "Contrast" };
const isNumber = (name) => name in NUMBERS || name.startsWith("score ");
const isSetting = (name) => !ARE_NOT_SETTINGS.has(name) && !isNumber(name) && !name.startsWith("axis ") && name !== "loras";

const LABELS = {
  cfg_scale: "CFG scale", vae: "VAE", freeu: "FreeU", cfg_rescale: "CFG rescale", clip_skip: "Clip skip", loras: "LoRA", id: "ID",
  "prompt id": "Prompt", ...NUMBERS,
};

// A column's name for people.
function labelOf(name) {
  if (name in LABELS) return LABELS[name];
  const text = name.replace(/^(axis|score) /, "").replaceAll("_", " ");
  return name.startsWith("axis ") ? text : text.charAt(0).toUpperCase() + text.slice(1);
}

const loraText = ([name, ...weights]) => `${name} ${weights.join(":")}`;

const Gallery = {
  head,
  columns,
  pictures: [], // all, in the order of the run
  actions: [],
  facets: [],
  sorts: [],
  badges: [],
  panels: [],
  starts: [],
  receive: loader.receive,
  byName: (name) => Gallery.names.get(name),

  // A button below a picture in full, unless it `isKeyOnly`, and a key for it and for the card with the focus. `others` are the marked pictures
  // but this one. `run(picture, others)` may return a text that is said aloud.
  addAction(action) { Gallery.actions.push(action); },

  // {name, label?, of(picture)}: a text, a list of texts, or nothing. The name stands in addresses and in the search.
  addFacet(facet) { Gallery.facets.push({ label: facet.name, ...facet }); },

  // {name, label?, of(picture)}: a number or a text; pictures without one come last.
  addSort(sort) { Gallery.sorts.push({ label: sort.name, ...sort }); },

  // fn(picture): a text or an element that is shown on the card, or nothing.
  addCardBadge(fn) { Gallery.badges.push(fn); },

  // {element, show(picture)}: stands above the buttons of a picture in full; told of each picture that is shown.
  addPanel(panel) { Gallery.panels.push(panel); },

  // fn() is called once all pictures are known and shown.
  whenReady(fn) { Gallery.starts.push(fn); },

  shown: () => [], // the numbers of the pictures that are shown, in their order: gallery.js fills it in
  recount() {}, // added facets and badges have changed, what is shown stays: gallery.js fills it in
  refresh() {}, // what added facets, sorts and badges say has changed: gallery.js fills it in
  fail() {},
};
globalThis.Gallery = Gallery; // the chunks call it

async function loadPictures() {
  const blocks = await Promise.all(head.chunks.blocks.map((_, number) => loader.load("blocks", number)));
  blocks.forEach(([block], number) => {
    const start = number * head.sizes.blocks, count = Math.min(head.sizes.blocks, head.count - start);
    for (const [name, packed] of Object.entries(block)) {
      if (!columns.has(name)) columns.set(name, new Column(name));
      columns.get(name).add(start, count, packed);
    }
  });
  for (const column of columns.values()) column.known = null;
  Gallery.pictures = Array.from({ length: head.count }, (_, i) => new Picture(i));
  Gallery.names = new Map(Gallery.pictures.map((picture) => [picture.name, picture]));
}
