// One view of several pictures: what is zoomed and moved in one pane is so in all, by parts of a picture, whatever its size.
// `onChange` is told the zoom in screen pixels for a pixel of the first picture.
function makeLinkedView(stage, onChange) {
  const MOST = 40; // screen pixels for a pixel
  let panes = []; // {element, image, width, height}
  let zoom = 1, x = 0.5, y = 0.5; // 1 fits the pane; x and y are the part of the picture in the middle of the pane
  const pointers = new Map();

  const clamp = (value, low, high) => Math.min(Math.max(value, low), Math.max(low, high));

  // The size at which a picture fits its pane; small ones are enlarged.
  function fit({ element, width, height }) {
    const scale = Math.min(element.clientWidth / width, element.clientHeight / height) || 1;
    return [width * scale, height * scale];
  }

  // Between a small picture's own pixels, or all of a large one, and large pixels.
  const limited = (wanted) => {
    const own = panes[0].width / fit(panes[0])[0];
    return clamp(wanted, Math.min(1, own), MOST * own);
  };
  const percent = () => (fit(panes[0])[0] * zoom) / panes[0].width;

  function place(pane) {
    const { element, image } = pane, [width, height] = fit(pane).map((each) => each * zoom);
    const side = (room, size, part) => (size <= room ? (room - size) / 2 : clamp(room / 2 - part * size, room - size, 0));
    const { style } = image;
    [style.width, style.height] = [`${width}px`, `${height}px`];
    style.left = `${side(element.clientWidth, width, x)}px`;
    style.top = `${side(element.clientHeight, height, y)}px`;
    style.imageRendering = width >= 2 * pane.width ? "pixelated" : "auto";
  }

  function update() {
    if (!panes.length) return;
    zoom = limited(zoom);
    const [first] = panes, [width, height] = fit(first).map((each) => each * zoom);
    // The middle stays where the picture still fills the pane, so that moving back begins at once.
    const keep = (part, room, size) => (size <= room ? 0.5 : clamp(part, room / 2 / size, 1 - room / 2 / size));
    x = keep(x, first.element.clientWidth, width);
    y = keep(y, first.element.clientHeight, height);
    panes.forEach(place);
    stage.classList.toggle("is-zoomed", zoom > 1.001);
    onChange(percent());
  }

  function move(dx, dy) { // in screen pixels
    const [width, height] = fit(panes[0]).map((each) => each * zoom);
    x -= dx / width;
    y -= dy / height;
    update();
  }

  // Zoom by a factor around a point of a pane, in pixels from the pane's middle.
  function zoomBy(factor, atX = 0, atY = 0) {
    if (!panes.length) return;
    const before = zoom, [width, height] = fit(panes[0]);
    zoom = limited(zoom * factor);
    const shift = 1 / before - 1 / zoom;
    x += (atX / width) * shift;
    y += (atY / height) * shift;
    update();
  }

  function fromMiddle(event) {
    const pane = panes.find(({ element }) => element.contains(event.target)) ?? panes[0];
    const box = pane.element.getBoundingClientRect();
    return [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
  }

  function onMove(event) {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, each]) => each);
    pointers.set(event.pointerId, event);
    if (!others.length) return move(event.clientX - before.clientX, event.clientY - before.clientY);
    const [other] = others, span = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    zoomBy(span(event) / Math.max(1, span(before)), ...fromMiddle(event));
    move((event.clientX - before.clientX) / 2, (event.clientY - before.clientY) / 2);
  }

  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.target.closest("button, [role=slider]")) return;
    pointers.set(event.pointerId, event);
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", onMove);
  for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, (event) => pointers.delete(event.pointerId));
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), ...fromMiddle(event));
  }, { passive: false });
  stage.addEventListener("dblclick", (event) => (zoom > 1.001 ? view.fit() : zoomBy(1 / percent(), ...fromMiddle(event))));
  new ResizeObserver(update).observe(stage);

  const view = {
    show(shown) {
      panes = shown;
      update();
    },
    fit() {
      [zoom, x, y] = [1, 0.5, 0.5];
      update();
    },
    actual: () => zoomBy(1 / percent()),
    zoomBy,
    // Moves the pictures by parts of a pane.
    pan: (dx, dy) => move(dx * panes[0].element.clientWidth, dy * panes[0].element.clientHeight),
  };
  return view;
}
