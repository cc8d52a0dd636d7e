// The order of what is shown, and its groups.
const order = (() => {
  let times = null; // when each picture's file was made, in seconds

  // Numbers that sort as the seeds do, which may be larger than a number can be.
  function seedRanks() {
    const column = columns.get("seed");
    const sorted = column.values.map((value, code) => [value, code]).sort(([a], [b]) => a.length - b.length || (a < b ? -1 : 1));
    const ranks = new Array(column.values.length);
    sorted.forEach(([, code], rank) => (ranks[code] = rank));
    return (picture) => ranks[column.codes[picture.i]];
  }

  async function readTimes() {
    const [pictures, ...found] = await loader.load("times", 0);
    if (pictures !== head.pictures) throw new Error("the times are those of other pictures: reload the page");
    times = found;
  }

  // All that pictures can be sorted by: {name, label, of(picture), isDescending}.
  function options() {
    const numeric = [...columns.values()].filter((each) => each.isNumeric && each.values.length > 1 && each.name !== "text");
    return [
      { name: "", label: "Order of the run" },
      { name: "name", label: "Name", of: (picture) => picture.id },
      { name: "seed", label: "Seed", of: seedRanks() },
      { name: "newest", label: "Newest first", of: (picture) => -times[picture.i], load: readTimes },
      ...Gallery.sorts,
      ...numeric.map((column) => ({ name: column.name, label: labelOf(column.name), of: (picture) => column.of(picture.i) })),
    ];
  }

  const collator = new Intl.Collator("en", { numeric: true });

  // The numbers of pictures in the wanted order; those without a value come last, equal ones stay in the run's order.
  async function sort(shown) {
    const isBack = state.get("down") === "1";
    const option = options().find((each) => each.name === (state.get("sort") ?? ""));
    if (!option?.of) return isBack ? [...shown].reverse() : shown;
    if (option.load && !times) await option.load();
    const keys = new Map(shown.map((i) => [i, option.of(Gallery.pictures[i]) ?? null]));
    const compare = (a, b) => (typeof a === "string" || typeof b === "string" ? collator.compare(a, b) : a - b);
    return [...shown].sort((one, other) => {
      const a = keys.get(one), b = keys.get(other);
      if (a === null || b === null) return (a === null) - (b === null) || one - other;
      return (isBack ? compare(b, a) : compare(a, b)) || one - other;
    });
  }

  // [{sheet, checkpoint, items}]: by sheet and checkpoint as in the run, or a single one without a head.
  async function group(shown) {
    const sorted = await sort(shown);
    if (state.get("group") === "none") return sorted.length ? [{ sheet: null, checkpoint: null, items: sorted }] : [];
    const groups = head.groups.map(([sheet, checkpoint]) => ({ sheet, checkpoint, items: [] }));
    for (const i of sorted) groups[groupOf[i]].items.push(i);
    return groups.filter(({ items }) => items.length);
  }

  let groupOf = null;

  function start() {
    groupOf = new Int32Array(head.count);
    let first = 0;
    head.groups.forEach(([, , count], number) => {
      groupOf.fill(number, first, first + count);
      first += count;
    });
  }

  return { start, options, group, groupOf: (i) => groupOf[i] };
})();
