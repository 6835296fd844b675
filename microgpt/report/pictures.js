"use strict";

/* Building blocks of the views: formatted numbers and characters, tables, charts. */

// ---- numbers and characters ----

function number(x, digits = 2) {
  return x
    .toFixed(digits)
    .replace("-", "−")
    .replace(/^−(0\.?0*)$/, "$1");
}

function count(n, one, many = `${one}s`) {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}

/** A visible form of an input character; null is the start of a text. */
function given(char) {
  return char === null ? "<start>" : visible(char);
}

/** A text with its invisible characters made visible. */
function shown(text) {
  return [...text].map(visible).join("");
}

/** A text with its invisible characters made visible, except for spaces. */
function readable(text) {
  return shown(text).replaceAll("␣", " ");
}

function token(text) {
  return element("span", { class: "token" }, text);
}

// ---- building blocks ----

/** A picture with a caption. If it may be wider than the page, `wide` labels the box in which it scrolls. */
function figure(picture, caption, wide = "") {
  const held = wide ? scroll(wide, picture) : picture;
  return element("figure", {}, held, element("figcaption", {}, caption));
}

/** A <details> element whose content is made when it is first opened. */
function details(summary, make) {
  const found = element(
    "details",
    {
      toggle: () => {
        if (found.children.length === 1) found.append(make());
      },
    },
    element("summary", {}, summary),
  );
  return found;
}

/** A table. The first cell of a row is its heading; cells are text, numbers or elements. */
function table(label, head, rows) {
  const cell = (value) =>
    value instanceof Element && value.tagName === "TD"
      ? value
      : element(
          "td",
          { class: typeof value === "number" ? "number" : false },
          typeof value === "number" ? number(value, Number.isInteger(value) ? 0 : 2) : value,
        );
  return scroll(
    label,
    element(
      "table",
      { "aria-label": label },
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          head.map((name) => element("th", { scope: "col" }, name)),
        ),
      ),
      element(
        "tbody",
        {},
        rows.map(([first, ...others]) =>
          element(
            "tr",
            {},
            element("th", { scope: "row" }, typeof first === "number" ? number(first, 0) : first),
            others.map(cell),
          ),
        ),
      ),
    ),
  );
}

/** A background colour on which text stays readable. A larger amount is stronger; a negative one has another hue. */
function shade(amount, full = "var(--strongest)") {
  const hue = amount < 0 ? "var(--second)" : "var(--first)";
  const part = Math.min(1, Math.abs(amount)).toFixed(3);
  return `color-mix(in srgb, ${hue} calc(${full} * ${part}), var(--background))`;
}

/** An SVG picture with a title and a description for screen readers. */
function picture(width, height, title, description, ...children) {
  return svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `${title}. ${description}` },
    children.flat(Infinity),
  );
}

function text(x, y, anchor, content, attributes = {}) {
  return svg("text", { x, y, "text-anchor": anchor, ...attributes }, String(content));
}

/** The width of a chart that fits the page without scaling, so that its text keeps its size. */
function room() {
  return Math.max(300, Math.min(760, document.getElementById("main").clientWidth - 32));
}

/** Round numbers that divide low to high into about n parts. */
function ticks(low, high, n) {
  const rough = (high - low) / n || 1,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((x) => x * power >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + step / 1e6; i++)
    found.push(Number((i * step).toPrecision(12)));
  return found;
}

/** The axes of a chart, and functions that map values to coordinates. */
function axes(width, height, [x0, x1], [y0, y1], xName, yName, whole = true) {
  const left = 44,
    right = 20,
    top = 22,
    bottom = 38;
  const x = (value) => left + ((value - x0) / (x1 - x0 || 1)) * (width - left - right);
  const y = (value) => height - bottom - ((value - y0) / (y1 - y0 || 1)) * (height - top - bottom);
  const marks = [
    ticks(y0, y1, 5).map((at) => [
      svg("line", { x1: left, x2: width - right, y1: y(at), y2: y(at), class: "grid" }),
      text(left - 6, y(at) + 4, "end", at),
    ]),
    ticks(x0, x1, Math.min(8, width / 80))
      .filter((at) => !whole || Number.isInteger(at))
      .map((at) => text(x(at), height - bottom + 16, "middle", at)),
    text(left, 12, "start", yName),
    text(width - right, height - 4, "end", xName),
  ];
  return { x, y, marks: marks.flat(2) };
}

/** A square for each number of a triangle of rows; its colour has the strength that strength(number) returns. */
function heatmap(rows, labels, title, description, strength = (value) => value) {
  const longest = Math.max(...labels.map((label) => label.length)),
    margin = 12 + 7 * longest;
  const most = rows.length <= 20 ? 18 : rows.length <= FEW ? 12 : 10,
    half = Math.floor((room() / 2 - GAP - margin) / rows.length); // so that two heat maps fit side by side
  const cell = half >= 12 ? Math.min(half, most) : most,
    size = margin + cell * rows.length + 2;
  const letter = cell < 12 ? "tiny" : false;
  return picture(
    size,
    size,
    title,
    description,
    labels.flatMap((label, i) => {
      const at = margin + (i + 0.5) * cell;
      return [
        text(margin - 6, at + 4, "end", label, { class: letter }),
        label.length === 1
          ? text(at, margin - 6, "middle", label, { class: letter })
          : text(0, 0, "start", label, { class: letter, transform: `translate(${at + 4} ${margin - 4}) rotate(-90)` }),
      ];
    }),
    rows.length <= FEW ? squares(rows, labels, margin, cell, strength) : areas(rows, margin, cell, strength),
  );
}

const GAP = 6,
  FEW = 36,
  LEVELS = 24;

/** One element per number, with a tooltip. */
function squares(rows, labels, margin, cell, strength) {
  return rows.flatMap((row, i) =>
    row.map((value, j) =>
      svg(
        "rect",
        {
          x: margin + j * cell,
          y: margin + i * cell,
          width: cell,
          height: cell,
          class: "cell",
          style: { fill: shade(strength(value), "100%") },
        },
        svg("title", {}, `${labels[i]}, ${labels[j]}: ${number(value)}`),
      ),
    ),
  );
}

/** One path per strength level, because a browser is slow with one element per square. */
function areas(rows, margin, cell, strength) {
  const paths = new Map();
  rows.forEach((row, i) =>
    row.forEach((value, j) => {
      const level = Math.round(LEVELS * strength(value));
      if (!paths.has(level)) paths.set(level, []);
      paths.get(level).push(`M${margin + j * cell} ${margin + i * cell}h${cell}v${cell}h-${cell}z`);
    }),
  );
  return [...paths].map(([level, path]) =>
    svg("path", { d: path.join(""), style: { fill: shade(level / LEVELS, "100%") } }),
  );
}
