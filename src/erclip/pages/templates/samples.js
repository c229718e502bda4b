"use strict";
// Search among the sampled responses, and a link to each.
(() => {
  const view = document.querySelector(".samples"), box = view?.querySelector(".search");
  if (!box) return;
  const rows = [...view.querySelectorAll("tr.sample")], count = view.querySelector(".count");
  const plain = (text) => text.toLowerCase().replace(/\s+/g, " ").trim();
  const search = () => {
    const words = plain(box.value);
    let found = 0;
    for (const row of rows) {
      row.hidden = !(row.text ??= plain(row.textContent)).includes(words);
      found += !row.hidden;
    }
    count.textContent = words ? `${found} of ${rows.length} hold this` : "";
  };
  box.addEventListener("input", search);
  box.closest(".find").hidden = false;
  const open = () => {
    const row = location.hash.startsWith("#sample-") && document.getElementById(location.hash.slice(1));
    if (!row) return;
    for (const all of view.querySelectorAll("input[id$=-all]")) all.checked = true;
    box.value = "";
    search();
    for (const fold of row.querySelectorAll("details")) fold.open = true;
    row.scrollIntoView({ block: "center" });
  };
  addEventListener("hashchange", open);
  open();
})();
