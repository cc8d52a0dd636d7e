// The selectors above the table. `onChange(kind)` is called after the state was changed: "lines" or "page" or "cells".
function makeControls({ model, state, sizes, onChange }) {
  const { dimensions } = model;
  const several = dimensions.map((_, n) => n).filter((n) => dimensions[n].labels.length > 1);

  function change(kind, action) {
    action();
    onChange(kind);
  }

  function makeField(id, label, control) {
    control.id = id;
    return make("div", { className: "field" }, make("label", { htmlFor: id, textContent: label, dir: "auto" }), control);
  }

  function makeSelect(options, chosen, onPick) {
    const select = make("select");
    for (const [value, text] of options) select.append(make("option", { value, textContent: text, selected: value === chosen }));
    select.addEventListener("change", () => onPick(select.value));
    return select;
  }

  function makeSide(side, label) {
    const options = [["", "none"], ...several.map((n) => [String(n), dimensions[n].name])];
    const chosen = state[side] === null ? "" : String(state[side]);
    const pick = (value) => change("lines", () => state.turn(side, value === "" ? null : Number(value)));
    return makeField(side, label, makeSelect(options, chosen, pick));
  }

  function makePage(n) {
    const { name } = dimensions[n], labels = state.visible(n);
    const id = `page-${n}`;
    const pick = (at) => change("page", () => (state.place[n] = at));
    if (name === "seeds") return makeSlider(id, n, labels, pick);
    const options = labels.map((at) => [String(at), [model.label(n, at), ...model.hints(n, at)].join(" · ")]);
    return makeField(id, name, makeSelect(options, String(state.place[n]), (value) => pick(Number(value))));
  }

  function makeSlider(id, n, labels, pick) {
    const slider = make("input", { type: "range", min: 0, max: Math.max(0, labels.length - 1), step: 1 });
    slider.value = Math.max(0, labels.indexOf(state.place[n]));
    const output = make("output", { htmlFor: id });
    const tell = () => {
      output.textContent = labels.length ? model.label(n, labels[slider.value]) : "";
      slider.setAttribute("aria-valuetext", output.textContent);
    };
    tell();
    slider.addEventListener("input", () => {
      tell();
      pick(labels[slider.value]);
    });
    const field = makeField(id, dimensions[n].name, slider);
    field.append(output);
    return field;
  }

  function makeNumbers() {
    const boxes = model.numbers.map(({ name, label, about }) => {
      const box = make("input", { type: "checkbox", checked: state.numbers.has(name), value: name });
      box.addEventListener("change", () => change("lines", () => {
        if (box.checked) state.numbers.add(name);
        else state.numbers.delete(name);
      }));
      return make("label", { title: about, className: "box" }, box, make("span", { textContent: label, dir: "auto" }));
    });
    return make("div", { className: "field numbers", role: "group", ariaLabel: "Numbers in the cells" }, ...boxes);
  }

  function makeSize() {
    const slider = make("input", { type: "range", min: sizes.smallest, max: sizes.largest, step: 10, value: state.size });
    slider.addEventListener("input", () => change("lines", () => (state.size = Number(slider.value))));
    return makeField("size", "Size", slider);
  }

  function drawHidden() {
    const chips = [];
    state.hidden.forEach((labels, n) => labels.forEach((at) => {
      const chip = make("button", { type: "button", className: "chip", dir: "auto", title: `Show ${model.label(n, at)} again` });
      chip.append(`${dimensions[n].name} ${model.label(n, at)}`, make("span", { ariaHidden: "true", textContent: " ↩" }));
      chip.setAttribute("aria-label", `Show ${dimensions[n].name} ${model.label(n, at)} again`);
      chip.addEventListener("click", () => change("lines", () => state.hidden[n].delete(at)));
      chips.push(chip);
    }));
    if (chips.length > 1) {
      const all = make("button", { type: "button", className: "chip", textContent: "Show all" });
      all.addEventListener("click", () => change("lines", () => state.hidden.forEach((labels) => labels.clear())));
      chips.push(all);
    }
    byId("hidden-values").hidden = chips.length === 0;
    byId("hidden-list").replaceChildren(...chips);
  }

  // Controls are made again; the one that has the focus gets it back.
  function draw() {
    const focused = document.activeElement, { id, value } = focused;
    const [isControl, isChip] = ["controls", "hidden-list"].map((part) => byId(part).contains(focused));
    const fields = several.length ? [makeSide("rows", "Rows"), makeSide("columns", "Columns")] : [];
    fields.push(...state.pages().map(makePage), makeSize());
    if (model.numbers.length) fields.push(makeNumbers());
    byId("controls").replaceChildren(...fields);
    drawHidden();
    if (isControl) (byId(id) ?? byId("controls").querySelector(`input[value="${CSS.escape(value)}"]`))?.focus();
    if (isChip) (byId("hidden-list").querySelector("button") ?? byId("rows")).focus();
  }

  return { draw, drawHidden };
}
