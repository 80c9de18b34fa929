"use strict";
// Adds to a running task's log what comes. Rows are made of text nodes only: nothing in a log can become markup.
(function () {
  const table = document.querySelector("table.log[data-events]");
  if (!table || !window.EventSource) return;
  const MOST_ROWS = 5000;
  const body = table.tBodies[0];
  const earlier = document.getElementById("earlier");
  const atEnd = () => window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 40;

  function cell(row, text) {
    return row.appendChild(document.createElement("td")).appendChild(document.createTextNode(text));
  }

  // What is above the first row is on a page of its own.
  function lead() {
    const first = body.rows.length > 0 ? Number(body.rows[0].id.slice(1)) : 1;
    earlier.hidden = first === 1;
    earlier.search = "?before=" + first;
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
    lead();
    const none = document.getElementById("none");
    if (none) none.hidden = body.rows.length > 0;
    if (follow) window.scrollTo(0, document.documentElement.scrollHeight);
  }

  function say(text) {
    const note = document.createElement("p");
    note.className = "note";
    note.textContent = text;
    table.parentNode.before(note);
  }

  const source = new EventSource(table.dataset.events);
  source.addEventListener("all", (event) => {
    body.replaceChildren();
    add(JSON.parse(event.data));
  });
  source.addEventListener("more", (event) => add(JSON.parse(event.data)));
  source.addEventListener("trouble", (event) => {
    source.close();
    say(JSON.parse(event.data).detail);
  });
  source.addEventListener("error", () => {
    // A broken connection is opened again; any answer that is no stream (a sign-in page, a refusal) ends it for good.
    if (source.readyState === EventSource.CLOSED) say("What comes is not shown here any more: reload the page.");
  });
  source.addEventListener("end", () => {
    source.close();
    window.location.reload(); // its status, result and whole log
  });
})();
