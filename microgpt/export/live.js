"use strict";

/* The "Try it" section: predictions for a text while it is typed, and samples. */

const MAX_RUNNING = 500; // characters of running text to evaluate: each needs a forward pass
const LIKELIEST = 12; // outcomes to show at first
const SLICE = 12; // milliseconds of drawing between two pauses in which the page can react to input

const FIELDS = [ // the settings of `microgpt sample`, with its defaults
  ["num_samples", "How many", "20", { type: "number", min: 1, max: 1000 }],
  ["temperature", "Temperature", "0.5", { type: "number", min: 0, max: 1000, step: "any" }],
  ["top_k", "Top-k (0: all)", "0", { type: "number", min: 0, max: 1e9 }],
  ["top_p", "Top-p (1: all)", "1", { type: "number", min: 0.000001, max: 1, step: "any" }],
  ["seed", "Seed", "42", { inputmode: "numeric", pattern: "[0-9]{1,18}", title: "a whole number of up to 18 digits" }],
];
const LENGTH = ["length", "Characters", "500", { type: "number", min: 1, max: 10000 }]; // of running text

/** Fill a section that already has its heading. */
function live(container, model) {
  const views = [stepsView(model, go), followsView(model, go), headsView(model)];
  const message = element("p", { id: "live-message", class: "message", role: "status" });
  const summary = element("p", { class: "muted", role: "status" });
  const typed = textField(model, { "aria-describedby": "live-message", input: () => type(typed.value) });
  const most = model.end === null ? MAX_RUNNING : model.config.block_size;
  const label = `Beginning of a text${model.end === null ? "" : `, up to ${most} characters`}`;
  let chars = []; // the typed characters that the model can read
  let losses = [];

  /** Evaluate a new text, and select its last step. */
  function type(text) {
    const all = Array.from(text);
    const unknown = all.findIndex((char) => !model.ids.has(char));
    chars = all.slice(0, unknown < 0 ? most : Math.min(unknown, most));
    const wrong = chars.length < all.length;
    typed.setAttribute("aria-invalid", wrong);
    message.classList.toggle("wrong", wrong);
    if (!wrong) message.textContent = fullText(model, chars.length);
    else if (unknown === chars.length) message.textContent = unknownText(model, all[unknown], unknown);
    else message.textContent = `Only the first ${most} characters are used.`;
    losses = chars.length || model.end !== null ? model.score(chars.join("")).losses : [];
    look(chars.length);
  }

  /** Select a step; with `char`, replace the rest of the text by this character. */
  function go(step, char) {
    if (char === undefined) return look(step);
    typed.value = chars.slice(0, step).join("") + char;
    type(typed.value);
  }

  function look(wanted) {
    const last = model.end === null ? chars.length : Math.min(chars.length, model.config.block_size - 1);
    const step = Math.max(0, Math.min(wanted, last));
    const probs = model.next(chars.slice(0, step).join(""));
    const ranked = [...probs].sort((a, b) => b[1] - a[1]);
    const state = { chars, losses, step, last, probs, ranked, next: chars[step], context: model.reading };
    for (const view of views) view.show(state);
    summary.textContent = summaryText(model, state);
  }

  container.classList.add("live");
  container.append(
    element("label", { class: "field" }, label, typed),
    message,
    ...views.slice(0, 1).map((view) => view.element),
    summary,
    ...views.slice(1).map((view) => view.element),
    drawingView(model, (text) => {
      typed.value = text;
      type(text);
      typed.focus();
    }),
  );
  try {
    typed.value = model.sample({ num_samples: 1, length: model.end === null ? 24 : 0 })[0];
    type(typed.value);
  } catch (error) { // the weights are so large that the logits are not finite
    message.textContent = error.message;
  }
}

/* ---- words ---- */

function tokenText(model, token) {
  return token === model.end ? "<start>" : visible(model.vocab[token]);
}

function bits(loss) {
  return loss / Math.LN2;
}

function unknownText(model, char, i) {
  const known = model.vocab.slice(0, 100).map(visible).join(" ");
  const more = model.vocab.length > 100 ? " …" : "";
  return `The model does not know “${visible(char)}” (character ${i + 1}). It knows: ${known}${more}`;
}

function fullText(model, n) {
  const size = model.config.block_size;
  if (model.end === null) {
    return n <= size ? "" : `The context of ${size} tokens is full, so the model has dropped its older half.`;
  }
  return n < size ? "" : `The context is full: it holds the start and ${size - 1} characters, so nothing can follow character ${size}.`;
}

function summaryText(model, { step, last, probs, ranked, next, context }) {
  const read = step ? `“${tokenText(model, context.tokens.at(-1))}”` : "the start";
  const likely = ranked.slice(0, 3).map(([char, p]) => `${visible(char)} ${percent(p, 1)}`).join(", ");
  const surprise = () => bits(-Math.log(probs.get(next))).toFixed(2);
  const actual = next === undefined ? "" : ` The next character is ${visible(next)}: ${surprise()} bits.`;
  const position = context.tokens.length - 1;
  return `Step ${step} of ${last}: the model reads ${read} at position ${position} and predicts ${likely}.${actual}`;
}

/* ---- parts ---- */

/** A text field; it has several lines if the vocabulary has newlines. */
function textField(model, attributes) {
  const lines = model.vocab.includes("\n");
  const plain = { autocomplete: "off", autocapitalize: "off", spellcheck: "false", dir: "auto", class: "token" };
  const [tag, own] = lines ? ["textarea", { rows: 3 }] : ["input", { type: "text" }];
  return element(tag, { ...plain, ...own, ...attributes });
}

/** The children of an element, after adding or removing some so that there are n. */
function resized(parent, n, make) {
  while (parent.children.length > n) parent.lastChild.remove();
  while (parent.children.length < n) parent.append(make(parent.children.length));
  return Array.from(parent.children);
}

/** Let the arrow keys move through a group: they call go(n), where n is counted from present(). */
function arrowKeys(group, present, go) {
  const steps = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -1e9, End: 1e9 };
  group.addEventListener("keydown", (event) => {
    if (!(event.key in steps) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    go(present() + steps[event.key]);
  });
}

/** The text token by token, each with its loss in bits; one token is the selected step. */
function stepsView(model, go) {
  let state = { step: 0, last: 0 };
  const back = element("button", { type: "button", click: () => move(state.step - 1) }, "◀ Back");
  const forward = element("button", { type: "button", click: () => move(state.step + 1) }, "Forward ▶");
  const tokens = element("div", { class: "tokens", role: "group", "aria-label": "Tokens, each with its loss in bits" });
  const label = "Step through the text";
  const group = element("div", { class: "steps", role: "group", "aria-label": label }, back, forward, tokens);

  function move(step) {
    const within = tokens.contains(document.activeElement);
    go(Math.max(0, Math.min(step, state.last)));
    if (within) tokens.children[state.step].focus();
  }

  const make = (i) => element(
    "button", { type: "button", class: "step", click: () => move(i) },
    element("bdi", { class: "token" }), element("span", { class: "bits" }),
  );
  arrowKeys(group, () => state.step, move);

  function show(now) {
    state = now;
    const { chars, losses, step, last } = state;
    const names = ["<start>", ...chars.map(visible), ...(losses.length > chars.length ? ["<end>"] : [])];
    resized(tokens, names.length, make).forEach((button, i) => {
      const loss = losses[i - 1];
      const [name, number] = button.children;
      name.textContent = names[i];
      number.textContent = loss === undefined ? "" : bits(loss).toFixed(2);
      button.dataset.loss = loss ?? "";
      button.style.setProperty("--share", `${Math.min(1, bits(loss ?? 0) / 8) * 40}%`);
      button.tabIndex = i === step ? 0 : -1;
      button.disabled = i > last; // the model predicts, but never reads, the end and a token that fills the context
      button.toggleAttribute("aria-current", false);
      if (i === step) button.setAttribute("aria-current", "step");
    });
    back.setAttribute("aria-disabled", step === 0);
    forward.setAttribute("aria-disabled", step === last);
  }

  const explained = "The number below a token is its loss: the surprise of the model, in bits. "
    + "Use the arrow keys to move through the tokens."
    + (model.end === null ? ` Losses are computed as by microgpt score: after ${model.config.block_size} characters, the older half is dropped. `
      + "The predictions below use the latest characters, so they may differ slightly." : "");
  return { element: element("div", {}, group, element("p", { class: "muted" }, explained)), show };
}

/** The predictions at the selected step. */
function followsView(model, go) {
  let state;
  let all = false;
  let focused = 0;
  const title = element("h3");
  const list = element("ol", { class: "bars" });
  const more = element("button", { type: "button", "aria-expanded": "false", click: () => {
    all = !all;
    more.setAttribute("aria-expanded", all);
    show(state);
  } });

  const make = (rank) => element("li", {}, element(
    "button", { type: "button", class: "bar", focus: () => focus(rank), click: () => {
      const char = state.ranked[rank][0];
      if (char !== null) go(state.step, char);
    } },
    element("bdi", { class: "token" }), element("span", { class: "track" }, element("span")),
    element("span", { class: "number" }),
  ));
  const buttons = () => Array.from(list.children, (item) => item.firstChild);
  arrowKeys(list, () => focused, (rank) => buttons()[Math.max(0, Math.min(rank, list.children.length - 1))].focus());

  function focus(rank) {
    focused = rank;
    buttons().forEach((button, i) => (button.tabIndex = i === rank ? 0 : -1));
  }

  function show(now) {
    state = now;
    const { chars, step, ranked, next } = state;
    const before = chars.slice(Math.max(0, step - 12), step).map(visible).join("");
    const text = element("bdi", { class: "token" }, `${step > 12 ? "…" : ""}${before}`);
    title.replaceChildren("Predictions after ", step ? text : "the start");
    const n = all ? ranked.length : Math.min(LIKELIEST, ranked.length);
    resized(list, n, make).forEach(({ firstChild: button }, rank) => {
      const [char, p] = ranked[rank];
      const [name, track, number] = button.children;
      name.textContent = visible(char);
      track.firstChild.style.width = `${100 * p}%`;
      number.textContent = percent(p, 1);
      Object.assign(button.dataset, { char: char ?? "", probability: p });
      button.classList.toggle("came", char === next);
      button.setAttribute("aria-disabled", char === null);
    });
    focus(Math.min(focused, n - 1));
    const rest = ranked.slice(LIKELIEST).reduce((sum, [, p]) => sum + p, 0);
    more.hidden = ranked.length <= LIKELIEST;
    const others = `Show the other ${ranked.length - LIKELIEST}, together ${percent(rest, 1)}`;
    more.textContent = all ? `Show only the ${LIKELIEST} likeliest` : others;
  }

  const explained = "Press a character to append it here. A dot marks the character that comes next in the text.";
  return { element: element("div", {}, title, element("p", { class: "muted" }, explained), list, more), show };
}

/** The attention weights of each head at the selected step. */
function headsView(model) {
  const { n_layer, n_head } = model.config;
  const caption = element("p", { class: "muted", id: "live-attention" });
  const head = element("tr", {}, element("th", { scope: "col" }, "layer, head"));
  const heading = () => element("th", { scope: "col" }, element("bdi", { class: "token" }));
  const row = (i) => element("tr", {}, element("th", { scope: "row" }, `${Math.floor(i / n_head)}, ${i % n_head}`));
  const rows = Array.from({ length: n_layer * n_head }, (_, i) => row(i));

  function show({ context }) {
    const { tokens, attention } = context;
    const at = tokenText(model, tokens.at(-1));
    caption.textContent = `How much each head attends to each token while the model reads “${at}”, in percent.`;
    const [, ...names] = resized(head, tokens.length + 1, () => heading());
    names.forEach((cell, i) => (cell.firstChild.textContent = tokenText(model, tokens[i])));
    rows.forEach((row, i) => {
      const weights = attention[Math.floor(i / n_head)].at(-1)[i % n_head];
      const [, ...cells] = resized(row, weights.length + 1, () => element("td"));
      cells.forEach((cell, j) => {
        cell.textContent = (100 * weights[j]).toFixed(0);
        cell.dataset.weight = weights[j];
        cell.style.backgroundColor = `color-mix(in srgb, var(--first) ${50 * weights[j]}%, var(--background))`;
      });
    });
  }

  const parts = [element("thead", {}, head), element("tbody", {}, ...rows)];
  const table = element("table", { class: "attention", "aria-describedby": "live-attention" }, ...parts);
  return { element: element("div", {}, element("h3", {}, "Attention"), caption, scroll("Attention of each head", table)), show };
}

/** A form with sampling settings, and the samples drawn with them. */
function drawingView(model, look) {
  let drawing = null; // the running generator, if any; the page reacts to input while it pauses
  const running = model.end === null;
  const fields = running ? [...FIELDS, LENGTH] : FIELDS;
  const input = ([name, , value, attributes]) => [name, element("input", { value, required: true, ...attributes })];
  const inputs = Object.fromEntries(fields.map(input));
  if (running) inputs.num_samples.value = "3"; // these samples are long
  const prompt = textField(model, {});
  const button = element("button", { type: "submit" }, "Draw samples");
  const said = element("p", { class: "message", role: "status" });
  const list = element("ol", { class: running || model.vocab.includes("\n") ? "samples lines" : "samples" });
  const command = element("code");

  function settings() {
    const value = (input) => (input.type === "number" ? input.valueAsNumber : input.value);
    const given = Object.entries(inputs).map(([name, input]) => [name, value(input)]);
    return { ...Object.fromEntries(given), prompt: prompt.value };
  }

  /** Draw all samples in slices of time; stops when `drawing` is set to another generator or to null. */
  async function drawAll(given) {
    const mine = (drawing = model.samples(given));
    list.replaceChildren();
    said.textContent = "";
    button.textContent = "Stop";
    let shown = null; // the unfinished sample
    let n = 0;
    let begun = performance.now();
    try {
      for (const { text, done } of mine) {
        const pause = performance.now() - begun > SLICE;
        if (shown === null) list.append(element("li", {}, (shown = sampleButton())));
        if (pause || done) shown.textContent = text;
        if (done) [shown, n] = [null, n + 1];
        if (!pause) continue;
        await new Promise((resolve) => setTimeout(resolve));
        if (drawing !== mine) break;
        begun = performance.now();
      }
      const stopped = drawing === mine ? "" : ", then stopped";
      said.textContent = `${n} ${n === 1 ? "sample" : "samples"}${stopped}. Press a sample to inspect it.`;
    } catch (error) {
      said.textContent = `Beginning: ${error.message}`;
    }
    drawing = null;
    button.textContent = "Draw samples";
  }

  function sampleButton() {
    return element("button", { type: "button", click: (event) => look(event.currentTarget.textContent) });
  }

  function submit(event) {
    event.preventDefault();
    const given = settings();
    const chars = Array.from(given.prompt);
    const unknown = chars.findIndex((char) => !model.ids.has(char));
    said.classList.toggle("wrong", unknown >= 0);
    if (drawing !== null) drawing = null;
    else if (unknown >= 0) said.textContent = unknownText(model, chars[unknown], unknown);
    else {
      command.replaceChildren(...commandWords(given));
      drawAll(given);
    }
  }

  const form = element("form", { class: "settings", submit },
    ...fields.map(([name, label]) => element("label", { class: "field" }, label, inputs[name])),
    element("label", { class: "field wide" }, "Beginning", prompt), button);
  command.replaceChildren(...commandWords(settings()));
  return element("div", {}, element("h3", {}, "Samples"), form, said, list,
    element("p", { class: "muted" }, "To get the same samples on the command line: ", command));
}

/** The command that prints these samples; lines can break only between its words. */
function commandWords(given) {
  const flags = Object.entries(given).filter(([, value]) => value !== "").map(([name, value]) => {
    const word = /^[\w.]+$/.test(value) ? value : `'${value.replaceAll("'", "'\\''")}'`;
    return `--${name.replace("_", "-")}=${word}`;
  });
  return ["microgpt", "sample", "RUN", ...flags].flatMap((word) => [element("span", {}, word), " "]);
}
