// Sorts and filters the page's one table of slides.
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
for (const head of table.tHead.rows[0].cells) head.querySelector("button").addEventListener("click", () => sortBy(head));
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
