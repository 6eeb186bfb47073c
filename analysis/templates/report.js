"use strict";

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}

function sortBy(header) {
  const descending = header.getAttribute("aria-sort") === "ascending";
  const body = header.closest("table").tBodies[0];
  const column = header.cellIndex;
  const numeric = header.classList.contains("number");
  const key = (row) => row.cells[column].dataset.value;
  const compare = (a, b) => {
    // Cells without a value stay below, whichever way the others go.
    if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");
    const order = numeric ? Number(key(a)) - Number(key(b)) : key(a).localeCompare(key(b));
    return descending ? -order : order;
  };
  body.append(...[...body.rows].sort(compare));
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
}

const tip = document.getElementById("tip");
const REACH = 28; // pixels: about a fingertip

for (const figure of document.querySelectorAll("figure[data-labels]")) {
  const points = [];
  for (const [id, texts] of Object.entries(JSON.parse(figure.dataset.labels))) {
    const group = document.getElementById(id);
    [...group.querySelectorAll("use")].forEach((mark, index) => points.push({ mark, text: texts[index] }));
  }
  const show = (event) => {
    let nearest = null;
    let best = REACH;
    for (const point of points) {
      const box = point.mark.getBoundingClientRect();
      const distance = Math.hypot(
        event.clientX - (box.left + box.right) / 2, event.clientY - (box.top + box.bottom) / 2);
      if (distance < best) [nearest, best] = [point, distance];
    }
    clear();
    if (nearest) place(nearest, event);
  };
  figure.addEventListener("pointermove", show);
  figure.addEventListener("pointerdown", show);
  figure.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") clear(); });
}
addEventListener("scroll", clear, true);

function clear() {
  tip.hidden = true;
  for (const mark of document.querySelectorAll(".near")) mark.classList.remove("near");
}

function place(point, event) {
  point.mark.classList.add("near");
  tip.textContent = point.text;
  tip.hidden = false;
  const left = Math.min(event.clientX + 12, document.documentElement.clientWidth - tip.offsetWidth - 8);
  const above = event.clientY - tip.offsetHeight - 12;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${above > 8 ? above : event.clientY + 20}px`;
}
