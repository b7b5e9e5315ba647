// Late interaction: the similarities of a query's tokens, as rows, to a document's, with each row's best and its share.

function lateView(panel) {
  const { rows, columns, best, similarities, score } = DATA.late;
  const most = Math.max(...similarities.flat().map(Math.abs));
  const sum = similarities.reduce((total, row, i) => total + row[best[i]], 0);
  const name = (t, at) => TEXTS[t].tokens[at];
  const head = (words, scope, title = "") => make("th", { scope, title }, make("span", { text: words }));
  const body = similarities.map((row, i) => make("tr", {},
    head(name(0, rows[i]), "row", `position ${rows[i]}`),
    make("td", { class: "number", text: row[best[i]].toFixed(3) }),
    make("td", { class: "number", text: sum ? percent(row[best[i]] / sum) : "" }),
    ...row.map((value, j) => {
      const words = `${name(0, rows[i])} (${rows[i]}) · ${name(1, columns[j])} (${columns[j]}): ${signed(value, 3)}`;
      const cell = make("td", { class: j === best[i] ? "best" : "", "aria-label": words,
        onpointermove: (event) => tip(event, words), onpointerleave: (event) => tip(event, null) });
      cell.style.background = paint(signColour(value, most));
      return cell;
    })));
  panel.append(
    make("div", { class: "cosine" }, make("span", { text: score.toFixed(3) }), make("small", { text: `${LATE[DATA.pooling[0]]} of query and document` })),
    make("table", { class: "late" },
      make("thead", {}, make("tr", {}, head("query", "col"), head("best", "col"), head("share", "col"), ...columns.map((at) => head(name(1, at), "col", `position ${at}`)))),
      make("tbody", {}, ...body)),
    note("Each token of the query takes its highest similarity to a token of the document, which is framed; the score is " +
      (DATA.pooling[0] === "meanmaxsim" ? "their mean." : "their sum.") + " Tokens that do not count are left out."));
  return { token: () => {} };
}
