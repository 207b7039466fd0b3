
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = document.getElementById("svg").namespaceURI;
  const COLOURS = 8;
  const SMOOTHING = { "as measured": 0, "smoothed": 0.8, "smoothed strongly": 0.95 };
  const DASHES = { solid: "", dashed: "7 4", dotted: "2 3" };
  const STATES = {
    finished: "finished", going: "still going on", interrupted: "interrupted", failed: "failed", killed: "killed",
    stopped: "stopped",
  };
  const PAGE = 20;
  const state = { axis: "step", smoothing: "smoothed", hidden: new Set(), splits: new Set(["train", "eval"]) };
  const charts = [];

  // ---- elements: texts are only ever set as text

  function element(name, options = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(options)) {
      if (key === "class") made.className = value;
      else if (key === "text") made.textContent = value;
      else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (value === true) made.setAttribute(key, "");
      else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  function shape(name, attributes, parent) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (parent) parent.append(made);
    return made;
  }

  const colour = (group) => `var(--c${group % COLOURS})`;

  function swatch(group) {
    const made = element("span", { class: "swatch" });
    made.style.background = colour(group);
    return made;
  }

  // Characters that turn the direction of text round, or that no font shows, written out.
  const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
  const visible = (text) => String(text).replace(HIDDEN, (found) =>
    `\u27e8U+${found.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`);

  // ---- numbers

  function number(value, digits = 3) {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size >= 1e6) return `${(value / 1e6).toFixed(size >= 1e7 ? 1 : 2)}M`;
    if (size >= 1000) return Math.round(value).toLocaleString("en-US");
    if (size < 1e-3) return value.toExponential(1).replace(".0e", "e");
    return String(Number(value.toPrecision(digits)));
  }

  const percent = (value) => (value === null || value === undefined ? number(value) : `${number(100 * value)}%`);

  function duration(seconds) {
    if (seconds === null || seconds === undefined) return "not known";
    if (seconds < 60) return `${number(seconds)} s`;
    const whole = Math.round(seconds);
    const minutes = Math.floor(whole / 60) % 60;
    const hours = Math.floor(whole / 3600);
    return hours ? `${hours} h ${minutes} min` : `${minutes} min ${whole % 60} s`;
  }

  function ticks(low, high, count) {
    const rough = (high - low) / Math.max(count, 1);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
    const first = Math.ceil(low / step - 1e-9);
    const found = [];
    for (let place = first; place * step <= high + step * 1e-9; place += 1) found.push(Number((place * step).toPrecision(12)));
    return found;
  }

  // ---- from rows to lines

  // An exponential moving average, from both ends: one alone would lag behind the values.
  function smooth(values, weight) {
    const before = average(values, weight);
    const after = average([...values].reverse(), weight).reverse();
    return before.map((value, place) => (value + after[place]) / 2);
  }

  function average(values, weight) {
    let sum = 0;
    let mass = 0;
    return values.map((value) => {
      sum = weight * sum + (1 - weight) * value;
      mass = weight * mass + (1 - weight);
      return sum / mass;
    });
  }

  // Points of one run: [x, y], without what has no value.
  function points(run, line) {
    const series = data.runs[run][line.split];
    const values = series.metrics[line.metric];
    if (!values) return [];
    const along = series[state.axis];
    const found = [];
    values.forEach((value, place) => {
      if (value !== null) found.push([along[place], value]);
    });
    return found;
  }

  function at(curve, x) {
    // Between two measurements the straight line; none outside of them.
    if (!curve.length || x < curve[0][0] || x > curve[curve.length - 1][0]) return null;
    let low = 0;
    let high = curve.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (curve[middle][0] <= x) low = middle;
      else high = middle;
    }
    const [x0, y0] = curve[low];
    const [x1, y1] = curve[high];
    return x1 === x0 ? y1 : y0 + ((y1 - y0) * (x - x0)) / (x1 - x0);
  }

  // Mean and range over seeds, where every seed has values.
  function combined(curves) {
    if (curves.length === 1) return curves[0].map(([x, y]) => ({ x, mean: y, low: y, high: y }));
    const begin = Math.max(...curves.map((curve) => curve[0][0]));
    const end = Math.min(...curves.map((curve) => curve[curve.length - 1][0]));
    let grid = [...new Set(curves.flat().map(([x]) => x))].filter((x) => x >= begin && x <= end).sort((a, b) => a - b);
    if (grid.length > 400) grid = Array.from({ length: 200 }, (_, place) => begin + ((end - begin) * place) / 199);
    return grid.map((x) => {
      const values = curves.map((curve) => at(curve, x));
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
      return { x, mean, low: Math.min(...values), high: Math.max(...values) };
    });
  }

  function linesOf(panel) {
    const found = [];
    const weight = panel.smooth ? SMOOTHING[state.smoothing] : 0;
    data.groups.forEach((group, place) => {
      if (state.hidden.has(place)) return;
      for (const line of panel.lines) {
        if (!state.splits.has(line.split)) continue;
        const runs = group.runs.filter((run) => panel.only === null || panel.only.includes(run));
        const raw = runs.map((run) => points(run, line)).filter((curve) => curve.length);
        if (!raw.length) continue;
        const isNoisy = line.split === "train" && weight > 0 && Math.max(...raw.map((curve) => curve.length)) > 20;
        const curves = isNoisy
          ? raw.map((curve) => {
            const values = smooth(curve.map(([, y]) => y), weight);
            return curve.map(([x], index) => [x, values[index]]);
          })
          : raw;
        found.push({ group: place, name: group.name, line, raw: isNoisy ? raw : [], curves, all: combined(curves) });
      }
    });
    return found;
  }

  // ---- one chart

  function extent(lines, panel) {
    let low = Infinity;
    let high = -Infinity;
    let end = -Infinity;
    let begin = Infinity;
    const see = (x, y) => {
      low = Math.min(low, y);
      high = Math.max(high, y);
      begin = Math.min(begin, x);
      end = Math.max(end, x);
    };
    for (const each of lines) for (const curve of each.curves) for (const [x, y] of curve) see(x, y);
    // Of raw values the outer hundredths are cut off: one of them must not take the whole scale.
    for (const each of lines.filter((line) => line.curves.length === 1)) for (const curve of each.raw) {
      const sorted = curve.map(([, y]) => y).sort((a, b) => a - b);
      const cut = Math.floor(sorted.length / 100);
      low = Math.min(low, sorted[cut]);
      high = Math.max(high, sorted[sorted.length - 1 - cut]);
    }
    if (panel.axis.startsWith("share") && low >= 0 && high <= 1) {
      if (high > 0.6) high = 1;
      if (low < 0.4) low = 0;
    } else if (low > 0 && low < 0.5 * high) low = 0;
    // Less than a token is no change of a length.
    if (panel.axis === "tokens" && high - low < 2) {
      const room = (2 - (high - low)) / 2;
      low = Math.max(low - room, 0);
      high += room;
    }
    // A constant that smoothing has rounded is one still.
    if (high - low <= 1e-9 * Math.max(Math.abs(low), Math.abs(high))) {
      const room = Math.abs(low) * 0.1 || 1;
      low -= room;
      high += room;
    }
    const room = (high - low) * 0.06;
    const isWhole = panel.axis.startsWith("share");
    return {
      // A run that goes on from another one's step need not be squeezed into the right half.
      begin: begin < 0.3 * end ? Math.min(begin, 0) : begin,
      end: end === begin ? begin + 1 : end,
      low: low === 0 ? 0 : low - room,
      high: isWhole && high === 1 ? 1.02 : high + room,
      // The room above 100% is for the width of a line.
      marked: isWhole && high <= 1 ? Math.min(high + room, 1) : high + room,
    };
  }

  function path(curve, toX, toY) {
    return curve.map(([x, y], place) => `${place ? "L" : "M"}${toX(x).toFixed(1)} ${toY(y).toFixed(1)}`).join("");
  }

  class Chart {
    constructor(panel) {
      this.panel = panel;
      this.isShare = panel.axis.startsWith("share");
      this.svg = shape("svg", { role: "img", tabindex: "0" });
      this.tip = element("div", { class: "tip", hidden: true });
      this.axis = element("p", { class: "axis" });
      this.keys = element("div", { class: "keys" });
      const help = element("p", { class: "help-text", text: panel.help, hidden: true });
      const summary = element("button", { type: "button", class: "plain help-button", text: "?", "aria-expanded": "false", "aria-label": `What ${panel.title} means` });
      summary.addEventListener("click", () => {
        help.hidden = !help.hidden;
        summary.setAttribute("aria-expanded", String(!help.hidden));
      });
      this.node = element("figure", {},
        element("div", { class: "figure-head" }, element("h3", { text: panel.title }), panel.help ? summary : null),
        help, this.axis, this.svg, this.keys, this.tip);
      this.svg.addEventListener("pointermove", (event) => this.point(event.clientX));
      this.svg.addEventListener("pointerdown", (event) => this.point(event.clientX));
      this.svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") this.leave(); });
      this.svg.addEventListener("blur", () => this.leave());
      this.svg.addEventListener("keydown", (event) => this.key(event));
    }

    draw() {
      const width = this.node.clientWidth;
      if (!width) return;
      const height = 220;
      this.lines = linesOf(this.panel);
      this.leave();
      this.svg.replaceChildren();
      this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      this.svg.setAttribute("height", height);
      this.axis.textContent = this.panel.axis;
      this.svg.setAttribute("aria-label", `${this.panel.title}: ${this.panel.axis} by ${data.axes[state.axis]}`);
      this.drawKeys();
      if (!this.lines.length) {
        const text = shape("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, this.svg);
        text.textContent = "nothing of what is switched on has values here";
        return;
      }
      const range = extent(this.lines, this.panel);
      const marks = ticks(range.low, range.marked, 5);
      // As many digits as it takes to tell neighbours apart.
      const size = Math.max(Math.abs(range.low), Math.abs(range.high));
      const digits = marks.length > 1 ? Math.max(3, Math.ceil(Math.log10(size / (marks[1] - marks[0]))) + 1) : 3;
      const labels = marks.map((mark) => (this.isShare ? `${number(100 * mark, digits)}%` : number(mark, digits)));
      const left = Math.max(...labels.map((label) => label.length)) * 7.2 + 10;
      const box = { left, right: width - 12, top: 8, bottom: height - 40 };
      const toX = (x) => box.left + ((x - range.begin) / (range.end - range.begin)) * (box.right - box.left);
      const toY = (y) => box.bottom - ((y - range.low) / (range.high - range.low)) * (box.bottom - box.top);
      Object.assign(this, { box, toX, toY, range });
      marks.forEach((mark, place) => {
        shape("line", { x1: box.left, x2: box.right, y1: toY(mark), y2: toY(mark), stroke: "var(--grid)" }, this.svg);
        shape("text", { x: box.left - 6, y: toY(mark) + 4, "text-anchor": "end" }, this.svg).textContent = labels[place];
      });
      this.drawX(range, width, height);
      const clip = shape("clipPath", { id: `clip${charts.indexOf(this)}` }, this.svg);
      shape("rect", { x: box.left - 4, y: 0, width: box.right - box.left + 8, height: box.bottom + 4 }, clip);
      this.plot = shape("g", { "clip-path": `url(#clip${charts.indexOf(this)})` }, this.svg);
      for (const each of this.lines) this.drawLine(each);
      if (this.panel.timed) this.drawCompiled();
      this.cross = shape("line", { y1: box.top, y2: box.bottom, stroke: "var(--muted)", "stroke-dasharray": "3 3", visibility: "hidden" }, this.svg);
    }

    drawX(range, width, height) {
      const { box, toX } = this;
      const marks = ticks(range.begin, range.end, Math.max(2, Math.floor((box.right - box.left) / 80)))
        .filter((mark) => state.axis !== "step" || Number.isInteger(mark));
      for (const mark of marks) {
        const place = toX(mark);
        const label = number(mark);
        const room = label.length * 3.6;
        const anchor = place + room > width ? "end" : "middle";
        shape("line", { x1: place, x2: place, y1: box.bottom, y2: box.bottom + 4, stroke: "var(--muted)" }, this.svg);
        shape("text", { x: anchor === "end" ? width - 2 : place, y: box.bottom + 17, "text-anchor": anchor }, this.svg).textContent = label;
      }
      shape("line", { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom, stroke: "var(--muted)" }, this.svg);
      const short = data.axes[state.axis].split(" (")[0];
      shape("text", { x: box.right, y: height - 5, "text-anchor": "end" }, this.svg).textContent = short;
    }

    drawLine(each) {
      const { toX, toY } = this;
      const held = each.line.split === "eval";
      const ink = { fill: "none", stroke: colour(each.group), "stroke-linejoin": "round", "stroke-dasharray": DASHES[each.line.style] };
      if (each.curves.length > 1) {
        const upper = each.all.map((point) => [point.x, point.high]);
        const lower = each.all.map((point) => [point.x, point.low]).reverse();
        if (upper.length > 1) shape("path", { d: `${path(upper, toX, toY)}${path(lower, toX, toY).replace("M", "L")}Z`, fill: colour(each.group), opacity: 0.17 }, this.plot);
        for (const curve of each.curves) shape("path", { ...ink, d: path(curve, toX, toY), "stroke-width": 1, opacity: 0.4 }, this.plot);
      } else {
        for (const curve of each.raw) shape("path", { ...ink, d: path(curve, toX, toY), "stroke-width": 1, opacity: 0.28 }, this.plot);
      }
      const mean = each.all.map((point) => [point.x, point.mean]);
      // Two or three evaluations are points: a line between them would look like a curve.
      const isCurve = !held || mean.length > 3;
      shape("path", { ...ink, d: path(mean, toX, toY), ...(isCurve ? { "stroke-width": held ? 2.2 : 1.8 } : { "stroke-width": 1, opacity: 0.35 }) }, this.plot);
      if (held || mean.length === 1) {
        for (const [x, y] of mean) shape("circle", { cx: toX(x), cy: toY(y), r: held ? 3.2 : 2.6, fill: colour(each.group), stroke: "var(--back)", "stroke-width": 1 }, this.plot);
      }
    }

    drawCompiled() {
      const { box, toX } = this;
      data.runs.forEach((run) => {
        if (state.hidden.has(run.group) || !state.splits.has("train")) return;
        for (const mark of run.compiled) {
          const place = run.train.step.findIndex((step) => step >= mark.step);
          if (place < 0) continue;
          const x = toX(run.train[state.axis][place]);
          shape("path", { d: `M${x - 5} ${box.bottom}h10l-5 -9z`, fill: colour(run.group) }, this.plot);
        }
      });
    }

    drawKeys() {
      this.keys.replaceChildren();
      const shown = this.panel.lines.filter((line) => state.splits.has(line.split));
      for (const line of shown) {
        const sample = shape("svg", { width: 30, height: 12, "aria-hidden": "true" });
        sample.style.width = "30px";
        shape("line", { x1: 1, x2: 29, y1: 6, y2: 6, stroke: "var(--muted)", "stroke-width": line.split === "eval" ? 2.2 : 1.8, "stroke-dasharray": DASHES[line.style] }, sample);
        if (line.split === "eval") shape("circle", { cx: 15, cy: 6, r: 3.2, fill: "var(--muted)" }, sample);
        this.keys.append(element("span", { class: "key" }, sample, line.label));
      }
      if (!this.panel.timed) return;
      const marks = data.runs.filter((run) => !state.hidden.has(run.group)).flatMap((run) => run.compiled);
      if (!marks.length) return;
      const seconds = marks.map((mark) => mark.seconds).filter((value) => value !== null);
      const range = seconds.length ? ` (${ranged(seconds, duration)})` : "";
      this.keys.append(element("span", { class: "key", text: `▲ a step that compiled programs${range}: left out of the line` }));
    }

    point(clientX) {
      if (!this.lines || !this.lines.length) return;
      const bounds = this.svg.getBoundingClientRect();
      const share = (clientX - bounds.left - this.box.left) / (this.box.right - this.box.left);
      this.show(this.range.begin + Math.min(1, Math.max(0, share)) * (this.range.end - this.range.begin));
    }

    key(event) {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step || !this.lines || !this.lines.length) return;
      event.preventDefault();
      const all = [...new Set(this.lines.flatMap((each) => each.all.map((point) => point.x)))].sort((a, b) => a - b);
      const now = all.findIndex((x) => x >= (this.x ?? -Infinity));
      const next = this.x === undefined || this.x === null ? 0 : Math.min(all.length - 1, Math.max(0, now + step));
      this.show(all[next]);
    }

    show(x) {
      const rows = [];
      let place = null;
      for (const each of this.lines) {
        let best = null;
        for (const point of each.all) if (best === null || Math.abs(point.x - x) < Math.abs(best.x - x)) best = point;
        if (best === null) continue;
        if (place === null || Math.abs(best.x - x) < Math.abs(place - x)) place = best.x;
        rows.push({ each, best });
      }
      if (place === null) return;
      this.x = place;
      // A line whose nearest value lies far off has none here.
      const near = (this.range.end - this.range.begin) * 0.06;
      const isSeveral = this.panel.lines.length > 1;
      const shown = rows.filter(({ best }) => Math.abs(best.x - place) <= near);
      this.tip.replaceChildren(element("div", { text: `${data.axes[state.axis].split(" (")[0]} ${number(place, 4)}` }),
        ...shown.map(({ each, best }) => {
          const text = this.isShare ? percent : number;
          const range = each.curves.length > 1 ? ` (${text(best.low)} to ${text(best.high)})` : "";
          const what = [data.groups.length > 1 ? each.name : "", isSeveral || data.groups.length === 1 ? each.line.label : ""].filter(Boolean).join(", ");
          return element("div", {}, swatch(each.group), element("span", { class: "what", text: what }), element("b", { text: `${text(best.mean)}${range}` }));
        }));
      this.tip.hidden = false;
      const at = this.toX(place);
      this.cross.setAttribute("x1", at);
      this.cross.setAttribute("x2", at);
      this.cross.setAttribute("visibility", "visible");
      const width = this.tip.offsetWidth;
      const room = this.node.clientWidth;
      const beside = at + 12 + width <= room ? at + 12 : at - 12 - width;
      this.tip.style.left = `${Math.max(0, Math.min(beside, room - width))}px`;
      // Below the curves, so that it hides none of them.
      this.tip.style.top = `${this.svg.getBoundingClientRect().bottom - this.node.getBoundingClientRect().top - 20}px`;
    }

    leave() {
      this.tip.hidden = true;
      this.x = null;
      if (this.cross) this.cross.setAttribute("visibility", "hidden");
    }
  }

  const drawAll = () => charts.forEach((chart) => chart.draw());

  // ---- top: a card for each configuration

  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  function ranged(values, show = number) {
    const known = values.filter((value) => value !== null && value !== undefined);
    if (!known.length) return null;
    const low = show(Math.min(...known));
    const high = show(Math.max(...known));
    return low === high ? low : `${low} to ${high}`;
  }

  function facts(pairs) {
    return element("dl", { class: "facts" }, ...pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
      .flatMap(([name, value]) => [element("dt", { text: name }), element("dd", { text: value })]));
  }

  function card(group, place) {
    const runs = group.runs.map((run) => data.runs[run]);
    const states = [...new Set(runs.map((run) => run.state))];
    const heads = runs.map((run) => run.headline).filter((head) => head && head.metric === (runs[0].headline || {}).metric);
    const totals = runs.map((run) => run.total).filter((total) => total !== null);
    const steps = ranged(runs.map((run) => run.step));
    const made = element("article", { class: "card" },
      element("header", {}, swatch(place), element("h3", { text: visible(group.name) }),
        ...states.map((each) => element("span", {
          class: `badge ${each}`,
          text: states.length > 1 ? `${runs.filter((run) => run.state === each).length} ${STATES[each]}` : STATES[each],
        }))));
    if (heads.length) {
      const best = heads.map((head) => head.best);
      const text = heads[0].is_share ? percent : number;
      made.append(
        element("p", { class: "big" }, text(mean(heads.map((head) => head.first))), element("span", { class: "arrow", text: " → " }), element("b", { text: text(mean(heads.map((head) => head.last))) })),
        element("p", { class: "muted small", text: `${heads[0].words}${heads.length > 1 ? `, mean of ${heads.length} seeds` : ""}` }),
        facts([
          [heads[0].lower_is_better ? "lowest" : "highest", `${ranged(best, text)} at step ${ranged(heads.map((head) => head.best_step))}`],
          ["last", heads.length > 1 ? ranged(heads.map((head) => head.last), text) : null],
        ]));
    } else made.append(element("p", { class: "muted", text: "no metrics yet" }));
    made.append(facts([
      ["algorithm", [...new Set(runs.map((run) => run.algorithm))].join(", ")],
      ["steps", totals.length ? `${steps} of ${ranged(totals)}` : steps],
      ["training", ranged(runs.map((run) => run.seconds), duration)],
      ["compiling, apart", ranged(runs.map((run) => run.compiling), duration)],
      ["evaluations, apart", runs.some((run) => run.evaluating) ? ranged(runs.map((run) => run.evaluating), duration) : null],
      ["tokens generated", runs.some((run) => run.tokens) ? ranged(runs.map((run) => run.tokens)) : null],
      ["tokens per second", ranged(runs.map((run) => run.throughput))],
    ]));
    return made;
  }

  function notesOf(number) {
    const run = data.runs[number];
    const reason = run.reason ? [`Ended by ${run.reason}`] : [];
    return [...reason, ...run.notes].map((note) => element("p", { class: "note", text: visible(`${run.name}: ${note}`) }));
  }

  function showRuns() {
    document.getElementById("title").textContent = visible(data.title);
    document.title = `${visible(data.title)} · training report`;
    const count = data.runs.length;
    document.getElementById("made").textContent = `${count} ${count === 1 ? "run" : "runs"}, looked at on ${data.made}`;
    const place = document.getElementById("runs");
    place.append(element("div", { class: "cards" }, ...data.groups.map(card)), ...data.runs.flatMap((_, number) => notesOf(number)));
    if (data.groups.every((group) => group.runs.length === 1)) return;
    const heading = ["run", "state", "steps", "first", "last", "best"].map((text) => element("th", { text }));
    const rows = data.runs.map((run) => {
      const head = run.headline || {};
      const text = head.is_share ? percent : number;
      const cells = [visible(run.name), STATES[run.state], number(run.step), text(head.first), text(head.last), `${text(head.best)} at step ${number(head.best_step)}`];
      return element("tr", {}, ...cells.map((text, column) => element(column ? "td" : "th", { text })));
    });
    place.append(element("details", { class: "more" }, element("summary", { text: "Each run by itself" }),
      element("div", { class: "scroll" }, element("table", {}, element("thead", {}, element("tr", {}, ...heading)), element("tbody", {}, ...rows)))));
  }

  // ---- controls

  function choice(label, options, value, change) {
    const list = element("select", {}, ...options.map(([key, text]) => element("option", { value: key, text, selected: key === value })));
    list.addEventListener("change", () => change(list.value));
    return element("label", { class: "choice" }, label, list);
  }

  function chip(text, mark, set, key, isOn) {
    const button = element("button", { type: "button", class: "chip", "aria-pressed": String(isOn()) }, mark, text);
    button.addEventListener("click", () => {
      if (set.has(key)) set.delete(key);
      else set.add(key);
      button.setAttribute("aria-pressed", String(isOn()));
      drawAll();
    });
    return button;
  }

  function showControls() {
    const place = document.getElementById("controls");
    const chips = element("div", { class: "chips" });
    data.groups.forEach((group, number) => {
      const text = group.runs.length > 1 ? `${group.name} (${group.runs.length} seeds)` : group.name;
      chips.append(chip(visible(text), swatch(number), state.hidden, number, () => !state.hidden.has(number)));
    });
    if (data.runs.some((run) => run.eval.step.length)) {
      for (const [split, text] of [["train", "training"], ["eval", "held out"]]) {
        const sample = shape("svg", { width: 22, height: 12, "aria-hidden": "true" });
        shape("line", { x1: 1, x2: 21, y1: 6, y2: 6, stroke: "var(--muted)", "stroke-width": 2 }, sample);
        if (split === "eval") shape("circle", { cx: 11, cy: 6, r: 3.2, fill: "var(--muted)" }, sample);
        chips.append(chip(text, sample, state.splits, split, () => state.splits.has(split)));
      }
    }
    const axes = Object.entries(data.axes).filter(([key]) => key !== "tokens" || data.runs.some((run) => run.tokens));
    place.append(chips,
      choice("x axis", axes.map(([key, text]) => [key, text.split(" (")[0]]), state.axis, (value) => { state.axis = value; drawAll(); }),
      choice("curves", Object.keys(SMOOTHING).map((key) => [key, key]), state.smoothing, (value) => { state.smoothing = value; drawAll(); }));
  }

  function showCharts() {
    const place = document.getElementById("charts");
    for (const [section, heading] of Object.entries(data.sections)) {
      const panels = data.panels.filter((panel) => panel.section === section);
      const isRest = section === "rest";
      if (!panels.length && !(isRest && data.constant.length)) continue;
      const grid = element("div", { class: "grid" });
      for (const panel of panels) {
        const chart = new Chart(panel);
        charts.push(chart);
        grid.append(chart.node);
      }
      const constant = isRest && data.constant.length
        ? element("p", { class: "muted small", text: `Never changed, so not drawn: ${data.constant.map(([name, value]) => `${name} ${number(value)}`).join(", ")}.` })
        : null;
      if (isRest) {
        const details = element("details", { class: "more" }, element("summary", { text: `${panels.length} further ${panels.length === 1 ? "metric" : "metrics"}, by name` }), grid);
        details.addEventListener("toggle", drawAll);
        place.append(element("section", { id: section }, element("h2", { text: heading }), constant, panels.length ? details : ""));
      } else place.append(element("section", { id: section }, element("h2", { text: heading }), bandNote(section), grid));
    }
    drawAll();
    let waiting = null;
    let width = window.innerWidth;
    window.addEventListener("resize", () => {
      if (window.innerWidth === width) return;
      width = window.innerWidth;
      clearTimeout(waiting);
      waiting = setTimeout(drawAll, 100);
    });
  }

  function bandNote(section) {
    if (section !== "judged") return null;
    const averaged = Math.max(...data.runs.map((run) => run.train.averaged), 1);
    const parts = [];
    if (data.groups.some((group) => group.runs.length > 1)) parts.push("Thick: mean over seeds; thin: each seed; shaded: lowest to highest seed.");
    if (data.groups.length > COLOURS) parts.push(`There are more configurations than colours (${COLOURS}): switch some off to tell the others apart.`);
    if (averaged > 1) parts.push(`Long runs: a point is the mean of up to ${averaged} rows.`);
    return parts.length ? element("p", { class: "muted small below", text: parts.join(" ") }) : null;
  }

  function showWay() {
    const names = [...document.querySelectorAll("main section[id]:not([hidden])")].filter((section) => section.querySelector("h2"));
    document.getElementById("way").append(...names.map((section) => element("a", { href: `#${section.id}`, text: section.querySelector("h2").textContent })));
  }

  // ---- completions

  function showCompletions() {
    const { prompts, rows } = data.completions;
    const notes = Object.entries(data.completions.notes).flatMap(([run, texts]) => texts.map((text) => [Number(run), text]));
    if (!rows.length && !notes.length) return;
    const place = document.getElementById("completions");
    place.hidden = false;
    const chosen = { run: "", split: "", step: "", right: "", sort: "newest", text: "", page: 0 };
    const ranges = data.runs.map((_, run) => {
      const values = rows.filter((row) => row.run === run && row.reward !== null).map((row) => row.reward);
      return values.length ? [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))] : [0, 1];
    });
    const list = element("div", { class: "rows" });
    const count = element("span", { id: "count", "aria-live": "polite" });
    const before = element("button", { type: "button", text: "← before" });
    const after = element("button", { type: "button", text: "next →" });
    const steps = element("select", { "aria-label": "step" });
    const fillSteps = () => {
      const found = [...new Set(rows.filter((row) => (chosen.run === "" || row.run === Number(chosen.run)) && (chosen.split === "" || row.split === chosen.split)).map((row) => row.step))].sort((a, b) => a - b);
      if (chosen.step !== "" && !found.includes(Number(chosen.step))) chosen.step = "";
      steps.replaceChildren(element("option", { value: "", text: "all steps" }), ...found.map((step) => element("option", { value: String(step), text: `step ${step}`, selected: String(step) === chosen.step })));
    };
    const pick = (label, name, options) => {
      const made = element("select", { "aria-label": label, id: `pick-${name}` }, ...options.map(([value, text]) => element("option", { value, text })));
      made.addEventListener("change", () => { chosen[name] = made.value; chosen.page = 0; fillSteps(); fill(); });
      return made;
    };
    steps.id = "pick-step";
    steps.addEventListener("change", () => { chosen.step = steps.value; chosen.page = 0; fill(); });
    const runsOf = [...new Set(rows.map((row) => row.run))];
    const search = element("input", { type: "search", placeholder: "search prompts and completions", "aria-label": "search prompts and completions", id: "pick-text" });
    search.addEventListener("input", () => { chosen.text = search.value.toLowerCase(); chosen.page = 0; fill(); });
    const filters = element("div", { class: "filters" },
      runsOf.length > 1 ? pick("run", "run", [["", "all runs"], ...runsOf.map((run) => [String(run), visible(data.runs[run].name)])]) : null,
      pick("split", "split", [["", "training and held out"], ["train", "training"], ["eval", "held out"]]),
      steps,
      rows.some((row) => row.right !== null) ? pick("right or wrong", "right", [["", "right and wrong"], ["true", "right"], ["false", "wrong"], ["null", "not judged"]]) : null,
      pick("order", "sort", [["newest", "newest first"], ["oldest", "oldest first"], ["high", "highest reward first"], ["low", "lowest reward first"], ["long", "longest first"]]),
      search,
      element("span", { class: "scale" }, "low reward", element("i"), "high reward"));
    const orders = {
      newest: (a, b) => b.step - a.step,
      oldest: (a, b) => a.step - b.step,
      high: (a, b) => (b.reward ?? -Infinity) - (a.reward ?? -Infinity) || b.step - a.step,
      low: (a, b) => (a.reward ?? Infinity) - (b.reward ?? Infinity) || b.step - a.step,
      long: (a, b) => (b.tokens ?? 0) - (a.tokens ?? 0),
    };

    function matching() {
      return rows.filter((row) =>
        (chosen.run === "" || row.run === Number(chosen.run))
        && (chosen.split === "" || row.split === chosen.split)
        && (chosen.step === "" || row.step === Number(chosen.step))
        && (chosen.right === "" || String(row.right) === chosen.right)
        && (chosen.text === "" || prompts[row.prompt].toLowerCase().includes(chosen.text) || row.completion.toLowerCase().includes(chosen.text)),
      ).sort(orders[chosen.sort]);
    }

    function fill() {
      const found = matching();
      const pages = Math.max(1, Math.ceil(found.length / PAGE));
      chosen.page = Math.min(chosen.page, pages - 1);
      const start = chosen.page * PAGE;
      const part = found.slice(start, start + PAGE);
      const heads = ["reward", "", "when", "prompt", "completion", "tokens"].map((text) => element("span", { text }));
      list.replaceChildren(element("div", { class: "heads" }, ...heads), ...part.map((row) => rowOf(row, ranges[row.run])));
      if (!part.length) list.append(element("p", { class: "inside muted", text: "No completion fits these filters." }));
      count.textContent = part.length ? `${start + 1} to ${start + part.length} of ${found.length.toLocaleString("en-US")}` : "none";
      before.disabled = chosen.page === 0;
      after.disabled = chosen.page >= pages - 1;
    }
    before.addEventListener("click", () => { chosen.page -= 1; fill(); });
    after.addEventListener("click", () => { chosen.page += 1; fill(); });
    place.append(element("h2", { text: "Completions" }), ...notes.map(([run, text]) => element("p", { class: "muted small", text: visible(data.runs.length > 1 ? `${data.runs[run].name}: ${text}` : text) })));
    if (!rows.length) return;
    place.append(filters, list, element("div", { class: "pager" }, before, count, after));
    fillSteps();
    fill();
  }

  function tint(reward, [low, high]) {
    // orange, grey, blue: told apart by colour-blind readers too
    const share = high > low ? (reward - low) / (high - low) : 0.5;
    const ends = share < 0.5 ? [[238, 154, 91], [232, 230, 223]] : [[232, 230, 223], [103, 176, 228]];
    const along = share < 0.5 ? share * 2 : share * 2 - 1;
    return `rgb(${ends[0].map((value, place) => Math.round(value + (ends[1][place] - value) * along)).join(",")})`;
  }

  function preview(text) {
    return visible(text.slice(0, 300).replace(/\s*\n\s*/g, " ⏎ ").trim()) || "(empty)";
  }

  function rowOf(row, range) {
    const pill = element("span", { class: row.reward === null ? "pill none" : "pill", text: row.reward === null ? "none" : number(row.reward) });
    if (row.reward !== null) pill.style.background = tint(row.reward, range);
    const isRight = { true: ["right", "✓", "right"], false: ["wrong", "✗", "wrong"] }[String(row.right)] || ["", "", ""];
    const prompt = data.completions.prompts[row.prompt];
    const where = { train: "training", eval: row.sample === -1 ? "greedy" : "held out" }[row.split];
    const summary = element("summary", {}, pill,
      element("span", { class: isRight[0], text: isRight[1], title: isRight[2] }),
      element("span", { class: "cell when muted", text: `step ${row.step}, ${where}` }),
      element("bdi", { class: "cell prompt", text: preview(prompt) }),
      element("bdi", { class: "cell completion", text: preview(row.completion) }),
      element("span", { class: "cell tokens", text: row.tokens === null ? "" : `${row.tokens}${row.truncated ? " (cut)" : ""}` }));
    const made = element("details", { class: "row" }, summary);
    made.addEventListener("toggle", () => {
      if (!made.open || made.children.length > 1) return;
      const used = row.split === "train" ? (row.trained_step === null ? "no" : `in step ${row.trained_step}`) : null;
      made.append(element("div", { class: "inside" },
        element("h4", { text: "prompt" }), element("pre", { dir: "auto", text: visible(prompt) }),
        element("h4", { text: "completion" }), element("pre", { dir: "auto", text: visible(row.completion) || "(empty)" }),
        facts([
          ["run", visible(data.runs[row.run].name)],
          ["reward, total", row.reward === null ? "not graded" : number(row.reward, 5)],
          ...Object.entries(row.rewards).map(([name, value]) => [`reward ${visible(name)}`, value === null ? "not graded" : number(value, 5)]),
          ["tokens", `${row.tokens}${row.truncated ? ", cut at the limit" : ""}`],
          ["trained on", used],
          ...Object.entries(row.more).map(([name, value]) => [visible(name), visible(value)]),
        ])));
    });
    return made;
  }

  // ---- configuration and environment

  // A long key may go on in the next line behind a dot or an underscore.
  const breakable = (key) => key.replace(/([._])/g, "$1\u200b");

  function table(headings, rows) {
    return element("div", { class: "scroll" }, element("table", {},
      element("thead", {}, element("tr", {}, ...headings.map((text) => element("th", { text: visible(text) })))),
      element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((text, place) => element(place ? "td" : "th", { text: place ? visible(text) : breakable(visible(text)) })))))));
  }

  function showConfiguration() {
    const place = document.getElementById("configuration");
    place.append(element("h2", { text: "Configuration" }));
    if (data.groups.length > 1) {
      const names = data.groups.map((group) => group.name);
      const shown = (isShared) => data.differences.filter((change) => change.shared === isShared).map((change) => [change.key, ...change.values]);
      if (shown(true).length) place.append(table(["what differs", ...names], shown(true)));
      else if (!data.differences.length) place.append(element("p", { text: "The runs differ in nothing that changes what is learnt." }));
      if (shown(false).length) {
        place.append(element("details", { class: "more" }, element("summary", { text: `${shown(false).length} settings that only some of them have` }), table(["key", ...names], shown(false))));
      }
    }
    for (const group of data.groups) {
      const run = data.runs[group.runs[0]];
      if (!run.config.length) continue;
      place.append(element("details", { class: "more" }, element("summary", { text: `Whole configuration of ${visible(run.name)}` }), table(["key", "value"], run.config)));
    }
  }

  function showEnvironment() {
    const place = document.getElementById("environment");
    place.append(element("h2", { text: "Environment" }));
    const own = new Set(["started", "ended", "resumed_after", "process"]);
    const kinds = new Map();
    data.runs.forEach((run) => run.sessions.forEach((session) => {
      const facts = Object.entries(session).filter(([key]) => !own.has(key));
      const key = JSON.stringify(facts);
      if (!kinds.has(key)) kinds.set(key, { facts, used: [] });
      const resumed = session.resumed_after === "null" ? "" : `, went on after step ${session.resumed_after}`;
      kinds.get(key).used.push(`${run.name}: ${session.started.replace("T", " ").replace("+00:00", " UTC")}${resumed}${session.ended ? `, ${session.ended}` : ""}`);
    }));
    if (!kinds.size) {
      place.append(element("p", { class: "muted", text: "These runs do not say what they ran on." }));
      return;
    }
    const kindList = [...kinds.values()];
    const names = [...new Set(kindList.flatMap((kind) => kind.facts.map(([key]) => key)))];
    const heading = kindList.map((_, place) => (kindList.length > 1 ? `environment ${place + 1}` : "value"));
    const value = (kind, name) => {
      const found = (kind.facts.find(([key]) => key === name) || [null, "-"])[1];
      return found === "null" ? "not known" : found;
    };
    place.append(table(["what", ...heading], names.map((name) => [name.replace(/_/g, " "), ...kindList.map((kind) => value(kind, name))])));
    kindList.forEach((kind, number) => {
      const label = kindList.length > 1 ? `Sessions in environment ${number + 1}` : "Sessions";
      place.append(element("details", { class: "more" }, element("summary", { text: `${label} (${kind.used.length})` }), element("ul", {}, ...kind.used.map((text) => element("li", { class: "small", text: visible(text) })))));
    });
  }

  document.getElementById("theme").addEventListener("click", () => {
    const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
    const now = document.documentElement.dataset.theme || (isDark ? "dark" : "light");
    document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  });
  showRuns();
  showControls();
  showCharts();
  showCompletions();
  showConfiguration();
  showEnvironment();
  showWay();
})();
