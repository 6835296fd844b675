"use strict";

/* The views of a report: each takes the figures computed in Python and returns the content of its section. */

// ---- the run ----

const TEXTS = { line: ["line", "lines"], "blank-line": ["paragraph", "paragraphs"], none: ["character", "characters"] };

function runView({ run, runs, notices }) {
  const s = run.settings,
    [one, many] = TEXTS[s.split];
  const size =
    `This run is a GPT with ${count(run.n_params, "parameter")} and embedding width ${s.n_embd}: ` +
    `${count(s.n_layer, "layer")}${s.n_layer > 1 ? ", each" : ""} with ${count(s.n_head, "attention head")} ` +
    `and an MLP of ${count(4 * s.n_embd, "neuron")}. ` +
    (run.running
      ? `It predicts each character from up to ${s.block_size} characters before it.`
      : "It predicts each character from the start of the text and up to " +
        `${count(s.block_size - 1, "character")} before it.`);
  const training =
    `It was trained for ${count(run.step, "step")} with ${s.batch_size} ` +
    `${run.running ? (s.batch_size === 1 ? "window" : "windows") : s.batch_size === 1 ? one : many} each`;
  const texts =
    run.texts &&
    ` on ${s.input}, which has ${count(run.texts.count, one, many)}; ` +
      (run.texts.held_out
        ? `${count(run.texts.held_out, one, many)} were held out from training to measure the model.`
        : "none were held out, so everything is measured on the training texts.");
  return [
    notices.map((notice) => element("p", { class: "notice" }, notice)),
    runs.length > 1
      ? element("p", {}, `The losses are those of ${runs.length} runs; everything else is about ${runs[0].name}.`)
      : [],
    element("p", {}, size),
    element("p", {}, training, texts || "."),
    element(
      "p",
      {},
      `Its vocabulary has ${count(run.vocab.length, "character")}`,
      run.running ? ": " : ", besides the start and end of a text: ",
      token(shown(run.vocab.slice(0, 300).join(""))),
      run.vocab.length > 300 ? " …" : "",
    ),
    details("All settings", () =>
      table(
        "Settings",
        ["setting", "value"],
        Object.entries(s).map(([name, value]) => [name, String(value)]),
      ),
    ),
  ].flat();
}

// ---- losses ----

const HUES = ["--first", "--second", "--third", "--fourth"],
  DASHES = ["", "8 3", "2 3", "8 3 2 3"];

function lossesView({ run, runs }) {
  const drawn = runs.map((run, i) => ({ ...run, i })).filter((run) => run.train.length);
  if (!drawn.length) return [element("p", { class: "notice" }, "No losses are available for this run.")];
  const baselines = baselinesOf(drawn);
  const points = drawn.flatMap((run) => [...run.train, ...run.held_out]);
  const n = run.vocab.length + (run.running ? 0 : 1);
  const losses = [...points.map(([, loss]) => loss), ...baselines.map(({ loss }) => loss)];
  const width = room(),
    height = 320,
    low = Math.min(...losses),
    high = Math.max(...losses),
    spare = (high - low) * 0.05 || 0.1;
  const { x, y, marks } = axes(
    width,
    height,
    [0, Math.max(...points.map(([step]) => step))],
    [low - spare, high + spare],
    "step",
    "loss (nats)",
  );
  const line = (points) => points.map(([step, loss]) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`).join(" ");
  const look = ({ i }) => ({ stroke: `var(${HUES[i % 4]})`, strokeDasharray: DASHES[Math.floor(i / 4) % 4] });
  const curve = (run) =>
    [
      svg("polyline", { points: line(run.train), class: "curve", style: look(run) }),
      svg("polyline", { points: line(run.held_out), class: "curve thin", style: look(run) }),
      run.held_out.length > 40
        ? []
        : run.held_out.map(([step, loss]) =>
            svg("circle", { cx: x(step), cy: y(loss), r: 4, class: "dot", style: { stroke: look(run).stroke } }),
          ),
    ].flat();
  const last = (points) => (points.length ? points.at(-1)[1] : NaN);
  const key = (run) =>
    element(
      "li",
      {},
      svg(
        "svg",
        { width: 28, height: 10, "aria-hidden": true },
        svg("line", { x1: 0, x2: 28, y1: 5, y2: 5, class: "curve", style: look(run) }),
      ),
      ` ${run.name}`,
    );
  const heldOut = drawn.some((run) => run.held_out.length);
  const description = drawn
    .map(
      (run) =>
        `${run.name}: last training loss ${number(last(run.train), 4)}` +
        (run.held_out.length ? `, last held-out loss ${number(last(run.held_out), 4)} (${meaning(run)})` : ""),
    )
    .join("; ");
  return [
    figure(
      picture(
        width,
        height,
        "Loss against the step",
        description,
        marks,
        baselines.map(({ loss }) =>
          svg("line", { x1: x(0), x2: width - 20, y1: y(loss), y2: y(loss), class: "baseline" }),
        ),
        apart(baselines.map(({ loss }) => y(loss) - 4)).map((at, i) =>
          text(width - 22, at, "end", baselines[i].label, { class: "halo" }),
        ),
        drawn.flatMap(curve),
      ),
      `${description}. Solid lines are smoothed training losses` +
        (heldOut ? "; thin lines with circles are held-out losses" : "") +
        (baselines.length
          ? "; dotted lines are the losses of a uniform guess and of a bigram table, which counts how often each " +
            "character follows another"
          : "") +
        `. Losses are in nats (1 nat is 1.44 bits): a uniform guess among ${n} outcomes has the loss log ${n} = ` +
        `${number(Math.log(n))}.`,
    ),
    drawn.length > 1 ? element("ul", { class: "key" }, drawn.map(key)) : [],
    details("Losses as numbers", () =>
      element(
        "div",
        {},
        drawn.map((run) =>
          table(
            `Losses of ${run.name}`,
            ["step", `training loss of ${run.name}`, "held out", "bits per character"],
            few(run, 20),
          ),
        ),
      ),
    ),
  ].flat();
}

/** The baselines of the runs, the largest first. Each names its runs if there are several; equal ones are one. */
function baselinesOf(runs) {
  const found = new Map();
  for (const run of runs)
    for (const [name, loss] of Object.entries(run.baselines)) {
      const key = `${name} ${number(loss)}`;
      if (!found.has(key)) found.set(key, { name, loss, runs: [] });
      found.get(key).runs.push(run.name);
    }
  const of = (own) => (runs.length === 1 ? "" : ` of ${own.length === runs.length ? "all runs" : own.join(", ")}`);
  return [...found.values()]
    .sort((a, b) => b.loss - a.loss)
    .map(({ name, loss, runs: own }) => ({ loss, label: `${name}${of(own)} ${number(loss)}` }));
}

/** Heights of labels, from the top, moved down until they no longer overlap. */
function apart(heights) {
  let last = -Infinity;
  return heights.map((at) => (last = Math.max(at, last + 14)));
}

/** What the held-out losses of a run are means of; for means over tokens, the last one in bits per character. */
function meaning({ held_out, mean_over: over }) {
  if (over !== "tokens") return over === null ? "an unknown kind of mean" : "the mean over documents";
  return `${number(held_out.at(-1)[1] / Math.LN2, 3)} bits per character`;
}

/** About n rows of (step, training loss, latest held-out loss, and for means over tokens, its bits per character). */
function few({ train, held_out, mean_over }, n) {
  const every = Math.ceil(train.length / n);
  return train
    .filter((_, i) => i % every === 0 || i === train.length - 1)
    .map(([step, loss]) => {
      const held = held_out.findLast(([at]) => at <= step);
      const bits = held && mean_over === "tokens" ? number(held[1] / Math.LN2, 3) : "–";
      return [step, number(loss, 4), held ? number(held[1], 4) : "–", bits];
    });
}

// ---- one text ----

function surpriseView({ run, texts }) {
  const most = Math.log2(run.vocab.length + (run.running ? 0 : 1)) || 1;
  return texts
    .flatMap((found) => [
      element("h3", {}, token(shown(found.text) || "<end>")),
      element(
        "p",
        {},
        `On average ${number(found.bits.reduce((a, b) => a + b, 0) / found.bits.length)} bits per character.`,
      ),
      element(
        "ol",
        { class: "surprise" },
        found.targets.map((target, i) =>
          element(
            "li",
            {},
            element(
              "div",
              { class: "char", style: { backgroundColor: shade(found.bits[i] / most) } },
              token(visible(target)),
              element("small", {}, `${number(found.bits[i], 1)} bits`),
            ),
            found.likeliest[i].map(([char, p]) =>
              element("div", { class: char === target ? "right" : false }, token(visible(char)), ` ${percent(p)}`),
            ),
          ),
        ),
      ),
    ])
    .concat(
      element(
        "p",
        { class: "muted" },
        `The strongest colour stands for ${number(most, 1)} bits or more, which is the loss of a uniform guess. ` +
          "The actual next character is bold if it is among the five.",
      ),
    );
}

function attentionView(found) {
  const labels = found.inputs.map(given);
  const heads = found.attention.flatMap((layer, l) => layer.map((rows, h) => [`layer ${l}, head ${h}`, rows]));
  const most = (row) => row.reduce((best, p, j) => (p > row[best] ? j : best), 0);
  return [
    element(
      "div",
      { class: "heads" },
      heads.map(([name, rows]) =>
        figure(
          heatmap(
            rows,
            labels,
            `Attention of ${name}`,
            "Row by row, how much a token attends to each token up to itself; the table below has the largest",
            Math.sqrt,
          ),
          name,
          `Attention of ${name}`,
        ),
      ),
    ),
    details("Where each head attends most", () =>
      table(
        "Where each head attends most",
        ["token", ...heads.map(([name]) => name)],
        labels.map((label, i) => [
          token(label),
          ...heads.map(([, rows]) =>
            element(
              "td",
              {},
              token(labels[most(rows[i])]),
              ` at ${most(rows[i])}, ${percent(rows[i][most(rows[i])])}`,
            ),
          ),
        ]),
      ),
    ),
  ];
}

function lensView(found) {
  const cell = ([[char, p], ...others]) =>
    element(
      "td",
      { style: { backgroundColor: shade(p) } },
      token(visible(char)),
      ` ${percent(p)}`,
      element("small", {}, others.map(([other, q]) => [token(visible(other)), ` ${percent(q)} `]).flat()),
    );
  return [
    table(
      `Logit lens of ${shown(found.text)}`,
      ["after", ...found.lens.map(({ name }) => name), "actual"],
      found.inputs.map((char, i) => [
        token(given(char)),
        ...found.lens.map((stage) => cell(stage.likeliest[i])),
        token(visible(found.targets[i])),
      ]),
    ),
  ];
}

function partsView(found) {
  const { names, values, logits } = found.parts,
    most = Math.max(...values.flat().map(Math.abs)) || 1;
  return [
    table(
      `Contributions to the largest logits of ${shown(found.text)}, relative to the mean logit`,
      ["after", "likeliest", ...names, "sum"],
      values.map((row, i) => [
        token(given(found.inputs[i])),
        token(visible(found.likeliest[i][0][0])),
        ...row.map((value) =>
          element("td", { class: "number", style: { backgroundColor: shade(value / most) } }, number(value)),
        ),
        element("td", { class: "number" }, element("strong", {}, number(logits[i]))),
      ]),
    ),
  ];
}

// ---- vectors ----

const KINDS = {
  vowel: [HUES[0], (x, y) => svg("circle", { cx: x, cy: y, r: 5 })],
  consonant: [HUES[1], (x, y) => svg("rect", { x: x - 4.5, y: y - 4.5, width: 9, height: 9 })],
  other: [HUES[2], (x, y) => svg("path", { d: `M${x} ${y - 6}l6 6l-6 6l-6 -6z` })],
  "start and end": [HUES[3], (x, y) => svg("path", { d: `M${x} ${y - 6}l6 11h-12z` })],
};

function kindOf(char) {
  if (char === null) return "start and end";
  if (!/\p{Script=Latin}/u.test(char)) return "other"; // vowels of other scripts are not known here
  return "aeiouæœøıəɛɔ".includes(char.normalize("NFD")[0].toLowerCase()) ? "vowel" : "consonant";
}

function mark(kind, x, y) {
  const [hue, make] = KINDS[kind],
    made = make(x, y);
  made.style.fill = `var(${hue})`;
  return made;
}

function embeddingView({ embedding }) {
  const { characters, shares, positions } = embedding,
    width = Math.min(room(), 620),
    height = Math.round(width * 0.8);
  const range = (values) => [Math.min(...values), Math.max(...values)];
  const { x, y, marks } = axes(
    width - 12,
    height,
    range(characters.map((c) => c[1])),
    range(characters.map((c) => c[2])),
    "first component",
    "second component",
    false,
  );
  const kinds = Object.keys(KINDS).filter((kind) => characters.some(([char]) => kindOf(char) === kind));
  const pair = kinds
    .map((kind) => `${kind}: ${characters.filter(([char]) => kindOf(char) === kind).length}`)
    .join(", ");
  const labels = positions.map((_, i) => String(i));
  return [
    element(
      "ul",
      { class: "key" },
      kinds.map((kind) =>
        element("li", {}, svg("svg", { width: 14, height: 14, "aria-hidden": true }, mark(kind, 7, 7)), ` ${kind}`),
      ),
    ),
    figure(
      picture(
        width,
        height,
        "Map of the character vectors",
        pair,
        marks,
        characters.flatMap(([char, a, b]) => [
          mark(kindOf(char), x(a), y(b)),
          text(x(a) + 8, y(b) + 4, x(a) > width - 70 && char === null ? "end" : "start", given(char), {
            class: "halo",
            dx: x(a) > width - 70 && char === null ? -16 : 0,
          }),
        ]),
      ),
      `The first principal component holds ${percent(shares[0])} of the variance and the second ` +
        `${percent(shares[1])}; the map cannot show the rest.`,
    ),
    details("Map as numbers", () =>
      table(
        "Character vectors",
        ["character", "kind", "first", "second"],
        characters.map(([char, a, b]) => [token(given(char)), kindOf(char), number(a), number(b)]),
      ),
    ),
    element("h3", {}, "Positions"),
    element(
      "p",
      {},
      "Each position has a vector too. A blue square is a pair of positions whose vectors differ from the average " +
        "vector in the same direction, an orange one a pair that differs in opposite directions: blocks of blue are " +
        "positions that the model treats alike.",
    ),
    figure(
      heatmap(positions, labels, "Cosines between the vectors of positions", "The numbers are in the table below"),
      `Cosines between the vectors of the first ${count(positions.length, "position")}.`,
      "Cosines between positions",
    ),
    details("Cosines as numbers", () =>
      table(
        "Cosines",
        ["position", ...labels],
        positions.map((row, i) => [i, ...row.map((value) => number(value))]),
      ),
    ),
  ];
}

// ---- losses by place ----

const MOST_CHARACTERS = 100;

function placesView({ losses }) {
  const { positions, by_position_alone: alone, characters, bits } = losses,
    width = room(),
    height = 240;
  const highest = Math.max(...positions.map(([mean]) => mean), ...alone),
    n = positions.length;
  const { x, y, marks } = axes(width, height, [-0.5, n - 0.5], [0, highest * 1.05], "position in the context", "bits");
  const wide = Math.max(1, (x(1) - x(0)) * 0.8);
  const often = [...characters]
    .sort((a, b) => b[2] - a[2])
    .slice(0, MOST_CHARACTERS)
    .sort((a, b) => b[1] - a[1]);
  const most = Math.max(...often.map(([, mean]) => mean)) || 1;
  return [
    element(
      "p",
      {},
      `Measured on ${count(losses.n_tokens, "character")} of ${count(losses.n_texts, "text")}: ` +
        `${number(bits, 3)} bits per character on average.`,
    ),
    element("h3", {}, "By position"),
    figure(
      picture(
        width,
        height,
        "Loss by position",
        `From ${number(positions[0][0])} bits at the first position to ` + `${number(positions[n - 1][0])} at the last`,
        marks,
        positions.map(([mean], i) =>
          svg("rect", { x: x(i) - wide / 2, y: y(mean), width: wide, height: y(0) - y(mean), class: "column" }),
        ),
        alone.map((cost, i) => svg("line", { x1: x(i - 0.5), x2: x(i + 0.5), y1: y(cost), y2: y(cost), class: "alone" })),
        svg("line", { x1: x(-0.5), x2: x(n - 0.5), y1: y(bits), y2: y(bits), class: "baseline" }),
      ),
      "The dotted line is the average. The mark at each bar is the loss of a guess that knows only how often each " +
        "character occurs at this position in these texts. The gap between a bar and the mark above it is what the " +
        "model gains from the preceding characters. A mark is too low where only a few characters were counted.",
    ),
    details("Positions as numbers", () =>
      table(
        "Loss by position",
        ["position", "bits", "bits by position alone", "characters"],
        positions.map(([mean, n], i) => [i, number(mean), number(alone[i]), n]),
      ),
    ),
    element("h3", {}, "By character"),
    element(
      "p",
      {},
      characters.length > often.length ? `These are the ${often.length} most frequent of ${characters.length}. ` : "",
      "The hardest characters come first: the bar is the average loss in bits where this character comes next.",
    ),
    element(
      "ol",
      { class: "lengths" },
      often.map(([char, mean, n]) =>
        element(
          "li",
          {},
          token(visible(char)),
          element(
            "span",
            { class: "track" },
            element("span", { class: "length", style: { width: `${(100 * mean) / most}%` } }),
          ),
          element("span", { class: "number" }, number(mean)),
          element("small", { class: "muted" }, `${n.toLocaleString("en")} ×`),
        ),
      ),
    ),
  ];
}

// ---- neurons ----

function neuronsView({ neurons }) {
  const example = ({ before, char, after, cut, value }) =>
    element(
      "li",
      {},
      element(
        "span",
        { class: "token" },
        cut[0] ? "…" : "",
        readable(before),
        element("mark", {}, given(char)),
        readable(after),
        cut[1] ? "…" : "",
      ),
      element("span", { class: "number" }, number(value)),
    );
  return [
    element(
      "p",
      {},
      `Measured on ${count(neurons.n_tokens, "character")} of ${count(neurons.n_texts, "text")}. ` +
        "For each layer, the list has the most active neurons and how often each is active.",
    ),
    neurons.layers.flatMap(({ count: size, dead, most_active: best }, l) => [
      element("h3", {}, `Layer ${l}`),
      element(
        "p",
        {},
        dead
          ? `${dead} of ${count(size, "neuron")} ${dead === 1 ? "is" : "are"} dead (never active on these texts).`
          : `None of ${count(size, "neuron")} is dead: each is active somewhere in these texts.`,
      ),
      element(
        "ul",
        { class: "neurons" },
        best.map((neuron) =>
          element(
            "li",
            {},
            element("strong", {}, `Neuron ${neuron.index}`),
            `, active at ${percent(neuron.active)} of the characters`,
            element("ol", {}, neuron.examples.map(example)),
          ),
        ),
      ),
    ]),
  ].flat();
}

// ---- samples ----

function samplesView({ run, samples }) {
  const { texts } = samples,
    [, many] = TEXTS[run.settings.split];
  if ("distance" in texts[0]) {
    return [
      element(
        "p",
        {},
        `${percent(samples.new)} of ${count(texts.length, "sample")} are new, that is, not among the training ${many}.`,
      ),
      table(
        "Samples",
        ["sample", "new", `nearest of the training ${many}`, "edit distance"],
        texts.map((sample) => [
          token(shown(sample.text) || "<end>"),
          sample.new ? "new" : "known",
          token(shown(sample.nearest)),
          sample.distance,
        ]),
      ),
    ];
  }
  const item = ({ text, run: [start, length] = [0, 0] }) => {
    const chars = [...text],
      part = (from, to) => chars.slice(from, to).join("");
    return element(
      "li",
      {},
      element(
        "p",
        { class: "sample" },
        part(0, start),
        length ? element("mark", {}, part(start, start + length)) : "",
        part(start + length),
      ),
      length
        ? element("p", { class: "muted" }, `The marked ${count(length, "character")} are also in the training text.`)
        : [],
    );
  };
  return [
    samples.new === null
      ? []
      : element("p", {}, `${percent(samples.new)} of ${count(texts.length, "sample")} are new.`),
    element("ol", { class: "samples" }, texts.map(item)),
  ].flat();
}
