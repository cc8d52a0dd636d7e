// The dialog in which pictures are compared: side by side, with a slider, or by blinking, and the settings that differ.
// A picture is {name, url, width, height, settings: [[label, text]…]}. `onClose` is called after it.
function makeComparer({ onClose = () => {} } = {}) {
  const MODES = [["side", "Side by side", "s"], ["slider", "Slider", "l"], ["blink", "Blink", "b"]];
  let pictures = [], mode = "side", split = 50, shown = 0, isHeld = false, isAll = false, onKey = null, returnTo = null;

  const title = make("h2", { id: "comparer-name", tabIndex: -1 });
  const percent = make("output", { className: "compare-percent" });
  const said = make("p", { className: "unseen", role: "status" });
  const stage = make("div", { className: "compare-stage" });
  const table = make("table", { className: "compare-table" });
  const whole = make("input", { type: "checkbox" });
  const foot = make("div", { className: "compare-foot" });
  const below = make("div", { className: "compare-settings", tabIndex: 0, role: "region" });
  below.setAttribute("aria-label", "Settings");
  below.append(make("label", { className: "compare-all" }, whole, " All settings"), table);
  const modes = MODES.map(([name, text, key]) => press(text, key, () => setMode(name), `compare-${name}`));
  const group = make("div", { className: "compare-group", role: "group" }, ...modes);
  group.setAttribute("aria-label", "How to compare");
  const zoom = make("div", { className: "compare-group", role: "group" },
    press("−", "-", () => view.zoomBy(1 / 1.5), "compare-out", "Zoom out"), percent,
    press("+", "+", () => view.zoomBy(1.5), "compare-in", "Zoom in"),
    press("Fit", "0", () => view.fit(), "compare-fit"), press("1:1", "1", () => view.actual(), "compare-actual", "1:1, actual pixels"));
  zoom.setAttribute("aria-label", "Zoom");
  const close = press("Close", "Esc", () => dialog.close(), "compare-close");
  const dialog = make("dialog", { id: "comparer" },
    make("div", { className: "compare-bar" }, title, group, zoom, close), stage, foot, below, said);
  dialog.setAttribute("aria-labelledby", "comparer-name");
  document.body.append(dialog);

  function press(text, key, run, id, name) {
    const button = make("button", { type: "button", className: "button", id, textContent: text, title: `${name ?? text} (${key.toUpperCase()})` });
    if (name) button.setAttribute("aria-label", name);
    button.addEventListener("click", run);
    return button;
  }

  const letter = (number) => String.fromCharCode(65 + number);

  function makePane(numbers) {
    const element = make("div", { className: "compare-pane" });
    const panes = numbers.map((number) => {
      const { url, name, width, height } = pictures[number];
      const image = make("img", { src: url, alt: `${letter(number)}: ${name}`, draggable: false });
      element.append(image);
      return { element, image, width, height };
    });
    element.append(...numbers.map((number) =>
      make("span", { className: "compare-label", dir: "auto" }, make("b", { textContent: letter(number) }), ` ${pictures[number].name}`)));
    return [element, panes];
  }

  function makeHandle(image) {
    const handle = make("div", { className: "compare-handle", role: "slider", tabIndex: 0 });
    handle.setAttribute("aria-label", "Slider: the part of the stage that shows A");
    handle.setAttribute("aria-valuemin", 0);
    handle.setAttribute("aria-valuemax", 100);
    const set = (value) => {
      split = Math.min(100, Math.max(0, value));
      handle.style.left = `${split}%`;
      handle.setAttribute("aria-valuenow", Math.round(split));
      clip(image);
    };
    handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
    handle.addEventListener("pointermove", (event) => {
      const box = stage.getBoundingClientRect();
      if (handle.hasPointerCapture(event.pointerId)) set(((event.clientX - box.left) / box.width) * 100);
    });
    handle.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -2, ArrowRight: 2, PageDown: -10, PageUp: 10, Home: -100, End: 100 }[event.key];
      if (by === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      set(split + by);
    });
    set(split);
    return handle;
  }

  // The second picture lies over the first, in a cover that begins at the handle.
  function clip(cover) {
    cover.style.clipPath = `inset(0 0 0 ${split}%)`;
  }

  function layOut() {
    for (const [n, [name]] of MODES.entries()) {
      modes[n].setAttribute("aria-pressed", name === mode);
      modes[n].disabled = name === "slider" && pictures.length !== 2;
    }
    stage.className = `compare-stage is-${mode}`;
    const groups = mode === "side" ? pictures.map((_, number) => [number]) : mode === "blink" ? [[shown]] : [[0], [1]];
    const made = groups.map(makePane);
    stage.replaceChildren(...made.map(([element]) => element));
    if (mode === "slider") {
      made[1][0].classList.add("is-over");
      stage.append(makeHandle(made[1][0]));
    }
    if (mode === "blink") {
      const hold = make("button", { type: "button", className: "button compare-hold", id: "compare-hold", textContent: "Hold to see the other", title: "Hold (B)" });
      for (const { url } of pictures) new Image().src = url; // the others are fetched before they are asked for
      hold.addEventListener("pointerdown", () => blink(true));
      for (const name of ["pointerup", "pointerleave", "pointercancel", "blur"]) hold.addEventListener(name, () => blink(false));
      hold.addEventListener("keydown", (event) => [" ", "Enter"].includes(event.key) && !event.repeat && blink(true));
      hold.addEventListener("keyup", () => blink(false));
      hold.addEventListener("contextmenu", (event) => event.preventDefault());
      stage.append(hold);
    }
    stack();
    view.show(made.flatMap(([, panes]) => panes));
  }

  // Side by side or one above the other, whichever shows the pictures larger.
  function stack() {
    if (!pictures.length) return;
    const { clientWidth: width, clientHeight: height } = stage, [first] = pictures, count = pictures.length;
    const scale = (wide, high) => Math.min(wide / first.width, high / first.height);
    stage.classList.toggle("is-stacked", mode === "side" && scale(width, height / count) > scale(width / count, height));
  }

  new ResizeObserver(stack).observe(stage); // before the view's: panes are placed in the new layout
  const view = makeLinkedView(stage, (scale) => (percent.textContent = `${Math.round(scale * 100)} %`));

  function setMode(name) {
    if (name === "slider" && pictures.length !== 2) return;
    mode = name;
    shown = 0;
    layOut();
  }

  // While held, blinking shows another picture: of more than two each time the next one.
  function blink(isOn) {
    if (isOn === isHeld) return;
    isHeld = isOn;
    const { url, name, width, height } = pictures[isOn ? next() : 0], number = isOn ? shown : 0;
    const [pane] = stage.querySelectorAll(".compare-pane");
    const image = pane.querySelector("img"), label = pane.querySelector(".compare-label");
    image.src = url;
    image.alt = `${letter(number)}: ${name}`;
    label.replaceChildren(make("b", { textContent: letter(number) }), ` ${name}`);
    view.show([{ element: pane, image, width, height }]);
    said.textContent = `${letter(number)}: ${name}`;
  }

  function next() {
    shown = (shown % (pictures.length - 1)) + 1;
    return shown;
  }

  function fillTable() {
    const maps = pictures.map(({ settings }) => new Map(settings));
    const keys = [...new Set(maps.flatMap((map) => [...map.keys()]))];
    const differs = (key) => new Set(maps.map((map) => map.get(key) ?? "")).size > 1;
    const rows = keys.filter((key) => isAll || differs(key)).map((key) => {
      const texts = maps.map((map) => map.get(key) ?? "");
      const cells = texts.map((text) => make("td", { dir: "auto" }, ...markChange(text, texts)));
      return make("tr", { className: isAll && differs(key) ? "differs" : "" }, make("th", { scope: "row", textContent: key, dir: "auto" }), ...cells);
    });
    const heads = pictures.map(({ name }, number) => make("th", { scope: "col", dir: "auto", textContent: `${letter(number)} ${name}` }));
    const none = make("tr", {}, make("td", { colSpan: pictures.length + 1, textContent: "All settings are the same." }));
    table.replaceChildren(make("caption", { textContent: isAll ? "Settings" : "Settings that differ" }),
      make("thead", {}, make("tr", {}, make("td"), ...heads)), make("tbody", {}, ...(rows.length ? rows : [none])));
  }

  // A text with the words marked between those that all texts begin with and those that all end with.
  function markChange(text, texts) {
    const split = (each) => each.split(/(?<=\s)/), words = split(text), all = texts.map(split);
    if (words.length < 4 || new Set(texts).size < 2) return [text];
    const least = Math.min(...all.map((each) => each.length));
    const isSame = (at) => all.every((each) => each.at(at) === words.at(at));
    let start = 0, end = 0;
    while (start < least && isSame(start)) start += 1;
    while (end < least - start && isSame(-1 - end)) end += 1;
    const [before, changed, after] = [words.slice(0, start), words.slice(start, words.length - end), words.slice(words.length - end)];
    return [before.join(""), make("mark", { textContent: changed.join("") }), after.join("")];
  }

  const KEYS = {
    s: () => setMode("side"), l: () => setMode("slider"), a: () => whole.click(),
    "+": () => view.zoomBy(1.5), "=": () => view.zoomBy(1.5), "-": () => view.zoomBy(1 / 1.5), 0: () => view.fit(), 1: () => view.actual(),
    ArrowLeft: () => view.pan(0.1, 0), ArrowRight: () => view.pan(-0.1, 0), ArrowUp: () => view.pan(0, 0.1), ArrowDown: () => view.pan(0, -0.1),
    b: () => {
      if (mode !== "blink") setMode("blink");
      blink(true);
    },
  };

  // On the document, because an element that had the focus may have gone. The page below has keys of its own, and listens later.
  document.addEventListener("keydown", (event) => {
    if (!dialog.open) return;
    event.stopImmediatePropagation();
    if (event.ctrlKey || event.metaKey || event.altKey || event.key === "Escape" || event.target === below && event.key.startsWith("Arrow")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (onKey?.(key, event)) return event.preventDefault();
    if (!KEYS[key]) return;
    event.preventDefault();
    if (key === "b" && event.repeat) return;
    KEYS[key]();
  });
  document.addEventListener("keyup", (event) => dialog.open && event.key.toLowerCase() === "b" && mode === "blink" && blink(false));
  addEventListener("blur", () => dialog.open && mode === "blink" && blink(false));
  whole.addEventListener("change", () => {
    isAll = whole.checked;
    fillTable();
  });
  dialog.addEventListener("close", () => {
    stage.replaceChildren();
    onKey = null;
    const to = returnTo;
    returnTo = null;
    if (to?.isConnected) to.focus();
    onClose();
  });

  return {
    get isOpen() { return dialog.open; },
    close: () => dialog.open && dialog.close(),
    say: (text) => (said.textContent = text),
    // `options`: title, controls (elements below the pictures), onKey(key): true if it did something with it.
    open(given, options = {}) {
      pictures = given;
      onKey = options.onKey ?? null;
      [shown, isHeld] = [0, false];
      if (mode === "slider" && pictures.length !== 2) mode = "side";
      title.textContent = options.title ?? `Compare ${plural(pictures.length, "picture")}`;
      foot.replaceChildren(...(options.controls ?? []));
      foot.hidden = !options.controls;
      const isNew = !dialog.open;
      if (isNew) {
        returnTo = document.activeElement;
        dialog.showModal();
        title.focus();
      }
      layOut();
      if (isNew) view.fit();
      fillTable();
    },
  };
}
