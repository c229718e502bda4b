"use strict";
// The live report: asks every few seconds whether there is news, and renews what changed in place.
(() => {
  const bar = document.querySelector(".live"), words = bar.querySelector(".state"), pause = bar.querySelector("button");
  const shown = new Map(); // part of the page → its HTML
  let version = bar.dataset.version, paused = false, seen = Date.now();

  const ago = () => {
    const seconds = Math.round((Date.now() - seen) / 1000);
    return seconds < 60 ? `${seconds} s ago` : `${Math.round(seconds / 60)} min ago`;
  };
  const renew = (fresh) => {
    for (const old of document.querySelectorAll("[data-renew]")) {
      const next = fresh.querySelector(`[data-renew="${old.dataset.renew}"]`);
      if (!next || next.outerHTML === shown.get(old.dataset.renew)) continue;
      const open = [...old.querySelectorAll("details[open] > summary")].map((s) => s.textContent);
      shown.set(old.dataset.renew, next.outerHTML);
      for (const summary of next.querySelectorAll("details > summary"))
        if (open.includes(summary.textContent)) summary.parentElement.open = true;
      old.replaceWith(next);
    }
    document.title = fresh.title;
    document.dispatchEvent(new Event("renewed"));
  };
  const ask = async () => {
    try {
      const now = await (await fetch("state", { cache: "no-store" })).json();
      if (now.version !== version) {
        const html = await (await fetch("./", { cache: "no-store" })).text();
        const fresh = new DOMParser().parseFromString(html, "text/html");
        renew(fresh);
        version = fresh.querySelector(".live").dataset.version;
        seen = Date.now();
        bar.querySelector("a").hidden = false;
      }
      words.textContent = `Live, last news ${ago()}.`;
    } catch {
      words.textContent = "The watch has ended: this is the last state that it showed.";
    }
  };
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "go on" : "pause";
    pause.setAttribute("aria-pressed", paused);
    words.textContent = paused ? "Paused." : "Live.";
  });
  setInterval(() => paused || document.hidden || ask(), 1000 * bar.dataset.every);
})();
