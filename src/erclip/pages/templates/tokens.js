"use strict";
// The token view: reads the page's JSON, colours tokens. Text enters the page as text only.
(() => {
  const view = document.getElementById("tokens");
  const items = [...document.querySelectorAll("script.response")].map((s) => JSON.parse(s.textContent));
  const runs = [...view.querySelectorAll(".pane")];
  const state = { mode: "entropy", outcome: "all", order: "recorded", chosen: runs.map(() => null) };
  const LEVELS = 10, FLOOR = 1e-8;

  const make = (tag, cls, text) => {
    const node = document.createElement(tag);
    if (cls) node.className = cls;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const number = (x) => (x === undefined ? "–" : (x && Math.abs(x) < 1e-4 ? x.toExponential(2) : Number(x.toPrecision(3)).toString()).replaceAll("-", "−"));
  const rho = (d, i) => (d.h2[i] + FLOOR) / (d.h[i] + FLOOR);
  const ratio = (d, i) => Math.exp(d.p2[i] - d.p[i]);
  const level = (share) => Math.max(0, Math.min(LEVELS, Math.round(share * LEVELS)));
  const away = (x) => `${x < 1 ? "down" : "up"} v${level(Math.abs(Math.log(x)) / Math.log(1.5))}`;

  const MODES = {
    entropy: { needs: "h", of: (d, i) => `plain v${level((Math.log10(d.h[i] + FLOOR) + 3) / 3.3)}` },
    rho: { needs: "h2", of: (d, i) => away(rho(d, i)) },
    ratio: { needs: "p2", of: (d, i) => away(ratio(d, i)) },
    outcome: {
      needs: "f",
      of: (d, i) => {
        const f = d.f[i];
        return (f & 8 ? "down v8 " : f & 16 ? "up v8 " : "") + (f & 3 ? "ranged " : "")
          + (f & 4 ? "dual " : "") + (f & 32 ? "random " : "") + (f >= 64 ? "ruled" : "");
      },
    },
  };
  const describe = (d, i) => {
    const parts = [`token ${i + 1} of ${d.t.length}`];
    if (d.h) parts.push(`H old ${number(d.h[i])} nats`, `log π old ${number(d.p[i])}`);
    if (d.h2) parts.push(`H new ${number(d.h2[i])}`, `ρ ${number(rho(d, i))}`, `r ${number(ratio(d, i))}`);
    if (d.f) parts.push(d.r.filter((_, bit) => Math.floor(d.f[i] / 2 ** bit) % 2).join(" + ") || "kept");
    return parts.join(" · ");
  };

  const has = (d, mode) => d && d[MODES[mode].needs] !== undefined;
  // Buttons that the shown responses have no numbers for are off, and the page says why.
  const able = () => {
    const recorded = items.some((d) => has(d, "outcome"));
    for (const button of view.querySelectorAll("button[data-key=mode], button[data-value=clipped]")) {
      const mode = button.dataset.key === "mode" ? button.dataset.value : "outcome";
      button.disabled = button.dataset.key === "mode" ? !state.chosen.some((d) => has(d, mode)) : !recorded;
      if (button.disabled) button.setAttribute("aria-describedby", "tokens-why");
      else button.removeAttribute("aria-describedby");
    }
    const why = document.getElementById("tokens-why");
    why.hidden = !view.querySelector("button:disabled");
    why.textContent = recorded
      ? "Some buttons are off: the ledger does not have the update of this response. Those with a share clipped in the list are recorded."
      : "Some buttons are off: this run kept no ledger. Train with --set ledger.every=10 to see ratios and outcomes.";
  };
  const paint = (pane, d) => {
    const mode = has(d, state.mode) ? MODES[state.mode] : MODES.entropy, box = pane.querySelector(".stream");
    pane.querySelector(".absent").hidden = !d || mode === MODES[state.mode] || !items.some((e) => has(e, "outcome"));
    const known = d && d[mode.needs] !== undefined;
    let i = 0;
    for (const span of box.children) span.className = known ? mode.of(d, i++) : "";
  };
  const point = (pane, span) => {
    pane.querySelector(".at")?.classList.remove("at");
    if (!span) return;
    const d = state.chosen[runs.indexOf(pane)];
    span.classList.add("at");
    pane.querySelector(".detail").textContent = `${JSON.stringify(d.t[span.index])} · ${describe(d, span.index)}`;
  };

  const show = (index, d) => {
    const pane = runs[index], box = pane.querySelector(".stream");
    state.chosen[index] = d;
    box.replaceChildren(...(d ? d.t.map((piece, i) => {
      const span = make("span", "", piece.replaceAll("\n", "↵\n"));
      span.index = i;
      return span;
    }) : []));
    box.scrollTop = 0;
    const asked = pane.querySelector(".asked"), long = d && d.prompt.length > 500, [head, rest] = asked.children;
    asked.open = !long;
    asked.classList.toggle("short", !long);
    head.textContent = long ? `${d.prompt.slice(0, 400)}… ${d.prompt.length.toLocaleString("en")} characters` : "";
    rest.textContent = d ? d.prompt : "";
    pane.querySelector(".about").textContent = d
      ? `answer ${d.answer || "none"} · gold ${d.gold} · reward ${d.reward} · advantage ${number(d.advantage ?? undefined)}`
        + (d.update ? ` · at update ${d.update} of the rollout` : "") : "";
    pane.querySelector(".detail").textContent = "Point at a token for its numbers, or go from token to token with the arrow keys.";
    for (const row of pane.querySelectorAll(".list button")) {
      row.setAttribute("aria-pressed", row.item === d);
      if (row.item === d) pane.querySelector(".list").scrollTop = row.offsetTop - row.offsetHeight;
    }
    paint(pane, d);
    able();
  };

  const choose = (index, d) => {
    show(index, d);
    runs.forEach((_, other) => {
      if (other === index || !d) return;
      const same = items.filter((e) => e.run === other && e.id === d.id && e.rollout === d.rollout);
      const twin = same.find((e) => e.outcome === d.outcome) || same[0];
      if (twin) show(other, twin);
    });
  };

  const list = () => {
    runs.forEach((pane, index) => {
      let own = items.filter((d) => d.run === index && (state.outcome === "all" || d.outcome === state.outcome));
      if (state.order === "clipped") own = own.sort((a, b) => (b.clipped ?? -1) - (a.clipped ?? -1));
      pane.querySelector(".list").replaceChildren(...own.map((d) => {
        const row = make("button");
        const clipped = d.clipped === null ? "" : `${(100 * d.clipped).toFixed(0)} % clipped`;
        row.append(make("b", d.outcome, d.outcome), make("span", "", `rollout ${d.rollout}`),
          make("span", "", `${d.t.length.toLocaleString("en")} tokens`), make("span", "", clipped), make("span", "id", d.id));
        row.item = d;
        row.addEventListener("click", () => choose(index, d));
        return row;
      }));
      show(index, own.find((d) => has(d, "outcome")) || own[0] || null);
    });
    if (state.chosen[0]) choose(0, state.chosen[0]);
  };

  const STEPS = { ArrowLeft: -1, ArrowUp: -10, ArrowRight: 1, ArrowDown: 10, Home: -Infinity, End: Infinity };
  for (const pane of runs) {
    const box = pane.querySelector(".stream");
    box.addEventListener("mouseover", (event) => {
      if (event.target.index !== undefined) point(pane, event.target);
    });
    box.addEventListener("keydown", (event) => {
      const step = STEPS[event.key], last = box.children.length - 1;
      if (step === undefined || last < 0) return;
      event.preventDefault();
      const now = pane.querySelector(".at")?.index ?? (step > 0 ? -1 : 0);
      const span = box.children[Math.max(0, Math.min(last, now + step))];
      point(pane, span);
      span.scrollIntoView({ block: "nearest" });
    });
  }
  for (const button of view.querySelectorAll("button[data-key]"))
    button.addEventListener("click", () => {
      const { key, value } = button.dataset;
      state[key] = value;
      for (const other of view.querySelectorAll(`button[data-key=${key}]`)) other.setAttribute("aria-pressed", other === button);
      for (const legend of view.querySelectorAll(".scale")) legend.hidden = legend.dataset.mode !== state.mode;
      if (key === "mode") runs.forEach((pane, index) => paint(pane, state.chosen[index]));
      else list();
    });
  list();
  view.hidden = false;
})();
