const byId = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

// The number of the row, of so many, that begins at `y` or is the last one to begin before it; `tops` are where rows begin.
function findRow(tops, count, y) {
  let low = 0, high = count;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (tops[middle] <= y) low = middle;
    else high = middle;
  }
  return low;
}
