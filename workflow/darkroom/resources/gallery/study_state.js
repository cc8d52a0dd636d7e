// What is shown: rows, columns, a place (the page, and the cell that one is at), what is hidden. It stands in the
// address's fragment by names and labels, so that a link holds when the study has grown.
function makeState(head, model, sizes) {
  const { dimensions } = head;
  const state = {};

  function firstPlace() {
    const base = model.baseOf(dimensions.map(() => 0));
    return model.find(base) === undefined && model.places.length ? [...model.places[0]] : base;
  }

  function reset() {
    Object.assign(state, {
      rows: head.rows,
      columns: head.columns,
      place: firstPlace(),
      hidden: dimensions.map(() => new Set()),
      numbers: new Set(),
      marked: null,
      size: sizes.initial,
      isLarge: false,
    });
  }

  const isPage = (n) => n !== state.rows && n !== state.columns && dimensions[n].labels.length > 1;
  const pages = () => dimensions.map((_, n) => n).filter(isPage);
  const visible = (n) => dimensions[n].labels.map((_, at) => at).filter((at) => !state.hidden[n].has(at));

  // The labels along a dimension that have cells on this page, without the hidden ones; [null] for a single line.
  function lines() {
    const fixed = pages(), used = [new Set(), new Set()];
    for (const place of model.places) {
      if (!fixed.every((n) => place[n] === state.place[n])) continue;
      used[0].add(place[state.rows]);
      used[1].add(place[state.columns]);
    }
    return [state.rows, state.columns].map((n, side) => (n === null ? [null] : visible(n).filter((at) => used[side].has(at))));
  }

  function at(row, column) {
    const place = [...state.place];
    if (state.rows !== null) place[state.rows] = row;
    if (state.columns !== null) place[state.columns] = column;
    return place;
  }

  // One dimension can't run along both sides: the other side takes the one that is given up.
  function turn(side, n) {
    const other = side === "rows" ? "columns" : "rows";
    if (n !== null && state[other] === n) state[other] = state[side];
    state[side] = n;
  }

  function hide(n, label) {
    state.hidden[n].add(label);
    if (state.place[n] === label) state.place[n] = visible(n)[0] ?? label;
  }

  function write() {
    const query = new URLSearchParams(), first = firstPlace();
    const name = (n) => (n === null ? "" : dimensions[n].name);
    for (const side of ["rows", "columns"]) if (state[side] !== head[side]) query.append(side, name(state[side]));
    const say = (word, n, label) => query.append(`${word}:${name(n)}`, dimensions[n].labels[label]);
    state.place.forEach((label, n) => label !== first[n] && say("at", n, label));
    state.hidden.forEach((labels, n) => labels.forEach((label) => say("hide", n, label)));
    state.marked?.forEach((label, n) => dimensions[n].labels.length > 1 && say("mark", n, label));
    state.numbers.forEach((number) => query.append("number", number));
    if (state.size !== sizes.initial) query.append("size", state.size);
    if (state.isLarge) query.append("large", "1");
    const fragment = String(query);
    if (fragment !== location.hash.slice(1)) history.replaceState(null, "", fragment ? `#${fragment}` : location.pathname);
  }

  // Takes the fragment; returns what of it this study doesn't have.
  function read() {
    reset();
    const unknown = [];
    for (const [key, value] of new URLSearchParams(location.hash.slice(1))) {
      if (!readOne(key, value)) unknown.push(`${key}=${value}`);
    }
    if (state.marked && model.find(state.marked) === undefined) state.marked = null;
    return unknown;
  }

  function readOne(key, value) {
    if (key === "rows" || key === "columns") {
      const n = dimensions.findIndex((each) => each.name === value);
      if (n < 0 && value) return false;
      turn(key, n < 0 ? null : n);
    } else if (key === "number") {
      if (!model.numbers.some((each) => each.name === value)) return false;
      state.numbers.add(value);
    } else if (key === "size") {
      state.size = Math.min(sizes.largest, Math.max(sizes.smallest, Number(value) || sizes.initial));
    } else if (key === "large") {
      state.isLarge = true;
    } else {
      const [word, ...rest] = key.split(":");
      const n = dimensions.findIndex((each) => each.name === rest.join(":"));
      const label = dimensions[n]?.labels.indexOf(value) ?? -1;
      if (label < 0 || !["at", "hide", "mark"].includes(word)) return false;
      if (word === "at") state.place[n] = label;
      else if (word === "hide") hide(n, label);
      else (state.marked ??= model.baseOf(dimensions.map(() => 0)))[n] = label;
    }
    return true;
  }

  reset();
  return Object.assign(state, { pages, visible, lines, at, turn, hide, write, read });
}
