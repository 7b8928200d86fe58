// What came of the runs as a whole.

import {
  hue,
  legend,
  outcomeClass,
  outcomeWord,
  passes,
  SERIES,
  span,
  trainingChart,
  trainingSeries,
} from "./charts.js";
import { store } from "./data.js";
import { count, facts, fixed, h, link, percent, plural, points, said, whole } from "./dom.js";

const MOST_CELLS = 6000;
const CELLS_OF_RUN = 600;
const WHOLE_CHARTS = 2;

/** `show` names the runs that the chart of many draws, "0,3,7"; `choose` is called with another choice. */
export function overview(show, choose) {
  const runs = store.overview.runs.map((run, number) => ({ ...run, number }));
  const measured = runs
    .filter((run) => run.summary && run.summary.pass_at)
    .map((run) => ({ ...run, pass_at: run.summary.pass_at }));
  const drawn = drawnOf(measured, show);
  const hues = new Map(drawn.map((run, place) => [run.name, hue(run, place)]));
  return h(
    "div",
    { class: "overview" },
    headline(runs),
    runs.flatMap((run) =>
      run.problems.map((problem) => h("p", { class: "notice" }, h("b", {}, run.name), ": ", said(problem))),
    ),
    measured.length ? success(measured, drawn, hues, choose) : null,
    !store.overview.measured && runs.some((run) => !run.training)
      ? h("p", { class: "busy", role: "status" }, "intervals are being drawn …")
      : null,
    trainings(runs.filter((run) => run.curves)),
    outcomes(runs.filter((run) => !run.training)),
    store.overview.comparisons.map((comparison) => compared(comparison, hues)),
    [
      [runs.filter((run) => !run.training), "played"],
      [runs.filter((run) => run.training), "trained"],
    ].map(([some, word]) =>
      some.length
        ? h(
            "section",
            { class: "card" },
            h("h2", {}, `How ${some.length === 1 ? "it was" : "they were"} ${word}`),
            played(some),
          )
        : null,
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
      environments.length > 3 ? ` and ${environments.length - 3} more` : "",
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

/** A table; `heads` are [word, attributes] or words, `rows` its lines as elements. */
const numbers = (heads, rows) =>
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
          heads.map((head) => {
            const [word, attributes] = Array.isArray(head) ? head : [head, {}];
            return h("th", { scope: "col", ...attributes }, word);
          }),
        ),
      ),
      h("tbody", {}, rows),
    ),
  );

const attempts = (rows) =>
  Array.from({ length: Math.max(...rows.map((row) => row.pass_at.length)) }, (_, k) => `pass@${k + 1}`);

/** The runs that the chart draws: all where there is room, else those that were chosen, else the first. */
function drawnOf(runs, show) {
  if (runs.length <= SERIES) return runs;
  const wanted = new Set((show || "").split(","));
  const found = runs.filter((run) => wanted.has(String(run.number)));
  return found.length ? found.slice(0, SERIES) : runs.slice(0, SERIES);
}

function success(runs, drawn, hues, choose) {
  const several = (run) => run.summary.trials > run.summary.tasks;
  const diverse = runs.some(several);
  const chosen = new Set(drawn.map((run) => run.number));
  const heads = attempts(runs);
  const toggle = (run, on) => {
    if (on) chosen.add(run.number);
    else chosen.delete(run.number);
    choose([...chosen].sort((a, b) => a - b).join(","));
  };
  const line = (run) => {
    const { summary } = run;
    const shown = chosen.has(run.number);
    return h(
      "tr",
      { class: hues.get(run.name) },
      h(
        "th",
        { scope: "row" },
        h(
          "span",
          { class: "named" },
          runs.length <= SERIES
            ? h("i", { class: "key" })
            : h("input", {
                type: "checkbox",
                id: `show-${run.number}`,
                checked: shown,
                disabled: drawn.length === (shown ? 1 : SERIES),
                "aria-label": `show ${run.name} in the chart`,
                onchange: (event) => toggle(run, event.target.checked),
              }),
          h("a", { href: "#/trials?run=" + run.number }, run.name),
        ),
      ),
      h("td", { class: "left" }, run.memory || "–"),
      heads.map((_, k) => h("td", {}, run.pass_at[k] ? share(run.pass_at[k]) : "")),
      h("td", {}, fixed(summary.turns_per_episode.value, 2)),
      h("td", {}, percent(summary.invalid_rate.value)),
      diverse
        ? h("td", {}, several(run) ? fixed(summary.diversity.value, 3) : h("small", {}, "one trial a task"))
        : null,
      h(
        "td",
        {},
        count(summary.tasks),
        summary.trials > summary.tasks ? h("small", {}, plural(summary.trials, "trial")) : null,
        summary.failed_trials ? h("small", {}, `${count(summary.failed_trials)} ended by errors`) : null,
      ),
    );
  };
  return h(
    "section",
    { class: "card" },
    h("h2", {}, "Success within k attempts"),
    h(
      "p",
      { class: "under" },
      "The share of tasks that are solved in the first k episodes of a trial. Lines are 95 % intervals over different instances.",
    ),
    h("div", { class: "figure" }, passes(drawn), legend(drawn)),
    runs.length > SERIES
      ? h(
          "p",
          { class: "note choice" },
          `The chart has room for ${SERIES} of these ${runs.length} runs: tick in the table those that it shows.`,
        )
      : null,
    numbers(
      [
        "run",
        ["memory", { class: "left" }],
        ...heads,
        ["turns", { title: "turns of an episode, on average" }],
        ["invalid", { title: "share of turns whose action was invalid" }],
        ...(diverse ? [["diversity", { title: "entropy in nats of the first episodes' action sequences" }]] : []),
        "tasks",
      ],
      runs.map(line),
    ),
    diverse
      ? null
      : h(
          "p",
          { class: "note" },
          "Diversity is measured where a task is played several times (--trials); here each was once.",
        ),
  );
}

const share = (one) => [
  h("b", {}, percent(one.value)),
  h("small", {}, `${percent(one.low)} – ${percent(one.high)}`),
  span(one),
];

const progressOf = ({ updates, planned }) =>
  updates.length
    ? `${plural(updates.length, "update")}${planned ? ` of ${count(planned)}` : ""}`
    : "No update has ended yet";

/** One or two trainings large, more of them small beside each other. */
function trainings(runs) {
  if (runs.length <= WHOLE_CHARTS) return runs.map(trained);
  const longest = runs.map((run) => trainingSeries(run.curves)).reduce((a, b) => (b.length > a.length ? b : a));
  return h(
    "section",
    { class: "card" },
    h("h2", {}, plural(runs.length, "training")),
    h(
      "p",
      { class: "under" },
      "Dots are the batch of each update, lines their mean over nine. Click a name for all of it.",
    ),
    h("div", { class: "across" }, legend(longest)),
    h(
      "div",
      { class: "small-charts" },
      runs.map((run) =>
        h(
          "figure",
          {},
          h(
            "figcaption",
            { class: "stacked" },
            h("a", { href: link("training", run.number) }, run.name),
            h("small", {}, progressOf(run.curves)),
          ),
          run.curves.updates.length ? trainingChart(run.curves, trainingSeries(run.curves), true) : null,
        ),
      ),
    ),
  );
}

function trained(run) {
  const series = trainingSeries(run.curves);
  return h(
    "section",
    { class: "card" },
    h("h2", {}, run.name, ": training"),
    h(
      "p",
      { class: "under" },
      `${progressOf(run.curves)}. `,
      run.curves.updates.length ? "Dots are the batch of each update, lines their mean over nine. " : "",
      h("a", { href: link("training", run.number) }, "update by update"),
    ),
    run.curves.updates.length ? h("div", { class: "figure" }, trainingChart(run.curves, series), legend(series)) : null,
  );
}

/** Every task of the evaluations as a column of cells, one for each run. */
function outcomes(runs) {
  const shown = runs.filter((run) => store.rows[run.number] && store.rows[run.number].length);
  if (!shown.length) return null;
  const order = new Map();
  for (const run of shown)
    for (const task of store.rows[run.number].task) if (!order.has(task)) order.set(task, order.size);
  const room = Math.min(CELLS_OF_RUN, Math.floor(MOST_CELLS / shown.length));
  const strips = shown.map((run) => {
    const rows = store.rows[run.number];
    const places = Array.from({ length: rows.length }, (_, row) => row).sort(
      (a, b) => order.get(rows.task[a]) - order.get(rows.task[b]) || rows.trial[a] - rows.trial[b],
    );
    const cells = places.slice(0, room).map((row) => {
      const word = outcomeWord(rows.outcome[row], rows.episodes[row]);
      return h("a", {
        class: `cell ${outcomeClass(rows.outcome[row])}`,
        href: link("trial", run.number, row),
        title: `${rows.task[row]}: ${word}`,
        tabindex: "-1",
        "aria-label": word,
      });
    });
    return h(
      "div",
      { class: "strip" },
      h("span", { class: "strip-name" }, run.name),
      h("div", { class: "cells" }, cells),
      places.length > room
        ? h(
            "a",
            { class: "more", href: "#/trials?run=" + run.number },
            `the first ${count(room)} of ${count(places.length)}`,
          )
        : null,
    );
  });
  const most = Math.max(...shown.map((run) => run.episodes || 3));
  const any = (test) => shown.some((run) => store.rows[run.number].outcome.some(test));
  return h(
    "section",
    { class: "card" },
    h("h2", {}, "Every trial"),
    h(
      "p",
      { class: "under" },
      shown.length > 1
        ? "A box each, tasks in the same order in all runs that have them. Click one to step through it."
        : "A box each, in the order of the tasks. Click one to step through it.",
    ),
    h(
      "ul",
      { class: "legend cellkey" },
      Array.from({ length: Math.min(most, 4) }, (_, k) =>
        h(
          "li",
          {},
          h("i", { class: `cell w${k + 1} won` }),
          `${k ? "" : "solved in "}episode ${k + 1}${k === 3 && most > 4 ? " or later" : ""}`,
        ),
      ),
      h("li", {}, h("i", { class: "cell lost" }), "not solved"),
      any((outcome) => outcome < 0) ? h("li", {}, h("i", { class: "cell failed" }), "error") : null,
    ),
    strips,
  );
}

/** Differences from the reference, which comes first. */
function compared(comparison, hues) {
  if (comparison.note)
    return h(
      "section",
      { class: "card" },
      h("h2", {}, "Memories compared"),
      h("p", { class: "empty" }, said(comparison.note)),
    );
  const heads = attempts(comparison.rows);
  const gain = (one) => [
    h("b", {}, points(one.value)),
    h("small", {}, `p = ${fixed(one.p, 3).replace(/^0/, "")}`),
    span(one, -1),
  ];
  const cost = (one, word) => h("td", {}, one ? word(one.value) : "–");
  const isReference = (row) => row.name === comparison.reference;
  const rows = [...comparison.rows].sort((a, b) => isReference(b) - isReference(a));
  const line = (row) =>
    h(
      "tr",
      { class: hues.get(row.name) },
      h("th", { scope: "row" }, row.name, isReference(row) ? h("small", {}, "reference") : null),
      heads.map((_, k) => h("td", {}, row.differences ? gain(row.differences[k]) : percent(row.pass_at[k].value))),
      cost(row.prompt_tokens, whole),
      cost(row.tokens_per_solved, whole),
      cost(row.seconds_per_solved, (value) => fixed(value, 2)),
    );
  return h(
    "section",
    { class: "card" },
    h("h2", {}, "What the memory brings"),
    h(
      "p",
      { class: "under" },
      `Differences of pass@k from ${comparison.reference} on the same tasks, in percentage points, with 95 % intervals; a single comparison's p beside each.`,
    ),
    numbers(
      [
        "run",
        ...heads,
        ["prompt tokens", { title: "of a call, on average" }],
        "tokens per solved",
        "seconds per solved",
      ],
      rows.map(line),
    ),
  );
}

/** What all runs have in common once, of each what is its own, and at the end everything that was set. */
function played(runs) {
  const [first, ...rest] = runs;
  const notes = runs.filter((run) => run.count && run.summary && run.summary.note);
  const own = (run, name) => (run.facts.find((fact) => fact[0] === name) || [])[1];
  const common = first.facts.filter(([name, value]) => rest.every((run) => own(run, name) === value));
  const shared = new Set(common.map(([name]) => name));
  const names = new Set(runs.flatMap((run) => run.facts.map(([name]) => name)));
  const others = [...names].filter((name) => !shared.has(name));
  const settings = runs.filter((run) => run.more.length);
  return [
    notes.map((run) => h("p", { class: "notice" }, h("b", {}, run.name), ": ", said(run.summary.note))),
    common.length ? h("div", { class: "wide-facts" }, facts(common)) : null,
    others.length
      ? numbers(
          ["run", ...others.map((name) => [name, { class: "left" }])],
          runs.map((run) =>
            h(
              "tr",
              {},
              h("th", { scope: "row" }, run.name),
              others.map((name) => h("td", { class: "left" }, said(own(run, name) ?? "–"))),
            ),
          ),
        )
      : null,
    settings.length
      ? h(
          "details",
          {},
          h("summary", {}, "all other settings"),
          h(
            "div",
            { class: "facts-grid" },
            settings.map((run) => h("div", {}, runs.length > 1 ? h("h3", {}, run.name) : null, facts(run.more))),
          ),
        )
      : null,
  ];
}
