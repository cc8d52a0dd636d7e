// The search: words that all have to be found, "phrases", -word for what must not be found, and fields: seed:3, cfg:7,
// steps:>20, lora:ink, prompt:fog. A number is compared as a whole, a text is looked for anywhere in the field.
const search = (() => {
  const ALIASES = {
    cfg: "cfg_scale", lora: "loras", model: "checkpoint", scheduler: "schedule", warning: "warnings", name: "id",
  };
  const TEXTS = { prompt: [0, 2], negative: [1, 3], negative_prompt: [1, 3] };
  const EVERYWHERE = ["sheet", "checkpoint", "id", "seed", "stage", "sampler", "schedule", "loras", "warnings", "prompt id"];
  const KEPT_WORDS = 64;
  const found = new Map(); // bits of all texts by word and field
  const normal = (text) => text.normalize("NFC").toLowerCase();
  const escape = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  let fields = null, pattern = null;

  // What may stand before a colon, and the columns that it means.
  function setFields() {
    fields = new Map([...Object.keys(TEXTS), "size"].map((name) => [name, []]));
    const add = (name, column) => fields.set(normal(name), [...(fields.get(normal(name)) ?? []), column]);
    for (const name of columns.keys()) {
      const short = name.replace(/^(axis|score) /, "");
      for (const each of new Set([short, short.replaceAll(" ", "_")])) add(each, name);
    }
    for (const [alias, name] of Object.entries(ALIASES)) {
      for (const column of [...(fields.get(name) ?? [])]) add(alias, column);
    }
    for (const facet of Gallery.facets) fields.set(normal(facet.name), [facet]);
    const names = [...fields.keys()].sort((a, b) => b.length - a.length).map(escape).join("|");
    pattern = new RegExp(`(?<!\\S)(-?)(?:(seed) +(\\d+)(?!\\S)|(?:(${names})[:=] *)?("[^"]*"?|\\S+))`, "giu");
  }

  // [{field, value, isNot}] of a query.
  function parse(query) {
    if (!fields) setFields();
    return [...query.matchAll(pattern)].map(([, minus, seed, number, field, value]) => ({
      isNot: minus === "-",
      field: seed ? "seed" : field && normal(field),
      value: normal(number ?? value.replace(/^"|"$/g, "")),
    })).filter(({ field, value }) => value || field);
  }

  function compare(value) {
    const range = /^(-?[\d.]+)\.\.(-?[\d.]+)$/.exec(value), sided = /^([<>]=?)(-?[\d.]+)$/.exec(value);
    if (range) return (number) => number >= Number(range[1]) && number <= Number(range[2]);
    if (!sided) return value === "" ? () => false : (number) => number === Number(value);
    const limit = Number(sided[2]);
    return { "<": (n) => n < limit, "<=": (n) => n <= limit, ">": (n) => n > limit, ">=": (n) => n >= limit }[sided[1]];
  }

  const say = (value) => normal(Array.isArray(value) ? value.map((each) => (Array.isArray(each) ? loraText(each) : each)).join("\n") : String(value));

  // Adds to `bits` the pictures with a value in the column that is found.
  function matchColumn(column, test, bits) {
    const isHit = Uint8Array.from(column.values, (value) => (test(value) ? 1 : 0));
    const { codes } = column;
    for (let i = 0; i < bits.length; i++) if (codes[i] >= 0 && isHit[codes[i]]) bits[i] = 1;
  }

  function matchField(name, value, bits) {
    for (const column of fields.get(name)) {
      if (typeof column === "object") {
        Gallery.pictures.forEach((picture, i) => {
          if ([column.of(picture) ?? []].flat().some((each) => say(each) === value)) bits[i] = 1;
        });
        continue;
      }
      const isNumeric = columns.get(column).isNumeric, isRight = isNumeric && compare(value);
      const isWhole = name === "seed" ? say : null;
      const test = isNumeric ? isRight : isWhole ? (each) => isWhole(each) === value : (each) => say(each).includes(value);
      matchColumn(columns.get(column), test, bits);
    }
    if (name === "sampler") matchPairs(["sampler", "schedule"], " ", value, bits);
    if (name === "size") matchPairs(["width", "height"], "x", value.replace(/ *[×x] */, "x"), bits);
  }

  // Two columns as one text: `dpm++ 2m karras`, `512x768`.
  function matchPairs([first, second], between, value, bits) {
    const one = columns.get(first), other = columns.get(second), known = new Map();
    if (!one || !other) return;
    for (let i = 0; i < bits.length; i++) {
      const key = one.codes[i] * other.values.length + other.codes[i];
      if (!known.has(key)) {
        const text = `${say(one.of(i) ?? "")}${between}${say(other.of(i) ?? "")}`;
        known.set(key, between === "x" ? text === value || text.split("x").includes(value) : text.includes(value));
      }
      if (known.get(key)) bits[i] = 1;
    }
  }

  // Which texts hold the value in one of these parts. Reads all chunks of texts once a word; `onProgress` may end it.
  async function matchTexts(value, parts, onProgress) {
    const key = `${parts} ${value}`;
    if (!found.has(key)) {
      const bits = new Uint8Array(head.texts), size = head.sizes.texts;
      for (let number = 0; number < head.chunks.texts.length; number++) {
        onProgress(number, head.chunks.texts.length);
        const rows = loader.at("texts", number) ?? (await loader.load("texts", number));
        rows.forEach((row, n) => {
          if (parts.some((part) => row[part] && normal(row[part]).includes(value))) bits[number * size + n] = 1;
        });
      }
      found.set(key, bits);
      if (found.size > KEPT_WORDS) found.delete(found.keys().next().value);
    }
    return found.get(key);
  }

  async function matchTerm({ field, value, isNot }, onProgress) {
    const bits = new Uint8Array(head.count);
    const parts = field ? TEXTS[field] : [0, 1, 2, 3];
    if (field && !parts) matchField(field, value, bits);
    else if (parts) {
      const hits = await matchTexts(value, parts, onProgress);
      matchColumn({ values: hits, codes: Int32Array.from(bits, (_, i) => valueOf("text", i)) }, Boolean, bits);
    }
    if (!field) {
      const axes = [...columns.keys()].filter((name) => name.startsWith("axis "));
      for (const name of [...EVERYWHERE, ...axes]) {
        if (columns.has(name)) matchColumn(columns.get(name), (each) => say(each).includes(value), bits);
      }
      if (columns.has("sampler")) matchPairs(["sampler", "schedule"], " ", value, bits);
    }
    return isNot ? bits.map((bit) => 1 - bit) : bits;
  }

  // 1 for each picture that a query finds; null for a query without words.
  async function match(query, onProgress) {
    const terms = parse(query);
    if (!terms.length) return null;
    const all = new Uint8Array(head.count).fill(1);
    for (const term of terms) {
      const bits = await matchTerm(term, onProgress);
      for (let i = 0; i < all.length; i++) all[i] &= bits[i];
    }
    return all;
  }

  return { match, parse };
})();
