"use strict";
const get = (id) => document.getElementById(id);
const form = get("form"), features = get("features"), answer = get("answer"), error = get("error");
const kind = form.dataset.kind;
let dropped = null, waiting = 0, asked = null;

function given() {
  if (kind === "image") return dropped;
  return get("text").value.trim() ? get("text").value : null;
}

function say(text) {
  error.textContent = text;
  error.hidden = !text;
}

async function ask() {
  if (asked) asked.abort();
  const body = given();
  if (body === null) { answer.replaceChildren(); return say(""); }
  const mine = asked = new AbortController();
  answer.setAttribute("aria-busy", "true");
  try {
    const number = features.value === "0" ? "" : features.value;
    const response = await fetch("explain?features=" + number, { method: "POST", body, signal: mine.signal });
    const text = response.status === 413 ? "That is too large: 10 MB at most." : await response.text();
    if (mine !== asked) return;
    say(response.ok ? "" : text);
    if (response.ok) answer.innerHTML = text;
    else answer.replaceChildren();
  } catch (reason) {
    if (reason.name !== "AbortError") say("The server does not answer. Is it still running?");
  } finally {
    if (mine === asked) answer.removeAttribute("aria-busy");
  }
}

function soon() {
  clearTimeout(waiting);
  waiting = setTimeout(ask, 250);
}

features.addEventListener("input", () => {
  const number = Number(features.value);
  get("chosen").textContent = number ? number + " of " + features.max : "as many as each model wants";
  soon();
});
form.addEventListener("submit", (event) => event.preventDefault());
if (kind === "text") get("text").addEventListener("input", soon);
else {
  const take = (file) => { if (file) { dropped = file; ask(); } };
  get("file").addEventListener("change", (event) => take(event.target.files[0]));
  const zone = document.documentElement;
  zone.addEventListener("dragover", (event) => { event.preventDefault(); get("drop").classList.add("over"); });
  zone.addEventListener("dragleave", () => get("drop").classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    get("drop").classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
}
