// SHEET.ratings.csv as darkroom/sheets/ratings.py reads it: written for a download or into a file, and read back.
const ratingsFile = (() => {
  const COLUMNS = ["picture", "rating", "against", "note"], RATINGS = ["1", "2", "3", "4", "5", "reject"], OUTCOMES = ["better", "worse", "tie"];
  const NAME = /^[^/\\\s]+\/[a-z0-9][a-z0-9_.-]*-[0-9]+(\.[^/\\]+)?$/;

  const nameOf = (sheet) => `${sheet}.ratings.csv`;

  // A spreadsheet takes a text that begins like this for a formula: an apostrophe in front keeps it a text.
  const guard = (text) => (/^'*[=+\-@\t\r]/.test(text) ? `'${text}` : text);
  const cell = (text) => (/[",;\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

  function write(sheet) {
    const rows = ratings.rowsOf(sheet).map(([picture, rating, against, note]) => [picture, rating, against, guard(note)]);
    return [COLUMNS, ...rows].map((row) => `${row.map(cell).join(",")}\r\n`).join("");
  }

  // The rows of a CSV text with the number of each one's first line. Throws an Error for quotes that aren't closed.
  function split(text) {
    const plain = text.replace(/^\ufeff/, "").replace(/\r\n?/g, "\n"), first = plain.split("\n", 1)[0];
    const delimiter = first.includes(";") && !first.includes(",") ? ";" : ",";
    const rows = [];
    let row = [], value = "", isQuoted = false, line = 1, begun = 1;
    for (let n = 0; n < plain.length; n++) {
      const sign = plain[n];
      if (sign === "\n") line += 1;
      if (isQuoted) {
        if (sign !== '"') value += sign;
        else if (plain[n + 1] === '"') value += plain[++n];
        else isQuoted = false;
      } else if (sign === '"' && !value) isQuoted = true;
      else if (sign === delimiter) value = row.push(value) && "";
      else if (sign === "\n") {
        rows.push([begun, [...row, value]]);
        [row, value, begun] = [[], "", line];
      } else value += sign;
    }
    if (isQuoted) throw new Error(`line ${begun}: the quotes aren't closed`);
    if (value || row.length) rows.push([begun, [...row, value]]);
    return rows;
  }

  function readRow(names, cells, line, wrong) {
    const row = Object.fromEntries(names.map((name, place) => [name, (cells[place] ?? "").trim()]));
    const [picture, against] = [row.picture, row.against ?? ""].map((name) => name.replace(/\.(png|webp|jpe?g|avif)$/i, ""));
    const note = (row.note ?? "").replace(/^'(?='*[=+\-@\t\r])/, "");
    const isFine = against
      ? OUTCOMES.includes(row.rating) && NAME.test(against) && against !== picture
      : RATINGS.includes(row.rating) || (!row.rating && note);
    if (!NAME.test(picture) || !isFine) wrong.push(`line ${line}: ${cells.join(", ")}`);
    return [picture, row.rating, against, note];
  }

  // Reads a file's text into the ratings; returns what to say. Nothing is read of a file with mistakes.
  function load(sheet, text) {
    const [[, names] = [0, []], ...rest] = split(text), wrong = [];
    const columnsThere = names.map((name) => name.trim());
    const unknown = columnsThere.find((name) => !COLUMNS.includes(name));
    if (unknown !== undefined || !columnsThere.includes("picture") || !columnsThere.includes("rating")) {
      throw new Error(`this is no file of ratings: its first row has to be ${COLUMNS.join(",")}`);
    }
    const filled = rest.filter(([, cells]) => cells.some((each) => each.trim()));
    const rows = filled.map(([line, cells]) => readRow(columnsThere, cells, line, wrong));
    if (wrong.length) throw new Error(`nothing was read, because of\n${wrong.slice(0, 10).join("\n")}`);
    for (const [picture, rating, against, note] of rows) {
      if (against) ratings.setPair(`${sheet}/${picture}`, rating, `${sheet}/${against}`);
      else ratings.set(`${sheet}/${picture}`, rating, note);
    }
    return `${plural(rows.length, "line")} read for ${sheet}.`;
  }

  function download(sheet) {
    const url = URL.createObjectURL(new Blob([write(sheet)], { type: "text/csv" }));
    const link = make("a", { href: url, download: nameOf(sheet) });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
    ratings.markSaved(sheet);
  }

  const handles = new Map(); // by sheet: the files that were chosen, for as long as the page is open

  // Writes into a file that the user chooses once. Browsers without the File System Access API only download.
  async function save(sheet) {
    const types = [{ description: "Ratings", accept: { "text/csv": [".csv"] } }];
    const handle = handles.get(sheet) ?? await showSaveFilePicker({ suggestedName: nameOf(sheet), types });
    const stream = await handle.createWritable();
    await stream.write(write(sheet));
    await stream.close();
    handles.set(sheet, handle);
    ratings.markSaved(sheet);
  }

  return { nameOf, write, load, download, save, canSave: () => typeof showSaveFilePicker === "function" };
})();

// The button for ratings in the bar, and its dialog: what is rated, and where it is saved to and loaded from.
(() => {
  const said = make("p", { className: "ratings-said", role: "status", dir: "auto" });
  const rows = make("div", { className: "ratings-rows" });
  const where = make("p");
  const close = make("button", { type: "button", className: "button", textContent: "Done" });
  const about = make("button", { type: "button", className: "button", id: "pairs-open", textContent: "Rate pairs", title: "Rate pairs (P)" });
  const dialog = make("dialog", { id: "ratings", className: "sheet-dialog" },
    make("div", { className: "dialog-head" }, make("h2", { id: "ratings-title", textContent: "Ratings" }), about, close),
    make("div", { className: "dialog-body" }, where, rows, said));
  dialog.setAttribute("aria-labelledby", "ratings-title");
  const open = make("button", { type: "button", className: "button", id: "ratings-open" });
  open.setAttribute("aria-haspopup", "dialog");
  document.body.append(dialog);
  byId("tools").insertBefore(open, byId("help-open"));

  function button(text, run) {
    const made = make("button", { type: "button", className: "button", textContent: text });
    made.addEventListener("click", async () => {
      try {
        said.textContent = (await run()) ?? "";
      } catch (error) {
        if (error.name !== "AbortError") said.textContent = error.message; // the user left the file's dialog
      }
    });
    return made;
  }

  function makeRow(sheet) {
    const lines = ratings.rowsOf(sheet), unsaved = ratings.unsaved(sheet), name = ratingsFile.nameOf(sheet);
    const compared = lines.filter(([, , against]) => against).length;
    const text = `${sheet}: ${plural(lines.length - compared, "rating")}, ${plural(compared, "comparison")}, ${unsaved.toLocaleString("en")} unsaved`;
    const file = make("input", { type: "file", accept: ".csv,text/csv", tabIndex: -1 });
    file.setAttribute("aria-label", `Ratings of ${sheet} to load`);
    file.addEventListener("change", async () => {
      try {
        if (file.files.length) said.textContent = ratingsFile.load(sheet, await file.files[0].text());
      } catch (error) {
        said.textContent = `${file.files[0].name}: ${error.message}`;
      }
      file.value = "";
    });
    const buttons = [
      ...(ratingsFile.canSave() ? [button(`Save ${name}`, () => ratingsFile.save(sheet).then(() => `${name} is saved.`))] : []),
      button(`Download ${name}`, () => {
        ratingsFile.download(sheet);
        return `${name} is downloaded: put it beside the sheet.`;
      }),
      button(`Load ${name}`, () => file.click()),
    ];
    return make("div", { className: "ratings-row" }, make("p", { textContent: text, dir: "auto" }), ...buttons, file);
  }

  function update() {
    const unsaved = ratings.unsaved();
    open.textContent = unsaved ? `Ratings (${unsaved.toLocaleString("en")} unsaved)` : "Ratings";
    where.textContent = ratings.isKept
      ? "Ratings are kept in this browser. Saved beside its sheet, a file of ratings goes with the project, and sheets can begin with the pictures that it chooses."
      : "This browser keeps no ratings for this page: save them before you leave it.";
    if (dialog.open) {
      const place = [...rows.querySelectorAll("button")].indexOf(document.activeElement);
      rows.replaceChildren(...ratings.sheets().map(makeRow));
      rows.querySelectorAll("button")[place]?.focus();
    }
  }

  open.addEventListener("click", () => {
    said.textContent = "";
    dialog.showModal();
    update();
  });
  close.addEventListener("click", () => dialog.close());
  about.addEventListener("click", () => {
    dialog.close();
    Gallery.ratePairs();
  });
  ratings.subscribe(update);
  update();
})();
