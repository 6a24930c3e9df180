"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const make = (name, attributes = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};
const fixed = (value, digits) => value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");

// Tables: a click on a head sorts, numbers as numbers, missing ones last.
const key = (cell) => {
  const text = cell.textContent.trim().replace("−", "-");
  if (text === "–") return null;
  return text !== "" && !isNaN(text) ? Number(text) : text;
};
const order = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = make("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].map((row) => [key(row.cells[column]), row]);
      rows.sort(([a], [b]) => a === null ? (b === null ? 0 : 1) : b === null ? -1 : (down ? -1 : 1) * order(a, b));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}

// Charts: lines over numbers, with ticks at round numbers.
const ticks = (low, high, count) => {
  if (high <= low) return [low];
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k += 1) found.push(k * step);
  return found;
};
const tidy = (value) => String(Number(value.toPrecision(3))).replace("-", "−");
function chart(figure, title, xTitle, yTitle, series, options = {}) {
  const W = 460, H = 250, left = 58, right = 12, top = 10, bottom = 42;
  const usable = series.map((s) => ({ ...s, points: s.points.filter(([, y]) => y !== null && isFinite(y) && (!options.log || y > 0)) }));
  const points = usable.flatMap((s) => s.points);
  figure.replaceChildren(make("figcaption", {}, title));
  if (!points.length) return;
  const toY = options.log ? Math.log10 : (y) => y;
  const range = (values) => { const low = Math.min(...values), high = Math.max(...values); return low === high ? [low - 0.5, high + 0.5] : [low, high]; };
  const [x0, x1] = range(points.map((p) => p[0])), [y0, y1] = range(points.map((p) => toY(p[1])));
  const margin = 0.05 * (y1 - y0), low = y0 - margin, high = y1 + margin;
  const X = (x) => left + (x - x0) / (x1 - x0) * (W - left - right), Y = (y) => H - bottom - (toY(y) - low) / (high - low) * (H - top - bottom);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const add = (name, attributes, text) => {
    const element = document.createElementNS(svg.namespaceURI, name);
    for (const [k, v] of Object.entries(attributes)) element.setAttribute(k, v);
    if (text !== undefined) element.textContent = text;
    svg.append(element);
    return element;
  };
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${title}. ${yTitle} over ${xTitle}. ` + usable.filter((s) => s.points.length).map((s) => `${s.label}: from ${tidy(s.points[0][1])} to ${tidy(s.points.at(-1)[1])}`).join("; "));
  for (const tick of ticks(low, high, 5)) {
    const y = H - bottom - (tick - low) / (high - low) * (H - top - bottom);
    add("line", { class: "grid", x1: left, x2: W - right, y1: y, y2: y });
    add("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, options.log ? Number((10 ** tick).toPrecision(2)).toString() : tidy(tick));
  }
  const names = options.names;
  const whole = names || points.every(([at]) => Number.isInteger(at));
  for (const tick of ticks(x0, x1, 6)) {
    if (whole && !Number.isInteger(tick)) continue;
    add("text", { x: X(tick), y: H - bottom + 16, "text-anchor": "middle" }, names ? names[tick] : tidy(tick));
  }
  add("text", { x: (left + W - right) / 2, y: H - 6, "text-anchor": "middle" }, xTitle);
  add("text", { x: 12, y: (top + H - bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(top + H - bottom) / 2})` }, yTitle);
  usable.forEach((s, k) => {
    const color = `var(--s${(s.color ?? k) % 6})`;
    add("polyline", { points: s.points.map(([x, y]) => `${X(x).toFixed(1)},${Y(y).toFixed(1)}`).join(" "), style: `stroke: ${color}` });
    if (options.mark !== undefined && s.marked) {
      const at = s.points.find(([x]) => x === options.mark);
      if (at) add("circle", { cx: X(at[0]), cy: Y(at[1]), r: 4.5, style: `fill: ${color}` });
    } else if (s.points.length < 16) {
      for (const [x, y] of s.points) add("circle", { cx: X(x), cy: Y(y), r: 2.5, style: `fill: ${color}` });
    }
  });
  figure.append(svg);
  if (usable.length > 1) {
    figure.append(make("div", { class: "legend" }, ...usable.map((s, k) => make("span", {}, make("i", { style: `background: var(--s${(s.color ?? k) % 6})` }), s.label))));
  }
}
const line = (values) => values.map((y, x) => [x + 1, y]);

// Robustness pages have curves only.
for (const [k, curve] of (data.curves ?? []).entries()) {
  const figure = document.querySelector(`.curve[data-index="${k}"]`);
  const options = curve.names ? { names: curve.names } : {};
  chart(figure, curve.title, curve.x, curve.y, curve.series, options);
}

// Φ.
for (const figure of document.querySelectorAll(".singular")) {
  const values = data.about[figure.dataset.index].singular;
  chart(figure, "singular values", "index", "singular value", [{ label: "Φ", points: line(values) }]);
}

// Images: two pictures above each other, and all of them in a grid; zoom and place are shared.
if (data.examples && data.examples.length) {
  const section = by("images"), compare = by("compare"), slider = by("slider");
  let current = 0, zoom = 1, x = 0, y = 0;
  const pictures = () => {
    const example = data.examples[current], found = [{ name: "truth", src: example.truth, alt: `truth of ${example.name}`, caption: "truth" }];
    example.views.forEach((view, k) => {
      const many = example.views.length > 1 ? `${view.label}: ` : "";
      if (k === 0 || data.about[k].operator !== data.about[0].operator || view.start !== example.views[0].start) {
        found.push({ name: `${many}Φ⁺y`, src: view.start, caption: `${many}Φ⁺y, ${fixed(view.start_psnr, 2)} dB` });
      }
      if (view.first && view.first.src !== view.start && !(Math.abs(view.first.psnr - view.start_psnr) < 0.005)) {
        found.push({ name: `${many}x⁰`, src: view.first.src, caption: `${many}start x⁰, ${fixed(view.first.psnr, 2)} dB` });
      }
      found.push({ name: `${view.label}: reconstruction`, src: view.image, caption: `${view.label}: ${fixed(view.psnr, 2)} dB, SSIM ${fixed(view.ssim, 4)}` });
      found.push({ name: `${many}error`, src: view.error, caption: `${many}error` });
    });
    return found.map((p) => ({ alt: `${p.name} of ${example.name}`, ...p }));
  };
  // y has a size of its own, so it is not compared and not enlarged with the others.
  const measured = () => {
    const example = data.examples[current], sources = new Set();
    return example.views.filter((view) => !sources.has(view.measured.src) && sources.add(view.measured.src)).map((view) => {
      const label = example.views.length > 1 && view !== example.views[0] ? `${view.label}: ` : "";
      const image = make("img", { class: "measured", src: view.measured.src, alt: `${label}measurement y of ${example.name}`, width: view.measured.width, height: view.measured.height });
      return make("figure", {}, image, make("figcaption", {}, `${label}measurement y, ${view.measured.shape.join(" × ")}`));
    });
  };
  const place = () => {
    const far = 100 - 100 / zoom;
    x = Math.min(Math.max(x, 0), far); y = Math.min(Math.max(y, 0), far);
    for (const [name, value] of [["--zoom", zoom], ["--x", x], ["--y", y]]) section.style.setProperty(name, value);
    by("zoom").textContent = `${zoom}×`;
  };
  const scale = (factor, px = 50, py = 50) => {
    const before = zoom;
    zoom = Math.min(Math.max(zoom * factor, 1), 16);
    x += px / before - px / zoom; y += py / before - py / zoom;
    place();
  };
  const cut = () => {
    by("above").parentElement.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`;
    by("divider").style.left = `${slider.value}%`;
    slider.setAttribute("aria-valuetext", `${slider.value} % of the width shows the left picture`);
  };
  const select = () => {
    const found = pictures(), left = found[by("left").selectedIndex], right = found[by("right").selectedIndex];
    by("above").src = left.src; by("above").alt = left.alt; by("tag-left").textContent = left.name;
    by("below").src = right.src; by("below").alt = right.alt; by("tag-right").textContent = right.name;
  };
  const fill = (select_, names, chosen) => {
    select_.replaceChildren(...names.map((name) => make("option", {}, name)));
    select_.selectedIndex = Math.min(chosen, names.length - 1);
  };
  const shape = (element) => { element.style.aspectRatio = `${data.examples[current].width} / ${data.examples[current].height}`; };
  const showGrid = () => {
    const [truth, ...others] = pictures().map((p) => {
      const tile = make("div", { class: "tile" }, make("img", { src: p.src, alt: p.alt }));
      shape(tile);
      return make("figure", {}, tile, make("figcaption", {}, p.caption));
    });
    by("grid").replaceChildren(truth, ...measured(), ...others);
    document.body.classList.toggle("curves", data.examples[current].signal);
  };
  const open = (index) => {
    current = index; zoom = 1; x = y = 0;
    [...by("thumbs").children].forEach((b, k) => b.setAttribute("aria-pressed", k === index));
    const names = pictures().map((p) => p.name);
    fill(by("left"), names, by("left").options.length ? by("left").selectedIndex : 0);
    fill(by("right"), names, by("right").options.length ? by("right").selectedIndex : names.findIndex((name) => name.endsWith("reconstruction")));
    shape(compare); select(); showGrid(); place(); cut(); openStages();
  };
  compare.prepend(by("below"));
  compare.insertBefore(make("div", { id: "clip" }, by("above")), by("divider"));
  data.examples.forEach((example, k) => {
    const name = `${example.name} (${example.dataset})`;
    const button = make("button", { type: "button", title: name }, make("img", { src: example.truth, alt: "" }), make("span", {}, example.name), make("span", {}, example.views.map((v) => fixed(v.psnr, 2)).join(" / ") + " dB"));
    button.addEventListener("click", () => open(k));
    by("thumbs").append(button);
  });
  slider.addEventListener("input", cut);
  for (const id of ["left", "right"]) by(id).addEventListener("change", select);
  by("in").addEventListener("click", () => scale(2));
  by("out").addEventListener("click", () => scale(0.5));
  by("reset").addEventListener("click", () => { zoom = 1; place(); });
  compare.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.shiftKey && zoom === 1 && event.deltaY > 0) return;
    event.preventDefault();
    const box = compare.getBoundingClientRect();
    scale(event.deltaY < 0 ? 2 : 0.5, 100 * (event.clientX - box.left) / box.width, 100 * (event.clientY - box.top) / box.height);
  }, { passive: false });
  compare.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, -10], ArrowDown: [0, 10] };
    if (event.key === "+") scale(2);
    else if (event.key === "-") scale(0.5);
    else if (moves[event.key] && zoom > 1) { x += moves[event.key][0] / zoom; y += moves[event.key][1] / zoom; place(); }
    else return;
    event.preventDefault();
  });
  let drag = null;
  section.addEventListener("pointerdown", (event) => {
    const box = event.target.closest("#compare, .tile");
    if (box) { drag = { at: [event.clientX, event.clientY], from: [x, y], box, moved: false }; if (event.pointerType === "mouse") event.preventDefault(); if (box === compare) compare.focus({ preventScroll: true }); }
  });
  addEventListener("pointermove", (event) => {
    if (!drag) return;
    const box = drag.box.getBoundingClientRect();
    if (zoom === 1) {
      if (drag.box === compare) { slider.value = 100 * (event.clientX - box.left) / box.width; cut(); }
      return;
    }
    x = drag.from[0] - 100 * (event.clientX - drag.at[0]) / box.width / zoom;
    y = drag.from[1] - 100 * (event.clientY - drag.at[1]) / box.height / zoom;
    place();
  });
  for (const name of ["pointerup", "pointercancel"]) addEventListener(name, () => { drag = null; });

  // Stages of the chosen image.
  const stage = by("stage"), weights = by("stage-weights");
  fill(weights, data.about.map((one) => one.label), 0);
  const showStage = () => {
    const example = data.examples[current], view = example.views[weights.selectedIndex], index = Number(stage.value), step = view.stages[index];
    const text = `${index + 1} of ${view.stages.length}: ${step.name}, ${fixed(step.psnr, 2)} dB`;
    by("stage-name").textContent = text;
    stage.setAttribute("aria-valuetext", text);
    const near = view.stages.map((s, k) => [Math.abs(k - index), k]).filter(([, k]) => view.stages[k].src).sort((a, b) => a[0] - b[0])[0];
    const image = by("stage-image");
    image.hidden = !near;
    if (near) { image.src = view.stages[near[1]].src; image.alt = `${example.name} after ${view.stages[near[1]].name}`; shape(image); }
    const lines = (field) => example.views.map((v, k) => ({ label: v.label, points: v.stages.map((s) => [s.number, s[field]]), marked: k === weights.selectedIndex }));
    chart(by("psnr-chart"), "PSNR after each stage", "step", "PSNR (dB)", lines("psnr"), { mark: step.number });
    chart(by("residual-chart"), "‖y − Φx‖ / ‖y‖ after each stage", "step", "residual", lines("residual"), { mark: step.number, log: true });
  };
  function openStages() {
    const view = data.examples[current].views[weights.selectedIndex];
    stage.max = view.stages.length - 1;
    stage.value = stage.max;
    showStage();
  }
  const showLearned = () => {
    const learned = data.about[weights.selectedIndex].learned;
    by("learned").replaceChildren(...Object.entries(learned).map(([name, values]) => {
      const figure = make("figure", { class: "chart" });
      chart(figure, `learned: ${name}`, "stage", "value", [{ label: name, points: line(values) }]);
      return figure;
    }));
  };
  stage.addEventListener("input", showStage);
  weights.addEventListener("change", () => { openStages(); showLearned(); });
  if (data.examples.every((example) => example.views.every((view) => view.stages.length < 2))) {
    by("stages").hidden = true;
    document.querySelector('nav a[href="#stages"]').hidden = true;
  }
  open(0);
  showLearned();
}
