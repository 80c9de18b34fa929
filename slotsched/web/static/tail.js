"use strict";
// Adds to a running task's log what comes. Rows are made of text nodes only: nothing in a log can become markup.
(function () {
  const table = document.querySelector("table.log[data-events]");
  if (!table || !window.EventSource) return;
  const MOST_ROWS = 5000;
  const body = table.tBodies[0];
  const atEnd = () => window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 40;

  function cell(row, text) {
    return row.appendChild(document.createElement("td")).appendChild(document.createTextNode(text));
  }

  function add(rows) {
    const follow = atEnd();
    for (const [number, time, level, stream, text] of rows) {
      const row = document.createElement("tr");
      row.id = "L" + number;
      row.className = level;
      const link = document.createElement("a");
      link.href = "#L" + number;
      link.textContent = number;
      row.appendChild(document.createElement("td")).appendChild(link);
      cell(row, time);
      cell(row, level);
      cell(row, stream);
      cell(row, text);
      row.lastChild.className = "text";
      body.appendChild(row);
    }
    while (body.rows.length > MOST_ROWS) body.deleteRow(0);
    const none = document.getElementById("none");
    if (none) none.hidden = body.rows.length > 0;
    if (follow) window.scrollTo(0, document.documentElement.scrollHeight);
  }

  const source = new EventSource(table.dataset.events);
  source.addEventListener("all", (event) => {
    body.replaceChildren();
    add(JSON.parse(event.data));
  });
  source.addEventListener("more", (event) => add(JSON.parse(event.data)));
  source.addEventListener("trouble", (event) => {
    source.close();
    const note = document.createElement("p");
    note.className = "note";
    note.textContent = JSON.parse(event.data).detail;
    table.parentNode.before(note);
  });
  source.addEventListener("end", () => {
    source.close();
    window.location.reload(); // its status, result and whole log
  });
})();
