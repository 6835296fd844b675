"use strict";

/* The model in JavaScript, structured like model.py. It computes in doubles, one token at a time, with a cache of keys
   and values. Its samples are exactly those of `microgpt sample`. */

const RMSNORM_EPS = 1e-5;

/** y = W x, where W is stored column by column. */
function matmul(w, x) {
  const rows = w.length / x.length;
  const y = new Float64Array(rows);
  for (let k = 0, i = 0; k < x.length; k++) {
    const factor = x[k];
    for (let row = 0; row < rows; row++) y[row] += w[i++] * factor;
  }
  return y;
}

function column(w, j, rows) {
  return w.subarray(j * rows, (j + 1) * rows);
}

function add(a, b) {
  return a.map((value, i) => value + b[i]);
}

function dot(a, b, start = 0, end = a.length) {
  let sum = 0;
  for (let i = start; i < end; i++) sum += a[i] * b[i];
  return sum;
}

function rmsnorm(x) {
  const rstd = 1 / Math.sqrt(dot(x, x) / x.length + RMSNORM_EPS);
  return x.map((value) => value * rstd);
}

function softmax(x) {
  const top = x.reduce((a, b) => Math.max(a, b));
  const e = x.map((value) => Math.exp(value - top));
  const sum = e.reduce((a, b) => a + b);
  return e.map((value) => value / sum);
}

/** The tokens read so far, and for each its keys, values, attention and the logits of the next token. */
class Context {
  constructor(model) {
    const layers = () => Array.from({ length: model.config.n_layer }, () => []);
    Object.assign(this, { model, tokens: [], logits: [], keys: layers(), values: layers(), attention: layers() });
  }

  /** Read one more token, at the next position. */
  read(token) {
    const { params: p, config } = this.model;
    const n = config.n_embd;
    let x = rmsnorm(add(column(p.wte, token, n), column(p.wpe, this.tokens.length, n)));
    for (let layer = 0; layer < config.n_layer; layer++) {
      const l = `layer${layer}.`;
      let h = rmsnorm(x);
      const q = matmul(p[l + "attn_wq"], h);
      this.keys[layer].push(matmul(p[l + "attn_wk"], h));
      this.values[layer].push(matmul(p[l + "attn_wv"], h));
      h = this.attend(q, layer);
      x = add(x, matmul(p[l + "attn_wo"], h));
      h = rmsnorm(x);
      h = matmul(p[l + "mlp_fc1"], h).map((value) => Math.max(value, 0));
      x = add(x, matmul(p[l + "mlp_fc2"], h));
    }
    const logits = matmul(p.lm_head, x);
    if (!logits.every(Number.isFinite)) {
      throw new Error("expected finite logits, found inf or nan: the model's weights are too large");
    }
    this.tokens.push(token);
    this.logits.push(logits);
  }

  attend(q, layer) {
    const size = q.length / this.model.config.n_head;
    const out = new Float64Array(q.length);
    const heads = [];
    for (let start = 0; start < q.length; start += size) {
      const scores = this.keys[layer].map((key) => dot(q, key, start, start + size) / Math.sqrt(size));
      const probs = softmax(scores);
      this.values[layer].forEach((value, i) => {
        for (let d = start; d < start + size; d++) out[d] += probs[i] * value[d];
      });
      heads.push(probs);
    }
    this.attention[layer].push(heads);
    return out;
  }

  /** Forget all but the first n tokens. */
  keep(n) {
    for (const list of [this.tokens, this.logits, ...this.keys, ...this.values, ...this.attention]) list.length = n;
  }

  /** Make these the tokens of the context; a common beginning is not computed again. */
  have(tokens) {
    let same = 0;
    while (same < this.tokens.length && this.tokens[same] === tokens[same]) same++;
    this.keep(same);
    for (const token of tokens.slice(same)) this.read(token);
    return this;
  }
}

class Model {
  /** `data` is what page.model_data() returns. */
  constructor(data) {
    const running = data.split === "none";
    Object.assign(this, { config: data, vocab: data.vocab, end: running ? null : data.vocab.length });
    this.start = running ? Math.max(0, data.vocab.indexOf("\n")) : this.end;
    this.ids = new Map(data.vocab.map((char, id) => [char, id]));
    this.outcomes = running ? data.vocab : [...data.vocab, null]; // the outcome of each logit; null is the end of the text
    this.params = {};
    for (const [name, text] of Object.entries(data.params)) {
      const { buffer } = Uint8Array.from(atob(text), (byte) => byte.charCodeAt(0));
      const numbers = data.dtype === "float64" ? new Float64Array(buffer) : new Float32Array(buffer);
      this.params[name] = Float64Array.from(numbers);
    }
    this.reading = new Context(this);
    this.scoring = []; // a Context for each window
  }

  /** The id of each character. Throws an Error for an unknown character, or for more than `most`. */
  encode(text, most = Infinity) {
    const ids = Array.from(text, (char, i) => {
      const id = this.ids.get(char);
      if (id === undefined) {
        throw new Error(`expected characters of the vocabulary, found ${JSON.stringify(char)} at position ${i + 1}`);
      }
      return id;
    });
    if (ids.length > most) throw new Error(`expected at most ${most} characters, found ${ids.length}`);
    return ids;
  }

  /** The Context after reading a prefix; it is valid until the next call. */
  read(prefix) {
    const size = this.config.block_size;
    if (this.end !== null) return this.reading.have([this.start, ...this.encode(prefix, size - 1)]);
    const ids = prefix ? this.encode(prefix) : [this.start];
    return this.reading.have(ids.slice(-1 - place(ids.length - 1, size)[0])); // only the part that is still in the context
  }

  /** Like Model.next: a Map from each possible next character, and the end (null), to its probability. */
  next(prefix = "") {
    const probs = softmax(this.read(prefix).logits.at(-1));
    return new Map(this.outcomes.map((char, id) => [char, probs[id]]));
  }

  /** Like Model.score: {text, loss, losses}. */
  score(text) {
    const size = this.config.block_size;
    const ids = [this.start, ...this.encode(text), ...(this.end === null ? [] : [this.end])];
    const n = ids.length - 1;
    const half = Math.floor(size / 2); // of a full context: a window begins with the newer half of the one before
    const losses = [];
    for (let start = 0; start === 0 || start + half < n; start += size - half) {
      const { logits } = this.window(start / (size - half)).have(ids.slice(start, Math.min(start + size, n)));
      for (let i = start ? half : 0; i < logits.length; i++) losses.push(cross_entropy(logits[i], ids[start + i + 1]));
    }
    return { text, loss: losses.reduce((a, b) => a + b, 0) / losses.length, losses };
  }

  /** Like Model.attention: weights[layer][head][token][attended token]. */
  attention(text) {
    const size = this.config.block_size;
    const ids = [this.start, ...this.encode(text, size)];
    const { attention } = this.window(0).have(ids.slice(0, this.end === null ? -1 : size));
    const rows = (layer, head) => layer.map((heads) => layer.map((_, i) => heads[head][i] ?? 0));
    return attention.map((layer) => Array.from({ length: this.config.n_head }, (_, head) => rows(layer, head)));
  }

  window(i) {
    return (this.scoring[i] ??= new Context(this));
  }

  /** Like Model.sample: an array of texts. */
  sample(settings = {}) {
    return Array.from(this.samples(settings)).filter(({ done }) => done).map(({ text }) => text);
  }

  /** Yields {text, done} after each character of each sample. */
  *samples({ num_samples = 20, temperature = 0.5, top_k = 0, top_p = 1, prompt = "", length = 0, seed = 42 }) {
    const { end, config: { block_size } } = this;
    const given = this.encode(prompt, end === null || length ? Infinity : block_size - 1);
    const most = given.length + (length || (end === null ? 500 : block_size - given.length));
    const alone = end === null && given.length > 0; // the context begins with the prompt, without the start token
    const random = new Random(seed);
    const context = new Context(this);
    for (let n = 0; n < num_samples; n++) {
      const uniform = Float64Array.from({ length: most }, () => random.random()); // one per possible character
      const ids = [];
      for (let i = 0; i < most; i++) {
        const [position, again] = i ? place(i - alone, block_size) : [0, 0];
        if (position !== context.tokens.length) context.have(ids.slice(i - 1 - again, i - 1));
        context.read(i ? ids[i - 1] : this.start);
        const id = i < given.length ? given[i] : draw(context.logits[position], uniform[i], temperature, top_k, top_p);
        if (id === end) break;
        ids.push(id);
        yield { text: this.decode(ids), done: false };
      }
      context.keep(0);
      yield { text: this.decode(ids), done: true };
    }
  }

  decode(ids) {
    return ids.map((id) => this.vocab[id]).join("");
  }
}

/** [position of a text's i-th token in the context, number of earlier tokens to read again first]. */
function place(i, size) {
  if (i < size) return [i, 0];
  const half = Math.floor(size / 2);
  const behind = (i - size) % (size - half);
  return [half + behind, behind ? 0 : half];
}

function cross_entropy(logits, target) {
  const top = logits.reduce((a, b) => Math.max(a, b));
  return Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - top), 0)) - (logits[target] - top);
}

/* ---- drawing one token, like draw.c ---- */

function draw(logits, uniform, temperature, top_k, top_p) {
  const top = logits.indexOf(logits.reduce((a, b) => Math.max(a, b)));
  if (temperature === 0) return top;
  const probs = softmax(logits.map((logit) => logit / temperature));
  if (Number.isNaN(probs[0])) return top; // the temperature is too low for the precision
  if (top_k || top_p < 1) keep_likeliest(probs, top_k || probs.length, top_p);
  const whole = probs.reduce((a, b) => a + b) * uniform;
  let so_far = 0;
  return probs.reduce((id, p) => id + ((so_far += p) <= whole), 0);
}

/** Set to 0 all but the top_k largest, and of these all but the largest that together reach top_p. */
function keep_likeliest(probs, top_k, top_p) {
  const ranks = Array.from(probs.keys()).sort((a, b) => probs[b] - probs[a] || a - b);
  let sum = 0;
  const kept = ranks.findIndex((id, rank) => rank === top_k || (sum += probs[id]) - probs[id] >= top_p);
  if (kept >= 0) for (const id of ranks.slice(kept)) probs[id] = 0;
}

/** The Mersenne twister MT19937, seeded like Python's random.Random. A seed is a number, BigInt or digits. */
class Random {
  constructor(seed) {
    const key = [];
    for (let left = BigInt(seed); left || !key.length; left >>= 32n) key.push(Number(left & 0xffffffffn));
    this.state = new Uint32Array(624);
    this.at = 624;
    const s = this.state;
    s[0] = 19650218;
    for (let i = 1; i < 624; i++) s[i] = Math.imul(1812433253, s[i - 1] ^ (s[i - 1] >>> 30)) + i;
    let i = 1;
    const mix = (n, factor, added) => {
      for (let k = 0; k < n; k++) {
        s[i] = (s[i] ^ Math.imul(s[i - 1] ^ (s[i - 1] >>> 30), factor)) + added(k);
        if (++i === 624) [s[0], i] = [s[623], 1];
      }
    };
    mix(Math.max(624, key.length), 1664525, (k) => key[k % key.length] + (k % key.length));
    mix(623, 1566083941, () => -i);
    s[0] = 0x80000000;
  }

  word() {
    const s = this.state;
    if (this.at === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (s[i] & 0x80000000) | (s[(i + 1) % 624] & 0x7fffffff);
        s[i] = s[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.at = 0;
    }
    let y = s[this.at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** A random number in [0, 1) with 53 bits. */
  random() {
    const high = this.word() >>> 5;
    return (high * 2 ** 26 + (this.word() >>> 6)) / 2 ** 53;
  }
}

if (typeof module !== "undefined") module.exports = { Model, Random };
