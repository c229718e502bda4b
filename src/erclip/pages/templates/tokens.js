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
  const number = (x) => (x === undefined ? "–" : Number(x.toPrecision(3)).toString());
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

  const paint = (pane, d) => {
    const mode = MODES[state.mode], box = pane.querySelector(".stream");
    const known = d && d[mode.needs] !== undefined;
    pane.querySelector(".absent").hidden = !d || known;
    let i = 0;
    for (const span of box.children) span.className = known ? mode.of(d, i++) : "";
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
    pane.querySelector(".asked").textContent = d ? d.prompt : "";
    pane.querySelector(".about").textContent = d
      ? `answer ${d.answer || "none"} · gold ${d.gold} · reward ${d.reward} · advantage ${number(d.advantage ?? undefined)}`
        + (d.update ? ` · at update ${d.update} of the rollout` : "") : "";
    pane.querySelector(".detail").textContent = "Point at a token for its numbers.";
    for (const row of pane.querySelectorAll(".list button")) {
      row.setAttribute("aria-pressed", row.item === d);
      if (row.item === d) pane.querySelector(".list").scrollTop = row.offsetTop - row.offsetHeight;
    }
    paint(pane, d);
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
      show(index, own[0] || null);
    });
    if (state.chosen[0]) choose(0, state.chosen[0]);
  };

  for (const pane of runs)
    pane.querySelector(".stream").addEventListener("mouseover", (event) => {
      const d = state.chosen[runs.indexOf(pane)];
      if (event.target.index !== undefined) pane.querySelector(".detail").textContent = describe(d, event.target.index);
    });
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
