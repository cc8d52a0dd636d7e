// The page of two runs: a changed picture opens the comparison of both, with the others before and after it.
const changes = JSON.parse(byId("changes").textContent);
const cards = [...document.querySelectorAll("button.change")];
const comparer = makeComparer({ onClose: () => cards[at]?.focus() });
let at = 0;

function step(by) {
  const next = at + by;
  if (next < 0 || next >= cards.length) return comparer.say(by > 0 ? "This is the last one." : "This is the first one.");
  show(next);
}

function show(number) {
  at = number;
  const [older, newer] = changes[Number(cards[at].dataset.place)];
  const described = [["Old", older], ["New", newer]].map(([name, each]) => ({ ...each, name }));
  previous.disabled = at === 0;
  following.disabled = at === cards.length - 1;
  place.textContent = `${(at + 1).toLocaleString("en")} of ${cards.length.toLocaleString("en")}`;
  const keys = { n: 1, p: -1 };
  comparer.open(described, {
    title: older.name,
    controls: [previous, place, following],
    onKey: (key) => (key in keys ? step(keys[key]) ?? true : false),
  });
}

function makeStep(text, key, by) {
  const button = make("button", { type: "button", className: "button", textContent: text, title: `${text} (${key})` });
  button.addEventListener("click", () => step(by));
  return button;
}

const previous = makeStep("Previous", "P", -1), following = makeStep("Next", "N", 1);
const place = make("span", { className: "compare-percent" });
cards.forEach((card, number) => card.addEventListener("click", () => show(number)));
