// One trial: its episodes side by side, a turn at a time; what the policy read there, wrote there, and what that was worth.

import { outcomeClass, outcomeWord, pips } from "./charts.js";
import { fetchTrial, has, live, notHere, store, trialsOf } from "./data.js";
import { brief, busy, facts, fill, h, link, percent, plural, said, signed } from "./dom.js";
import { chips, clipped, detail, ending, memories, picture, stepping, steps, worthOf } from "./turn.js";

const pictureAt = (trial, episode, step) =>
  step < episode.turns.length
    ? picture(trial, episode.turns[step].picture, episode.turns[step].observation)
    : picture(trial, episode.last, null);

/** One episode as a column. */
function column(trial, number, at, active, worth, go) {
  const episode = trial.episodes[number];
  const turn = episode.turns[at];
  return h(
    "article",
    { class: `episode${active ? " active" : ""}`, "aria-label": `episode ${number + 1}`, "data-episode": number },
    h(
      "header",
      {},
      h(
        "h3",
        {},
        h("button", { type: "button", class: "plain", onclick: () => go(number, at) }, `Episode ${number + 1}`),
      ),
      h("span", { class: `badge ${episode.success ? "won" : "lost"}` }, ending(episode)),
      h("span", { class: "reward" }, `${progress(trial, number)}reward ${brief(episode.reward)}`),
    ),
    pictureAt(trial, episode, at),
    h(
      "p",
      { class: "caption" },
      turn
        ? [
            h("b", {}, `turn ${at + 1} `),
            turn.action === null ? "no action" : said(clipped(turn.action)),
            h(
              "span",
              { class: turn.valid ? "reward" : "reward warn" },
              turn.valid ? ` ${signed(turn.reward)}` : ` invalid, ${signed(turn.reward)}`,
            ),
          ]
        : h("b", {}, `after ${plural(episode.turns.length, "turn")}`),
    ),
    h(
      "div",
      {},
      chips(trial, number, active ? at : null, worth, go),
      episode.more_turns
        ? h("p", { class: "note" }, `and ${plural(episode.more_turns, "turn")} more in the log`)
        : null,
    ),
    h(
      "div",
      { class: "words" },
      memories(episode, number),
      !episode.reflection
        ? null
        : h(
            "div",
            { class: "reflection" },
            h(
              "h4",
              {},
              "reflects",
              episode.reflection.valid ? null : h("span", { class: "warn" }, " (no remark could be read)"),
            ),
            said(clipped(episode.reflection.text, 600), { class: "said quoted" }),
          ),
    ),
  );
}

export async function loaded(run, row) {
  if (!has(run, row)) throw new Error(notHere(run));
  return fetchTrial(run, row);
}

/** The heading of a trial, with the ways to others. */
function heading(trial, run, row, around) {
  const rows = store.rows[run];
  const same = trialsOf(rows.task[row]).filter(([other, at]) => !(other === run && at === row));
  const beside =
    same.find(([other, at]) => other !== run && store.rows[other].trial[at] === rows.trial[row]) ||
    same.find(([other]) => other !== run) ||
    same[0];
  return h(
    "header",
    { class: "headline" },
    h(
      "p",
      { class: "crumbs" },
      h("a", { href: "#/trials?run=" + run }, store.overview.runs[run].name),
      rows.update[row] === null
        ? null
        : [
            " · ",
            h(
              "a",
              { href: `#/trials?run=${run}&update=${rows.update[row]}` },
              `${rows.part[row]} at update ${rows.update[row]}`,
            ),
          ],
      " · ",
      trial.started.slice(0, 16).replace("T", " "),
    ),
    h("h1", {}, said(trial.task.id, { class: "said name" }), trial.trial ? ` #${trial.trial}` : ""),
    h(
      "p",
      { class: "sub" },
      pips(rows.outcome[row], rows.episodes[row]),
      h("b", { class: outcomeClass(rows.outcome[row]) }, outcomeWord(rows.outcome[row], rows.episodes[row])),
      same.length ? h("a", { href: link("task", trial.task.id) }, `all ${same.length + 1} trials of this task`) : null,
      beside ? h("a", { href: link("beside", run, row, beside[0], beside[1]) }, "beside another") : null,
      h(
        "span",
        { class: "nav" },
        around.before ? h("a", { rel: "prev", href: link("trial", ...around.before) }, "‹ before") : null,
        around.after ? h("a", { rel: "next", href: link("trial", ...around.after) }, "next ›") : null,
      ),
    ),
    trial.branch
      ? h(
          "p",
          { class: "notice" },
          "A re-roll, begun at ",
          trial.branch.trial
            ? h(
                "a",
                { href: link("trial", ...trial.branch.trial, trial.branch.episode, trial.branch.turn) },
                `turn ${trial.branch.turn + 1} of episode ${trial.branch.episode + 1} of another trial`,
              )
            : `turn ${trial.branch.turn + 1} of episode ${trial.branch.episode + 1} of a trial that is not here`,
          "; what is before is that trial's.",
        )
      : null,
    trial.error
      ? h(
          "p",
          { class: "notice" },
          h("b", {}, said(trial.error.type)),
          ": ",
          said(trial.error.message),
          trial.error.episode === null
            ? ""
            : ` (episode ${trial.error.episode + 1}${trial.error.turn === null ? "" : `, turn ${trial.error.turn + 1}`})`,
        )
      : null,
  );
}

function progress(trial, number) {
  const reached = trial.progress[number + 1];
  return reached === undefined ? "" : `progress ${percent(reached)} · `;
}

function worthKey(worth) {
  if (!worth)
    return h("p", { class: "key-line" }, "Turns are not coloured: what they were worth is not known for this trial.");
  if (!worth.most) return h("p", { class: "key-line" }, `Turns are not coloured: the ${worth.name} of each is 0.`);
  return h(
    "p",
    { class: "key-line" },
    `Turns by ${worth.name}: `,
    h("i", { class: "ramp" }),
    ` ${signed(-worth.most)} to ${signed(worth.most)}`,
    worth.name === "advantage"
      ? ", against the other trials of its task"
      : ", the discounted rewards from there on, of later episodes too",
  );
}

/** The view of a trial; `place` is {run, row, episode, step}. Returns how it is stepped through. */
export function trialView(box, place, around, moved) {
  fill(box, busy("reading the trial …"));
  let trial = null,
    worth = null;
  const at = { episode: place.episode, step: place.step };
  const last = [];
  const stage = h("div", { class: "stage" });
  const below = h("div", {});
  const go = (episode, step, quiet) => {
    at.episode = Math.max(0, Math.min(trial.episodes.length - 1, episode));
    at.step = Math.max(0, Math.min(steps(trial.episodes[at.episode]), step));
    last[at.episode] = at.step;
    fill(
      stage,
      trial.episodes.map((_, number) => column(trial, number, last[number], number === at.episode, worth, go)),
    );
    fill(below, detail(trial, at.episode, at.step, worth));
    const active = stage.children[at.episode];
    if (active && stage.scrollWidth > stage.clientWidth)
      stage.scrollLeft = active.offsetLeft - stage.offsetLeft - (stage.clientWidth - active.clientWidth) / 2;
    if (!quiet) moved(at.episode, at.step);
  };
  loaded(place.run, place.row)
    .then((found) => {
      trial = found;
      worth = worthOf(trial);
      trial.episodes.forEach((episode, number) => {
        last[number] = steps(episode);
      });
      if (!trial.episodes.length) {
        fill(box, heading(trial, place.run, place.row, around), h("p", { class: "empty" }, "No episode was played."));
        return;
      }
      fill(
        box,
        heading(trial, place.run, place.row, around),
        worthKey(worth),
        h("div", { class: trial.episodes.length === 1 ? "trial one" : "trial" }, stage, below),
        about(trial),
      );
      go(place.episode, place.step === "end" ? Infinity : place.step, true);
      box.dataset.ready = "yes";
    })
    .catch((error) => fill(box, h("p", { class: "empty" }, said(String(error.message)))));
  return stepping(at, () => (trial ? trial.episodes.map(steps) : []), go);
}

function about(trial) {
  const told = [
    ["environment", trial.task.env],
    ["seed", trial.task.seed],
    ["split", trial.task.split],
    ["memory", JSON.stringify(trial.memory)],
    ["sampling", JSON.stringify(trial.sampling)],
    ["took", `${brief(trial.seconds)} s, ${brief(trial.policy_seconds)} s of it in policy calls`],
    ["extra", trial.extra ? JSON.stringify(trial.extra).slice(0, 4000) : null],
    ["trial", trial.id],
  ];
  return h(
    "details",
    { class: "about" },
    h("summary", {}, "about this trial"),
    facts(told.filter(([, value]) => value !== null && value !== undefined && value !== "")),
    trial.task.instance
      ? h("details", {}, h("summary", {}, "instance"), h("pre", {}, said(trial.task.instance)))
      : null,
    live ? null : h("p", { class: "note" }, "A page as a file; lamer-graph view shows a run while it goes on."),
  );
}
