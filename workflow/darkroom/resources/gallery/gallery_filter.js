// Facets: which values there are, which are chosen, and how many pictures have each among those that everything else lets
// through. Values of one facet are alternatives; different facets all have to hold.
const filter = (() => {
  const FIRST = ["sheet", "checkpoint", "prompt id"], THEN = ["loras", "size", "sampler", "schedule", "steps", "cfg_scale", "stage"];
  const FEW = { seed: 100, id: 200 };
  const WITHOUT = { "made by": "doesn’t say", stage: "first pass", loras: "no LoRA", warnings: "no warning" };
  let facets = [];

  const textsOf = {
    loras: (value) => value.map(([name]) => name),
    warnings: (value) => value,
  };

  // A facet of a column: `keys` are its values as texts, `sets[code + 1]` the numbers of keys that a code stands for.
  function makeFacet(name, label, values, codes, texts, isNumeric = false) {
    const keys = [], known = new Map(), numberOf = (key) => {
      if (!known.has(key)) known.set(key, keys.push(key) - 1);
      return known.get(key);
    };
    const sets = values.map((value) => [...new Set(texts(value))].map(numberOf));
    for (const set of sets) if (!set.length) set.push(numberOf(NONE));
    sets.unshift(codes.includes(-1) ? [numberOf(NONE)] : []);
    return { name, label, keys, sets, codes, known, isNumeric, counts: new Uint32Array(keys.length) };
  }

  function ofColumn(name) {
    const column = columns.get(name);
    return makeFacet(name, labelOf(name), column.values, column.codes, textsOf[name] ?? ((value) => [String(value)]), column.isNumeric);
  }

  function ofSizes() {
    const known = new Map(), values = [], codes = Int32Array.from(Gallery.pictures, ({ size }) => {
      if (!known.has(size)) known.set(size, values.push(size) - 1);
      return known.get(size);
    });
    return makeFacet("size", "Size", values, codes, (value) => [value]);
  }

  function ofAdded(facet) {
    const values = Gallery.pictures.map((picture) => [facet.of(picture) ?? []].flat().map(String));
    return makeFacet(facet.name, facet.label, values, Int32Array.from(values, (_, i) => i), (value) => value);
  }

  function names() {
    const there = [...columns.keys()];
    const few = (name) => columns.get(name)?.values.length <= Math.min(FEW[name], head.count / 2);
    const others = there.filter((name) => isSetting(name) && ![...FIRST, ...THEN].includes(name));
    const axes = there.filter((name) => name.startsWith("axis "));
    const wanted = [...FIRST, ...axes, ...THEN, ...Object.keys(FEW).filter(few), ...others, "warnings", "made by"];
    return wanted.filter((name) => columns.has(name) || name === "size");
  }

  // A setting that an axis varies is the axis again.
  const isAxis = (name) => columns.has(`axis ${name}`);

  // (Re)reads what added facets say; those of columns never change.
  function rebuild() {
    const own = facets.filter((facet) => !facet.isAdded);
    const kept = own.length ? own : names().filter((name) => !isAxis(name)).map((name) => (name === "size" ? ofSizes() : ofColumn(name)));
    facets = [...Gallery.facets.map((facet) => ({ ...ofAdded(facet), isAdded: true })), ...kept];
  }

  const chosen = (facet) => state.getAll(`is:${facet.name}`);

  // The numbers of the pictures that everything lets through, and each facet's counts. `found` are the search's bits or null.
  function apply(found) {
    const count = head.count, fails = new Uint8Array(count), last = new Uint8Array(count);
    facets.forEach((facet, n) => {
      const wanted = new Set(chosen(facet));
      if (!wanted.size) return;
      const isRight = facet.sets.map((set) => set.some((key) => wanted.has(facet.keys[key])));
      for (let i = 0; i < count; i++) {
        if (!isRight[facet.codes[i] + 1]) {
          fails[i]++;
          last[i] = n;
        }
      }
    });
    facets.forEach(({ counts, sets, codes }, n) => {
      counts.fill(0);
      for (let i = 0; i < count; i++) {
        if ((found && !found[i]) || fails[i] > 1 || (fails[i] === 1 && last[i] !== n)) continue;
        for (const key of sets[codes[i] + 1]) counts[key]++;
      }
    });
    const shown = [];
    for (let i = 0; i < count; i++) if (!fails[i] && (!found || found[i])) shown.push(i);
    return shown;
  }

  return {
    rebuild,
    apply,
    chosen,
    get facets() { return facets; },
    textOf: (facet, key) => (key === NONE ? WITHOUT[facet.name] ?? "none" : key),
  };
})();
