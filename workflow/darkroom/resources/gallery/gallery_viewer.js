// A picture in full: the address names it, the arrows go through what is shown, and added actions have buttons and keys.
function makeGalleryViewer({ list, say }) {
  let current = null, pushed = false, asked = 0;
  const viewer = makeViewer({ step, closed });
  const foot = byId("viewer").querySelector(".panel-foot");

  // The pairs of an infotext's last line (A1111's format): quoted values are JSON, `Hashes` is an object.
  function readSettings(infotext) {
    const line = infotext.slice(infotext.lastIndexOf("\n") + 1), found = [];
    const pair = /\s*([\p{L}\p{N}_][\p{L}\p{N}_ \-/]*):\s*("(?:[^"\\]|\\.)*"|\{[^}]*\}|[^,]*)(?:,|$)/uy;
    for (let match; pair.lastIndex < line.length && (match = pair.exec(line)); ) {
      let [, key, value] = match;
      if (value.startsWith('"')) {
        try {
          value = JSON.parse(value);
        } catch { /* it isn't quoted, it only begins so */ }
      }
      found.push([key, value.trim()]);
    }
    return found.length < 3 ? [] : found;
  }

  function settingsOf(picture, { request, infotext, entry }) {
    const shown = [
      ["Warning", picture.warnings.join("; ")],
      ["Stage", picture.stage],
      ...Object.entries(picture.labels),
      ...readSettings(infotext),
      ["Emphasis", request.emphasis],
      ...Object.entries(picture.numbers).map(([name, value]) => [NUMBERS[name] ?? name, value]),
      ["PNG SHA256", entry.sha256],
    ];
    const unique = new Map(shown.filter(([, value]) => value !== undefined && value !== null && value !== "")); // the last one counts
    return [...unique].map(([key, value]) => [key, String(value)]);
  }

  async function show(picture) {
    const turn = ++asked, at = list.placeOf(picture.i);
    current = picture;
    list.current = picture;
    answer.textContent = "";
    for (const panel of Gallery.panels) panel.show(picture);
    const base = {
      id: picture.id,
      url: picture.url,
      file: picture.path,
      width: picture.width,
      height: picture.height,
      name: `${picture.id}, seed ${picture.seed}`,
      place: `${picture.sheet} on ${picture.checkpoint}${at < 0 ? "" : `, ${(at + 1).toLocaleString("en")} of ${list.items.length.toLocaleString("en")}`}`,
      isFirst: at <= 0,
      isLast: at < 0 || at >= list.items.length - 1,
    };
    viewer.showImage({ ...base, alt: picture.prompt || picture.id });
    let details;
    try {
      details = await picture.details();
    } catch (error) {
      details = { prompt: picture.prompt, negative_prompt: picture.negative_prompt, infotext: "", request: {}, entry: picture, earlier: [] };
    }
    if (turn !== asked) return;
    viewer.show({
      ...base,
      prompt: details.prompt,
      negative: details.negative_prompt,
      settings: settingsOf(picture, details),
      parameters: details.infotext,
      earlier: details.earlier,
    });
    markButton();
    for (const near of [list.items[at + 1], list.items[at - 1]]) {
      if (at >= 0 && near !== undefined) new Image().src = Gallery.pictures[near].url;
    }
  }

  // From the list: the back button returns there.
  function open(picture) {
    pushed = true;
    state.set("picture", picture.name);
  }

  function step(by) {
    const next = list.items[list.placeOf(current.i) + by];
    if (next !== undefined && list.placeOf(current.i) >= 0) state.set("picture", Gallery.pictures[next].name, { isNew: false });
  }

  function closed() {
    asked += 1;
    if (!state.get("picture")) return;
    if (pushed) history.back();
    else state.set("picture", null, { isNew: false });
  }

  // What the address says: a picture, none, or one that isn't there.
  function follow() {
    const name = state.get("picture"), picture = name && Gallery.byName(name);
    if (picture) {
      show(picture);
      viewer.open();
      return;
    }
    pushed = false;
    if (name) {
      say(`There is no picture ${name} here any more.`, true);
      state.set("picture", null, { isNew: false });
    }
    if (byId("viewer").open) byId("viewer").close();
    if (current) list.focus(current.i);
    current = null;
  }

  const answer = make("p", { className: "answer", role: "status" });
  const mark = make("button", { type: "button", className: "button", textContent: "Mark", title: "Mark (M)" });
  function markButton() {
    const isMarked = current && Gallery.selection.has(current);
    mark.textContent = isMarked ? "Marked" : "Mark";
    mark.setAttribute("aria-pressed", String(Boolean(isMarked)));
  }

  async function run(action, picture) {
    const others = Gallery.selection.pictures.filter((each) => each.i !== picture.i);
    const said = await action.run(picture, others);
    if (typeof said !== "string") return;
    say(said, !viewer.isOpen);
    answer.textContent = said; // what is outside of the dialog is neither seen nor read aloud
  }

  function addButtons() {
    mark.addEventListener("click", () => Gallery.selection.toggle(current));
    foot.before(...Gallery.panels.map(({ element }) => element));
    foot.append(mark);
    for (const action of Gallery.actions.filter(({ isKeyOnly }) => !isKeyOnly)) {
      const button = make("button", { type: "button", className: "button", textContent: action.label });
      if (action.key) button.title = `${action.label} (${action.key.toUpperCase()})`;
      button.addEventListener("click", () => run(action, current));
      foot.append(button);
    }
    foot.append(answer);
  }

  // Keys of the picture in full, or of the card with the focus; false for a key that means nothing.
  function onKey(event) {
    const picture = viewer.isOpen ? current : document.activeElement.classList.contains("card") ? list.current : null;
    if (!picture) return false;
    if (viewer.isOpen && event.key === "ArrowLeft") step(-1);
    else if (viewer.isOpen && event.key === "ArrowRight") step(1);
    else if (event.key.toLowerCase() === "m") Gallery.selection.toggle(picture);
    else {
      const action = Gallery.actions.find(({ key }) => key && key === event.key);
      if (!action) return false;
      run(action, picture);
    }
    return true;
  }

  addButtons();
  return { open, follow, onKey, markButton, get current() { return viewer.isOpen ? current : null; } };
}
