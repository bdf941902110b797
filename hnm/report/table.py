"""A page's table of slides: sorted and filtered in the browser, without any library. A page has one, and SCRIPT at its end."""

import html
from collections.abc import Iterable, Mapping

Column = tuple[str, str, str]  # heading, the kind by which its cells are sorted (text or number), and what it says

RESULTS = ("right", "wrong", "none")


def sorted_table(columns: Iterable[Column], body: str, choices: Mapping[str, Iterable[str]], searched: str, rows: str) -> str:
    """Return the table under its filters as HTML.

    Args:
        columns: from left to right.
        body: its rows as HTML, each `<tr data-NAME=value>` for the names of `choices`.
        choices: by name the values that one may choose.
        searched: what is told in the empty search field.
        rows: what the rows are called, such as slides.
    """
    heads = "".join(
        f"<th aria-sort=none data-kind={kind} title='{html.escape(title)}'><button type=button>{name}</button>"
        for name, kind, title in columns
    )
    return (
        f"<p class=filters><label>search <input id=search type=search placeholder='{searched}'></label>"
        f"{''.join(_choice(name, values) for name, values in choices.items())} <span id=shown role=status></span></p>"
        f"<div class=scroll><table id=slide-table class=wide data-rows='{rows}'><thead><tr>{heads}<tbody>{body}</table></div>"
    )


def _choice(name: str, values: Iterable[str]) -> str:
    options = "".join(f"<option>{html.escape(value)}" for value in values)
    return f"<label>{name} <select id={name}><option value=''>all{options}</select></label>"


def bar(score: float, threshold: float) -> str:
    """Return a score as a number on a bar of that length, in another colour from the threshold on."""
    kind = "high" if score >= threshold else "low"
    return f"<span class='bar {kind}' style='--share:{100 * score:.1f}%'>{score:.3f}</span>"


SCRIPT = """<script>
"use strict";
const table = document.getElementById("slide-table"), body = table.tBodies[0], rows = [...body.rows];
const value = (row, column, kind) => {
  const text = row.cells[column].textContent;
  return kind === "number" ? (text === "" ? null : Number(text)) : text;
};
const sortBy = (head) => {
  const column = head.cellIndex, kind = head.dataset.kind;
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const known = rows.map(row => [value(row, column, kind), row]);
  known.sort(([a], [b]) => {  // what is not known stays at the end, up or down
    if (a === null || b === null) return (a === null) - (b === null);
    const order = kind === "number" ? a - b : a.localeCompare(b, "en", {numeric: true});
    return down ? -order : order;
  });
  body.append(...known.map(([, row]) => row));
};
for (const head of table.tHead.rows[0].cells) head.firstChild.addEventListener("click", () => sortBy(head));
const control = name => document.getElementById(name), choices = [...document.querySelectorAll(".filters select")];
const filter = () => {
  const words = control("search").value.toLowerCase();
  let shown = 0;
  for (const row of rows) {
    const kept = choices.every(choice => !choice.value || row.dataset[choice.id] === choice.value)
      && row.textContent.toLowerCase().includes(words);
    row.hidden = !kept;
    shown += kept;
  }
  control("shown").textContent = `${shown} of ${rows.length} ${table.dataset.rows}`;
};
for (const asked of [control("search"), ...choices]) asked.addEventListener("input", filter);
filter();
</script>"""
