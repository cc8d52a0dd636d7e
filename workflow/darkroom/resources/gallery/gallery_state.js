// What is shown, by key, in the address's fragment: q (search), is:NAME (a facet's values), sort, group, size, picture (shown
// in full, by its name), mark (marked pictures), at (the first picture in sight). Other parts may have keys of their own.
const state = (() => {
  const LASTING = ["mark"]; // stays when one goes back: it is a selection, not a place
  const listeners = new Set();
  let values = new Map();

  function read() {
    const found = new Map();
    for (const [key, value] of new URLSearchParams(location.hash.slice(1))) found.set(key, [...(found.get(key) ?? []), value]);
    return found;
  }

  function write(isNew) {
    const query = new URLSearchParams();
    for (const [key, list] of values) for (const value of list) query.append(key, value);
    const fragment = String(query).replaceAll("%2F", "/").replaceAll("%3A", ":");
    if (fragment === location.hash.slice(1)) return;
    const address = fragment ? `#${fragment}` : location.pathname + location.search;
    if (isNew) history.pushState({}, "", address);
    else history.replaceState({}, "", address);
  }

  const isSame = (one = [], other = []) => one.length === other.length && one.every((value, n) => value === other[n]);

  function tell(changed, isHistory) {
    for (const fn of [...listeners]) fn(changed, isHistory);
  }

  // Changes several keys at once. `isNew` makes an entry in the browser's history, to which the back button returns.
  function change(changes, { isNew = true } = {}) {
    const changed = new Set();
    for (const [key, value] of Object.entries(changes)) {
      const list = (Array.isArray(value) ? value : [value]).filter((each) => each !== null && each !== undefined).map(String);
      if (isSame(values.get(key), list)) continue;
      if (list.length) values.set(key, list);
      else values.delete(key);
      changed.add(key);
    }
    if (!changed.size) return;
    write(isNew);
    tell(changed, false);
  }

  function onHistory() {
    const before = values;
    values = read();
    if (history.state) { // a place that was left here, not an address that was typed
      for (const key of LASTING) {
        if (before.has(key)) values.set(key, before.get(key));
        else values.delete(key);
      }
      write(false);
    } else history.replaceState({}, "");
    const changed = new Set([...before.keys(), ...values.keys()].filter((key) => !isSame(before.get(key), values.get(key))));
    if (changed.size) tell(changed, true);
  }

  values = read();
  history.replaceState({}, "");
  addEventListener("popstate", onHistory);
  addEventListener("hashchange", onHistory);
  return {
    get: (key) => values.get(key)?.[0],
    getAll: (key) => values.get(key) ?? [],
    keys: () => [...values.keys()],
    set: (key, value, options) => change({ [key]: value }, options),
    change,
    subscribe(fn) { // fn(keys that changed, whether by the browser's history); returns what ends it
      listeners.add(fn);
      return () => listeners.delete(fn);
    },
  };
})();
Gallery.state = state;

// The marked pictures: a selection to do something with.
Gallery.selection = {
  get pictures() { return state.getAll("mark").map((name) => Gallery.byName(name)).filter(Boolean); },
  has: (picture) => state.getAll("mark").includes(picture.name),
  toggle(picture) {
    const names = state.getAll("mark");
    const others = names.filter((name) => name !== picture.name);
    state.set("mark", others.length < names.length ? others : [...names, picture.name], { isNew: false });
  },
};
