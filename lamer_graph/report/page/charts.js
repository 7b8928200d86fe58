// Charts as SVG. What must stay true: a point is a number that was measured and its interval is drawn with it; axes of
// shares go from 0 to 1; every chart says in words what it shows.

import { brief, h, percent, plain } from "./dom.js";

export const SERIES = 6;

const narrow = () => innerWidth < 640;
const scale = (low, high, from, to) => (value) => from + ((value - low) / (high - low || 1)) * (to - from);

/** pass@k of several runs: points with their 95 % intervals, a group for every k. */
export function passes(runs) {
  const width = narrow() ? 350 : 640,
    height = narrow() ? 210 : 250,
    left = 40,
    bottom = 28,
    top = 10,
    right = 12;
  const most = Math.max(...runs.map((run) => run.pass_at.length));
  const y = scale(0, 1, height - bottom, top);
  const step = (width - left - right) / most;
  const spread = Math.min(26, (step * 0.7) / runs.length);
  const parts = [];
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
    parts.push(h("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
    parts.push(h("text", { class: "tick", x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, percent(tick)));
  }
  for (let k = 0; k < most; k += 1) {
    const middle = left + step * (k + 0.5);
    parts.push(h("text", { class: "tick", x: middle, y: height - 8, "text-anchor": "middle" }, `pass@${k + 1}`));
  }
  runs.forEach((run, number) => {
    const at = (k) => left + step * (k + 0.5) + (number - (runs.length - 1) / 2) * spread;
    const series = h("g", { class: `series s${number % SERIES}` });
    const points = run.pass_at.map((one, k) => `${at(k)},${y(one.value)}`).join(" ");
    series.append(h("polyline", { class: "through", points }));
    run.pass_at.forEach((one, k) => {
      const title = `${run.name}, pass@${k + 1}: ${percent(one.value)}, 95 % interval ${percent(one.low)} to ${percent(one.high)}, ${one.tasks} tasks`;
      series.append(
        h(
          "g",
          {},
          h("title", {}, plain(title)),
          h("line", { class: "whisker", x1: at(k), x2: at(k), y1: y(one.low), y2: y(one.high) }),
          h("circle", { class: "point", cx: at(k), cy: y(one.value), r: 4.5 }),
        ),
      );
    });
    parts.push(series);
  });
  return h(
    "svg",
    {
      class: "chart passes",
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": "pass at k of every run, with 95 percent intervals",
    },
    parts,
  );
}

/** A value with its interval on an axis from 0 to 1, small enough for a cell of a table. */
export function span(one) {
  const x = scale(0, 1, 2, 98);
  return h(
    "svg",
    { class: "span", viewBox: "0 0 100 10", "aria-hidden": "true" },
    h("line", { class: "axis", x1: 2, x2: 98, y1: 5, y2: 5 }),
    h("line", { class: "whisker", x1: x(one.low), x2: x(one.high), y1: 5, y2: 5 }),
    h("circle", { class: "point", cx: x(one.value), cy: 5, r: 3 }),
  );
}

/** A difference with its interval on an axis from -1 to 1. */
export function difference(one) {
  const x = scale(-1, 1, 2, 98);
  return h(
    "svg",
    { class: "span", viewBox: "0 0 100 10", "aria-hidden": "true" },
    h("line", { class: "axis", x1: 2, x2: 98, y1: 5, y2: 5 }),
    h("line", { class: "zero", x1: 50, x2: 50, y1: 0, y2: 10 }),
    h("line", { class: "whisker", x1: x(one.low), x2: x(one.high), y1: 5, y2: 5 }),
    h("circle", { class: "point", cx: x(one.value), cy: 5, r: 3 }),
  );
}

export function running(values, window = 9) {
  const half = Math.floor(window / 2);
  return values.map((own, i) => {
    if (own === null) return null;
    const near = values.slice(Math.max(0, i - half), i + half + 1).filter((value) => value !== null);
    return near.reduce((sum, value) => sum + value, 0) / near.length;
  });
}

/** Lines over updates. `series`: [{name, values, points}], of which `points` are drawn as dots alone. */
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
  const parts = [];
  const ticks = shares ? [0, 0.25, 0.5, 0.75, 1] : [low, (low + high) / 2, high];
  for (const tick of ticks) {
    parts.push(h("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
    parts.push(
      h(
        "text",
        { class: "tick", x: left - 6, y: y(tick) + 4, "text-anchor": "end" },
        shares ? percent(tick) : brief(tick),
      ),
    );
  }
  for (const tick of small || narrow()
    ? [1, end]
    : [1, Math.round(end / 4), Math.round(end / 2), Math.round((3 * end) / 4), end]) {
    parts.push(
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
  }
  series.forEach((one, number) => {
    const group = h(
      "g",
      { class: `series s${(one.colour === undefined ? number : one.colour) % SERIES}` },
      h("title", {}, one.name),
    );
    const places = one.values.map((value, i) => (value === null ? null : [x((one.updates || updates)[i]), y(value)]));
    if (one.dots || one.alone)
      for (const place of places)
        if (place)
          group.append(
            h("circle", { class: one.alone ? "point" : "dot", cx: place[0], cy: place[1], r: one.alone ? 4 : 2 }),
          );
    if (!one.alone) {
      const smooth = one.dots
        ? running(one.values).map((value, i) => (value === null ? null : [x(updates[i]), y(value)]))
        : places;
      group.append(
        h("polyline", {
          class: "through",
          points: smooth
            .filter(Boolean)
            .map((place) => place.join(","))
            .join(" "),
        }),
      );
    }
    parts.push(group);
  });
  return h(
    "svg",
    { class: small ? "chart small" : "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    parts,
  );
}

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
