// A card: thumbnail, prompt, and the settings that tell the picture from its neighbours.
const cards = (() => {
  const PROMPT = 110, MOST_FACTS = 12;
  const SHORT = { // how a setting is said in a word or two
    cfg_scale: (value) => `CFG ${value}`,
    steps: (value) => `${value} step${String(value) === "1" ? "" : "s"}`,
    sampler: String,
    schedule: (value) => (value === "Automatic" ? "" : String(value)),
    clip_skip: (value) => (Number(value) ? `clip skip ${value}` : ""),
  };
  const varying = new Map(); // group → names of the columns that differ in it

  const say = (name, value) => (SHORT[name] ?? ((each) => `${labelOf(name)} ${each}`))(value);

  // Axes first, then other settings, in the data's order; of sizes, width and height are one.
  function varyingIn(group) {
    if (!varying.has(group)) {
      let first = 0;
      for (let n = 0; n < group; n++) first += head.groups[n][2];
      const end = first + head.groups[group][2];
      const differs = (name) => {
        const { codes } = columns.get(name);
        for (let i = first + 1; i < end; i++) if (codes[i] !== codes[first]) return true;
        return false;
      };
      const axes = [...columns.keys()].filter((name) => name.startsWith("axis ") && differs(name));
      const settings = [...columns.keys()].filter((name) => isSetting(name) && !axes.includes(`axis ${name}`) && differs(name));
      const sizes = ["width", "height"].some((name) => columns.has(name) && differs(name)) ? ["size"] : [];
      varying.set(group, [...axes, ...settings, ...sizes]);
    }
    return varying.get(group);
  }

  function facts(picture) {
    const names = varyingIn(order.groupOf(picture.i)), found = [];
    for (const name of names) {
      const value = name === "size" ? picture.size : valueOf(name, picture.i);
      if (value !== undefined) found.push(name === "size" ? value : say(name.replace(/^axis /, ""), value));
    }
    for (const name of ["cfg_scale", "steps"]) {
      if (!names.some((each) => each.replace(/^axis /, "") === name)) found.push(say(name, valueOf(name, picture.i) ?? "?"));
    }
    return [...found.filter(Boolean).slice(0, MOST_FACTS), ...(picture.stage ? [picture.stage] : [])];
  }

  // At most PROMPT characters: prompts of a sweep differ at their end, so the middle goes first, at a space.
  function shorten(text) {
    const line = text.replace(/\s+/g, " ").trim();
    if (line.length <= PROMPT) return line;
    const start = line.slice(0, PROMPT * 0.4), end = line.slice(-PROMPT * 0.6);
    return `${start.replace(/[\s,]+\S*$/, "") || start} … ${end.replace(/^\S*\s+/, "") || end}`;
  }

  const words = (className, texts) =>
    make("span", { className }, ...texts.flatMap((text) => [make("span", { className: "fact", textContent: text, dir: "auto" }), " "]));

  function thumbnailFails(image, picture) {
    if (image.src.endsWith(picture.url)) {
      image.replaceWith(make("span", { className: "broken", textContent: "The picture is missing" }));
    } else image.src = picture.url; // the picture itself is better than nothing
  }

  function showPrompt(element, picture) {
    element.textContent = shorten(picture.prompt) || "(no prompt)";
  }

  function badgesOf(picture) {
    const found = Gallery.badges.map((fn) => fn(picture)).filter(Boolean);
    return found.length ? [make("span", { className: "badges" }, ...found.map((each) => make("span", { className: "badge" }, each)))] : [];
  }

  // Fills a card's button. What needs the disk, thumbnail and prompt, comes with `load`.
  function fill(button, picture) {
    const prompt = make("span", { className: "prompt", dir: "auto" });
    const lines = [words("facts name", [picture.id, `seed ${picture.seed}`]), words("facts", facts(picture))];
    if (picture.loras.length) lines.push(words("facts loras", picture.loras.map(loraText)));
    const frame = make("span", { className: "frame" }, ...badgesOf(picture));
    if (picture.warnings.length) frame.append(make("span", { className: "warning", textContent: picture.warnings.join("; "), dir: "auto" }));
    button.replaceChildren(frame, make("span", { className: "words" }, prompt, ...lines));
    button.classList.toggle("is-marked", Gallery.selection.has(picture));
    if (picture.knownText) showPrompt(prompt, picture);
  }

  function load(button, picture) {
    const frame = button.querySelector(".frame"), prompt = button.querySelector(".prompt");
    if (frame.querySelector("img, .broken")) return;
    const image = make("img", { alt: "", decoding: "async" });
    image.addEventListener("error", () => thumbnailFails(image, picture));
    image.src = picture.thumbnail;
    frame.prepend(image);
    if (!prompt.textContent) picture.text().then(() => showPrompt(prompt, picture), () => {});
  }

  // The most facts that a card says, by which the list leaves room.
  function mostFacts() {
    return Math.max(0, ...head.groups.map((_, group) => {
      const names = varyingIn(group).map((name) => name.replace(/^axis /, ""));
      return names.length + ["cfg_scale", "steps"].filter((name) => !names.includes(name)).length;
    }));
  }

  return { fill, load, facts, mostFacts };
})();
