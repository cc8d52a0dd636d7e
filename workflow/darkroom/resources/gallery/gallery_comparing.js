// Comparing pictures of the gallery: the one in full, or with the focus, with the marked ones. The address names them.
Gallery.comparer = (() => {
  const comparer = makeComparer({ onClose: () => state.get("compare") && state.set("compare", null, { isNew: false }) });
  let asked = 0;

  const text = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));

  async function describe(picture) {
    const { request, prompt, negative_prompt: negative } = await picture.details();
    const { loras, ...settings } = picture.settings;
    const second = ["prompt_2", "negative_prompt_2"].filter((key) => request[key]);
    const rows = [
      ["Sheet", picture.sheet], ["Checkpoint", picture.checkpoint], ["ID", picture.id], ["Seed", picture.seed],
      ["Prompt", prompt], ["Negative prompt", negative], ...second.map((key) => [labelOf(key), request[key]]),
      ...Object.entries(settings).map(([key, value]) => [labelOf(key), text(value)]),
      ["LoRAs", loras.map(loraText).join(", ")], ["Size", picture.size], ["Stage", picture.stage],
      ...Object.entries(picture.labels).map(([key, value]) => [`Axis ${key}`, text(value)]),
    ];
    return {
      name: `${picture.id}, seed ${picture.seed}`, url: picture.url, width: picture.width, height: picture.height,
      settings: rows.filter(([, value]) => value !== ""),
    };
  }

  async function open(pictures, options) {
    const turn = ++asked, described = await Promise.all(pictures.map(describe));
    if (turn === asked) comparer.open(described, options);
  }

  Gallery.addAction({
    key: "c", label: "Compare",
    run(picture, others) {
      if (!others.length) return "Mark another picture first (M), then compare this one with it.";
      state.set("compare", [picture, ...others].map(({ name }) => name), { isNew: false });
      return undefined;
    },
  });

  const marked = make("button", { type: "button", className: "button", id: "compare-marked", textContent: "Compare", hidden: true });
  marked.addEventListener("click", () => state.set("compare", state.getAll("mark"), { isNew: false }));
  byId("marked").before(marked);

  function follow(keys) {
    marked.hidden = state.getAll("mark").length < 2;
    if (keys && !keys.has("compare")) return;
    const pictures = state.getAll("compare").map((name) => Gallery.byName(name)).filter(Boolean);
    if (pictures.length > 1) open(pictures);
    else if (keys) comparer.close();
  }

  state.subscribe(follow);
  Gallery.whenReady(() => follow());
  return { open, close: () => comparer.close(), say: comparer.say };
})();
