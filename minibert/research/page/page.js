// The frame around the views: the text, the heads, the tabs, the theme, and the keys.

const VIEWS = { lines: ["Lines", linesView], matrix: ["Matrix", matrixView], neuron: ["q · k", neuronView] };
if (DATA.corpus) VIEWS.corpus = ["Corpus", corpusView];
if (DATA.late) VIEWS.late = ["MaxSim", lateView];
if (DATA.shares) VIEWS.words = ["Words of the pair", wordsView];
let shown = null; // the handlers of the current view

function say(words) {
  $("said").textContent = words;
}

// The new place in a row of `count` after a key, or undefined.
function moved(key, at, count) {
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: count - 1 }[key];
  return to === undefined ? undefined : Math.max(0, Math.min(count - 1, to));
}

function show() {
  const panel = $("panel");
  panel.replaceChildren();
  panel.setAttribute("aria-labelledby", `tab-${chosen.view}`);
  tip(null, null);
  $("by").hidden = chosen.view !== "corpus" || DATA.corpus.searches.length < 2;
  $("most").hidden = chosen.view !== "lines";
  $("less").hidden = !["lines", "corpus"].includes(chosen.view);
  const view = VIEWS[chosen.view][1];
  panel.classList.toggle("pair", Boolean(DATA.masked));
  shown = DATA.masked ? sideBySide(panel, view) : view(panel);
  for (const tab of $("tabs").children) {
    const own = tab.id === `tab-${chosen.view}`;
    tab.setAttribute("aria-selected", own);
    tab.tabIndex = own ? 0 : -1;
  }
  markToken();
}

// The text as written, and with words masked.
function sideBySide(panel, view) {
  const { text } = chosen;
  const sides = NAMES.map((name, i) => {
    const side = make("section", { "aria-label": name }, make("h2", { text: name }));
    panel.append(side);
    chosen.text = i;
    return view(side);
  });
  chosen.text = text;
  return { token: () => (chosen.view === "lines" || chosen.view === "matrix" ? sides.forEach((side) => side.token()) : show()) };
}

function chooseView(name) {
  chosen.view = name;
  show();
}

function chooseToken(at) {
  chosen.token = at;
  markToken();
  shown.token();
}

function markToken() {
  const { tokens, size } = text();
  [...$("strip").children].forEach((chip, i) => {
    chip.setAttribute("aria-selected", i === chosen.token);
    chip.tabIndex = i === (chosen.token || 0) ? 0 : -1;
  });
  if (["words", "late"].includes(chosen.view)) return say("");
  if (chosen.token === null) return say("Choose a token to see where it looks.");
  const row = weights().subarray(chosen.token * size, (chosen.token + 1) * size);
  const best = [...row.keys()].sort((a, b) => row[b] - row[a]).slice(0, 4);
  say(`${tokens[chosen.token]} (${chosen.token}) looks most at ${best.map((i) => `${tokens[i]} (${i}) ${percent(WEIGHT[row[i]])}`).join(", ")}.`);
}

function drawStrip() {
  const { tokens, pooled, source } = text();
  const most = Math.max(...pooled.map(Math.abs)) || 1;
  const late = Boolean(LATE[DATA.pooling[0]]), whole = DATA.late ? "score" : late ? "tokens that count" : "sentence vector";
  $("strip").replaceChildren(...tokens.map((token, i) => {
    const bar = make("i");
    bar.style.width = `calc((100% - 12px) * ${Math.abs(pooled[i]) / most})`;
    return make("button", {
      class: "token", type: "button", role: "option", "aria-label": `${token}, position ${i}, ${percent(pooled[i])} of the ${whole}`,
      title: `position ${i}, ${percent(pooled[i])} of the ${whole}`,
      onclick: () => chooseToken(i === chosen.token ? null : i),
    }, make("small", { text: i }), token, bar);
  }));
  const ways = DATA.pooling.join(" + ");
  const lost = source.lost ? ` ${source.lost} further tokens were cut off: the text is longer than the model allows.` : "";
  $("pooling").textContent = `The bar below a token is its ${late ? "share" : "weight"} ${late ? "of" : "in"} the ${whole} (${late ? LATE[ways] : `pooling: ${ways}`}).${lost}`;
}

$("strip").addEventListener("keydown", (event) => {
  const at = [...$("strip").children].indexOf(event.target);
  const to = moved(event.key, at, text().size);
  if (event.key === "Escape") chooseToken(null);
  if (to === undefined) return;
  event.preventDefault();
  chooseToken(to);
  $("strip").children[to].focus();
});

// A thumbnail. If there are more tokens than pixels, each pixel shows its strongest weight.
function thumbnail(layer, head, pixels) {
  const { size } = text();
  const bytes = text().weights(layer, head);
  const side = Math.min(size, Math.round(pixels * Math.min(2, devicePixelRatio || 1)));
  if (side === size) return picture(size, size, (i) => palette.heat[bytes[i]]);
  const strongest = new Uint8Array(side * side);
  const place = Uint16Array.from({ length: size }, (_, i) => Math.floor((i * side) / size));
  for (let i = 0, at = 0; i < size; i++) {
    const row = place[i] * side;
    for (let j = 0; j < size; j++, at++) {
      const to = row + place[j];
      if (bytes[at] > strongest[to]) strongest[to] = bytes[at];
    }
  }
  return picture(side, side, (i) => palette.heat[strongest[i]]);
}

function drawHeads() {
  const layers = text().source.layers.length;
  const widest = Math.max(...text().source.layers.map((layer) => layer.heads));
  const side = Math.max(16, Math.min(44, Math.floor(322 / widest) - 2));
  const width = `min(${side}px, (100% - 24px) / ${widest} - 2px)`; // narrower on a phone, next to the layer numbers
  const top = make("div", { class: "row top", "aria-hidden": "true" }, make("span"));
  for (let head = 0; head < widest; head++) {
    const number = make("b", { text: head });
    number.style.width = width;
    top.append(number);
  }
  const rows = [top];
  for (let layer = 0; layer < layers; layer++) {
    const row = make("div", { class: "row", role: "row" }, make("span", { text: layer, "aria-hidden": "true" }));
    for (let head = 0; head < heads(layer); head++) {
      const cell = make("button", {
        class: "head", type: "button", role: "gridcell", id: `head-${layer}-${head}`,
        "aria-label": `layer ${layer}, head ${head}`, title: `layer ${layer}, head ${head}`,
        onclick: () => chooseHead(layer, head),
      }, thumbnail(layer, head, side));
      cell.style.width = width;
      row.append(cell);
    }
    rows.push(row);
  }
  $("heads").replaceChildren(...rows);
  markHead();
}

function chooseHead(layer, head) {
  Object.assign(chosen, { layer, head });
  markHead();
  show();
}

function markHead() {
  for (const cell of $("heads").querySelectorAll(".head")) {
    const own = cell.id === `head-${chosen.layer}-${chosen.head}`;
    cell.setAttribute("aria-selected", own);
    cell.tabIndex = own ? 0 : -1;
  }
  $("chosen").textContent = `layers.${chosen.layer}, head ${chosen.head}`;
  drawHabits();
}

$("heads").addEventListener("keydown", (event) => {
  let { layer, head } = chosen;
  if (["ArrowUp", "ArrowDown"].includes(event.key)) layer = moved(event.key, layer, text().source.layers.length);
  else head = moved(event.key, head, heads(layer));
  if (head === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  chooseHead(layer, Math.min(head, heads(layer) - 1));
  $(`head-${chosen.layer}-${chosen.head}`).focus();
});

// Where a head looks, averaged over the tokens.
function drawHabits() {
  const { tokens, size } = text();
  const bytes = weights();
  const to = (place) => {
    let sum = 0;
    for (let i = 0; i < size; i++) if (place(i) >= 0 && place(i) < size) sum += WEIGHT[bytes[i * size + place(i)]];
    return sum / size;
  };
  const habits = [["itself", to((i) => i)], ["the one before", to((i) => i - 1)], ["the one after", to((i) => i + 1)],
    [tokens[0], to(() => 0)], [tokens[size - 1], to(() => size - 1)]];
  $("habits").replaceChildren(...habits.flatMap(([name, weight]) => {
    const bar = make("i");
    bar.style.width = `${100 * Math.min(1, weight)}%`;
    return [make("dt", { text: name }), make("dd", { class: "bar" }, bar), make("dd", { class: "number", text: percent(weight) })];
  }));
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = name === "dark" ? "☀" : "☾";
  readPalette();
  const scale = $("scale").querySelector("canvas");
  scale.replaceWith(picture(256, 1, (i) => palette.heat[i]));
  drawHeads();
  show();
}

function chooseText(at) {
  chosen.text = at;
  chosen.token = null;
  [...$("texts").children].forEach((choice, i) => {
    choice.setAttribute("aria-checked", i === at);
    choice.tabIndex = i === at ? 0 : -1;
  });
  drawStrip();
  drawHeads();
  show();
}

// A row of buttons, one of them chosen; the arrow keys move.
function choices(box, role, entries, choose) {
  entries.forEach(([id, words], i) => {
    box.append(make("button", { type: "button", role, id, text: words, onclick: () => choose(i),
      onkeydown: (event) => {
        const to = moved(event.key, i, entries.length);
        if (to === undefined) return;
        event.preventDefault();
        choose(to);
        box.children[to].focus();
      } }));
  });
}

// What a masked-LM head would put where words are masked.
function drawGuesses() {
  const { positions, guesses } = DATA.masked;
  const chip = ([word, score]) => make("span", { class: "word" }, make("span", { text: word }), make("small", { text: percent(score) }));
  $("guesses").hidden = false;
  $("guesses").append(...positions.map((at, i) => make("p", {}, make("b", { text: `${TEXTS[0].tokens[at]} (${at})` }),
    ...(guesses ? [" is masked. The masked-LM head would put", ...guesses[i].map(chip)] : [" is masked."]))));
  if (!guesses) $("guesses").append(note("This checkpoint has no masked-LM head that could fill in words."));
}

$("share").addEventListener("input", ({ target }) => {
  chosen.share = target.value / 100;
  target.nextElementSibling.textContent = `${target.value} %`;
  show();
});
$("bare").addEventListener("change", ({ target }) => { chosen.bare = target.checked; show(); });
$("search").addEventListener("change", ({ target }) => { chosen.search = target.selectedIndex; show(); });

function start() {
  const layers = DATA.texts[0].layers;
  const shapes = [...new Set(layers.map((layer) => `${layer.heads} heads of ${layer.size}`))];
  const cosine = "cosine" in DATA ? ` · cosine${DATA.masked ? " with and without" : ""} ${DATA.cosine.toFixed(3)}` : "";
  $("model").textContent = `${layers.length} layers, ${shapes.join(" or ")} · ${LATE[DATA.pooling[0]] || `pooling ${DATA.pooling.join(" + ")}`}${DATA.late ? ` ${DATA.late.score.toFixed(3)}` : ""}${cosine}`;
  $("foot").textContent = `minibert ${DATA.version}. Square roots of weights are stored to within 1/510, q and k to within 1/254 of the largest number in their vector. Everything is in this file.`;
  choices($("tabs"), "tab", Object.entries(VIEWS).map(([name, [words]]) => [`tab-${name}`, words]), (i) => chooseView(Object.keys(VIEWS)[i]));
  if (DATA.masked) drawGuesses();
  if (DATA.corpus) $("search").append(...DATA.corpus.searches.map((search) => make("option", { text: searchName(search) })));
  const marks = TEXTS[0].source.template.map((i) => TEXTS[0].tokens[i]);
  $("less").lastElementChild.textContent = `Hide ${marks.join(" and ")}`;
  if (TEXTS.length > 1) {
    $("texts").hidden = false;
    choices($("texts"), "radio", TEXTS.map((_, i) => [`text-${i}`, NAMES[i]]), chooseText);
  }
  const system = matchMedia("(prefers-color-scheme: dark)");
  readPalette();
  chooseText(0);
  setTheme(system.matches ? "dark" : "light");
  system.addEventListener("change", () => setTheme(system.matches ? "dark" : "light"));
  $("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(show, 120);
  });
}

start();
