// The table's window: only rows and columns in sight are in the document, and the cell that has the focus. The heads are
// sticky. Rows and columns are counted from 0; -1 is the heads' row and the heads' column.
const MORE_ROWS = 2, MORE_COLUMNS = 1, GAP = 6, LINE = 17, MOST_HEAD = 0.3, WIDEST = 280, LEAST_HEAD = 30, SHORT = 8;

function makeGrid({ table, model, state, ratio, fillCell, fillHead }) {
  const inner = byId("table-inner"), headRow = byId("head-row"), ruler = byId("ruler");
  const shown = new Map(); // row → { element, cells: column → element }
  const heights = new Map(); // of heads, by dimension, label and width
  let rows = [], columns = [], tops = [0], sizes = {}, current = { row: 0, column: 0 };

  // The heights that heads need; all unknown ones are read at once, so that the browser lays out once. A short word needs
  // no measuring.
  function measureHeads(side, labels, width) {
    const n = side === "row-head" ? state.rows : state.columns;
    const key = (label) => `${n} ${label} ${width}`;
    const isShort = (label) => model.label(n, label).length <= SHORT && !model.hints(n, label).length;
    const unknown = labels.filter((label) => !isShort(label) && !heights.has(key(label)));
    const rulers = unknown.map((label) => {
      const element = make("div", { className: `head ${side}` });
      element.style.width = `${width}px`;
      fillHead(element, side, label);
      return element;
    });
    ruler.replaceChildren(...rulers);
    unknown.forEach((label, i) => heights.set(key(label), rulers[i].offsetHeight));
    ruler.replaceChildren();
    return labels.map((label) => heights.get(key(label)) ?? LEAST_HEAD);
  }

  function layOut() {
    [rows, columns] = state.lines();
    const isEmpty = !rows.length || !columns.length;
    byId("nothing").hidden = !isEmpty;
    if (isEmpty) rows = columns = [];
    const head = state.rows === null ? 0 : Math.round(Math.min(220, Math.max(92, table.clientWidth * 0.2)));
    const lines = state.numbers.size + (model.hasNotes ? 1 : 0);
    const cell = { width: state.size + GAP, height: Math.round(state.size * ratio) + lines * LINE + GAP };
    const needed = head ? measureHeads("row-head", rows, head) : rows.map(() => 0);
    const most = Math.max(60, Math.round(table.clientHeight * MOST_HEAD));
    let heads = state.columns === null ? [0] : measureHeads("column-head", columns, cell.width);
    if (Math.max(...heads) > most) { // long labels get the room that is left beside the table
      cell.width = Math.max(cell.width, Math.min(WIDEST, Math.floor((table.clientWidth - head) / columns.length)));
      heads = measureHeads("column-head", columns, cell.width);
    }
    const hasHeads = state.columns !== null || state.rows !== null;
    const top = hasHeads ? heads.reduce((highest, each) => Math.max(highest, Math.min(each, most)), LEAST_HEAD) : 0;
    tops = [0];
    for (const height of needed) tops.push(tops.at(-1) + Math.max(cell.height, height));
    sizes = { head, top, cell };
    table.style.setProperty("--frame-width", `${state.size}px`);
    table.style.setProperty("--frame-height", `${Math.round(state.size * ratio)}px`);
    inner.style.width = `${head + columns.length * cell.width}px`;
    inner.style.height = `${top + tops.at(-1)}px`;
    headRow.style.height = `${top}px`;
    table.setAttribute("aria-rowcount", rows.length + 1);
    table.setAttribute("aria-colcount", columns.length + 1);
    for (const { element } of shown.values()) element.remove();
    shown.clear();
    headRow.replaceChildren(headRow.firstElementChild);
    headRow.firstElementChild.style.width = `${head}px`;
    const back = [rows.indexOf(state.place[state.rows] ?? null), columns.indexOf(state.place[state.columns] ?? null)];
    current = { row: Math.max(0, back[0]), column: Math.max(0, back[1]) };
    keepPlace();
    draw();
  }

  const rowAt = (y) => findRow(tops, rows.length, y);

  function inSight() {
    const left = table.scrollLeft, top = table.scrollTop, { cell } = sizes;
    const count = (first, last, at, most) => {
      const found = new Set(at >= 0 && at < most ? [at] : []);
      for (let n = Math.max(0, first); n <= Math.min(most - 1, last); n++) found.add(n);
      return found;
    };
    const firstColumn = Math.floor(left / cell.width), lastColumn = Math.floor((left + table.clientWidth) / cell.width);
    return [
      count(rowAt(top) - MORE_ROWS, rowAt(top + table.clientHeight) + MORE_ROWS, current.row, rows.length),
      count(firstColumn - MORE_COLUMNS, lastColumn + MORE_COLUMNS, current.column, columns.length),
    ];
  }

  function draw() {
    if (!sizes.cell) return;
    const [rowsInSight, columnsInSight] = inSight();
    for (const [row, { element }] of shown) {
      if (!rowsInSight.has(row)) {
        element.remove();
        shown.delete(row);
      }
    }
    drawHeads(columnsInSight);
    for (const row of rowsInSight) drawRow(row, columnsInSight);
    moveTabStop();
  }

  function place(element, column) {
    element.style.left = `${sizes.head + column * sizes.cell.width}px`;
    element.style.width = `${sizes.cell.width}px`;
    element.setAttribute("aria-colindex", column + 2);
  }

  function drawHeads(columnsInSight) {
    const there = new Map([...headRow.children].slice(1).map((element) => [Number(element.dataset.column), element]));
    for (const [column, element] of there) if (!columnsInSight.has(column)) element.remove();
    if (state.columns === null) return;
    for (const column of columnsInSight) {
      if (there.has(column)) continue;
      const element = make("div", { className: "head column-head", role: "columnheader" });
      Object.assign(element.dataset, { row: -1, column });
      fillHead(element, "column-head", columns[column]);
      place(element, column);
      headRow.append(element);
    }
  }

  function drawRow(row, columnsInSight) {
    let line = shown.get(row);
    if (!line) {
      const element = make("div", { className: "row", role: "row" });
      element.setAttribute("aria-rowindex", row + 2);
      element.style.top = `${sizes.top + tops[row]}px`;
      element.style.height = `${tops[row + 1] - tops[row]}px`;
      if (state.rows !== null) {
        const head = make("div", { className: "head row-head", role: "rowheader" });
        head.setAttribute("aria-colindex", 1);
        head.style.width = `${sizes.head}px`;
        Object.assign(head.dataset, { row, column: -1 });
        fillHead(head, "row-head", rows[row]);
        element.append(head);
      }
      shown.set(row, line = { element, cells: new Map() });
      const next = [...shown.keys()].filter((other) => other > row).sort((a, b) => a - b)[0];
      inner.insertBefore(element, next === undefined ? null : shown.get(next).element);
    }
    for (const [column, element] of line.cells) {
      if (!columnsInSight.has(column)) {
        element.remove();
        line.cells.delete(column);
      }
    }
    for (const column of columnsInSight) {
      if (line.cells.has(column)) continue;
      const element = make("div", { role: "gridcell", tabIndex: -1 });
      Object.assign(element.dataset, { row, column });
      place(element, column);
      fillCell(element, state.at(rows[row], columns[column]));
      line.cells.set(column, element);
      line.element.append(element);
    }
  }

  // The same cells with other contents: another page with the same lines.
  function refill() {
    for (const [row, { cells }] of shown) {
      for (const [column, element] of cells) fillCell(element, state.at(rows[row], columns[column]));
    }
  }

  // What takes the focus: a cell itself, in a head its button.
  function focusable({ row, column }) {
    if (row < 0) return headRow.querySelector(`[data-column="${column}"] button`);
    const line = shown.get(row);
    return column < 0 ? line?.element.querySelector(".row-head button") : line?.cells.get(column);
  }

  function moveTabStop() {
    inner.querySelectorAll("[tabindex='0']").forEach((element) => (element.tabIndex = -1));
    const element = focusable(current);
    if (element) element.tabIndex = 0;
  }

  function keepPlace() {
    if (current.row >= 0 && state.rows !== null && rows.length) state.place[state.rows] = rows[current.row];
    if (current.column >= 0 && state.columns !== null && columns.length) state.place[state.columns] = columns[current.column];
  }

  function scrollTo({ row, column }) {
    const { head, top, cell } = sizes;
    const near = (from, to, at, room) => (from < at ? from : to > at + room ? to - room : at);
    const height = table.clientHeight - top, width = table.clientWidth - head;
    if (row >= 0) table.scrollTop = near(tops[row], Math.max(tops[row + 1], 0), table.scrollTop, height);
    if (column >= 0) table.scrollLeft = near(column * cell.width, (column + 1) * cell.width, table.scrollLeft, width);
  }

  function go(to, takesFocus = true) {
    const least = { row: state.columns === null ? 0 : -1, column: state.rows === null ? 0 : -1 };
    const row = Math.min(rows.length - 1, Math.max(least.row, to.row));
    const column = Math.min(columns.length - 1, Math.max(least.column, to.column));
    if (!rows.length || (row < 0 && column < 0)) return;
    current = { row, column };
    keepPlace();
    scrollTo(current);
    draw();
    if (takesFocus) focusable(current)?.focus({ preventScroll: true });
  }

  const pageRows = () => Math.max(1, rowAt(table.scrollTop + table.clientHeight - sizes.top) - rowAt(table.scrollTop));
  let waits = false;
  table.addEventListener("scroll", () => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => {
      waits = false;
      draw();
    });
  }, { passive: true });

  return {
    layOut,
    draw,
    refill,
    go,
    pageRows,
    get current() { return current; },
    get counts() { return [rows.length, columns.length]; },
    placeAt: (row, column) => state.at(rows[row], columns[column]),
    element: () => focusable(current),
  };
}
