// Rating by pairs: two pictures of a prompt side by side, and which is better. The pairs are those of a round-robin tournament
// by the circle method, at most ROUNDS of it: each picture meets that many others, and all of a prompt are connected.
(() => {
  const ROUNDS = 6;
  let pairs = [], at = 0, done = [];

  function pairsOf(names) {
    const seats = names.length % 2 ? [...names, null] : [...names], found = [];
    for (let round = 0; round < Math.min(ROUNDS, seats.length - 1); round++) {
      for (let n = 0; n < seats.length / 2; n++) found.push([seats[n], seats[seats.length - 1 - n]]);
      seats.splice(1, 0, seats.pop());
    }
    return found.filter(([one, other]) => one !== null && other !== null);
  }

  // Which of two stands on the left: no picture always on the same side, and the same after a reload.
  const isTurned = (text) => [...text].reduce((sum, sign) => (sum * 31 + sign.codePointAt(0)) >>> 0, 7) % 2 === 1;

  const promptOf = (picture) => `${picture.sheet}/${valueOf("prompt id", picture.i) ?? picture.id}`;

  // The pairs of pictures in the list that aren't compared yet, prompt by prompt; that of `first` comes first.
  function collect(first) {
    const groups = new Map();
    for (const i of Gallery.shown()) {
      const picture = Gallery.pictures[i], key = promptOf(picture);
      groups.set(key, [...(groups.get(key) ?? []), picture.name]);
    }
    const known = new Set(ratings.pairs().map(([one, , other]) => ratings.pairKey(one, other)));
    const keys = [...groups.keys()];
    const own = first && promptOf(first);
    if (groups.has(own)) keys.sort((a, b) => (b === own) - (a === own));
    const all = keys.flatMap((key) => pairsOf(groups.get(key)));
    const open = all.filter((pair) => !known.has(ratings.pairKey(...pair)));
    return { total: all.length, open: open.map((pair) => (isTurned(pair.join("|")) ? [...pair].reverse() : pair)) };
  }

  const place = make("span", { className: "compare-percent pairs-place" });
  const bar = make("progress", { max: 1, value: 0 });
  bar.setAttribute("aria-label", "Pairs rated");
  const choices = [
    ["A is better", "←", "better", "ArrowLeft"], ["Tie", "↓", "tie", "ArrowDown"], ["B is better", "→", "worse", "ArrowRight"],
    ["Skip", "N", null, "n"], ["Undo", "U", undefined, "u"],
  ].map(([text, key, outcome, code]) => {
    const button = make("button", { type: "button", className: "button", textContent: text, title: `${text} (${key})` });
    const run = outcome === undefined ? undo : outcome === null ? () => move(null) : () => judge(outcome);
    button.addEventListener("click", run);
    return { button, run, code };
  });

  function move(outcome) {
    done.push([pairs[at], outcome]);
    at += 1;
    show();
  }

  function judge(outcome) {
    if (at >= pairs.length) return;
    const [left, right] = pairs[at];
    ratings.setPair(left, outcome, right);
    move(outcome);
  }

  function undo() {
    if (!done.length) return Gallery.comparer.say("There is nothing to undo.");
    const [[left, right], outcome] = done.pop();
    if (outcome) ratings.setPair(left, "", right);
    at -= 1;
    show();
  }

  let total = 0;

  function show() {
    const left = pairs.length - at, rated = total - left;
    place.textContent = `${rated.toLocaleString("en")} of ${plural(total, "pair")}`;
    [bar.max, bar.value] = [total || 1, rated];
    choices.at(-1).button.disabled = !done.length;
    if (!left) {
      Gallery.comparer.close();
      say(`All ${plural(total, "pair")} are rated. Sort by “Best of pairs first”, and save the ratings.`, true);
      return;
    }
    const both = pairs[at].map((name) => Gallery.byName(name));
    Gallery.comparer.open(both, {
      title: "Which is better?",
      controls: [...choices.map(({ button }) => button), bar, place],
      onKey(key) {
        const choice = choices.find(({ code }) => code === key);
        if (choice && !choice.button.disabled) choice.run();
        return Boolean(choice);
      },
    });
    Gallery.comparer.say(`Pair ${(rated + 1).toLocaleString("en")} of ${total.toLocaleString("en")}: ${both.map(({ id, seed }) => `${id}, seed ${seed}`).join(" or ")}`);
  }

  Gallery.ratePairs = (first) => {
    const found = collect(first);
    [pairs, at, done, total] = [found.open, 0, [], found.total];
    if (!total) return say("No two of the pictures that are shown have the same prompt.", true);
    show();
    return undefined;
  };
  Gallery.addAction({ key: "p", label: "Rate pairs", isKeyOnly: true, run: (picture) => Gallery.ratePairs(picture) });
})();
