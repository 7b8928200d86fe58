// A training, update by update.

import { legend, lines, trainingChart, trainingSeries } from "./charts.js";
import { store } from "./data.js";
import { brief, count, h, link, percent, plural } from "./dom.js";

/** What the trials of each update came to, from their lines in the list. */
function byUpdate(rows) {
  const found = new Map();
  for (let row = 0; row < rows.length; row += 1) {
    if (rows.part[row] !== "training") continue;
    const one = found.get(rows.update[row]) || { trials: 0, solved: 0, first: 0, invalid: 0, turns: 0, version: "" };
    one.trials += 1;
    one.solved += rows.outcome[row] > 0;
    one.first += rows.outcome[row] === 1;
    one.invalid += rows.invalid[row];
    one.turns += rows.turns[row];
    one.version = rows.version[row] || one.version;
    found.set(rows.update[row], one);
  }
  return [...found.entries()].sort((a, b) => a[0] - b[0]);
}

export function training(number) {
  const run = store.overview.runs[number];
  if (!run || !run.curves) return h("p", { class: "empty" }, "This run trains nothing.");
  const { updates, more, planned } = run.curves;
  const series = trainingSeries(run.curves);
  const seen = byUpdate(store.rows[number]);
  const waiting = planned && updates.length < planned;
  return h(
    "div",
    {},
    h(
      "header",
      { class: "headline" },
      h("p", { class: "crumbs" }, h("a", { href: "#/" }, "overview"), " · training"),
      h("h1", {}, run.name),
      h(
        "p",
        {},
        `${plural(updates.length, "update")}${planned ? ` of ${count(planned)}` : ""} · ${plural(store.rows[number].total, "trial")}`,
      ),
    ),
    planned
      ? h(
          "div",
          {
            class: "bar",
            role: "progressbar",
            "aria-valuemin": 0,
            "aria-valuemax": planned,
            "aria-valuenow": updates.length,
            "aria-label": "updates done",
          },
          h("i", { style: { width: `${(100 * Math.min(updates.length, planned)) / planned}%` } }),
        )
      : null,
    h(
      "section",
      { class: "card" },
      h("h2", {}, "Success of each update's batch"),
      updates.length
        ? h("div", { class: "figure" }, trainingChart(run.curves, series), legend(series))
        : h("p", { class: "empty" }, "No update has ended yet."),
    ),
    h(
      "section",
      { class: "card" },
      h("h2", {}, "Updates"),
      h(
        "p",
        { class: "under" },
        "A column each: the share solved within all episodes, and within the first (stronger). Click one for its trials.",
      ),
      seen.length
        ? h(
            "div",
            { class: "timeline" },
            seen.map(([update, one]) =>
              h(
                "a",
                {
                  href: `#/trials?run=${number}&update=${update}`,
                  title: `update ${update}, ${one.version}: ${percent(one.solved / one.trials)} of ${one.trials} trials solved, ${percent(one.first / one.trials)} in the first episode, ${percent(one.turns ? one.invalid / one.turns : 0)} invalid actions`,
                  "aria-label": `update ${update}: ${percent(one.solved / one.trials)} solved`,
                },
                h("i", { class: "all", style: { height: `${(100 * one.solved) / one.trials}%` } }),
                h("i", { class: "first", style: { height: `${(100 * one.first) / one.trials}%` } }),
              ),
            ),
          )
        : h("p", { class: "empty" }, "No trial has ended yet."),
      waiting ? h("p", { class: "note" }, `${count(planned - updates.length)} updates are still to come.`) : null,
    ),
    updates.length
      ? h(
          "section",
          { class: "card" },
          h("h2", {}, "How it goes"),
          h(
            "div",
            { class: "small-charts" },
            more.map((one) =>
              h(
                "figure",
                {},
                h("figcaption", {}, one.name, h("b", {}, brief(one.values[one.values.length - 1]))),
                lines({
                  updates,
                  series: [{ name: one.name, values: one.values }],
                  label: one.name,
                  small: true,
                  last: planned,
                }),
              ),
            ),
          ),
        )
      : null,
    h("p", {}, h("a", { href: link() }, "overview")),
  );
}
