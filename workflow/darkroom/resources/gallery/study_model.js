// The study's table: dimensions, and cells by place. A place is a list with the number of a label for each dimension.
const NUMBERS = {
  difference: { label: "Difference", about: "mean absolute difference to the base cell, of 255", text: (v) => v.toFixed(1) },
  ssim: { label: "SSIM", about: "structural similarity to the base cell, 1 is equal", text: (v) => v.toFixed(3) },
  hash_distance: { label: "Hash distance", about: "bits of 64 of a perceptual hash that differ from the base cell's", text: String },
  clipped: { label: "Clipped", about: "share of pixels at the ends of the range", text: (v) => `${(100 * v).toFixed(1)} %` },
  contrast: { label: "Contrast", about: "standard deviation of luminance, of 255", text: (v) => v.toFixed(1) },
};
const KEPT_CHUNKS = 16;

function makeModel(head, cells) {
  const { dimensions } = head;
  const strides = new Array(dimensions.length);
  dimensions.reduceRight((product, each, n) => (strides[n] = product) * each.labels.length, 1);
  const places = new Array(head.cells), byPlace = new Map(), chunks = new Map();
  const bases = new Map(head.bases.map(([axis, prompt, label]) => [`${axis} ${prompt}`, label]));
  let last = 0;
  cells.at.forEach((step, cell) => {
    last += step;
    places[cell] = dimensions.map((each, n) => Math.floor(last / strides[n]) % each.labels.length);
    byPlace.set(last, cell);
  });
  const find = (place) => byPlace.get(place.reduce((sum, at, n) => sum + at * strides[n], 0));
  const encode = (path) => path.split("/").map(encodeURIComponent).join("/");
  const stem = (cell) => cells.file[cell].replace(/\.[^.]*$/, "");
  const axes = dimensions.map((_, n) => n);

  function describe(name) {
    if (name in NUMBERS) return { name, ...NUMBERS[name] };
    return { name, label: name.replace(/^score /, ""), about: "external score", text: String };
  }

  // Axes have their base values; a prompt that doesn't have an axis' own base has another one.
  function baseOf(place) {
    const prompt = place[head.prompts];
    return place.map((at, n) => (dimensions[n].isAxis ? bases.get(`${n} ${prompt}`) ?? dimensions[n].base : at));
  }

  // What a head says besides its label.
  function hints(n, label) {
    const found = dimensions[n].isAxis && dimensions[n].base === label ? ["base"] : [];
    return head.unchanged[n].includes(label) ? [...found, "no visible change"] : found;
  }

  // Text of one cell: prompt, settings, infotext. A few chunks are kept.
  async function texts(cell) {
    const number = Math.floor(cell / head.chunk);
    const chunk = chunks.get(number) ?? unpack(byId(`texts-${number}`));
    chunks.delete(number);
    chunks.set(number, chunk);
    if (chunks.size > KEPT_CHUNKS) chunks.delete(chunks.keys().next().value);
    return (await chunk)[cell % head.chunk];
  }

  return {
    dimensions,
    places,
    find,
    texts,
    numbers: Object.keys(cells.numbers).map(describe),
    hasNotes: cells.unchanged.some(Boolean) || Object.keys(cells.warnings).length > 0,
    label: (n, at) => dimensions[n].labels[at],
    baseOf,
    hints,
    file: (cell) => cells.file[cell],
    picture: (cell) => (cells.missing[cell] === undefined ? encode(cells.file[cell]) : ""),
    thumbnail: (cell) => `../thumbnails/${encode(`${head.sheet}/${stem(cell)}`)}.webp`,
    missing: (cell) => cells.missing[cell],
    warning: (cell) => cells.warnings[cell],
    number: (cell, name) => cells.numbers[name][cell],
    unchanged: (cell) => axes.filter((n) => cells.unchanged[cell] >> n & 1).map((n) => dimensions[n].name),
    missingCount: Object.keys(cells.missing).length,
  };
}
