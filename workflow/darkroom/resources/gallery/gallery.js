"use strict";
(() => {
  const pictures = JSON.parse(document.getElementById("pictures").textContent);
  const byId = (id) => document.getElementById(id);
  const filter = byId("filter"), viewer = byId("viewer"), image = byId("viewer-image"), copy = byId("copy");
  const cards = [...document.querySelectorAll(".card")];
  const groups = [...document.querySelectorAll(".group")];
  const fields = ["prompt", "negative", "sheet", "checkpoint", "id", "seed", "sampler"];
  const haystacks = pictures.map((p) => fields.map((field) => p[field]).join("\n").toLowerCase());
  // One field: seed:3, seed 3, sampler:euler. A seed is compared as a whole.
  const named = new RegExp(`(?<!\\S)(?:(seed) +(\\d+)|(${fields.join("|")})[:=] *(\\S+))`, "g");
  let shown = cards.map((_, place) => place);
  let current = 0;

  const plural = (n) => `${n.toLocaleString("en")} picture${n === 1 ? "" : "s"}`;

  function applyFilter() {
    const wanted = [];
    const rest = filter.value.toLowerCase().replace(named, (_, seed, number, field, value) => {
      wanted.push([seed ?? field, number ?? value]);
      return " ";
    });
    const words = rest.split(/\s+/).filter(Boolean);
    const has = (picture, [field, value]) =>
      field === "seed" ? picture.seed === value : picture[field].toLowerCase().includes(value);
    const matches = haystacks.map((text, place) =>
      words.every((word) => text.includes(word)) && wanted.every((one) => has(pictures[place], one)));
    shown = [];
    cards.forEach((card, place) => {
      card.parentElement.hidden = !matches[place];
      if (matches[place]) shown.push(place);
    });
    for (const group of groups) {
      const left = group.querySelectorAll("li:not([hidden])").length;
      group.hidden = left === 0;
      group.querySelector(".tally").textContent = left.toLocaleString("en");
    }
    byId("nothing").hidden = shown.length > 0 || pictures.length === 0;
    byId("count").textContent = words.length + wanted.length
      ? `${shown.length.toLocaleString("en")} of ${plural(pictures.length)}` : plural(pictures.length);
  }

  function show(place) {
    current = place;
    const picture = pictures[place], at = shown.indexOf(place);
    image.src = picture.url;
    image.alt = picture.prompt || picture.id;
    // Small pictures are enlarged to a size one can look at, large ones only to fit the window.
    image.style.maxWidth = `${Math.max(picture.width, 640)}px`;
    image.style.maxHeight = `${Math.max(picture.height, 640)}px`;
    byId("viewer-name").textContent = `${picture.id}, seed ${picture.seed}`;
    byId("viewer-place").textContent = `${picture.sheet} on ${picture.checkpoint}, ${at + 1} of ${shown.length}`;
    byId("viewer-prompt").textContent = picture.prompt || "(empty)";
    byId("viewer-negative").textContent = picture.negative;
    byId("viewer-negative-part").hidden = !picture.negative;
    byId("viewer-settings").replaceChildren(...picture.settings.map(([key, value]) => {
      const row = document.createElement("div"), term = document.createElement("dt"), text = document.createElement("dd");
      term.textContent = key;
      text.textContent = value;
      if (key.endsWith("SHA256")) text.className = "hash";
      row.append(term, text);
      return row;
    }));
    byId("viewer-earlier-part").hidden = !picture.earlier.length;
    byId("viewer-earlier").replaceChildren(...picture.earlier.map(([name, url]) => {
      const item = document.createElement("li"), link = document.createElement("a");
      link.textContent = name;
      link.href = url;
      link.target = "_blank";
      link.rel = "noopener";
      item.append(link);
      return item;
    }));
    byId("viewer-file").textContent = picture.file;
    byId("viewer-file").href = byId("viewer-open").href = picture.url;
    byId("previous").disabled = at <= 0;
    byId("next").disabled = at >= shown.length - 1;
    copy.textContent = "Copy parameters";
    for (const near of [shown[at + 1], shown[at - 1]]) {
      if (near !== undefined) new Image().src = pictures[near].url;
    }
  }

  function step(by) {
    const next = shown[shown.indexOf(current) + by];
    if (next !== undefined) show(next);
  }

  async function copyParameters() {
    const text = pictures[current].parameters;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Some browsers keep the clipboard from pages opened from disk; a selection inside the dialog still works.
      const area = document.createElement("textarea");
      area.value = text;
      viewer.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    copy.textContent = "Copied";
    copy.focus();
  }

  for (const card of cards) {
    card.addEventListener("click", () => {
      show(Number(card.dataset.place));
      viewer.showModal();
      document.documentElement.style.overflow = "hidden";
    });
  }
  viewer.addEventListener("close", () => {
    document.documentElement.style.overflow = "";
    image.removeAttribute("src");
    cards[current].focus();
    cards[current].scrollIntoView({ block: "nearest" });
  });
  byId("close").addEventListener("click", () => viewer.close());
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  copy.addEventListener("click", copyParameters);
  byId("clear").addEventListener("click", () => {
    filter.value = "";
    applyFilter();
    filter.focus();
  });
  filter.addEventListener("input", applyFilter);
  document.addEventListener("keydown", (event) => {
    if (viewer.open && event.key === "ArrowLeft") step(-1);
    else if (viewer.open && event.key === "ArrowRight") step(1);
    else if (!viewer.open && event.key === "/" && document.activeElement !== filter) filter.focus();
    else return;
    event.preventDefault();
  });
  if (filter.value) applyFilter(); // a reload may bring the old text back
})();
