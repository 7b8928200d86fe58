// What came of the runs as a whole.

import { difference, lines, outcomeClass, outcomeWord, passes, SERIES, span } from "./charts.js";
import { store } from "./data.js";
import { brief, count, h, link, percent, plural, said, signed } from "./dom.js";

const MOST_CELLS = 600;

export function overview() {
  const runs = store.overview.runs.map((run, number) => ({ ...run, number }));
  const measured = runs
    .filter((run) => run.summary && run.summary.pass_at)
    .map((run) => ({ ...run, pass_at: run.summary.pass_at }));
  return h(
    "div",
    { class: "overview" },
    headline(runs),
    runs.flatMap((run) =>
      run.problems.map((problem) => h("p", { class: "notice" }, h("b", {}, run.name), ": ", said(problem))),
    ),
    measured.length ? success(measured) : null,
    !store.overview.measured && runs.some((run) => !run.training)
      ? h("p", { class: "busy", role: "status" }, "intervals are being drawn …")
      : null,
    runs.filter((run) => run.curves).map(trained),
    outcomes(runs.filter((run) => !run.training)),
    store.overview.comparisons.map(compared),
    h(
      "section",
      { class: "card" },
      h("h2", {}, runs.length === 1 ? "How it was played" : "How they were played"),
      played(runs),
    ),
  );
}

function headline(runs) {
  const rows = store.rows.reduce((sum, one) => sum + (one ? one.total : 0), 0);
  const environments = [...new Set(runs.map((run) => run.env).filter(Boolean))];
  return h(
    "header",
    { class: "headline" },
    h("h1", {}, runs.length === 1 ? runs[0].name : plural(runs.length, "run")),
    h(
      "p",
      {},
      environments.slice(0, 3).join(", "),
      environments.length ? " · " : "",
      plural(rows, "trial"),
      rows ? [" · ", h("a", { href: "#/trials" }, "look at every one")] : null,
    ),
    rows
      ? null
      : h(
          "section",
          { class: "card waiting" },
          h("h2", {}, "No trial has ended yet"),
          h("p", { class: "under" }, "Each appears here as soon as it is written; there is nothing to reload."),
        ),
  );
}

function success(runs) {
  const most = Math.max(...runs.map((run) => run.pass_at.length));
  const keys = Array.from({ length: most }, (_, k) => k);
  const diverse = runs.some((run) => run.summary.trials > run.summary.tasks);
  return h(
    "section",
    { class: "card" },
    h("h2", {}, "Success within k attempts"),
    h(
      "p",
      { class: "under" },
      "The share of tasks that are solved in the first k episodes of a trial. Lines are 95 % intervals over different instances.",
    ),
    runs.length <= SERIES ? h("div", { class: "figure" }, passes(runs), legend(runs)) : null,
    h(
      "div",
      { class: "scroll" },
      h(
        "table",
        { class: "numbers" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, "run"),
            h("th", { scope: "col", class: "left" }, "memory"),
            keys.map((k) => h("th", { scope: "col" }, `pass@${k + 1}`)),
            h("th", { scope: "col" }, "turns"),
            h("th", { scope: "col" }, "invalid"),
            diverse
              ? h("th", { scope: "col", title: "entropy in nats of the first episodes' action sequences" }, "diversity")
              : null,
            h("th", { scope: "col" }, "tasks"),
          ),
        ),
        h(
          "tbody",
          {},
          runs.map((run, number) =>
            h(
              "tr",
              { class: runs.length <= SERIES ? `series s${number}` : null },
              h(
                "th",
                { scope: "row" },
                runs.length <= SERIES ? h("i", { class: "key" }) : null,
                h("a", { href: "#/trials?run=" + run.number }, run.name),
              ),
              h("td", { class: "left" }, run.memory || "–"),
              keys.map((k) =>
                h(
                  "td",
                  {},
                  run.pass_at[k]
                    ? [
                        h("b", {}, percent(run.pass_at[k].value)),
                        h("small", {}, `${percent(run.pass_at[k].low)} – ${percent(run.pass_at[k].high)}`),
                        span(run.pass_at[k]),
                      ]
                    : "",
                ),
              ),
              h("td", {}, brief(run.summary.turns_per_episode.value)),
              h("td", {}, percent(run.summary.invalid_rate.value)),
              diverse ? h("td", {}, brief(run.summary.diversity.value)) : null,
              h(
                "td",
                {},
                count(run.summary.tasks),
                run.summary.failed_trials
                  ? h("small", {}, `${count(run.summary.failed_trials)} ended by errors`)
                  : null,
              ),
            ),
          ),
        ),
      ),
    ),
  );
}

export const legend = (runs) =>
  h(
    "ul",
    { class: "legend" },
    runs.map((run, number) =>
      h(
        "li",
        { class: `series s${number % SERIES}` },
        h("i", { class: "key" }),
        h(
          "span",
          {},
          run.name,
          run.memory && run.memory !== run.name
            ? h("small", {}, run.memory === "none" ? "no memory" : run.memory)
            : null,
        ),
      ),
    ),
  );

function trained(run) {
  const { updates, pass_at: passAt, validation, planned } = run.curves;
  const series = passAt.map((values, k) => ({ name: `pass@${k + 1}`, values, dots: true }));
  const readings = validation.map(([, values]) => values[values.length - 1]);
  if (readings.length)
    series.push({
      name: "validation",
      updates: validation.map(([update]) => update),
      values: readings,
      alone: true,
      colour: 5,
    });
  return h(
    "section",
    { class: "card" },
    h("h2", {}, run.name, ": training"),
    h(
      "p",
      { class: "under" },
      updates.length
        ? `${plural(updates.length, "update")}${planned ? ` of ${count(planned)}` : ""}. Dots are the batch of each update, lines their mean over nine.`
        : "No update has ended yet.",
      " ",
      h("a", { href: link("training", run.number) }, "update by update"),
    ),
    updates.length
      ? h(
          "div",
          { class: "figure" },
          lines({ updates, series, shares: true, last: planned, label: "pass at k over updates" }),
          legend(series),
        )
      : null,
  );
}

/** Every task of the evaluations as a column of cells, one for each run. */
function outcomes(runs) {
  const shown = runs.filter((run) => store.rows[run.number] && store.rows[run.number].length);
  if (!shown.length) return null;
  const order = new Map();
  for (const run of shown)
    for (const task of store.rows[run.number].task) if (!order.has(task)) order.set(task, order.size);
  const strips = shown.map((run) => {
    const rows = store.rows[run.number];
    const places = Array.from({ length: rows.length }, (_, row) => row).sort(
      (a, b) => order.get(rows.task[a]) - order.get(rows.task[b]) || rows.trial[a] - rows.trial[b],
    );
    const cells = places.slice(0, MOST_CELLS).map((row) =>
      h("a", {
        class: `cell ${outcomeClass(rows.outcome[row])}`,
        href: link("trial", run.number, row),
        title: `${rows.task[row]}: ${outcomeWord(rows.outcome[row], rows.episodes[row])}`,
        tabindex: "-1",
        "aria-label": outcomeWord(rows.outcome[row], rows.episodes[row]),
      }),
    );
    return h(
      "div",
      { class: "strip" },
      h("span", { class: "strip-name" }, run.name),
      h("div", { class: "cells" }, cells),
      places.length > MOST_CELLS
        ? h(
            "a",
            { class: "more", href: "#/trials?run=" + run.number },
            `the first ${MOST_CELLS} of ${count(places.length)}`,
          )
        : null,
    );
  });
  const most = Math.max(...shown.map((run) => run.episodes || 3));
  return h(
    "section",
    { class: "card" },
    h("h2", {}, "Every trial"),
    h(
      "ul",
      { class: "legend cellkey" },
      Array.from({ length: Math.min(most, 4) }, (_, k) =>
        h(
          "li",
          {},
          h("i", { class: `cell w${k + 1} won` }),
          `episode ${k + 1}${k === 3 && most > 4 ? " or later" : ""}`,
        ),
      ),
      h("li", {}, h("i", { class: "cell lost" }), "not solved"),
      h("li", {}, h("i", { class: "cell failed" }), "error"),
    ),
    strips,
  );
}

function compared(comparison) {
  if (comparison.note)
    return h(
      "section",
      { class: "card" },
      h("h2", {}, "Memories compared"),
      h("p", { class: "empty" }, said(comparison.note)),
    );
  const most = Math.max(...comparison.rows.map((row) => row.pass_at.length));
  const keys = Array.from({ length: most }, (_, k) => k);
  return h(
    "section",
    { class: "card" },
    h("h2", {}, "What the memory brings"),
    h(
      "p",
      { class: "under" },
      `Differences of pass@k from ${comparison.reference} on the same tasks, with 95 % intervals; a single comparison's p beside each.`,
    ),
    h(
      "div",
      { class: "scroll" },
      h(
        "table",
        { class: "numbers" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, "run"),
            keys.map((k) => h("th", { scope: "col" }, `pass@${k + 1}`)),
            h("th", { scope: "col" }, "prompt tokens"),
            h("th", { scope: "col" }, "tokens per solved"),
            h("th", { scope: "col" }, "seconds per solved"),
          ),
        ),
        h(
          "tbody",
          {},
          comparison.rows.map((row) =>
            h(
              "tr",
              {},
              h(
                "th",
                { scope: "row" },
                row.name,
                row.name === comparison.reference ? h("small", {}, "reference") : null,
              ),
              keys.map((k) =>
                h(
                  "td",
                  {},
                  row.differences
                    ? [
                        h("b", {}, signed(100 * row.differences[k].value).replace(/\..*/, "") + " pts"),
                        h(
                          "small",
                          {},
                          `p ${row.differences[k].p < 0.001 ? "< .001" : "= " + row.differences[k].p.toFixed(3).replace(/^0/, "")}`,
                        ),
                        difference(row.differences[k]),
                      ]
                    : percent(row.pass_at[k].value),
                ),
              ),
              [row.prompt_tokens, row.tokens_per_solved, row.seconds_per_solved].map((one) =>
                h("td", {}, one ? brief(one.value) : "–"),
              ),
            ),
          ),
        ),
      ),
    ),
  );
}

const pairs = (facts) =>
  h(
    "dl",
    {},
    facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, said(value))]),
  );

/** What all runs have in common once, and of each what is its own. */
function played(runs) {
  const common =
    runs.length < 2
      ? []
      : runs[0].facts.filter(([name, value]) =>
          runs.every((run) => run.facts.some((one) => one[0] === name && one[1] === value)),
        );
  const shared = new Set(common.map(([name]) => name));
  const one = (run) =>
    h(
      "div",
      {},
      h("h3", {}, run.name),
      run.count && run.summary && run.summary.note ? h("p", { class: "empty" }, said(run.summary.note)) : null,
      pairs(run.facts.filter(([name]) => !shared.has(name))),
    );
  return h(
    "div",
    { class: "facts-grid" },
    common.length ? h("div", {}, h("h3", {}, "all of them"), pairs(common)) : null,
    runs.map(one),
  );
}
