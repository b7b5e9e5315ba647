// The four views. Each fills the panel with the chosen head of the chosen text.

const MOST_LINES = 4000;

// Tokens on both sides, and lines between them as strong as the weights.
function linesView(panel) {
  const { tokens, size } = text();
  const bytes = weights();
  const there = places();
  const row = new Map(there.map((at, i) => [at, i]));
  const high = rowHeight(there.length);
  const received = new Float32Array(size);
  for (const i of there) for (const j of there) received[j] += WEIGHT[bytes[i * size + j]];
  const most = Math.max(...received);
  const room = panel.clientWidth;
  const wide = Math.max(80, Math.min(520, room - (room < 480 ? 204 : 330)));
  const [canvas, context] = board(wide, high * there.length, { "aria-hidden": "true" });
  const sides = ["from", "to"].map((side) =>
    make("ol", { "aria-label": side === "from" ? "Where it looks from" : "Where it looks to" },
      ...there.map((i) => {
        const item = make("li", { "data-side": side, "data-at": i }, make("span", { text: tokens[i] }), make("small"));
        item.style.height = `${high}px`;
        return item;
      })));
  const [left, right] = sides;
  const lowest = there.map((i) => floor(bytes.subarray(i * size, (i + 1) * size), there)); // by row
  const drawn = there.flatMap((i, at) => there.map((j) => bytes[i * size + j]).filter((byte) => byte >= lowest[at]));
  const heavy = cutoff(drawn);
  const full = chosen.bare ? drawn.reduce((most, byte) => Math.max(most, byte), 6) : 255; // what is left is mostly weak

  function draw(focus) {
    context.clearRect(0, 0, wide, high * there.length);
    context.strokeStyle = css("--accent");
    context.lineCap = "round";
    const paths = Array.from({ length: 64 }, () => new Path2D()); // one stroke for all lines of about one weight
    there.forEach((i, at) => {
      if (focus && focus.side === "from" && focus.at !== i) return;
      there.forEach((j, to) => {
        const byte = bytes[i * size + j];
        if (byte < Math.max(lowest[at], focus ? 6 : heavy) || (focus && focus.side === "to" && focus.at !== j)) return;
        const path = paths[byte >> 2], y = (at + 0.5) * high, z = (to + 0.5) * high;
        path.moveTo(2, y);
        path.bezierCurveTo(wide * 0.45, y, wide * 0.55, z, wide - 2, z);
      });
    });
    paths.forEach((path, group) => {
      const root = Math.min(1, (group * 4 + 2) / full);
      context.globalAlpha = Math.min(1, focus ? 0.12 + root * 0.9 : 0.03 + root * root * 0.95);
      context.lineWidth = focus ? 0.8 + 5 * root * root : 0.7 + 2.6 * root * root;
      context.stroke(path);
    });
    const weight = { from: (j) => WEIGHT[bytes[focus.at * size + j]], to: (i) => WEIGHT[bytes[i * size + focus.at]] };
    for (const side of sides) {
      for (const item of side.children) {
        const at = Number(item.dataset.at), here = item.dataset.side;
        const own = focus && focus.side === here && focus.at === at;
        let shade = 0, words = "";
        if (focus && focus.side !== here) {
          shade = Math.sqrt(weight[focus.side](at));
          words = shade ** 2 >= 0.005 ? percent(shade ** 2) : "";
        } else if (!focus && here === "to") shade = 0.7 * (received[at] / most);
        item.classList.toggle("on", Boolean(own));
        item.style.background = own || !shade ? "" : `color-mix(in srgb, var(--accent) ${Math.round(75 * shade)}%, transparent)`;
        item.lastChild.textContent = words;
      }
    }
  }

  const pinned = () => (row.has(chosen.token) ? { side: "from", at: chosen.token } : null);
  const place = (event) => {
    const item = event.target.closest("li");
    return item && { side: item.dataset.side, at: Number(item.dataset.at) };
  };
  const box = make("div", {
    class: high < 16 ? "lines dense" : "lines",
    onpointerover: (event) => draw(place(event) || pinned()),
    onpointerleave: () => draw(pinned()),
    onclick: (event) => {
      const at = place(event);
      if (at && at.side === "from") chooseToken(at.at === chosen.token ? null : at.at);
    },
  }, left, canvas, right);
  panel.append(box);
  draw(pinned());
  if (chosen.share < 1) panel.append(note(`Of each token only the strongest lines are drawn, up to ${percent(chosen.share)} of its attention${chosen.bare ? " to the tokens that are shown" : ""}.`));
  if (heavy > 1) panel.append(note(`Only the strongest of ${drawn.length.toLocaleString("en")} lines are drawn, from ${percent(WEIGHT[heavy])} up. Point at a token to see all of its lines.`));
  return { token: () => draw(pinned()) };
}

// The lowest byte of a row's strongest weights that reach the chosen share of the row.
function floor(bytes, there) {
  if (chosen.share === 1) return 0;
  const sorted = there.map((j) => bytes[j]).sort((a, b) => b - a);
  const most = chosen.share * sorted.reduce((sum, byte) => sum + WEIGHT[byte], 0);
  let sum = 0;
  return sorted.find((byte) => (sum += WEIGHT[byte]) >= most);
}

// The lowest byte such that at most MOST_LINES weights are as high.
function cutoff(bytes) {
  const count = new Uint32Array(256);
  for (const byte of bytes) count[byte]++;
  let byte = 255;
  for (let total = count[255]; byte > 1 && total + count[byte - 1] <= MOST_LINES; byte--) total += count[byte - 1];
  return byte;
}

const note = (words) => make("p", { class: "note", text: words });

// All weights of a head, a row for each query.
function matrixView(panel) {
  const { tokens, size } = text();
  const bytes = weights();
  const named = Math.min(104, 16 + 8 * Math.max(...tokens.map((token) => token.length)));
  const cell = Math.max(2, Math.min(30, Math.floor((panel.clientWidth - named - 24) / size)));
  const labelled = cell >= 9;
  const edge = labelled ? named : 44;
  const [canvas, context] = board(edge + cell * size + 2, edge + cell * size + 2, {
    class: "matrix", tabindex: 0, role: "img", "aria-label": "Matrix of weights: move with the arrow keys, the weight appears below",
  });
  const source = picture(size, size, (i) => palette.heat[bytes[i]]);
  let cursor = null;

  function draw() {
    context.clearRect(0, 0, edge + cell * size + 2, edge + cell * size + 2);
    context.drawImage(source, edge, edge, cell * size, cell * size);
    if (labelled) {
      context.fillStyle = css("--card");
      for (let i = 1; i < size; i++) {
        context.fillRect(edge + i * cell - 0.5, edge, 1, cell * size);
        context.fillRect(edge, edge + i * cell - 0.5, cell * size, 1);
      }
    }
    const [row, column] = cursor || [chosen.token, null];
    const small = Math.min(12.5, cell + 1);
    for (let i = 0; i < size; i++) {
      if (!labelled && i % 16 && i !== row && i !== column) continue;
      const words = labelled ? tokens[i] : String(i);
      const style = { size: small < 10 && !labelled ? 10 : small, mono: labelled, room: edge - 12, align: "right" };
      const at = edge + (i + 0.5) * cell;
      write(context, words, edge - 7, at, { ...style, colour: i === row ? css("--accent") : css("--soft") });
      context.save();
      context.translate(at, edge - 7);
      context.rotate(-Math.PI / 2);
      write(context, words, 0, 0, { ...style, align: "left", colour: i === column ? css("--accent") : css("--soft") });
      context.restore();
    }
    context.strokeStyle = css("--accent");
    context.lineWidth = 2;
    if (row !== null) context.strokeRect(edge - 1, edge + row * cell - 1, size * cell + 2, cell + 2);
    if (cursor) context.strokeRect(edge + column * cell - 1, edge + row * cell - 1, cell + 2, cell + 2);
  }

  const words = ([i, j]) => `${tokens[i]} (${i}) looks at ${tokens[j]} (${j}): ${percent(WEIGHT[bytes[i * size + j]])}`;
  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    const at = [event.clientY - box.top, event.clientX - box.left].map((pixel) => Math.floor((pixel - edge) / cell));
    return at.every((n) => n >= 0 && n < size) ? at : null;
  };
  canvas.addEventListener("pointermove", (event) => {
    const at = under(event);
    tip(event, at && words(at));
    if (String(at) !== String(cursor)) draw((cursor = at));
  });
  canvas.addEventListener("pointerleave", (event) => { tip(event, null); draw((cursor = null)); });
  canvas.addEventListener("click", (event) => { const at = under(event); if (at) chooseToken(at[0]); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (event.key === "Enter" && cursor) chooseToken(cursor[0]);
    if (!step) return;
    event.preventDefault();
    cursor = cursor ? cursor.map((n, axis) => Math.max(0, Math.min(size - 1, n + step[axis]))) : [chosen.token || 0, 0];
    draw();
    say(words(cursor));
  });
  panel.append(canvas, note("A row shows where one token looks and sums to 100 %. A column shows which tokens look at it."));
  draw();
  return { token: draw };
}

// One token's query against every key: q, k, their product number by number, its sum, and the weight.
function neuronView(panel) {
  const { tokens, size } = text();
  const { layer, head } = chosen;
  const width = text().source.layers[layer].size;
  const from = chosen.token === null ? (chosen.token = 0) : chosen.token;
  const q = text().vector("q", layer, head, from);
  const keys = tokens.map((_, i) => text().vector("k", layer, head, i));
  const products = keys.map((k) => k.map((n, i) => n * q[i]));
  const scores = products.map((row) => row.reduce((sum, n) => sum + n, 0) / Math.sqrt(width));
  const bytes = weights().subarray(from * size, (from + 1) * size);
  const largest = (rows) => rows.reduce((most, row) => row.reduce((m, n) => Math.max(m, Math.abs(n)), most), 0);
  const mostK = largest([q, ...keys]), mostP = largest(products), mostS = Math.max(...scores.map(Math.abs));
  const high = rowHeight(size), top = 74;
  const named = Math.min(104, 24 + 8 * Math.max(...tokens.map((token) => token.length)));
  const pixel = Math.max(2, Math.min(8, Math.floor((panel.clientWidth - named - 280) / (2 * width))));
  const strip = pixel * width;
  const x = { k: named, p: named + strip + 18, s: named + 2 * strip + 36, w: named + 2 * strip + 152 };
  const all = [x.w + 120, top + high * size + 4];
  const [canvas, context] = board(...all, { role: "img", "aria-label": "Query against keys; the strongest appear below" });
  const soft = { size: 11.5, colour: css("--soft") };
  write(context, `q of ${tokens[from]}`, x.k, 10, { ...soft, room: strip });
  context.drawImage(picture(width, 1, (i) => signColour(q[i], mostK)), x.k, 20, strip, 16);
  write(context, "k of each token", x.k, 58, { ...soft, room: strip + 12 });
  write(context, "q · k, number by number", x.p, 58, { ...soft, room: strip });
  write(context, DATA.relative ? "score, without distance" : "score: sum / √" + width, x.s, 58, { ...soft, room: 112 });
  write(context, "weight: softmax", x.w, 58, soft);
  const image = (rows, most) => picture(width, size, (i) => signColour(rows[Math.floor(i / width)][i % width], most));
  context.drawImage(image(keys, mostK), x.k, top, strip, high * size);
  context.drawImage(image(products, mostP), x.p, top, strip, high * size);
  const gap = high > 16 ? 3 : 1;
  context.fillStyle = css("--card");
  for (let i = 0; i <= size; i++) context.fillRect(x.k, top + i * high - gap / 2, x.s - x.k, gap);
  for (let i = 0; i < size; i++) {
    const y = top + (i + 0.5) * high, bar = Math.min(12, high - 5);
    write(context, tokens[i], x.k - 10, y, { size: Math.min(12.5, high - 3), mono: true, align: "right", room: named - 14, colour: i === from ? css("--accent") : css("--ink") });
    const length = (30 * Math.abs(scores[i])) / (mostS || 1);
    context.fillStyle = scores[i] < 0 ? css("--minus") : css("--plus");
    context.fillRect(scores[i] < 0 ? x.s + 30 - length : x.s + 30, y - bar / 2, length, bar);
    write(context, signed(scores[i]), x.s + 104, y, { size: 10.5, align: "right", colour: css("--soft") });
    const weight = WEIGHT[bytes[i]];
    context.fillStyle = css("--accent");
    context.fillRect(x.w, y - bar / 2, 66 * weight, bar);
    write(context, percent(weight), x.w + 112, y, { size: 10.5, align: "right", colour: css("--soft") });
  }
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const i = Math.floor((event.clientY - box.top - top) / high), over = event.clientX - box.left;
    const column = ["k", "p"].map((name) => Math.floor((over - x[name]) / pixel)).find((n) => n >= 0 && n < width);
    if (i < 0 || i >= size) return tip(event, null);
    const one = column === undefined ? "" : `\nq[${column}] ${signed(q[column])} × k[${column}] ${signed(keys[i][column])} = ${signed(products[i][column])}`;
    tip(event, `${tokens[from]} → ${tokens[i]}: score ${signed(scores[i])}, weight ${percent(WEIGHT[bytes[i]])}${one}`);
  });
  canvas.addEventListener("pointerleave", (event) => tip(event, null));
  panel.append(canvas, note(
    `${tokens[from]} was chosen in the text above. Blue is positive, orange negative.` +
    (DATA.relative ? " This model adds a score for the distance, which the weights include." : "")));
  return { token: () => show() };
}

// Two texts: the contribution of each word to their cosine.
function wordsView(panel) {
  const words = TEXTS.map(({ tokens }, t) => {
    const whole = [];
    tokens.forEach((token, i) => {
      const share = DATA.shares[t][i];
      if (token.startsWith("##") && whole.length) {
        const last = whole[whole.length - 1];
        last.token += token.slice(2);
        last.share += share;
      } else whole.push({ token, share });
    });
    return whole;
  });
  const most = Math.max(...words.flat().map(({ share }) => Math.abs(share)));
  const box = make("div", { class: "words" },
    make("div", { class: "cosine" }, make("span", { text: DATA.cosine.toFixed(3) }), make("small", { text: "cosine of the two sentence vectors" })));
  words.forEach((row, t) => {
    const chips = row.map(({ token, share }) => {
      const colour = signColour(share, most);
      const chip = make("span", { class: "word" }, make("span", { text: token }), make("small", { text: signed(share, 3) }));
      chip.style.background = paint(colour);
      chip.style.color = inkOn(colour);
      return chip;
    });
    box.append(make("div", {}, make("h3", { text: NAMES[t] }), make("p", {}, ...chips)));
  });
  box.append(note("Blue words raise the cosine, orange ones lower it: integrated gradients, summed over the pieces of a word. The words of a text sum to the difference from the same text without words."));
  panel.append(box);
  return { token: () => {} };
}
