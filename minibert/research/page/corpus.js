// The view of a corpus: the tokens that are nearest to the chosen one, in their lines.

// Where the chosen head looks the most from a match: its position in the line.
function looksAt(match) {
  const { matches, looks } = DATA.corpus;
  const all = text().source.layers.reduce((sum, layer) => sum + layer.heads, 0);
  const before = text().source.layers.slice(0, chosen.layer).reduce((sum, layer) => sum + layer.heads, 0);
  DATA.corpus.unpacked ||= new Int16Array(unpack(looks).buffer);
  return DATA.corpus.unpacked[((chosen.bare ? matches.length : 0) + match) * all + before + chosen.head];
}

// The word that a token is a piece of.
function wordAt(tokens, at) {
  let begin = at, end = at + 1;
  while (begin && tokens[begin].startsWith("##")) begin--;
  while (end < tokens.length && tokens[end].startsWith("##")) end++;
  return tokens.slice(begin, end).map((token, i) => (i ? token.replace(/^##/, "") : token)).join("");
}

// How often each word occurs, the most frequent first.
function counts(title, words) {
  const found = new Map();
  for (const word of words) found.set(word, (found.get(word) || 0) + 1);
  const rows = [...found].sort((a, b) => b[1] - a[1]).slice(0, 8).flatMap(([word, count]) => {
    const bar = make("i");
    bar.style.width = `${(100 * count) / words.length}%`;
    return [make("dt", { text: word }), make("dd", { class: "bar" }, bar), make("dd", { class: "number", text: count })];
  });
  return make("section", {}, make("h3", { text: title }), make("dl", { class: "bars" }, ...rows));
}

function context([match, score]) {
  const [line, at] = DATA.corpus.matches[match];
  const tokens = DATA.corpus.lines[line], to = looksAt(match);
  const { template } = text().source;
  const hidden = chosen.bare ? template.map((i) => text().tokens[i]) : [];
  const words = tokens.flatMap((token, i) => {
    if (i !== at && hidden.includes(token)) return [];
    const name = i === at ? "mark" : i === to ? "u" : "span";
    const piece = make(name, { text: token.replace(/^##(?=.)/, "") });
    if (i === at && i === to) piece.classList.add("both");
    return i && !token.startsWith("##") ? [" ", piece] : [piece];
  });
  return make("li", {}, make("small", { text: score.toFixed(3), title: "cosine" }), make("p", {}, ...words),
    make("small", { text: `line ${line + 1}, looks at ${wordAt(tokens, to)}` }));
}

const searchName = ({ layer, heads }) =>
  heads.length ? `the output of ${heads.length > 1 ? "heads" : "head"} ${heads.join(", ")} in layers.${layer}` : `the state after layers.${layer}`;

function corpusView(panel) {
  const { tokens } = text();
  if (chosen.token === null) chosen.token = tokens.findIndex((_, i) => !text().source.template.includes(i));
  if (chosen.token < 0) chosen.token = 0;
  const found = text().source.nearest[chosen.search][chosen.token];
  const lines = found.map(([match]) => DATA.corpus.lines[DATA.corpus.matches[match][0]]);
  panel.append(
    make("h3", { text: `Nearest to ${tokens[chosen.token]} (${chosen.token})` }),
    make("div", { class: "counts" },
      counts("Words found", found.map(([match], i) => wordAt(lines[i], DATA.corpus.matches[match][1]))),
      counts(`Where layers.${chosen.layer}, head ${chosen.head}, looks from there`, found.map(([match], i) => wordAt(lines[i], looksAt(match))))),
    make("ol", { class: "contexts" }, ...found.map(context)),
    note(`The nearest of all tokens in ${DATA.corpus.size.toLocaleString("en")} lines by the cosine of ${searchName(DATA.corpus.searches[chosen.search])}. Underlined: where the chosen head looks the most.`));
  return { token: () => show() };
}
