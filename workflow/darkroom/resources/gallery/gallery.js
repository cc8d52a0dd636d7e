const pictures = JSON.parse(document.getElementById("pictures").textContent);
const filter = byId("filter");
const cards = [...document.querySelectorAll(".card")];
const groups = [...document.querySelectorAll(".group")];
const fields = ["prompt", "negative", "sheet", "checkpoint", "id", "seed", "sampler"];
const haystacks = pictures.map((p) => fields.map((field) => p[field]).join("\n").toLowerCase());
// One field: seed:3, seed 3, sampler:euler. A seed is compared as a whole.
const named = new RegExp(`(?<!\\S)(?:(seed) +(\\d+)|(${fields.join("|")})[:=] *(\\S+))`, "g");
let shown = cards.map((_, place) => place);
let current = 0;

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
    ? `${shown.length.toLocaleString("en")} of ${plural(pictures.length, "picture")}` : plural(pictures.length, "picture");
}

function show(place) {
  current = place;
  const picture = pictures[place], at = shown.indexOf(place);
  viewer.show({
    ...picture,
    name: `${picture.id}, seed ${picture.seed}`,
    place: `${picture.sheet} on ${picture.checkpoint}, ${at + 1} of ${shown.length}`,
    isFirst: at <= 0,
    isLast: at >= shown.length - 1,
  });
  for (const near of [shown[at + 1], shown[at - 1]]) {
    if (near !== undefined) new Image().src = pictures[near].url;
  }
}

function step(by) {
  const next = shown[shown.indexOf(current) + by];
  if (next !== undefined) show(next);
}

const viewer = makeViewer({
  step,
  closed() {
    cards[current].focus();
    cards[current].scrollIntoView({ block: "nearest" });
  },
});
for (const card of cards) {
  card.addEventListener("click", () => {
    show(Number(card.dataset.place));
    viewer.open();
  });
}
byId("clear").addEventListener("click", () => {
  filter.value = "";
  applyFilter();
  filter.focus();
});
filter.addEventListener("input", applyFilter);
document.addEventListener("keydown", (event) => {
  if (viewer.isOpen && event.key === "ArrowLeft") step(-1);
  else if (viewer.isOpen && event.key === "ArrowRight") step(1);
  else if (!viewer.isOpen && event.key === "/" && document.activeElement !== filter) filter.focus();
  else return;
  event.preventDefault();
});
if (filter.value) applyFilter(); // a reload may bring the old text back
