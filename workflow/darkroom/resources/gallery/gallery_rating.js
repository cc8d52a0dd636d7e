// Ratings: those that the page was built with, and over them what was rated in this browser since. These are kept in
// localStorage, by the folder that the page lies in (all pages from disk share one store), until they are saved to a file and
// the page is built with it.
const ratings = (() => {
  const KEY = `darkroom ratings ${location.pathname.replace(/[^/]*$/, "")}`;
  const embedded = head.ratings ?? { digest: "", sheets: {} };
  const listeners = new Set();
  const sheetOf = (name) => name.slice(0, name.indexOf("/"));
  const placeIn = (name) => name.slice(name.indexOf("/") + 1);
  const pairKey = (one, other) => [one, other].sort().join("|");
  const before = { pictures: new Map(), pairs: [] }; // as the page was built
  // pictures: name → [rating, note, whether it is saved]; pairs: key → [picture, outcome or "", against, note, whether saved]
  let own = { pictures: {}, pairs: {} };
  let isKept = true;

  for (const [sheet, { pictures, comparisons }] of Object.entries(embedded.sheets)) {
    for (const [place, value] of Object.entries(pictures)) before.pictures.set(`${sheet}/${place}`, value);
    for (const [picture, outcome, against, note] of comparisons) {
      before.pairs.push([`${sheet}/${picture}`, outcome, `${sheet}/${against}`, note]);
    }
  }

  const builtWith = (name) => before.pictures.get(name) ?? ["", ""];
  const builtPairs = (key) => before.pairs.filter(([one, , other]) => pairKey(one, other) === key);

  // What was kept; what was saved before counts only as long as the page is built with the same ratings.
  function read() {
    let kept = null;
    try {
      kept = JSON.parse(localStorage.getItem(KEY));
    } catch { /* nothing that can be read; `keep` finds out whether the browser keeps anything */ }
    own = { pictures: { ...kept?.pictures }, pairs: { ...kept?.pairs } };
    if (!kept || kept.digest === embedded.digest) return;
    for (const [name, [rating, note, isSaved]] of Object.entries(own.pictures)) {
      const [was, noted] = builtWith(name);
      if (isSaved || (rating === was && note === noted)) delete own.pictures[name];
    }
    for (const [key, [picture, outcome, , , isSaved]] of Object.entries(own.pairs)) {
      const same = builtPairs(key).some(([one, was]) => one === picture && was === outcome);
      if (isSaved || same) delete own.pairs[key];
    }
  }

  function keep() {
    try {
      if (Object.keys(own.pictures).length + Object.keys(own.pairs).length) {
        localStorage.setItem(KEY, JSON.stringify({ digest: embedded.digest, ...own }));
      } else localStorage.removeItem(KEY);
      isKept = true;
    } catch {
      isKept = false;
    }
    for (const tell of listeners) tell();
  }

  const get = (name) => {
    const [rating, note] = own.pictures[name] ?? builtWith(name);
    return { rating, note };
  };

  function set(name, rating, note = get(name).note) {
    const known = own.pictures[name], [was, noted] = builtWith(name);
    if (!known?.[2] && rating === was && note === noted) delete own.pictures[name];
    else if (!known || known[0] !== rating || known[1] !== note) own.pictures[name] = [rating, note, false];
    keep();
  }

  // All comparisons as [picture, outcome, against, note].
  function pairs() {
    const kept = before.pairs.filter(([one, , other]) => !(pairKey(one, other) in own.pairs));
    return [...kept, ...Object.values(own.pairs).filter(([, outcome]) => outcome)];
  }

  // An empty outcome takes a comparison back.
  function setPair(picture, outcome, against) {
    const key = pairKey(picture, against);
    if (!outcome && !builtPairs(key).length && !own.pairs[key]?.[4]) delete own.pairs[key];
    else own.pairs[key] = [picture, outcome, against, "", false];
    keep();
  }

  // The rows of a sheet's file, in its order, then what is new.
  function rowsOf(sheet) {
    const named = [...before.pictures.keys(), ...Gallery.pictures.map(({ name }) => name), ...Object.keys(own.pictures)];
    const rated = [...new Set(named)].filter((name) => sheetOf(name) === sheet);
    const rows = rated.map((name) => [placeIn(name), get(name).rating, "", get(name).note]).filter(([, rating, , note]) => rating || note);
    const compared = pairs().filter(([picture]) => sheetOf(picture) === sheet);
    return [...rows, ...compared.map(([picture, outcome, against, note]) => [placeIn(picture), outcome, placeIn(against), note ?? ""])];
  }

  const ownOf = (sheet) => [
    ...Object.entries(own.pictures).map(([name, value]) => [name, value]),
    ...Object.values(own.pairs).map((value) => [value[0], value]),
  ].filter(([name]) => sheet === undefined || sheetOf(name) === sheet).map(([, value]) => value);

  function markSaved(sheet) {
    for (const value of ownOf(sheet)) value[value.length - 1] = true;
    keep();
  }

  read();
  keep();
  addEventListener("storage", (event) => {
    if (event.key !== KEY) return;
    read();
    for (const tell of listeners) tell();
  });
  addEventListener("beforeunload", (event) => {
    if (ownOf().some((value) => !value.at(-1))) event.preventDefault();
  });

  return {
    get,
    set,
    pairs,
    setPair,
    pairKey,
    rowsOf,
    markSaved,
    sheets: () => [...new Set([...head.groups.map(([sheet]) => sheet), ...Object.keys(embedded.sheets)])],
    unsaved: (sheet) => ownOf(sheet).filter((value) => !value.at(-1)).length,
    get isKept() { return isKept; },
    subscribe: (fn) => listeners.add(fn),
  };
})();

// The strengths of compared pictures by name (logarithms), as darkroom/sheets/pair_strengths.py has them: Bradley and Terry's
// model by Hunter's iteration (2004), with half a win and half a loss for each against a picture of strength 1.
function strengthsOf(comparisons) {
  const names = [...new Set(comparisons.flatMap(([picture, , against]) => [picture, against]))].sort();
  const places = new Map(names.map((name, place) => [name, place]));
  const wins = names.map(() => 0.5), met = names.map(() => []), strengths = names.map(() => 1);
  for (const [picture, outcome, against] of comparisons) {
    const one = places.get(picture), other = places.get(against), share = { better: 1, worse: 0, tie: 0.5 }[outcome];
    wins[one] += share;
    wins[other] += 1 - share;
    met[one].push(other);
    met[other].push(one);
  }
  for (let round = 0, change = 1; round < 10_000 && change >= 1e-9; round++) {
    change = 0;
    strengths.forEach((own, place) => {
      const parts = met[place].reduce((sum, other) => sum + 1 / (own + strengths[other]), 1 / (own + 1));
      strengths[place] = wins[place] / parts;
      change = Math.max(change, Math.abs(strengths[place] / own - 1));
    });
  }
  return new Map(names.map((name, place) => [name, Math.log(strengths[place])]));
}

// What the gallery shows of ratings: badges, facet, sorting, keys, and the buttons below a picture in full.
(() => {
  const KEYS = [..."12345"].map((key) => [key, key]).concat([["x", "reject"], ["0", ""]]);
  const describe = (rating) => (rating === "reject" ? "rejected" : rating ? `rated ${rating}` : "not rated");
  let known = null, isStale = false, current = null;

  const strengths = () => (known ??= strengthsOf(ratings.pairs()));
  Gallery.strengthOf = (picture) => strengths().get(picture.name);

  Gallery.addCardBadge((picture) => {
    const { rating } = ratings.get(picture.name);
    if (!rating) return null;
    const seen = make("span", { textContent: rating === "reject" ? "✕" : `★ ${rating}` });
    seen.setAttribute("aria-hidden", "true");
    return make("span", { className: rating === "reject" ? "rejected" : "rated" }, seen, make("span", { className: "unseen", textContent: describe(rating) }));
  });
  Gallery.addFacet({ name: "rating", label: "Rating", of: (picture) => ratings.get(picture.name).rating || "not rated" });
  Gallery.addSort({
    name: "rating", label: "Best rating first",
    of(picture) {
      const { rating } = ratings.get(picture.name);
      return rating ? -(Number(rating) || 0) : undefined;
    },
  });
  Gallery.addSort({ name: "pairs", label: "Best of pairs first", of: (picture) => (strengths().has(picture.name) ? -strengths().get(picture.name) : undefined) });

  function rate(picture, rating) {
    ratings.set(picture.name, rating);
    return byId("viewer").open ? undefined : `${picture.id}, seed ${picture.seed}: ${describe(rating)}`; // the panel says it
  }

  for (const [key, rating] of KEYS) {
    const label = rating === "reject" ? "Reject" : rating ? `Rate ${rating}` : "Clear the rating";
    Gallery.addAction({ key, label, isKeyOnly: true, run: (picture) => rate(picture, rating) });
  }

  const buttons = KEYS.map(([key, rating]) => {
    const text = rating === "reject" ? "Reject" : rating || "Clear";
    const button = make("button", { type: "button", className: "button", textContent: text, title: `${text} (${key.toUpperCase()})` });
    if (/\d/.test(text)) button.setAttribute("aria-label", `Rate ${text}`);
    button.addEventListener("click", () => rate(current, rating));
    return [rating, button];
  });
  const note = make("input", { type: "text", className: "note", maxLength: 500, placeholder: "Note" });
  note.setAttribute("aria-label", "Note about the picture");
  note.addEventListener("change", () => ratings.set(current.name, ratings.get(current.name).rating, note.value.trim()));
  const status = make("p", { className: "rating-status", role: "status" });
  const row = make("div", { className: "rating-buttons", role: "group" }, ...buttons.map(([, button]) => button));
  row.setAttribute("aria-label", "Rating");
  const panel = make("div", { className: "rating" }, row, note, status);

  function fill() {
    const { rating, note: text } = ratings.get(current.name);
    for (const [value, button] of buttons) if (value) button.setAttribute("aria-pressed", String(value === rating));
    buttons.find(([value]) => !value)[1].disabled = !rating;
    if (document.activeElement !== note) note.value = text;
    const strength = Gallery.strengthOf(current);
    const words = [describe(rating), ...(strength === undefined ? [] : [`strength by pairs ${strength.toFixed(2)}`])].join(", ");
    if (status.textContent !== words) status.textContent = words;
  }

  Gallery.addPanel({
    element: panel,
    show(picture) {
      if (current !== picture && document.activeElement === note) note.blur();
      current = picture;
      fill();
    },
  });

  // Where filters or the order are about ratings, what is in sight stays until one of them is used or the viewer closes, so
  // that one can rate through the pictures that aren't rated yet.
  function settle() {
    if (!isStale) return;
    isStale = false;
    Gallery.refresh();
  }

  const isByRating = () => ["rating", "pairs"].includes(state.get("sort")) || state.getAll("is:rating").length > 0;
  ratings.subscribe(() => {
    known = null;
    if (!Gallery.isReady) return;
    if (byId("viewer").open) fill();
    isStale ||= isByRating();
    Gallery.recount();
  });
  state.subscribe((keys) => {
    const isUsed = [...keys].some((key) => ["sort", "down", "group", "q"].includes(key) || key.startsWith("is:"));
    if (isUsed) isStale = false; // what is shown is found anew
    else if (keys.has("picture") && !state.get("picture")) settle();
  });
  byId("comparer").addEventListener("close", settle);
})();
