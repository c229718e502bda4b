"use strict";
// Values under the pointer, a finger or the arrow keys: every picture carries its own as JSON.
// Text enters the page as text only.
(() => {
  const REACH = 24;
  const make = (tag, cls, text) => Object.assign(document.createElement(tag), { className: cls, textContent: text ?? "" });
  const tip = make("div", "tip");
  tip.setAttribute("role", "status");
  document.body.append(tip);
  let shown = null; // the picture with a mark in it

  const number = (value, percent) => {
    if (value === null || value === undefined) return "–";
    const v = percent ? 100 * value : value, size = v ? Math.floor(Math.log10(Math.abs(v))) : 0;
    const text = v && Math.abs(v) < 1e-4 ? v.toPrecision(3)
      : v.toLocaleString("en-US", { maximumFractionDigits: Math.max(0, 2 - size) });
    return text.replace("-", "−") + (percent ? " %" : "");
  };
  const along = ([from, to, log], value, start, end) => {
    const share = log ? Math.log(value / from) / Math.log(to / from) : (value - from) / (to - from);
    return start + share * (end - start);
  };
  const at = (panel, x, y) => [along(panel.x, x, panel.box[0], panel.box[2]), along(panel.y, y, panel.box[3], panel.box[1])];
  const known = (trace, i) => trace.y ? trace.y[i] !== null : trace.low[i] !== null;

  const cache = new WeakMap();
  const panels = (svg) => {
    if (!cache.has(svg)) cache.set(svg, JSON.parse(svg.dataset.panels));
    return cache.get(svg);
  };
  const places = (panel) =>
    [...new Set(panel.traces.flatMap((t) => t.x.filter((_, i) => known(t, i))))].sort((a, b) => a - b);

  const clear = () => {
    tip.classList.remove("on");
    if (shown) shown.querySelector(".mark")?.remove();
    shown = null;
  };
  const mark = (svg, panel, x, dots) => {
    clear();
    const group = document.createElementNS(svg.namespaceURI, "g"), [left] = at(panel, x, panel.y[0]);
    group.setAttribute("class", "mark");
    const add = (tag, attributes) => {
      const node = document.createElementNS(svg.namespaceURI, tag);
      for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
      group.append(node);
    };
    if (panel.near === "x") add("line", { x1: left, x2: left, y1: panel.box[1], y2: panel.box[3] });
    for (const [trace, a, b] of dots) {
      const [cx, cy] = at(panel, a, b);
      if (Number.isFinite(cy)) add("circle", { cx, cy, r: 3.5, style: `fill: ${trace.color}` });
    }
    svg.append(group);
    shown = svg;
  };
  const say = (head, rows, left, top) => {
    tip.replaceChildren(...(head ? [make("b", "", head)] : []), ...rows.map(([color, label, value]) => {
      const row = make("div"), swatch = make("i", "solid");
      swatch.style.setProperty("--color", color);
      row.append(swatch, make("span", "", label), make("em", "", value));
      return row;
    }));
    tip.classList.add("on");
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(6, Math.min(left + 14, innerWidth - width - 6))}px`;
    tip.style.top = `${top - height - 14 > 6 ? top - height - 14 : Math.min(top + 14, innerHeight - height - 6)}px`;
  };
  const value = (trace, i, percent) => {
    const ends = trace.low && trace.low[i] !== null ? [trace.low[i], trace.high[i]].map((v) => number(v, percent)) : null;
    if (!trace.y) return ends.join(" to ");
    return number(trace.y[i], percent) + (ends ? ` [${ends.join(", ")}]` : "");
  };
  const where = (svg, x, y) => {
    const point = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
    return [point.x, point.y];
  };

  const showX = (svg, panel, x) => {
    const found = panel.traces.flatMap((trace) => {
      const i = trace.x.indexOf(x);
      return i >= 0 && known(trace, i) ? [[trace, i]] : [];
    });
    if (!found.length) return clear();
    const [first, place] = found[0];
    mark(svg, panel, x, found.filter(([t]) => t.y && !t.names).map(([t, i]) => [t, x, t.y[i]]));
    const head = first.names ? first.names[place] : `${panel.label} ${number(x)}`;
    say(head, found.map(([t, i]) => [t.color, t.label, value(t, i, panel.percent)]), ...where(svg, at(panel, x, 1)[0], panel.box[1] + 20));
  };
  const showPoint = (svg, panel, trace, i) => {
    mark(svg, panel, trace.x[i], [[trace, trace.x[i], trace.y[i]]]);
    const text = trace.names ? trace.names[i] : `${panel.label} ${number(trace.x[i])}, ${number(trace.y[i], panel.percent)}`;
    say("", [[trace.color, trace.label, text]], ...where(svg, ...at(panel, trace.x[i], trace.y[i])));
  };

  const point = (event) => {
    const svg = event.target.closest?.("svg[data-panels]");
    if (!svg) return clear();
    const p = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const panel = panels(svg).find(({ box }) => p.x > box[0] - 8 && p.x < box[2] + 8 && p.y > box[1] - 8 && p.y < box[3] + 8);
    if (!panel) return clear();
    if (panel.near === "x") {
      const off = (x) => Math.abs(at(panel, x, 1)[0] - p.x);
      const xs = places(panel);
      if (xs.length) showX(svg, panel, xs.reduce((a, b) => (off(b) < off(a) ? b : a)));
      return;
    }
    let best = null;
    for (const trace of panel.traces)
      trace.x.forEach((x, i) => {
        const [a, b] = at(panel, x, trace.y[i]), far = Math.hypot(a - p.x, b - p.y);
        if (far < (best?.far ?? REACH)) best = { far, trace, i };
      });
    if (best) showPoint(svg, panel, best.trace, best.i);
    else clear();
  };
  const key = (event) => {
    const svg = event.target.closest?.("svg[data-panels]");
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: 0, ArrowDown: 0, Escape: 0 }[event.key];
    if (!svg || step === undefined) return;
    event.preventDefault();
    if (event.key === "Escape") return clear();
    const all = panels(svg);
    const state = (svg.state ??= { panel: 0, place: -1 });
    if (!step) state.panel = (state.panel + (event.key === "ArrowDown" ? 1 : all.length - 1)) % all.length;
    const panel = all[state.panel];
    const stops = panel.near === "x" ? places(panel) : panel.traces.flatMap((t) => t.x.map((_, i) => [t, i]));
    if (!stops.length) return;
    state.place = Math.max(0, Math.min(stops.length - 1, state.place + step));
    if (panel.near === "x") showX(svg, panel, stops[state.place]);
    else showPoint(svg, panel, ...stops[state.place]);
  };

  // On a phone the panels of a wide picture stand below each other: each a copy, cropped to itself.
  const split = () => {
    for (const svg of innerWidth > 700 ? [] : document.querySelectorAll("figure.wide svg[data-panels]:not(.cell)")) {
      const cells = panels(svg).map((panel) => panel.cell);
      if (cells.length < 2) continue;
      svg.replaceWith(...cells.map(([x0, y0, x1, y1]) => {
        const copy = svg.cloneNode(true);
        copy.classList.add("cell");
        copy.setAttribute("viewBox", `${x0} ${y0} ${x1 - x0} ${y1 - y0}`);
        return copy;
      }));
    }
  };
  const ready = () => {
    split(); for (const svg of document.querySelectorAll("svg[data-panels]")) svg.setAttribute("tabindex", "0");
  };
  document.addEventListener("pointermove", point);
  document.addEventListener("pointerdown", point);
  document.addEventListener("keydown", key);
  document.addEventListener("focusout", clear);
  document.addEventListener("scroll", clear, { passive: true });
  document.addEventListener("renewed", () => { clear(); ready(); });
  ready();
})();
