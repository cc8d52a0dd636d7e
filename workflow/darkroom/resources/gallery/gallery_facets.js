// The panel of facets: beside the list on a wide window, as a dialog on a narrow one.
function makeFacets() {
  const panel = byId("facets"), aside = byId("aside"), dialog = byId("filter-dialog"), narrow = matchMedia("(max-width: 800px)");
  const FEW = 8, MOST = 400, OPEN = 5;
  const openOnes = new Map(), whole = new Set(); // what the user opened and closed; facets shown with all their values

  const collator = new Intl.Collator("en", { numeric: true });

  // The chosen values and those that some picture has, the most frequent first; numbers in their order.
  function valuesOf(facet) {
    const wanted = new Set(filter.chosen(facet));
    const found = facet.keys.map((key, n) => ({ key, count: facet.counts[n], isChosen: wanted.has(key) }));
    for (const key of wanted) if (!facet.known.has(key)) found.push({ key, count: 0, isChosen: true });
    const there = found.filter(({ count, isChosen }) => count || isChosen);
    const byKey = (a, b) => (a.key === NONE) - (b.key === NONE) || collator.compare(a.key, b.key);
    return there.sort(facet.isNumeric ? byKey : (a, b) => b.isChosen - a.isChosen || b.count - a.count || byKey(a, b));
  }

  function toggle(facet, key) {
    const before = filter.chosen(facet);
    state.set(`is:${facet.name}`, before.includes(key) ? before.filter((each) => each !== key) : [...before, key]);
  }

  function makeValue(facet, { key, count, isChosen }, id) {
    const box = make("input", { type: "checkbox", checked: isChosen, id });
    box.addEventListener("change", () => toggle(facet, key));
    const tally = make("span", { className: "tally", textContent: count.toLocaleString("en"), ariaLabel: plural(count, "picture") });
    return make("li", {}, make("label", { className: "value" }, box,
      make("span", { className: "value-text", textContent: filter.textOf(facet, key), dir: "auto" }), tally));
  }

  function makeOne(facet, number, isOpen) {
    const values = valuesOf(facet), chosen = filter.chosen(facet).length, isWhole = whole.has(facet.name);
    const shown = values.slice(0, isWhole ? MOST : FEW);
    const list = make("ul", {}, ...shown.map((value, n) => makeValue(facet, value, `facet-${number}-${n}`)));
    const summary = make("summary", {}, make("span", { textContent: facet.label, dir: "auto" }),
      ...(chosen ? [make("span", { className: "chosen", textContent: chosen.toLocaleString("en"), ariaLabel: `${chosen} chosen` })] : []));
    const details = make("details", { className: "facet", open: isOpen }, summary, list);
    details.addEventListener("toggle", () => openOnes.set(facet.name, details.open));
    if (values.length > FEW && !isWhole) {
      const more = make("button", { type: "button", className: "more", id: `more-${number}`, textContent: `All ${values.length.toLocaleString("en")}` });
      more.addEventListener("click", () => {
        whole.add(facet.name);
        draw();
        byId(`facet-${number}-${FEW}`)?.focus();
      });
      details.append(more);
    } else if (values.length > MOST) {
      details.append(make("p", { className: "note", textContent: `${(values.length - MOST).toLocaleString("en")} more: search for them, as in ${facet.name.replace(/^axis /, "")}:…` }));
    }
    return details;
  }

  function draw() {
    const focused = document.activeElement?.id, top = panel.scrollTop;
    const useful = filter.facets.filter((facet) => facet.keys.length > 1 || filter.chosen(facet).length);
    panel.replaceChildren(...useful.map((facet, n) =>
      makeOne(facet, n, openOnes.get(facet.name) ?? (n < OPEN || filter.chosen(facet).length > 0))));
    if (!useful.length) panel.append(make("p", { className: "note", textContent: "All pictures have the same settings." }));
    panel.scrollTop = top;
    if (focused && panel.querySelector(`#${CSS.escape(focused)}`)) byId(focused).focus({ preventScroll: true });
    const count = state.keys().filter((key) => key.startsWith("is:")).length;
    byId("filters").textContent = count ? `Filters (${count})` : "Filters";
  }

  function place() {
    if (narrow.matches) dialog.querySelector(".dialog-body").append(panel);
    else {
      if (dialog.open) dialog.close();
      aside.append(panel);
    }
  }

  narrow.addEventListener("change", place);
  byId("filters").addEventListener("click", () => dialog.showModal());
  place();
  return { draw };
}
