// Trials of one task: all of them below each other, or two beside each other, stepped through together.

import { outcomeClass, outcomeWord, pips } from "./charts.js";
import { has, store, trialsOf } from "./data.js";
import { busy, fill, h, link, plural, said } from "./dom.js";
import { chips, ending, memories, picture, stepping, steps, worthOf, written } from "./turn.js";
import { loaded } from "./trial.js";

const MOST = 24;

export function taskView(box, task) {
  const found = trialsOf(task);
  fill(
    box,
    h(
      "header",
      { class: "headline" },
      h("p", { class: "crumbs" }, h("a", { href: "#/trials" }, "trials"), " · one task"),
      h("h1", {}, said(task, { class: "said name" })),
      h("p", {}, plural(found.length, "trial"), ", each episode as it ended. Open one to step through it."),
    ),
  );
  if (!found.length) box.append(h("p", { class: "empty" }, "No trial of this task is here."));
  found.slice(0, MOST).forEach(([run, row], at) => {
    const other = found[at === 0 ? 1 : 0];
    const body = h("div", { class: "finals" }, busy("reading …"));
    const rows = store.rows[run];
    box.append(
      h(
        "section",
        { class: "card story" },
        h(
          "header",
          {},
          pips(rows.outcome[row], rows.episodes[row]),
          h(
            "h2",
            {},
            h(
              "a",
              { href: link("trial", run, row) },
              store.overview.runs[run].name,
              rows.update[row] === null ? "" : ` · update ${rows.update[row]}`,
              rows.trial[row] ? ` #${rows.trial[row]}` : "",
            ),
          ),
          h("span", { class: outcomeClass(rows.outcome[row]) }, outcomeWord(rows.outcome[row], rows.episodes[row])),
          other && has(run, row)
            ? h("a", { href: link("beside", ...other, run, row) }, "beside the " + (at === 0 ? "next" : "first"))
            : null,
        ),
        body,
      ),
    );
    loaded(run, row)
      .then((trial) =>
        fill(
          body,
          trial.episodes.map((episode, number) =>
            h(
              "figure",
              {},
              picture(
                trial,
                episode.last,
                episode.turns.length ? episode.turns[episode.turns.length - 1].observation : null,
              ),
              h(
                "figcaption",
                {},
                h("a", { href: link("trial", run, row, number, 0) }, `Episode ${number + 1}`),
                ` ${ending(episode)} after ${plural(episode.turns.length, "turn")}`,
                episode.reflection ? said(episode.reflection.text, { class: "said quoted" }) : null,
              ),
            ),
          ),
        ),
      )
      .catch((error) => fill(body, h("p", { class: "empty" }, said(String(error.message)))));
  });
  if (found.length > MOST)
    box.append(
      h(
        "p",
        { class: "empty" },
        `The first ${MOST} of ${found.length}. `,
        h("a", { href: "#/trials?q=" + encodeURIComponent(task) }, "all of them as a list"),
      ),
    );
}

/** Two trials beside each other; `places` are two [run, row]. */
export function besideView(box, places, at, moved) {
  const sides = places.map(() => h("section", { class: "side" }, busy("reading …")));
  fill(
    box,
    h(
      "header",
      { class: "headline" },
      h("h1", {}, "Side by side"),
      h(
        "p",
        {},
        "Both are stepped through together: ",
        h("kbd", {}, "←"),
        " ",
        h("kbd", {}, "→"),
        " turns, ",
        h("kbd", {}, "↑"),
        " ",
        h("kbd", {}, "↓"),
        " episodes.",
      ),
    ),
    h("div", { class: "sides" }, sides),
  );
  const trials = [null, null];
  const now = { ...at };
  const draw = () =>
    trials.forEach((trial, side) => {
      if (trial) fill(sides[side], half(trial, places[side], now, go));
    });
  const ends = () => {
    const all = trials.filter(Boolean).map((trial) => trial.episodes.map(steps));
    const most = Math.max(1, ...all.map((one) => one.length));
    return Array.from({ length: most }, (_, number) => Math.max(0, ...all.map((one) => one[number] ?? 0)));
  };
  const go = (episode, step) => {
    const last = ends();
    now.episode = Math.max(0, Math.min(last.length - 1, episode));
    now.step = Math.max(0, Math.min(last[now.episode], step));
    draw();
    moved(now.episode, now.step);
  };
  places.forEach(([run, row], side) =>
    loaded(run, row)
      .then((trial) => {
        trials[side] = trial;
        draw();
        if (trials.every(Boolean)) box.dataset.ready = "yes";
      })
      .catch((error) => fill(sides[side], h("p", { class: "empty" }, said(String(error.message))))),
  );
  return stepping(now, ends, go);
}

function half(trial, [run, row], now, go) {
  const rows = store.rows[run];
  const episode = trial.episodes[now.episode];
  const head = [
    h("h2", {}, h("a", { href: link("trial", run, row, now.episode, now.step) }, store.overview.runs[run].name)),
    h("p", { class: "sub" }, said(trial.task.id, { class: "said name" })),
    h(
      "p",
      { class: "sub" },
      pips(rows.outcome[row], rows.episodes[row]),
      h("b", { class: outcomeClass(rows.outcome[row]) }, outcomeWord(rows.outcome[row], rows.episodes[row])),
    ),
  ];
  const tabs = h(
    "div",
    { class: "chips", role: "group", "aria-label": "episodes" },
    trial.episodes.map((_, number) =>
      h(
        "button",
        { type: "button", class: `chip wide${number === now.episode ? " now" : ""}`, onclick: () => go(number, 0) },
        `episode ${number + 1}`,
      ),
    ),
  );
  if (!episode)
    return [
      head,
      tabs,
      h(
        "p",
        { class: "empty" },
        `There is no episode ${now.episode + 1} here: ${outcomeWord(rows.outcome[row], rows.episodes[row])}.`,
      ),
    ];
  const step = Math.min(now.step, steps(episode));
  const turn = episode.turns[step];
  const made = turn || episode.reflection;
  return [
    head,
    tabs,
    memories(episode, now.episode),
    turn ? picture(trial, turn.picture, turn.observation) : picture(trial, episode.last, null),
    chips(trial, now.episode, step, worthOf(trial), go),
    h("h3", {}, turn ? `turn ${step + 1}` : made ? "reflection" : `${ending(episode)}`),
    made ? written(made.call, made.text) : null,
  ];
}
