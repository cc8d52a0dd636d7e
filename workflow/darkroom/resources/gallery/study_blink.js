// While a key is held, a cell shows the picture that it is compared with: the marked cell's, else the base cell's.
function makeBlinker({ model, state, filler, grid }) {
  const image = byId("viewer-image"), shown = byId("viewer-shown");
  let restore = null, hovered = null;

  // [what to call it, its cell] for a place; nothing where there is no such picture.
  function other(place) {
    const isMarked = state.marked && String(state.marked) !== String(place);
    const there = isMarked ? state.marked : model.baseOf(place);
    const cell = model.find(there);
    const has = cell !== undefined && model.picture(cell) && String(there) !== String(place);
    return has ? [`${isMarked ? "Marked" : "Base"}: ${filler.say(there)}`, cell] : null;
  }

  function begin(isLarge) {
    if (restore) return;
    const target = isLarge ? null : hovered ?? grid.element()?.closest("[role=gridcell]");
    const place = target ? grid.placeAt(Number(target.dataset.row), Number(target.dataset.column)) : state.place;
    const found = other(place);
    if (!found) {
      byId("said").textContent = "There is no other picture to compare with: mark one (M).";
      return;
    }
    const [name, cell] = found;
    if (isLarge) restore = blinkLarge(model.picture(cell));
    else if (target?.querySelector("img")) restore = blinkCell(target, model.thumbnail(cell));
    if (!restore) return;
    shown.textContent = byId("said").textContent = name;
  }

  function blinkLarge(url) {
    const before = image.getAttribute("src");
    if (!before) return null;
    image.src = url;
    shown.hidden = false;
    return () => {
      if (image.getAttribute("src") === url) image.src = before;
      shown.hidden = true;
    };
  }

  function blinkCell(element, url) {
    const picture = element.querySelector("img"), before = picture.getAttribute("src");
    picture.src = url;
    element.classList.add("blinks");
    return () => {
      if (picture.getAttribute("src") === url) picture.src = before;
      element.classList.remove("blinks");
    };
  }

  function end() {
    restore?.();
    restore = null;
  }

  // The other picture is fetched before it is asked for.
  function prepare() {
    const found = other(state.place);
    button.hidden = !found || model.missing(model.find(state.place)) !== undefined;
    if (found) new Image().src = model.picture(found[1]);
  }

  const button = byId("compare");
  byId("table").addEventListener("pointerover", (event) => (hovered = event.target.closest("[role=gridcell]")));
  byId("table").addEventListener("pointerleave", () => (hovered = null));
  byId("table").addEventListener("keydown", (event) => event.key.startsWith("Arrow") && (hovered = null));
  button.addEventListener("pointerdown", () => begin(true));
  for (const name of ["pointerup", "pointerleave", "pointercancel"]) button.addEventListener(name, end);
  button.addEventListener("keydown", (event) => [" ", "Enter"].includes(event.key) && begin(true));
  button.addEventListener("keyup", end);
  button.addEventListener("contextmenu", (event) => event.preventDefault());
  addEventListener("blur", end);
  return { begin, end, prepare };
}
