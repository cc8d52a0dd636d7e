// The page: its parts, the keys, the full view and blinking.
const head = JSON.parse(byId("head").textContent);
const table = byId("table");
const isNarrow = matchMedia("(max-width: 800px)").matches;
const sizes = { smallest: 60, largest: Math.max(400, head.thumbnail), initial: isNarrow ? 110 : Math.min(200, head.thumbnail) };

unpack(byId("cells")).then((cells) => {
  const model = makeModel(head, cells);
  const state = makeState(head, model, sizes);
  const filler = makeFiller({ model, state, onHide });
  const grid = makeGrid({ table, model, state, ratio: head.ratio, ...filler });
  const controls = makeControls({ model, state, sizes, onChange });
  const blinker = makeBlinker({ model, state, filler, grid });
  const viewer = makeViewer({ step: (by) => stepLarge(state.columns === null ? by : 0, state.columns === null ? 0 : by), closed });
  let asked = 0;

  function onChange(kind) {
    if (kind === "page") {
      const before = grid.counts.join();
      const [rows, columns] = state.lines();
      if ([rows.length, columns.length].join() === before && isSame(rows, columns)) grid.refill();
      else grid.layOut();
      controls.drawHidden();
    } else {
      grid.layOut();
      controls.draw();
    }
    tell();
    state.write();
  }

  const isSame = (rows, columns) =>
    rows.every((row, n) => state.rows === null || grid.placeAt(n, 0)[state.rows] === row) &&
    columns.every((column, n) => state.columns === null || grid.placeAt(0, n)[state.columns] === column);

  function onHide(n, label) {
    const at = { ...grid.current };
    state.hide(n, label);
    onChange("lines");
    const [rows, columns] = grid.counts;
    if (rows && columns) grid.go({ row: Math.min(at.row, rows - 1), column: Math.min(at.column, columns - 1) });
    else byId("show-all").focus();
  }

  function tell() {
    const [rows, columns] = grid.counts;
    const corner = [state.rows, state.columns].map((n) => (n === null ? "" : model.dimensions[n].name));
    byId("corner-rows").textContent = corner[0] && `${corner[0]} ↓`;
    byId("corner-columns").textContent = corner[1] && `${corner[1]} →`;
    const missing = model.missingCount ? `, ${model.missingCount.toLocaleString("en")} missing` : "";
    byId("count").textContent = `${plural(rows, "row")} × ${plural(columns, "column")} of ${plural(head.cells, "cell")}${missing}`;
  }

  async function showLarge() {
    const cell = model.find(state.place), turn = ++asked;
    if (cell === undefined) return;
    const texts = await model.texts(cell);
    if (turn !== asked) return;
    const { row, column } = grid.current, [rows, columns] = grid.counts;
    const along = state.columns === null ? [row, rows] : [column, columns];
    const labels = model.dimensions.map((each, n) => [each, state.place[n]]).filter(([each]) => each.labels.length > 1);
    const notes = filler.notes(cell).map(([kind, text]) => (kind === "same" ? ["No visible change", model.unchanged(cell).join(", ")] : ["Warning", text]));
    viewer.show({
      ...texts,
      id: model.file(cell),
      url: model.picture(cell),
      error: model.missing(cell),
      file: model.file(cell),
      name: labels.map(([each, at]) => each.labels[at]).join(" · ") || head.sheet,
      place: labels.map(([each]) => each.name).join(" · "),
      settings: [...filler.numbers(cell).map(({ label, value }) => [label, value]), ...notes,
        ...texts.settings.filter(([key]) => key !== "Warning")],
      isFirst: along[0] <= 0,
      isLast: along[0] >= along[1] - 1,
    });
    viewer.open();
    state.isLarge = true;
    state.write();
    blinker.prepare();
  }

  // The next cell that way, past those that don't exist.
  function stepLarge(down, right) {
    let { row, column } = grid.current;
    const [rows, columns] = grid.counts;
    do {
      row += down;
      column += right;
      if (row < 0 || column < 0 || row >= rows || column >= columns) return;
    } while (model.find(grid.placeAt(row, column)) === undefined);
    blinker.end();
    grid.go({ row, column }, false);
    showLarge();
  }

  function closed() {
    blinker.end();
    asked += 1;
    state.isLarge = false;
    state.write();
    grid.element()?.focus({ preventScroll: true });
  }

  function mark() {
    if (model.find(state.place) === undefined) return;
    const isMarked = state.marked && String(state.marked) === String(state.place);
    state.marked = isMarked ? null : [...state.place];
    grid.refill();
    state.write();
    byId("said").textContent = isMarked ? "Mark removed." : `Marked: ${filler.say(state.place)}.`;
  }

  function stepSeed(by) {
    const n = model.dimensions.findIndex((each) => each.name === "seeds");
    if (!state.pages().includes(n)) return;
    const labels = state.visible(n), next = labels[labels.indexOf(state.place[n]) + by];
    if (next === undefined) return;
    state.place[n] = next;
    onChange("lines");
    if (viewer.isOpen) showLarge();
    else grid.element()?.focus({ preventScroll: true });
  }

  const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

  function pressInTable(event) {
    const { row, column } = grid.current, [rows, columns] = grid.counts, isHead = row < 0 || column < 0;
    if (event.key in MOVES) grid.go({ row: row + MOVES[event.key][0], column: column + MOVES[event.key][1] });
    else if (event.key === "Home") grid.go({ row: event.ctrlKey ? 0 : row, column: 0 });
    else if (event.key === "End") grid.go({ row: event.ctrlKey ? rows - 1 : row, column: columns - 1 });
    else if (event.key === "PageDown") grid.go({ row: row + grid.pageRows(), column });
    else if (event.key === "PageUp") grid.go({ row: Math.max(0, row - grid.pageRows()), column });
    else if ((event.key === "Enter" || event.key === " ") && !isHead) showLarge();
    else return false;
    return true;
  }

  function pressLarge(event) {
    if (!(event.key in MOVES)) return false;
    if (document.activeElement.classList.contains("panel-body") && event.key.match(/Up|Down/)) return false; // it scrolls
    stepLarge(...MOVES[event.key]);
    return true;
  }

  document.addEventListener("keydown", (event) => {
    const isInTable = table.contains(document.activeElement);
    if (event.altKey || event.metaKey || (event.ctrlKey && event.key !== "Home" && event.key !== "End")) return;
    if (!viewer.isOpen && !isInTable && document.activeElement.matches("select, input")) return;
    const key = event.key.toLowerCase();
    if (viewer.isOpen ? pressLarge(event) : isInTable && pressInTable(event)) event.preventDefault();
    else if (key === "b") blinker.begin(viewer.isOpen);
    else if (key === "m") mark();
    else if (key === "s") stepSeed(event.shiftKey ? -1 : 1);
  });
  document.addEventListener("keyup", (event) => event.key.toLowerCase() === "b" && blinker.end());

  byId("table-inner").addEventListener("click", (event) => {
    const element = event.target.closest("[role=gridcell]");
    if (!element) return;
    grid.go({ row: Number(element.dataset.row), column: Number(element.dataset.column) });
    showLarge();
  });
  table.addEventListener("focusin", (event) => {
    const element = event.target.closest("[data-row]");
    if (!element) return;
    grid.go({ row: Number(element.dataset.row), column: Number(element.dataset.column) }, false);
    state.write();
  });
  byId("show-all").addEventListener("click", () => {
    state.hidden.forEach((labels) => labels.clear());
    onChange("lines");
    grid.go(grid.current);
  });

  function open() {
    const unknown = state.read();
    byId("unknown").hidden = unknown.length === 0;
    byId("unknown").textContent = `The link names what this study doesn't have: ${unknown.join(", ")}.`;
    controls.draw();
    grid.layOut();
    grid.go(grid.current, false);
    tell();
    if (state.isLarge) showLarge();
  }

  open();
  addEventListener("hashchange", open);
  let width = table.clientWidth;
  new ResizeObserver(() => {
    if (table.clientWidth === width) return grid.draw();
    width = table.clientWidth;
    grid.layOut();
  }).observe(table);
  document.documentElement.dataset.ready = Math.round(performance.now()); // ms
});
