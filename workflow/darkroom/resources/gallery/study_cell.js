// What stands in a cell and in a head.
function makeFiller({ model, state, onHide }) {
  const same = (a, b) => a !== null && a.every((at, n) => at === b[n]);

  // Names of dimensions with several labels, and the place's labels, for those who can't see where the cell stands.
  const say = (place) => model.dimensions
    .map((each, n) => [each, place[n]])
    .filter(([each]) => each.labels.length > 1)
    .map(([each, at]) => `${each.name} ${each.labels[at]}`).join(", ");

  function notes(cell) {
    const unchanged = model.unchanged(cell), found = [];
    if (unchanged.length) found.push(["same", `no visible change: ${unchanged.join(", ")}`]);
    if (model.warning(cell)) found.push(["warning", model.warning(cell)]);
    return found;
  }

  const numbers = (cell) => model.numbers
    .map((each) => [each, model.number(cell, each.name)])
    .filter(([, value]) => value !== null)
    .map(([each, value]) => ({ ...each, value: each.text(value) }));

  const tagsOf = (place) => [
    ...(same(state.marked, place) ? ["marked"] : []),
    ...(same(model.baseOf(place), place) ? ["base"] : []),
  ];

  function fillFrame(frame, cell, place) {
    if (model.missing(cell) !== undefined) {
      frame.replaceChildren(make("span", { className: "reason", dir: "auto", textContent: model.missing(cell) }));
    } else {
      const image = frame.querySelector("img") ?? make("img", { alt: "", decoding: "async", draggable: false });
      const url = model.thumbnail(cell);
      if (image.getAttribute("src") !== url) image.src = url;
      frame.replaceChildren(image);
    }
    frame.append(...tagsOf(place).map((tag) => make("span", { className: `tag ${tag}`, textContent: tag })));
  }

  function fillCell(element, place) {
    const cell = model.find(place);
    element.className = "cell";
    if (cell === undefined) {
      element.classList.add("excluded");
      element.setAttribute("aria-label", `${say(place)}: no such cell`);
      return element.replaceChildren();
    }
    const isMissing = model.missing(cell) !== undefined;
    element.classList.toggle("missing", isMissing);
    element.classList.toggle("is-marked", same(state.marked, place));
    const frame = element.querySelector(".frame") ?? make("span", { className: "frame" });
    fillFrame(frame, cell, place);
    frame.title = isMissing ? model.missing(cell) : "";
    const chosen = numbers(cell).filter(({ name }) => state.numbers.has(name));
    const lines = chosen.map(({ label, value, about }) =>
      make("span", { className: "number", title: about }, make("span", { textContent: label, dir: "auto" }), make("b", { textContent: value })));
    const marks = notes(cell).slice(0, 1).map(([kind, text]) =>
      make("span", { className: `note ${kind}`, dir: "auto", textContent: text, title: text }));
    element.replaceChildren(frame, ...lines, ...marks);
    const said = [say(place), isMissing ? `missing: ${model.missing(cell)}` : "", ...tagsOf(place),
      ...chosen.map(({ label, value }) => `${label} ${value}`), ...notes(cell).map(([, text]) => text)];
    element.setAttribute("aria-label", said.filter(Boolean).join("; "));
  }

  function fillHead(element, side, label) {
    const n = side === "row-head" ? state.rows : state.columns;
    if (n === null) return;
    const { name, labels } = model.dimensions[n];
    const hide = make("button", { type: "button", className: "hide", tabIndex: -1, title: "Hide (Enter)", textContent: "×" });
    hide.setAttribute("aria-label", `${labels[label]}: hide ${name} ${labels[label]}`);
    hide.addEventListener("click", (event) => {
      event.stopPropagation();
      onHide(n, label);
    });
    const words = make("span", { className: "label", dir: "auto", textContent: labels[label] });
    const tags = model.hints(n, label).map((hint) => make("span", { className: "hint", textContent: hint }));
    element.title = labels[label];
    element.replaceChildren(make("span", { className: "head-text" }, words, ...tags), hide);
  }

  return { fillCell, fillHead, notes, numbers, say };
}
