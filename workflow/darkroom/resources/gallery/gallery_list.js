// The list's window: only the cards near what is in sight are in the document, and the one that has the focus. All cards are
// of one size, so the place of each is known without it, and nothing jumps.
function makeList({ open }) {
  const list = byId("list"), GAP = 14, HEAD = 46, BETWEEN = 26, MORE = 0.6, ROW_LAYOUT = 150, BESIDE = 176, LINE = 18, SETTLES_MS = 90, FAST = 1.5;
  const shown = new Map(); // number of a group → { section, body, cards: place in the group → element }
  let groups = [], flat = [], starts = [], places = new Map(), tops = [0], m = {}, current = null, waits = false, last = 0, timer = 0;

  // The sizes that all cards share. Small thumbnails have their text beside them.
  function measure() {
    const width = list.clientWidth, size = Number(state.get("size")) || head.thumbnail, isBeside = size < ROW_LAYOUT;
    const most = isBeside ? width : Math.max(120, (width - GAP) / 2);
    const least = Math.min(isBeside ? size + BESIDE : size, most);
    const columnsCount = Math.max(1, Math.floor((width + GAP) / (least + GAP)));
    const card = (width - GAP * (columnsCount - 1)) / columnsCount;
    // A fact takes some 90 pixels.
    const wide = isBeside ? card - size : card, factLines = Math.min(3, Math.max(1, Math.ceil((cards.mostFacts() * 90) / wide)));
    const lines = 1 + factLines + (columns.has("loras") ? 1 : 0), prompt = wide < 150 ? 2 : isBeside ? 2 : 3;
    const text = (lines + prompt) * LINE + 22;
    const frame = isBeside ? size : Math.round(card * ratio());
    const height = isBeside ? Math.max(size + 2, text) : frame + text;
    m = { width, columns: columnsCount, card, height, row: height + GAP, isBeside };
    list.classList.toggle("beside", isBeside);
    list.style.setProperty("--frame-width", `${isBeside ? size : Math.floor(card)}px`);
    list.style.setProperty("--frame-height", `${isBeside ? height : frame}px`);
    list.style.setProperty("--prompt-lines", prompt);
    list.style.setProperty("--fact-lines", factLines);
  }

  // Height to width of the place for a picture: of the tallest one, within bounds.
  let knownRatio = 0;
  function ratio() {
    if (!knownRatio) {
      let most = 0;
      for (const { width, height } of Gallery.pictures) most = Math.max(most, height / width);
      knownRatio = Math.min(1.5, Math.max(0.6, most || 1));
    }
    return knownRatio;
  }

  const hasHeads = () => groups.length > 0 && groups[0].sheet !== null;
  const headHeight = () => (hasHeads() ? HEAD : 0);
  const rowsOf = (number) => Math.ceil(groups[number].items.length / m.columns);

  // Shows other groups, or the same ones anew.
  function show(found) {
    groups = found;
    flat = groups.flatMap(({ items }) => items);
    starts = [];
    groups.reduce((sum, { items }, number) => (starts[number] = sum) + items.length, 0);
    places = new Map();
    groups.forEach(({ items }, number) => items.forEach((i, place) => places.set(i, [number, place])));
    if (!places.has(current)) current = flat[0] ?? null;
    layOut();
  }

  function layOut() {
    measure();
    tops = [0];
    groups.forEach((_, number) => tops.push(tops.at(-1) + headHeight() + rowsOf(number) * m.row - GAP + BETWEEN));
    list.style.height = `${Math.max(0, tops.at(-1) - (groups.length ? BETWEEN : 0))}px`;
    for (const { section } of shown.values()) section.remove();
    shown.clear();
    draw();
  }

  const groupAt = (y) => findRow(tops, groups.length, y);

  const barHeight = () => (getComputedStyle(byId("bar")).position === "sticky" ? byId("bar").offsetHeight : 0);
  const listTop = () => list.getBoundingClientRect().top; // of the window

  // [group, first place, place after the last] of each group in sight.
  function inSight() {
    const top = -listTop(), height = innerHeight, from = top - height * MORE, to = top + height * (1 + MORE), found = new Map();
    for (let number = groupAt(Math.max(0, from)); number < groups.length && tops[number] < to; number++) {
      const inside = (y) => Math.floor((y - tops[number] - headHeight()) / m.row);
      const first = Math.max(0, inside(from)) * m.columns, end = Math.min(groups[number].items.length, (inside(to) + 1) * m.columns);
      if (end > first) found.set(number, [first, end]);
    }
    return found;
  }

  function draw() {
    const wanted = inSight();
    const kept = places.get(current);
    if (kept && !wanted.has(kept[0])) wanted.set(kept[0], [0, 0]);
    for (const [number, { section }] of shown) {
      if (!wanted.has(number)) {
        section.remove();
        shown.delete(number);
      }
    }
    const top = scrollY, isFast = Math.abs(top - last) > innerHeight * FAST;
    last = top;
    for (const [number, [first, end]] of wanted) drawGroup(number, first, end, kept?.[0] === number ? kept[1] : -1, isFast);
    clearTimeout(timer);
    timer = setTimeout(settle, SETTLES_MS);
  }

  function drawGroup(number, first, end, keptPlace, isFast) {
    const drawn = shown.get(number) ?? addGroup(number);
    const isWanted = (place) => (place >= first && place < end) || place === keptPlace;
    for (const [place, element] of drawn.cards) {
      if (!isWanted(place)) {
        element.remove();
        drawn.cards.delete(place);
      }
    }
    const missing = [];
    for (let place = first; place < end; place++) if (!drawn.cards.has(place)) missing.push(place);
    if (keptPlace >= 0 && !drawn.cards.has(keptPlace) && !missing.includes(keptPlace)) missing.push(keptPlace);
    for (const place of missing) addCard(number, drawn, place, isFast);
    if (!isFast) for (const [place, element] of drawn.cards) cards.load(element.firstChild, pictureAt(number, place));
  }

  const pictureAt = (number, place) => Gallery.pictures[groups[number].items[place]];

  function addGroup(number) {
    const { sheet, checkpoint, items } = groups[number], id = `group-${number}`;
    const body = make("div", { className: "cards" });
    body.setAttribute("role", "list");
    const section = make("section", { className: "group" });
    if (sheet !== null) {
      const links = head.links[sheet].map(([name, href]) => make("a", { href, textContent: name, ariaLabel: `${name} of ${sheet}` }));
      const line = head.mixed[sheet];
      const mixed = line ? [make("span", { className: "tally", title: line, textContent: "mixes versions" })] : [];
      section.append(make("div", { className: "group-head" },
        make("h2", { id, dir: "auto" }, sheet, " ", make("span", { className: "on", textContent: checkpoint }), " ",
          make("span", { className: "tally", textContent: items.length.toLocaleString("en") })), ...mixed, ...links));
      section.setAttribute("aria-labelledby", id);
      body.setAttribute("aria-labelledby", id);
    } else body.setAttribute("aria-label", "Pictures");
    section.append(body);
    section.style.top = `${tops[number]}px`;
    section.style.height = `${headHeight() + rowsOf(number) * m.row - GAP}px`;
    const next = [...shown.keys()].filter((other) => other > number).sort((a, b) => a - b)[0];
    list.insertBefore(section, next === undefined ? null : shown.get(next).section);
    const drawn = { section, body, cards: new Map() };
    shown.set(number, drawn);
    return drawn;
  }

  function addCard(number, drawn, place) {
    const picture = pictureAt(number, place), button = make("button", { type: "button", className: "card" });
    const item = make("div", { className: "item" }, button);
    item.setAttribute("role", "listitem");
    item.setAttribute("aria-setsize", groups[number].items.length);
    item.setAttribute("aria-posinset", place + 1);
    item.style.left = `${(place % m.columns) * (m.card + GAP)}px`;
    item.style.top = `${Math.floor(place / m.columns) * m.row}px`;
    item.style.width = `${m.card}px`;
    item.style.height = `${m.height}px`;
    button.dataset.i = picture.i;
    button.tabIndex = picture.i === current ? 0 : -1;
    button.setAttribute("aria-haspopup", "dialog");
    cards.fill(button, picture);
    const next = [...drawn.cards.keys()].filter((other) => other > place).sort((a, b) => a - b)[0];
    drawn.body.insertBefore(item, next === undefined ? null : drawn.cards.get(next));
    drawn.cards.set(place, item);
  }

  // The scrolling has come to rest: what was left out while it was fast, and the place in the address.
  function settle() {
    for (const [number, drawn] of shown) {
      for (const [place, element] of drawn.cards) cards.load(element.firstChild, pictureAt(number, place));
    }
    const at = firstInSight();
    if (Gallery.isReady) state.set("at", scrollY > 0 && at !== undefined ? Gallery.pictures[at].name : null, { isNew: false });
  }

  function firstInSight() {
    if (!groups.length) return undefined;
    const y = barHeight() - listTop() + headHeight(), number = groupAt(Math.max(0, y - headHeight()));
    const row = Math.max(0, Math.round((y - tops[number] - headHeight()) / m.row));
    return groups[number].items[Math.min(groups[number].items.length - 1, row * m.columns)];
  }

  const element = (i) => {
    const found = places.get(i);
    return found && shown.get(found[0])?.cards.get(found[1])?.firstChild;
  };

  // Where a card begins, from the list's top.
  function topOf(i) {
    const [number, place] = places.get(i);
    return tops[number] + headHeight() + Math.floor(place / m.columns) * m.row;
  }

  // Scrolls a card into sight, to the top or as little as it takes.
  function scrollTo(i, toTop = false) {
    if (!places.has(i)) return;
    const y = topOf(i), covered = barHeight() + headHeight(), start = scrollY + listTop();
    const above = start + y - covered - (toTop ? 0 : GAP), below = start + y + m.height + GAP - innerHeight;
    if (toTop || scrollY > above) window.scrollTo(0, above);
    else if (scrollY < below) window.scrollTo(0, below);
    draw();
  }

  function focus(i, { scroll = true } = {}) {
    if (!places.has(i)) return;
    const before = element(current);
    if (before) before.tabIndex = -1;
    current = i;
    if (scroll) scrollTo(i);
    draw();
    const button = element(i);
    if (!button) return;
    button.tabIndex = 0;
    button.focus({ preventScroll: true });
  }

  // The card that many rows further, in the same column as far as there is one.
  function rowsFrom(i, by) {
    let [number, place] = places.get(i);
    const column = place % m.columns;
    let row = Math.floor(place / m.columns) + by;
    while (row < 0 && number > 0) row += rowsOf(--number);
    while (row >= rowsOf(number) && number < groups.length - 1) row -= rowsOf(number++);
    row = Math.min(rowsOf(number) - 1, Math.max(0, row));
    return groups[number].items[Math.min(groups[number].items.length - 1, row * m.columns + column)];
  }

  // Where a picture stands among all that are shown; -1 for one that isn't.
  function placeOf(i) {
    const found = places.get(i);
    return found ? starts[found[0]] + found[1] : -1;
  }

  const indexFrom = (i, by) => flat[Math.min(flat.length - 1, Math.max(0, placeOf(i) + by))];

  const pageRows = () => Math.max(1, Math.floor((innerHeight - barHeight() - headHeight()) / m.row));
  const MOVES = {
    ArrowLeft: (i) => indexFrom(i, -1),
    ArrowRight: (i) => indexFrom(i, 1),
    ArrowUp: (i) => rowsFrom(i, -1),
    ArrowDown: (i) => rowsFrom(i, 1),
    PageUp: (i) => rowsFrom(i, -pageRows()),
    PageDown: (i) => rowsFrom(i, pageRows()),
    Home: () => flat[0],
    End: () => flat.at(-1),
  };

  list.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey || !event.target.classList.contains("card")) return;
    event.preventDefault();
    focus(move(Number(event.target.dataset.i)));
  });
  list.addEventListener("click", (event) => {
    const button = event.target.closest(".card");
    if (!button) return;
    const before = element(current);
    if (before) before.tabIndex = -1;
    current = Number(button.dataset.i);
    button.tabIndex = 0;
    open(Gallery.pictures[current]);
  });
  list.addEventListener("focusin", (event) => {
    if (event.target.classList.contains("card")) current = Number(event.target.dataset.i);
  });
  addEventListener("scroll", () => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => {
      waits = false;
      draw();
    });
  }, { passive: true });

  // The same cards with other contents: marks and badges.
  function refill() {
    for (const [number, drawn] of shown) {
      for (const [place, item] of drawn.cards) {
        cards.fill(item.firstChild, pictureAt(number, place));
        cards.load(item.firstChild, pictureAt(number, place));
      }
    }
  }

  return {
    show,
    layOut,
    refill,
    focus,
    scrollTo,
    get width() { return m.width; },
    get items() { return flat; },
    get groups() { return groups; },
    get current() { return Gallery.pictures[current]; },
    set current(picture) { current = picture.i; },
    placeOf,
  };
}
