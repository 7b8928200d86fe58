// The parts of a trial: a state's picture, what an episode remembers, what was read and written at one step.

import { brief, count, drawing, fixed, h, link, percent, plain, plural, said, signed, textOf } from "./dom.js";

/** Steps of an episode: its turns, then its end. */
export const steps = (episode) => episode.turns.length;

const strength = (trial, name) => {
  const all = trial.episodes
    .flatMap((episode) => [...episode.turns, episode.reflection])
    .map((one) => (one ? one[name] : null))
    .filter((value) => value !== null && value !== undefined);
  return all.length ? Math.max(...all.map(Math.abs)) : null;
};

/** By what a trial's calls are coloured: advantages where others played the same task, else returns. */
export function worthOf(trial) {
  const advantage = strength(trial, "advantage");
  if (advantage !== null) return { name: "advantage", most: advantage };
  const value = strength(trial, "return");
  return value === null ? null : { name: "return", most: value };
}

function shade(one, worth) {
  const value = worth && worth.most && one ? one[worth.name] : null;
  if (value === null || value === undefined) return {};
  const share = Math.min(1, Math.abs(value) / worth.most);
  return {
    "--worth": `color-mix(in oklab, var(${value >= 0 ? "--good" : "--bad"}) ${Math.round(8 + 62 * Math.sqrt(share))}%, var(--card))`,
  };
}

/** The turns of an episode and its end, to choose from. */
export function chips(trial, number, active, worth, go) {
  const episode = trial.episodes[number];
  const chip = (step, label, one, title, extra) =>
    h(
      "button",
      {
        type: "button",
        class: `chip${one && one.valid === false ? " invalid" : ""}${active === step ? " now" : ""} ${extra}`,
        style: shade(one, worth),
        title: plain(title),
        "aria-current": active === step ? "step" : null,
        "data-step": step,
        onclick: () => go(number, step),
      },
      label,
    );
  const told = (one) => (worth && one && one[worth.name] !== null ? `, ${worth.name} ${signed(one[worth.name])}` : "");
  return h(
    "div",
    { class: "chips", role: "group", "aria-label": `turns of episode ${number + 1}` },
    episode.turns.map((turn, step) =>
      chip(
        step,
        String(step + 1),
        turn,
        `turn ${step + 1}: ${turn.action === null ? "no action" : textOf(turn.action).slice(0, 80)}${turn.valid ? "" : " (invalid)"}, reward ${brief(turn.reward)}${told(turn)}`,
        "",
      ),
    ),
    chip(
      episode.turns.length,
      episode.reflection ? "✎" : "end",
      episode.reflection,
      episode.reflection ? `the end, and the reflection${told(episode.reflection)}` : "the end",
      "end",
    ),
  );
}

/** The keys' steps through episodes; `ends` are the last steps of each, `go` is called with an episode and a step. */
export const stepping = (at, ends, go) => ({
  step(by) {
    const last = ends();
    const to = at.step + by;
    if (!last.length) return;
    if (to > last[at.episode] && at.episode + 1 < last.length) go(at.episode + 1, 0);
    else if (to < 0 && at.episode > 0) go(at.episode - 1, last[at.episode - 1]);
    else go(at.episode, to);
  },
  episode(by) {
    if (ends()[at.episode + by] !== undefined) go(at.episode + by, 0);
  },
});

export function ending(episode) {
  return episode.success ? "won" : episode.truncated ? "out of turns" : "lost";
}

export function picture(trial, index, observation) {
  if (index !== null && index !== undefined) return h("div", { class: "picture" }, drawing(trial.pictures[index]));
  if (observation === null) return h("div", { class: "picture none" }, "the end; how it looked then was not logged");
  return h("pre", { class: "picture observation" }, said(observation));
}

/** What an episode began with. */
export function memories(episode, number) {
  const record = (one) =>
    h(
      "li",
      {},
      h(
        "span",
        { class: "from" },
        one.kind === "reflection" ? "note" : one.kind,
        " ",
        one.own ? `of episode ${one.episode + 1}` : null,
        one.own
          ? null
          : one.trial
            ? h(
                "a",
                { href: link("trial", one.trial[0], one.trial[1], one.episode, "end") },
                `of another trial, episode ${one.episode + 1}`,
              )
            : h("span", { title: plain(one.key) }, "of a trial that is not here"),
      ),
      one.text === null ? null : said(one.text, { class: "said quoted" }),
    );
  return h(
    "div",
    { class: "memory" },
    episode.memory.length
      ? [
          h("h4", {}, "remembers"),
          h(
            "ul",
            {},
            episode.memory.map(record),
            episode.more_memory ? h("li", {}, `and ${episode.more_memory} more`) : null,
          ),
        ]
      : h("p", { class: "none" }, number ? "remembers nothing" : "nothing to remember yet"),
    episode.held.length
      ? h(
          "details",
          {},
          h("summary", {}, `${plural(episode.held.length, "record")} held back, to compare with`),
          h("ul", {}, episode.held.map(record)),
        )
      : null,
  );
}

export function clipped(text, most = 160) {
  const [shown, missing] = Array.isArray(text) ? text : [text, 0];
  return shown.length <= most ? text : [shown.slice(0, most), missing + shown.length - most];
}

/** What the policy wrote, every token shaded by how unlikely it was. */
export function written(call, text) {
  if (call === null || !call.ids.length)
    return h(
      "div",
      { class: "written" },
      said(text),
      h("p", { class: "note" }, call === null ? "No policy was called for this." : "No tokens were logged."),
    );
  const probability = (at) =>
    call.logprobs[at] === null || call.logprobs[at] === undefined ? null : Math.exp(call.logprobs[at]);
  const style = (p) => ({ "--rare": p === null ? "0%" : `${Math.round(75 * Math.pow(1 - p, 0.8))}%` });
  const title = (at) => {
    const p = probability(at);
    return `${p === null ? "probability unknown" : `p = ${p >= 0.0995 ? fixed(p, 2) : p.toPrecision(2)}`}, token ${call.ids[at]}`;
  };
  const likely = call.logprobs.every((value) => value !== null)
    ? call.logprobs.reduce((sum, value) => sum + value, 0)
    : null;
  const note = h(
    "p",
    { class: "note" },
    plural(call.ids.length + call.more_tokens, "token"),
    likely === null ? "" : ` · p of the whole answer ${percentOf(Math.exp(likely))}`,
    call.more_tokens ? ` · the first ${count(call.ids.length)} are shown` : "",
  );
  if (call.pieces) {
    return h(
      "div",
      { class: "written" },
      h(
        "div",
        { class: "tokens" },
        call.ids.map((_, at) =>
          h(
            "span",
            { class: "token", style: style(probability(at)), title: title(at) },
            said(call.pieces[at] === "" ? "·" : call.pieces[at], { class: null }),
          ),
        ),
      ),
      note,
    );
  }
  return h(
    "div",
    { class: "written" },
    said(text),
    h(
      "div",
      { class: "strip-tokens", role: "img", "aria-label": "the probability of every token" },
      call.ids.map((_, at) => h("i", { style: style(probability(at)), title: title(at) })),
    ),
    note,
    h(
      "p",
      { class: "note" },
      "The tokenizer is not at hand, so tokens cannot be told apart in the text: each is a box above.",
    ),
  );
}

const percentOf = (p) => (p >= 0.001 ? percent(p) : p.toExponential(1));

function dropped(call) {
  if (!call || !call.dropped) return null;
  const parts = [];
  if (call.dropped.turns)
    parts.push(call.dropped.turns === 1 ? "the oldest turn" : `the oldest ${call.dropped.turns} turns`);
  if (call.dropped.memories)
    parts.push(call.dropped.memories === 1 ? "the oldest memory" : `the oldest ${call.dropped.memories} memories`);
  return h(
    "p",
    { class: "notice dropped" },
    `Left out, so that the prompt fits the policy's context: ${parts.join(" and ")}.`,
  );
}

function prompt(trial, call) {
  if (!call) return null;
  return h(
    "div",
    { class: "prompt" },
    dropped(call),
    call.messages.map(([role, index]) => {
      const text = trial.texts[index];
      const long = textOf(text).length > 700;
      return h(
        "details",
        { open: role === "system" || long ? null : true },
        h("summary", {}, role, h("small", {}, `${count(textOf(text).length)} characters`)),
        h("pre", {}, said(text)),
      );
    }),
  );
}

function scaleOf(one, worth) {
  if (!worth) return null;
  const bar = (name) =>
    one[name] === null || one[name] === undefined
      ? null
      : h(
          "div",
          { class: "worth" },
          h("dt", {}, name),
          h(
            "dd",
            {},
            h("i", {
              class: "swatch",
              style: shade(
                one,
                name === worth.name ? worth : { name, most: Math.max(worth.most, Math.abs(one[name])) },
              ),
            }),
            signed(one[name]),
          ),
        );
  return [bar("return"), bar("advantage")];
}

/** All there is to say of one step. */
export function detail(trial, number, at, worth) {
  const episode = trial.episodes[number];
  const turn = at < episode.turns.length ? episode.turns[at] : null;
  const made = turn || episode.reflection;
  if (!made)
    return h(
      "section",
      { class: "detail" },
      h(
        "p",
        { class: "empty" },
        `Episode ${number + 1} was ${ending(episode)}${episode.success ? "" : "; no reflection followed"}.`,
      ),
    );
  const call = made.call;
  const told = [
    ["reward", turn ? brief(turn.reward) : null],
    ["policy", call && call.version],
    ["ended by", call && call.finish],
    ["prompt", call && call.prompt_tokens ? plural(call.prompt_tokens, "token") : null],
    ["took", call ? `${brief(call.seconds)} s` : null],
    ["seed", call && call.seed ? h("small", {}, call.seed) : null],
  ];
  return h(
    "section",
    { class: "detail", "aria-live": "polite" },
    h(
      "div",
      { class: "card" },
      h(
        "h3",
        {},
        turn
          ? `Episode ${number + 1}, turn ${at + 1}: what the policy wrote`
          : `After episode ${number + 1}: the reflection it wrote`,
      ),
      written(call, made.text),
      h(
        "dl",
        { class: "facts" },
        scaleOf(made, worth),
        told
          .filter(([, value]) => value)
          .map(([name, value]) =>
            h("div", {}, h("dt", {}, name), h("dd", {}, value instanceof Node ? value : String(value))),
          ),
      ),
    ),
    h(
      "div",
      { class: "card" },
      h("h3", {}, "What it read"),
      call ? prompt(trial, call) : h("p", { class: "empty" }, "nothing: no policy was called"),
      turn ? h("details", {}, h("summary", {}, "observation"), h("pre", {}, said(turn.observation))) : null,
    ),
  );
}
