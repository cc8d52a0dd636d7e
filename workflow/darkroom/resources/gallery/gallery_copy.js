// Copying a picture's settings: as an entry of a sheet, as infotext, as a request to the server, as `darkroom replay`.
(() => {
  const NULLABLE = ["variation_seed", "prompt_2", "negative_prompt_2", "vae", "eta", "freeu"];
  const ARE_TEMPLATES = new Set(["prompt", "negative_prompt", "prompt_2", "negative_prompt_2"]);
  const LEFT_OUT = new Set(["prompt", "negative_prompt", "seed", "embeddings", "image", "stages"]);
  const MAX_ID = 80;

  // A text in double quotes, as YAML and JSON both read it, with everything escaped that one of them doesn't take as it is.
  const quote = (text) => JSON.stringify(text).replace(/[\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ud800-\udfff\ufeff\ufffe\uffff]/gu, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);

  // Seeds may be larger than a number in JavaScript can be: these are written as their digits.
  class Digits {
    constructor(text) { this.text = text; }
  }

  const json = (value) => (value instanceof Digits ? value.text : JSON.stringify(value));

  // The request with its seeds exactly: that of variations stands in the infotext where it counts.
  function withSeeds(picture, { request, infotext }) {
    const [, variation] = infotext.slice(infotext.lastIndexOf("\n") + 1).match(/(?:^|, )Variation seed: (\d+)/) ?? [];
    return { ...request, seed: new Digits(picture.seed), variation_seed: variation ? new Digits(variation) : null };
  }

  // A value as YAML in flow style. Numbers are written out: YAML takes 1e-7 for a text.
  function yaml(value) {
    if (value === null || value === undefined) return "~";
    if (value instanceof Digits) return value.text;
    if (typeof value === "number") return /e/.test(String(value)) ? value.toFixed(20).replace(/0+$/, "") : String(value);
    if (typeof value === "string") return quote(value);
    if (Array.isArray(value)) return `[${value.map(yaml).join(", ")}]`;
    if (typeof value === "object") {
      return `{${Object.entries(value).filter(([, each]) => each !== null).map(([key, each]) => `${key}: ${yaml(each)}`).join(", ")}}`;
    }
    return String(value);
  }

  // In a sheet `${` begins a variable; `$${` is the plain signs.
  const escapeTemplate = (text) => text.replaceAll("${", () => "$${"); // in a text `$$` would be one sign

  // Every setting is written, so that the sheet's defaults change nothing.
  function asYaml(picture, request, hasSeed) {
    const lines = picture.id.length <= MAX_ID ? [["id", picture.id]] : [];
    const files = [];
    if (request.image) files.push(["from", request.image]);
    lines.push(["prompt", escapeTemplate(request.prompt)], ["negative_prompt", escapeTemplate(request.negative_prompt ?? "")]);
    lines.push(["checkpoints", [picture.checkpoint]]);
    if (request.image) lines.push(["from", "PATH OF THE PICTURE"]);
    if (hasSeed) lines.push(["seed", request.seed]);
    const isLeftOut = (key) => LEFT_OUT.has(key) || (request.image && ["width", "height"].includes(key));
    const given = Object.entries({ ...Object.fromEntries(NULLABLE.map((key) => [key, null])), ...request });
    given.sort(([, one], [, other]) => (one === null) - (other === null)); // what isn't set comes last
    for (const [key, value] of given) {
      if (!isLeftOut(key)) lines.push([key, ARE_TEMPLATES.has(key) && value ? escapeTemplate(value) : value]);
    }
    lines.push(["styles", []]);
    const stages = (request.stages ?? []).map((stage) => {
      const [[name, settings]] = Object.entries(stage);
      const own = Object.entries(settings).filter(([, value]) => value !== null).map(([key, value]) => {
        if (key === "mask") files.push([`mask of ${name}`, value]);
        return [key, key === "mask" ? "PATH OF THE MASK" : ARE_TEMPLATES.has(key) ? escapeTemplate(value) : value];
      });
      return `    - ${name}: ${yaml(Object.fromEntries(own))}\n`;
    });
    const comment = files.map(([key, sha256]) => `# ${key}: the picture of SHA-256 ${sha256}; write its path\n`).join("");
    const text = lines.map(([key, value]) => `${key}: ${yaml(value)}\n`).join("  ");
    return `${comment}- ${text}  then:${stages.length ? `\n${stages.join("")}` : " []\n"}`;
  }

  const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const plainShell = (text) => (/^[\w./:@%+=,-]+$/.test(text) ? text : shell(text));

  function asCurl(picture, request, hasSeed) {
    const { embeddings, seed, ...own } = request;
    const settings = Object.entries(own).filter(([, value]) => value !== null).map(([key, value]) => `${quote(key)}: ${json(value)}`);
    if (hasSeed) settings.push(`"seed": ${json(seed)}`);
    const body = `{"model": ${quote(picture.checkpoint)}, "request": {${settings.join(", ")}}}`;
    const file = `${picture.id}-${picture.seed}.png`;
    return `curl http://127.0.0.1:8000/render --output ${plainShell(file)} --json ${shell(body)}\n`;
  }

  const asInfotext = (infotext, hasSeed) => (hasSeed ? infotext : infotext.replace(/(^|\n)([^\n]*)$/, (_, start, line) => start + line.replace(/(^|, )Seed: \d+(?:, |$)/, "$1")));

  const asReplay = (picture) => `darkroom replay ${plainShell(`results/${picture.path}`)} -o ${plainShell(`${picture.id}-${picture.seed}.png`)}\n`;

  const KINDS = [
    ["yaml", "Y", "An entry for a sheet (YAML)", (picture, details, hasSeed) => asYaml(picture, withSeeds(picture, details), hasSeed)],
    ["infotext", "I", "Infotext", (picture, { infotext }, hasSeed) => asInfotext(infotext, hasSeed)],
    ["curl", "C", "A request to the server (curl)", (picture, details, hasSeed) => asCurl(picture, withSeeds(picture, details), hasSeed)],
    ["replay", "R", "Replay", (picture) => asReplay(picture)],
  ];

  let shown = null, texts = {};
  const seed = make("input", { type: "checkbox", checked: true, id: "copier-seed" });
  const said = make("p", { className: "copier-said", role: "status" });
  const close = make("button", { type: "button", className: "button", textContent: "Close" });
  const rows = KINDS.map(([kind, key, label]) => {
    const button = make("button", { type: "button", className: "button", id: `copy-${kind}`, textContent: "Copy", title: `Copy (${key})` });
    button.setAttribute("aria-label", `Copy: ${label}`);
    button.addEventListener("click", () => copy(kind));
    const text = make("pre", { tabIndex: 0, role: "region", dir: "auto" });
    text.setAttribute("aria-label", label);
    return { kind, key, button, text, row: make("div", { className: "copier-row" }, button, ` ${label}`, text) };
  });
  const dialog = make("dialog", { id: "copier", className: "sheet-dialog" },
    make("div", { className: "dialog-head" }, make("h2", { id: "copier-title" }), close),
    make("div", { className: "dialog-body" }, make("label", {}, seed, " With the seed (S)"), said, ...rows.map(({ row }) => row)));
  dialog.setAttribute("aria-labelledby", "copier-title");
  document.body.append(dialog);

  function fill() {
    const [picture, details] = shown;
    byId("copier-title").textContent = `Copy ${picture.id}, seed ${picture.seed}`;
    texts = Object.fromEntries(KINDS.map(([kind, , , write]) => [kind, write(picture, details, seed.checked)]));
    for (const { kind, text } of rows) text.textContent = texts[kind];
  }

  async function copy(kind) {
    try {
      await navigator.clipboard.writeText(texts[kind]);
    } catch {
      // Some browsers keep the clipboard from pages opened from disk; a selection inside the dialog still works.
      const area = make("textarea", { value: texts[kind] });
      dialog.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      byId(`copy-${kind}`).focus();
    }
    said.textContent = `Copied: ${KINDS.find(([each]) => each === kind)[2]}${kind === "replay" || seed.checked ? "" : ", without the seed"}.`;
  }

  dialog.addEventListener("keydown", (event) => {
    event.stopPropagation(); // the page below has keys of its own
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toUpperCase(), row = rows.find((each) => each.key === key);
    if (row) copy(row.kind);
    else if (key === "S") seed.click();
    else return;
    event.preventDefault();
  });
  seed.addEventListener("change", fill);
  close.addEventListener("click", () => dialog.close());

  Gallery.addAction({
    key: "y", label: "Copy as…",
    async run(picture) {
      shown = [picture, await picture.details()];
      said.textContent = "";
      fill();
      dialog.showModal();
      rows[0].button.focus();
    },
  });
})();
