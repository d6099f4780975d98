"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const part = (name) => document.getElementById(name);
  const key = "excise-rating-" + data.page;
  // Bit 0 of an answer is the left picture, bit 1 the right one.
  let state = { rater: "", at: 0, answers: {}, seconds: {} };
  let since = Date.now();

  function kept() {
    try { return JSON.parse(localStorage.getItem(key)) || state; } catch { return state; }
  }

  function keep() {
    try { localStorage.setItem(key, JSON.stringify(state)); } catch { /* the page works without */ }
  }

  function show() {
    const begun = state.rater !== "";
    const done = state.at >= data.pairs.length;
    part("start").hidden = begun;
    part("rate").hidden = !begun || done;
    part("end").hidden = !begun || !done;
    if (!begun || done) return;
    const pair = data.pairs[state.at];
    part("left").src = pair.pictures[0].src;
    part("right").src = pair.pictures[1].src;
    part("progress").value = state.at;
    part("where").textContent = `Pair ${state.at + 1} of ${data.pairs.length}: which show ${data.concept}?`;
    for (const button of document.querySelectorAll("[data-answer]"))
      button.setAttribute("aria-pressed", String(state.answers[pair.id] === Number(button.dataset.answer)));
    part("back").disabled = state.at === 0;
    since = Date.now();
  }

  function answer(value) {
    const pair = data.pairs[state.at];
    if (pair === undefined) return;
    state.answers[pair.id] = value;
    state.seconds[pair.id] = Math.round((Date.now() - since) / 100) / 10;
    state.at += 1;
    keep();
    show();
  }

  function back() {
    if (state.at === 0) return;
    state.at -= 1;
    keep();
    show();
  }

  const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;

  function lines() {
    const rows = [["page", "rater", "concept", "pair", "picture", "shows", "seconds"]];
    for (const pair of data.pairs) {
      const seen = {};  // equal pictures are one
      pair.pictures.forEach((picture, side) => {
        seen[picture.id] = seen[picture.id] || Boolean(state.answers[pair.id] & (1 << side));
      });
      for (const [picture, shows] of Object.entries(seen))
        rows.push([data.page, state.rater, data.concept, pair.id, picture, shows ? "yes" : "no", state.seconds[pair.id]]);
    }
    return rows.map((row) => row.map(quoted).join(",") + "\n").join("");
  }

  function save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines()], { type: "text/csv" }));
    link.download = `ratings-${state.rater.replace(/[^\p{L}\p{N}]+/gu, "-")}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    part("saved").textContent = `Saved as ${link.download}.`;
  }

  part("who").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = part("name").value.trim();
    if (name === "") return;
    const before = kept();
    state = before.rater === name ? before : { rater: name, at: 0, answers: {}, seconds: {} };
    keep();
    show();
  });
  for (const button of document.querySelectorAll("[data-answer]"))
    button.addEventListener("click", () => answer(Number(button.dataset.answer)));
  part("back").addEventListener("click", back);
  part("save").addEventListener("click", save);
  document.addEventListener("keydown", (event) => {
    if (state.rater === "" || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const done = state.at >= data.pairs.length;
    if (event.key === "Backspace") { event.preventDefault(); back(); }
    else if (!done && "0123".includes(event.key)) answer(Number(event.key));
    else if (done && event.key === "Enter") { event.preventDefault(); save(); }
  });
  show();
})();
