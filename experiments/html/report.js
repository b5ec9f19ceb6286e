"use strict";
// Filters, sorts and enlarges the triggers, and saves embedded data. The page says all it has to say without this.
(() => {
  const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));

  for (const button of all("button.download")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const source = document.getElementById(button.dataset.for);
      const address = URL.createObjectURL(new Blob([source.textContent], { type: "application/json" }));
      const link = document.createElement("a");
      link.href = address;
      link.download = button.dataset.for.replace("data-", "") + ".json";
      link.click();
      setTimeout(() => URL.revokeObjectURL(address), 1000);
    });
  }

  window.addEventListener("beforeprint", () => all("details").forEach((part) => { part.open = true; }));

  const filters = document.getElementById("filters");
  if (!filters) return;
  const cards = all(".card");
  const list = cards[0].parentElement;
  const shown = document.getElementById("shown");
  const more = document.getElementById("more");
  const AT_ONCE = 24;
  let limit = AT_ONCE;
  filters.hidden = false;

  const fits = (card, key, wanted) => {
    if (!wanted) return true;
    const held = card.dataset[key];
    return key === "mutation" ? held.split("|").includes(wanted) : held === wanted;
  };
  const visible = () => all(".card", list).filter((card) => !card.hidden);

  function apply() {
    const asked = new FormData(filters);
    const key = asked.get("sort") || "place";
    const ordered = cards.slice().sort((one, two) => one.dataset[key] - two.dataset[key] || one.dataset.place - two.dataset.place);
    list.append(...ordered);
    const fitting = ordered.filter((card) => ["pair", "mutation", "round", "repaired"].every((name) => fits(card, name, asked.get(name))));
    for (const card of cards) card.hidden = true;
    for (const card of fitting.slice(0, limit)) card.hidden = false;
    const count = Math.min(limit, fitting.length);
    shown.textContent = `${count} of ${fitting.length} shown` + (fitting.length < cards.length ? `, ${cards.length} on this page` : "");
    more.hidden = count === fitting.length;
  }
  more.addEventListener("click", () => { limit += AT_ONCE; apply(); });
  filters.addEventListener("change", () => { limit = AT_ONCE; apply(); });
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("reset", () => setTimeout(apply));
  apply();  // a browser may keep the choices of an earlier visit

  const zoom = document.getElementById("zoom");
  let current = null;

  function show(card) {
    current = card;
    const copies = [".zoom .picture", ".answers", ".facts"].flatMap((part) => all(part, card));
    document.getElementById("zoomed-title").replaceChildren(...all("p strong, .chip", card).flatMap((part) => [part.cloneNode(true), " "]));
    document.getElementById("zoomed").replaceChildren(...copies.map((part) => part.cloneNode(true)));
    if (!zoom.open) zoom.showModal();
  }
  function move(step) {
    const places = visible();
    show(places[(places.indexOf(current) + step + places.length) % places.length]);
  }
  for (const card of cards) card.querySelector(".zoom").addEventListener("click", () => show(card));
  for (const button of all("[data-move]", zoom)) {
    button.addEventListener("click", () => (Number(button.dataset.move) ? move(Number(button.dataset.move)) : zoom.close()));
  }
  zoom.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") move(-1);
    if (event.key === "ArrowRight") move(1);
  });
  zoom.addEventListener("click", (event) => { if (event.target === zoom) zoom.close(); });
})();
