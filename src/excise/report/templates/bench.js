"use strict";
document.documentElement.classList.add("js");

// A click on a header sorts; missing figures stay last in both directions.
for (const table of document.querySelectorAll("table.results")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending" || (head.hasAttribute("data-text") && head.getAttribute("aria-sort") === "none");
      const key = row => row.cells[at].dataset.sort;
      const order = head.hasAttribute("data-text")
        ? (a, b) => key(a).localeCompare(key(b)) : (a, b) => Number(key(a)) - Number(key(b));
      const rows = [...body.rows], known = rows.filter(r => key(r) !== ""), rest = rows.filter(r => key(r) === "");
      known.sort((a, b) => up ? order(a, b) : order(b, a));
      body.append(...known, ...rest);
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
    });
  });
}

// One concept at a time.
for (const select of document.querySelectorAll("select[data-part]")) {
  const show = () => {
    for (const section of document.querySelectorAll(`#${select.dataset.part} .concept`))
      section.hidden = select.value !== "all" && section.id !== select.value;
  };
  select.addEventListener("change", show);
  show();
}

// A click on a picture enlarges it.
const dialog = document.querySelector("dialog"), large = dialog.querySelector("img"), text = dialog.querySelector("p");
for (const image of document.querySelectorAll(".shots img")) {
  const button = document.createElement("button");
  button.type = "button";
  button.title = "enlarge";
  image.replaceWith(button);
  button.append(image);
  button.addEventListener("click", () => {
    large.src = image.src;
    large.alt = image.alt;
    text.textContent = image.alt;
    dialog.showModal();
  });
}
dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
