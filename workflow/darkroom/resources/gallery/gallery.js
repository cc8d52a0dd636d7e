// The page: its parts, what happens when the address changes, and the keys.
const query = byId("filter"), main = byId("main");
const TYPING_MS = 120;
let list, facets, viewer, turn = 0, found = null, foundFor = "", typing = 0;

function say(text, isError = false) {
  byId("said").textContent = "";
  byId("said").textContent = text;
  if (isError) {
    byId("failed-text").textContent = text;
    byId("failed").hidden = false;
  }
}

Gallery.say = say;
Gallery.fail = (error) => {
  say(`${error.message}. If the gallery was made again meanwhile, reload the page; else run the workflow again.`, true);
};

function tellProgress(number, count) {
  byId("count").textContent = `Reading prompts, ${Math.round((100 * number) / count)} %`;
}

// Finds, filters, sorts and shows. A later change makes an earlier one stop.
async function update({ toTop = true } = {}) {
  const mine = ++turn, text = state.get("q") ?? "";
  main.setAttribute("aria-busy", "true");
  try {
    if (text !== foundFor || found === undefined) {
      const bits = await search.match(text, (number, count) => {
        if (mine !== turn) throw new DOMException("another search has begun", "AbortError");
        tellProgress(number, count);
      });
      if (mine !== turn) return;
      [found, foundFor] = [bits, text];
    }
    const groups = await order.group(filter.apply(found));
    if (mine !== turn) return;
    list.show(groups);
  } catch (error) {
    if (error.name !== "AbortError") Gallery.fail(error);
    return;
  } finally {
    if (mine === turn) main.removeAttribute("aria-busy");
  }
  facets.draw();
  drawControls();
  const place = state.get("at") && Gallery.byName(state.get("at"));
  if (place && !toTop) list.scrollTo(place.i, true);
  else if (toTop && scrollY > 0) window.scrollTo(0, 0);
}

function tellCount() {
  const count = list.items.length, all = plural(head.count, "picture");
  byId("count").textContent = count === head.count ? all : `${count.toLocaleString("en")} of ${all}`;
  byId("nothing").hidden = count > 0 || head.count === 0;
}

function drawControls() {
  tellCount();
  const isFiltered = state.get("q") || state.keys().some((key) => key.startsWith("is:"));
  byId("clear-all").hidden = !isFiltered;
  if (query.value !== (state.get("q") ?? "") && document.activeElement !== query) query.value = state.get("q") ?? "";
  byId("sort").value = state.get("sort") ?? "";
  byId("down").setAttribute("aria-pressed", String(state.get("down") === "1"));
  byId("group").checked = state.get("group") !== "none";
  byId("jump-field").hidden = list.groups.length < 2;
  byId("jump").replaceChildren(make("option", { value: "", textContent: "Jump to…" }), ...list.groups.map(({ sheet, checkpoint, items }, n) =>
    make("option", { value: n, textContent: `${sheet} on ${checkpoint} (${items.length.toLocaleString("en")})` })));
  const marked = Gallery.selection.pictures.length;
  byId("marked").hidden = !marked;
  byId("marked").textContent = `Unmark ${marked.toLocaleString("en")}`;
}

function clearAll() {
  query.value = "";
  state.change(Object.fromEntries(state.keys().filter((key) => key === "q" || key === "at" || key.startsWith("is:")).map((key) => [key, null])));
  query.focus();
}

// Typing makes one entry in the history, however many letters it has.
function onType() {
  clearTimeout(typing);
  typing = setTimeout(() => state.change({ q: query.value.trim() ? query.value : null, at: null }, { isNew: !state.get("q") }), TYPING_MS);
}

function onChange(changed, isHistory) {
  const isShown = (key) => ["q", "sort", "down", "group"].includes(key) || key.startsWith("is:");
  if (isHistory && changed.has("q")) query.value = state.get("q") ?? "";
  if ([...changed].some(isShown)) update({ toTop: !isHistory });
  else if (changed.has("size")) list.layOut();
  if (changed.has("mark")) {
    list.refill();
    viewer.markButton();
    drawControls();
  }
  if (changed.has("picture")) viewer.follow();
}

function jump() {
  const group = list.groups[Number(byId("jump").value)];
  if (byId("jump").value !== "" && group) list.scrollTo(group.items[0], true);
  byId("jump").value = "";
}

function fillHelp() {
  const rows = Gallery.actions.filter(({ key }) => key).map(({ key, label }) =>
    make("div", {}, make("dt", {}, make("kbd", { textContent: key.toUpperCase() })), make("dd", { textContent: label })));
  byId("help-keys").append(...rows);
}

function onKey(event) {
  const isTyping = event.target.matches("input:not([type='checkbox'], [type='range']), select, textarea");
  if (event.key === "Escape" && event.target === query && query.value) clearAll();
  else if (event.ctrlKey || event.metaKey || event.altKey || isTyping || event.defaultPrevented) return;
  else if (viewer.onKey(event)) event.preventDefault();
  else if (document.querySelector("dialog[open]")) return;
  else if (event.key === "/") query.focus();
  else if (event.key === "?") byId("help").showModal();
  else if (["ArrowDown", "ArrowRight", "Enter"].includes(event.key) && document.activeElement === document.body && list.current) {
    list.focus(list.current.i);
  } else return;
  event.preventDefault();
}

function listen() {
  query.addEventListener("input", onType);
  query.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown" || !list.items.length) return;
    event.preventDefault();
    event.stopPropagation();
    list.focus(list.items[0]);
  });
  byId("clear").addEventListener("click", clearAll);
  byId("clear-all").addEventListener("click", clearAll);
  byId("sort").addEventListener("change", () => state.change({ sort: byId("sort").value || null, at: null }));
  byId("down").addEventListener("click", () => state.change({ down: state.get("down") ? null : "1", at: null }));
  byId("group").addEventListener("change", () => state.change({ group: byId("group").checked ? null : "none", at: null }));
  byId("jump").addEventListener("change", jump);
  byId("marked").addEventListener("click", () => state.set("mark", null, { isNew: false }));
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  for (const button of document.querySelectorAll("[data-closes]")) {
    button.addEventListener("click", () => button.closest("dialog").close());
  }
  document.addEventListener("keydown", onKey);
  new ResizeObserver(() => document.documentElement.style.setProperty("--bar", `${byId("bar").offsetHeight}px`)).observe(byId("bar"));
  new ResizeObserver(() => {
    if (list.width === byId("list").clientWidth) return;
    const at = state.get("at") && Gallery.byName(state.get("at"));
    list.layOut();
    if (at) list.scrollTo(at.i, true);
  }).observe(byId("list"));
}

async function start() {
  history.scrollRestoration = "manual";
  await loadPictures();
  order.start();
  filter.rebuild();
  list = makeList({ open: (picture) => viewer.open(picture) });
  facets = makeFacets();
  viewer = makeGalleryViewer({ list, say });
  byId("sort").replaceChildren(...order.options().map(({ name, label }) => make("option", { value: name, textContent: label })));
  query.value = state.get("q") ?? "";
  fillHelp();
  listen();
  Gallery.shown = () => list.items;
  Gallery.recount = () => {
    filter.rebuild();
    filter.apply(found);
    facets.draw();
    list.refill();
  };
  Gallery.refresh = () => {
    filter.rebuild();
    return update({ toTop: false });
  };
  await update({ toTop: false });
  state.subscribe(onChange);
  Gallery.isReady = true;
  viewer.follow();
  for (const fn of Gallery.starts) fn();
  document.documentElement.dataset.ready = performance.now();
}

start().catch(Gallery.fail);
