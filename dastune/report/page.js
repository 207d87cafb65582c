"use strict";
// Makes the figures answer: buttons switch methods on and off in all figures at once, marks tell what they are.
// Without it every figure is complete. What it shows comes from data-tips (interactive.py), always as text.
(() => {
  const REACH = 24; // pixels between a pointer and a mark that it means
  const SAME = 1.5; // points between marks that are told together
  const MOST = 5; // marks told together
  const off = new Set(); // the methods that are switched off
  const figures = [];

  const make = (tag, className, text = "") => {
    const node = document.createElement(tag);
    node.className = className;
    node.textContent = text;
    return node;
  };

  const show = () => figures.forEach((figure) => figure.show());
  const point = (only) => figures.forEach((figure) => figure.fade(only));

  // A key of the legend as a picture of its own: colour, marker and dash are the figure's.
  const swatch = (svg, key) => {
    const box = key.getBBox();
    const picture = svg.cloneNode(false);
    for (const name of ["role", "aria-label"]) picture.removeAttribute(name);
    picture.setAttribute("aria-hidden", "true");
    picture.setAttribute("class", "swatch");
    picture.setAttribute("viewBox", `${box.x - 1} ${box.y + box.height / 2 - 4} ${box.width + 2} 8`);
    picture.append(key);
    return picture;
  };

  // The buttons of a figure take the place of its legend.
  const controls = (svg, part, tips, shown) => {
    const row = make("div", "controls");
    const buttons = new Map();
    for (const method of shown) {
      const button = make("button", "");
      button.type = "button";
      button.title = method;
      button.append(swatch(svg, part(`legend-${tips.methods.indexOf(method)}`)), make("span", "", method));
      button.addEventListener("click", () => {
        if (!off.delete(method)) off.add(method);
        point(null);
        show();
      });
      button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && point(method));
      button.addEventListener("focus", () => button.matches(":focus-visible") && point(method));
      for (const end of ["pointerleave", "blur"]) button.addEventListener(end, () => point(null));
      buttons.set(method, button);
      row.append(button);
    }
    const all = make("button", "all");
    all.type = "button";
    all.addEventListener("click", () => {
      const hide = shown.every((method) => !off.has(method));
      shown.forEach((method) => (hide ? off.add(method) : off.delete(method)));
      show();
    });
    row.append(all);
    const reference = part("legend-all");
    if (reference) {
      const key = make("span", "key");
      key.append(swatch(svg, reference), make("span", "", tips.reference));
      row.append(key);
    }
    return { row, buttons, all };
  };

  // All marks that have a text: where they are in the SVG's own units, and whose they are.
  const marksOf = (part, tips) => {
    const marks = [];
    for (const [name, texts] of Object.entries(tips.marks)) {
      const lines = texts.split("\n");
      const uses = part(name)?.querySelectorAll("use") ?? [];
      if (uses.length !== lines.length) continue;
      const method = tips.methods[Number(name.split("-").pop())];
      uses.forEach((use, k) => {
        marks.push({ method, text: lines[k], x: Number(use.getAttribute("x")), y: Number(use.getAttribute("y")) });
      });
    }
    return marks;
  };

  // The tip of a figure: follows the pointer, a tap, or the arrow keys.
  const tipOf = (svg, plot, marks) => {
    const tip = make("div", "tip");
    tip.setAttribute("role", "status");
    tip.hidden = true;
    const ring = document.createElementNS(svg.namespaceURI, "circle");
    ring.setAttribute("class", "ring");
    ring.setAttribute("r", "4.5");
    plot.append(tip);
    let at = null;
    const visible = () => marks.filter((mark) => !off.has(mark.method));
    const hide = () => {
      at = null;
      tip.hidden = true;
      ring.remove();
    };
    const tell = (mark) => {
      if (mark === at) return;
      at = mark;
      const near = visible().filter((other) => other !== mark && Math.hypot(other.x - mark.x, other.y - mark.y) < SAME);
      tip.replaceChildren();
      for (const { method, text } of [mark, ...near].slice(0, MOST)) {
        const line = make("div", "");
        line.append(make("strong", "", method), make("span", "", ` ${text}`));
        tip.append(line);
      }
      if (near.length >= MOST) tip.append(make("div", "", `and ${near.length + 1 - MOST} more here`));
      ring.setAttribute("cx", mark.x);
      ring.setAttribute("cy", mark.y);
      svg.append(ring);
      tip.hidden = false;
      const place = new DOMPoint(mark.x, mark.y).matrixTransform(svg.getScreenCTM());
      const frame = plot.getBoundingClientRect();
      const left = place.x - frame.left - tip.offsetWidth / 2;
      const above = place.y - frame.top - tip.offsetHeight - 12;
      tip.style.left = `${Math.max(0, Math.min(left, frame.width - tip.offsetWidth))}px`;
      tip.style.top = `${above < 0 ? place.y - frame.top + 12 : above}px`;
    };
    const nearest = (event) => {
      const matrix = svg.getScreenCTM();
      const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
      let best = null;
      let least = REACH / matrix.a;
      for (const mark of visible()) {
        const distance = Math.hypot(mark.x - x, mark.y - y);
        if (distance < least) [best, least] = [mark, distance];
      }
      if (best) tell(best);
      else hide();
    };
    const step = (key) => {
      const list = visible();
      if (!list.length) return;
      const here = list.indexOf(at);
      const firsts = list.filter((mark, k) => k === 0 || mark.method !== list[k - 1].method);
      const first = firsts.findIndex((mark) => mark.method === at?.method);
      const last = list.length - 1;
      const next = {
        ArrowRight: () => list[Math.min(here + 1, last)],
        ArrowLeft: () => list[Math.max(here - 1, 0)],
        ArrowDown: () => firsts[Math.min(first + 1, firsts.length - 1)],
        ArrowUp: () => firsts[Math.max(first - 1, 0)],
        Home: () => list[0],
        End: () => list[last],
      };
      tell(next[key]());
    };
    svg.addEventListener("pointermove", nearest);
    svg.addEventListener("pointerdown", nearest);
    svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hide();
      else if (/^(Arrow(Left|Right|Up|Down)|Home|End)$/.test(event.key)) {
        event.preventDefault();
        step(event.key);
      }
    });
    document.addEventListener("pointerdown", (event) => plot.contains(event.target) || hide());
    return { hide, check: () => at && off.has(at.method) && hide() };
  };

  const enhance = (node) => {
    const svg = node.querySelector("svg");
    const tips = JSON.parse(node.dataset.tips);
    const part = (name) => document.getElementById(`${node.dataset.figure}-${name}`);
    const legend = part("legend");
    const box = legend?.getBBox();
    if (!box?.height) return false; // nothing to show, or folded away
    const shown = tips.methods.filter((_, index) => part(`legend-${index}`));
    const { row, buttons, all } = controls(svg, part, tips, shown);
    const view = svg.viewBox.baseVal;
    view.height = box.y - view.y;
    legend.remove();
    const plot = make("div", "plot");
    svg.replaceWith(plot);
    plot.append(svg);
    plot.before(row);
    const marks = marksOf(part, tips);
    const tip = tipOf(svg, plot, marks);
    if (marks.length) {
      plot.tabIndex = 0;
      plot.setAttribute("role", "group");
      plot.setAttribute("aria-label", "Marks of this figure: arrow keys go from one to the next");
    }
    const parts = [...svg.querySelectorAll("g[id]")].flatMap((group) => {
      const match = /-(?:mean|seeds|band|bars|cut)-(\d+)$/.exec(group.id);
      return match ? [{ group, method: tips.methods[Number(match[1])] }] : [];
    });
    figures.push({
      show() {
        parts.forEach(({ group, method }) => group.classList.toggle("off", off.has(method)));
        buttons.forEach((button, method) => button.setAttribute("aria-pressed", String(!off.has(method))));
        all.textContent = shown.every((method) => !off.has(method)) ? "Hide all" : "Show all";
        tip.check();
      },
      fade(only) {
        const known = only !== null && buttons.has(only) && !off.has(only);
        parts.forEach(({ group, method }) => group.classList.toggle("faded", known && method !== only));
      },
    });
    figures.at(-1).show();
    return true;
  };

  const begin = () => {
    for (const node of document.querySelectorAll("figure[data-tips]")) {
      if (!enhance(node)) node.closest("details")?.addEventListener("toggle", () => enhance(node), { once: true });
    }
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
