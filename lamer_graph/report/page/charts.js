// Charts as SVG. What must stay true: a point is a number that was measured and its interval is drawn with it; axes of
// shares go from 0 to 1; every chart says in words what it shows; a series has one colour wherever it is named.

import { brief, h, percent, plain } from "./dom.js";

export const SERIES = 6;
const QUARTERS = [0, 0.25, 0.5, 0.75, 1];
const VALIDATION = 5;

const narrow = () => innerWidth < 640;
const scale = (low, high, from, to) => (value) => from + ((value - low) / (high - low || 1)) * (to - from);
const quarter = (tick) => `${100 * tick}%`;

/** The colour of a series: its own, or that of its place. */
export const hue = (series, place) => `series s${(series.colour ?? place) % SERIES}`;

const levels = (ticks, word, y, left, right) =>
  ticks.map((tick) => [
    h("line", { class: "grid", x1: left, x2: right, y1: y(tick), y2: y(tick) }),
    h("text", { class: "tick", x: left - 7, y: y(tick) + 4, "text-anchor": "end" }, word(tick)),
  ]);
const path = (places) =>
  h("polyline", {
    class: "through",
    points: places
      .filter(Boolean)
      .map((place) => place.join(","))
      .join(" "),
  });

/** pass@k of several runs: points with their 95 % intervals, a group for every k. */
export function passes(runs) {
  const width = narrow() ? 350 : 640,
    height = narrow() ? 210 : 250,
    left = 44,
    bottom = 28,
    top = 10,
    right = 12;
  const most = Math.max(...runs.map((run) => run.pass_at.length));
  const y = scale(0, 1, height - bottom, top);
  const step = (width - left - right) / most;
  const spread = Math.min(26, (step * 0.7) / runs.length);
  const names = Array.from({ length: most }, (_, k) =>
    h("text", { class: "tick", x: left + step * (k + 0.5), y: height - 8, "text-anchor": "middle" }, `pass@${k + 1}`),
  );
  const series = runs.map((run, number) => {
    const at = (k) => left + step * (k + 0.5) + (number - (runs.length - 1) / 2) * spread;
    return h(
      "g",
      { class: hue(run, number) },
      path(run.pass_at.map((one, k) => [at(k), y(one.value)])),
      run.pass_at.map((one, k) =>
        h(
          "g",
          {},
          h(
            "title",
            {},
            plain(
              `${run.name}, pass@${k + 1}: ${percent(one.value)}, 95 % interval ${percent(one.low)} to ${percent(one.high)}, ${one.tasks} tasks`,
            ),
          ),
          h("line", { class: "whisker", x1: at(k), x2: at(k), y1: y(one.low), y2: y(one.high) }),
          h("circle", { class: "point", cx: at(k), cy: y(one.value), r: 4.5 }),
        ),
      ),
    );
  });
  return h(
    "svg",
    {
      class: "chart passes",
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": "pass at k of every run, with 95 percent intervals",
    },
    levels(QUARTERS, quarter, y, left, width - right),
    names,
    series,
  );
}

/** A value with its interval on an axis from `low` to 1, small enough for a cell of a table. */
export function span(one, low = 0) {
  const x = scale(low, 1, 2, 98);
  return h(
    "svg",
    { class: "span", viewBox: "0 0 100 10", "aria-hidden": "true" },
    h("line", { class: "axis", x1: 2, x2: 98, y1: 5, y2: 5 }),
    low < 0 ? h("line", { class: "zero", x1: x(0), x2: x(0), y1: 0, y2: 10 }) : null,
    h("line", { class: "whisker", x1: x(one.low), x2: x(one.high), y1: 5, y2: 5 }),
    h("circle", { class: "point", cx: x(one.value), cy: 5, r: 3 }),
  );
}

/** Which colour is what; `series`: [{name, memory, colour, alone}]. */
export const legend = (series) =>
  h(
    "ul",
    { class: "legend" },
    series.map((one, place) =>
      h(
        "li",
        { class: hue(one, place) },
        h("i", { class: one.alone ? "key round" : "key" }),
        h(
          "span",
          {},
          one.name,
          one.memory && one.memory !== one.name
            ? h("small", {}, one.memory === "none" ? "no memory" : one.memory)
            : null,
        ),
      ),
    ),
  );

function running(values, window = 9) {
  const half = Math.floor(window / 2);
  return values.map((own, i) => {
    if (own === null) return null;
    const near = values.slice(Math.max(0, i - half), i + half + 1).filter((value) => value !== null);
    return near.reduce((sum, value) => sum + value, 0) / near.length;
  });
}

/** Lines over updates. `series`: [{name, values, updates, dots, alone}]: with `dots` the values are dots and the line
 * is their running mean, `alone` are points without a line. */
export function lines({ updates, series, shares, label, last, small }) {
  const width = small ? 300 : narrow() ? 350 : 640,
    height = small ? 130 : narrow() ? 220 : 260,
    left = 44,
    bottom = 24,
    top = 8,
    right = small ? 8 : 12;
  const values = series.flatMap((one) => one.values).filter((value) => value !== null);
  if (!values.length) return h("p", { class: "empty" }, "nothing was measured yet");
  let low = shares ? 0 : Math.min(...values),
    high = shares ? 1 : Math.max(...values);
  if (low === high) {
    low -= 0.5;
    high += 0.5;
  }
  const end = Math.max(last || 0, updates[updates.length - 1], 2);
  const x = scale(1, end, left, width - right),
    y = scale(low, high, height - bottom, top);
  const ends = small || narrow();
  const ticks = ends ? [1, end] : [1, ...[0.25, 0.5, 0.75].map((part) => Math.round(part * end)), end];
  const times = [...new Set(ticks)].map((tick) =>
    h(
      "text",
      {
        class: "tick",
        x: x(tick),
        y: height - 6,
        "text-anchor": tick === 1 ? "start" : tick === end ? "end" : "middle",
      },
      String(tick),
    ),
  );
  const drawn = series.map((one, number) => {
    const at = one.updates || updates;
    const placed = (heights) => heights.map((value, i) => (value === null ? null : [x(at[i]), y(value)]));
    const mark = one.alone ? { class: "point", r: 4 } : { class: "dot", r: 2 };
    return h(
      "g",
      { class: hue(one, number) },
      h("title", {}, one.name),
      one.dots || one.alone
        ? placed(one.values).map((place) => place && h("circle", { ...mark, cx: place[0], cy: place[1] }))
        : null,
      one.alone ? null : path(placed(one.dots ? running(one.values) : one.values)),
    );
  });
  return h(
    "svg",
    { class: small ? "chart small" : "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    shares
      ? levels(small ? [0, 0.5, 1] : QUARTERS, quarter, y, left, width - right)
      : levels([low, (low + high) / 2, high], brief, y, left, width - right),
    times,
    drawn,
  );
}

/** pass@k of a training's batches, and of its validation tasks within all episodes. */
export function trainingSeries({ pass_at: passAt, validation }) {
  const series = passAt.map((values, k) => ({ name: `pass@${k + 1}`, values, dots: true }));
  if (validation.length)
    series.push({
      name: `validation, pass@${validation[0][1].length}`,
      updates: validation.map(([update]) => update),
      values: validation.map(([, values]) => values[values.length - 1]),
      alone: true,
      colour: VALIDATION,
    });
  return series;
}

export const trainingChart = ({ updates, planned }, series, small = false) =>
  lines({ updates, series, shares: true, last: planned, label: "pass at k over updates", small });

export const outcomeClass = (outcome) =>
  outcome < 0 ? "failed" : outcome === 0 ? "lost" : `won w${Math.min(outcome, 4)}`;
export const outcomeWord = (outcome, episodes) =>
  outcome < 0 ? "ended by an error" : outcome === 0 ? `not solved in ${episodes}` : `solved in episode ${outcome}`;

/** A trial's episodes as small boxes: lost ones, and the one that won. */
export function pips(outcome, episodes) {
  const boxes = [];
  for (let number = 1; number <= Math.min(episodes, 12); number += 1)
    boxes.push(h("i", { class: outcome === number ? "pip won" : "pip" }));
  if (outcome < 0) boxes.push(h("i", { class: "pip failed" }));
  return h("span", { class: "pips", role: "img", "aria-label": outcomeWord(outcome, episodes) }, boxes);
}
