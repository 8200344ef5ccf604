"use strict";
// Sorting, filtering and the sample filter. Everything is readable without it.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  document.documentElement.classList.add("js");

  // A click on a heading sorts: numbers from the highest, text from A; the next click turns it round.
  const value = (cell, kind) => {
    if (kind !== "number") return cell.textContent.trim().toLowerCase();
    return cell.dataset.v === "" ? null : Number(cell.dataset.v);
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  for (const button of all("th .sort")) {
    button.addEventListener("click", () => {
      const heading = button.parentElement;
      const table = heading.closest("table");
      const first = heading.dataset.kind === "number" ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = heading.getAttribute("aria-sort") === first ? other : first;
      for (const th of all("th[aria-sort]", table)) th.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const keyed = [...table.tBodies[0].rows].map((row) => [value(row.cells[heading.cellIndex], heading.dataset.kind), row]);
      keyed.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)));
      table.tBodies[0].append(...keyed.map(([, row]) => row)); // what has no number stays last either way
    });
  }

  for (const input of all("input[data-table]")) {
    const rows = [...document.getElementById(input.dataset.table).tBodies[0].rows];
    const count = input.parentElement.querySelector(".count");
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
      count.textContent = words.length ? `${rows.filter((row) => !row.hidden).length} of ${rows.length}` : "";
    });
  }

  const chips = all("#samples .chip");
  const samples = all("#samples .sample");
  for (const chip of chips) {
    const kind = chip.dataset.kind;
    const matches = samples.filter((sample) => !kind || sample.dataset.kinds.split(" ").includes(kind));
    chip.append(` ${matches.length}`);
    chip.disabled = matches.length === 0;
    chip.addEventListener("click", () => {
      for (const other of chips) other.setAttribute("aria-pressed", String(other === chip));
      const shown = new Set(matches);
      for (const sample of samples) sample.hidden = !shown.has(sample);
      for (const shard of all("#samples .shard")) {
        shard.hidden = all(".sample", shard).every((sample) => sample.hidden);
        shard.open = Boolean(kind) && !shard.hidden;
      }
      chip.parentElement.querySelector(".count").textContent = `${matches.length} of ${samples.length} samples`;
    });
  }
})();
