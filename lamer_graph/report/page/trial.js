// One trial: its episodes side by side, a turn at a time; what the policy read there, wrote there, and what that was worth.

import { outcomeClass, outcomeWord, pips } from "./charts.js";
import { fetchTrial, has, live, notHere, store } from "./data.js";
import { brief, busy, count, drawing, fill, h, link, percent, plain, plural, said, signed, textOf } from "./dom.js";

/** Steps of an episode: its turns, then its end. */
export const steps = (episode) => episode.turns.length;

const strength = (trial, name) => {
  const all = trial.episodes.flatMap((episode) => [...episode.turns, episode.reflection]).map((one) => (one ? one[name] : null)).filter((value) => value !== null && value !== undefined);
  return all.length ? Math.max(1e-9, ...all.map(Math.abs)) : null;
};

/** By what a trial's calls are coloured: advantages where others played the same task, else returns. */
export function worthOf(trial) {
  const advantage = strength(trial, "advantage");
  if (advantage !== null) return { name: "advantage", most: advantage };
  const value = strength(trial, "return");
  return value === null ? null : { name: "return", most: value };
}

export function shade(one, worth) {
  const value = worth && one ? one[worth.name] : null;
  if (value === null || value === undefined) return {};
  const share = Math.min(1, Math.abs(value) / worth.most);
  return { "--worth": `color-mix(in oklab, var(${value >= 0 ? "--good" : "--bad"}) ${Math.round(8 + 62 * Math.sqrt(share))}%, var(--card))` };
}

export function ending(episode) {
  return episode.success ? "won" : episode.truncated ? "out of turns" : "lost";
}

export function picture(trial, index, observation) {
  if (index !== null && index !== undefined) return h("div", { class: "picture" }, drawing(trial.pictures[index]));
  if (observation === null) return h("div", { class: "picture none" }, "the end; how it looked then was not logged");
  return h("pre", { class: "picture observation" }, said(observation));
}

const pictureAt = (trial, episode, step) =>
  step < episode.turns.length ? picture(trial, episode.turns[step].picture, episode.turns[step].observation) : picture(trial, episode.last, null);

/** What an episode began with. */
export function memories(episode, number) {
  const record = (one) => h("li", {},
    h("span", { class: "from" }, one.kind === "reflection" ? "note" : one.kind, " ", one.own ? `of episode ${one.episode + 1}` : null, one.own ? null : one.trial ? h("a", { href: link("trial", one.trial[0], one.trial[1], one.episode, "end") }, `of another trial, episode ${one.episode + 1}`) : h("span", { title: plain(one.key) }, "of a trial that is not here")),
    one.text === null ? null : said(one.text, { class: "said quoted" }));
  return h("div", { class: "memory" },
    episode.memory.length
      ? [h("h4", {}, "remembers"), h("ul", {}, episode.memory.map(record), episode.more_memory ? h("li", {}, `and ${episode.more_memory} more`) : null)]
      : h("p", { class: "none" }, number ? "remembers nothing" : "nothing to remember yet"),
    episode.held.length ? h("details", {}, h("summary", {}, `${plural(episode.held.length, "record")} held back, to compare with`), h("ul", {}, episode.held.map(record))) : null);
}

function chips(trial, number, active, worth, go) {
  const episode = trial.episodes[number];
  const chip = (step, label, one, title, extra) => h("button", {
    type: "button", class: `chip${one && one.valid === false ? " invalid" : ""}${active === step ? " now" : ""} ${extra}`, style: shade(one, worth), title: plain(title), "aria-current": active === step ? "step" : null, "data-step": step,
    onclick: () => go(number, step) }, label);
  const told = (one) => (worth && one && one[worth.name] !== null ? `, ${worth.name} ${signed(one[worth.name])}` : "");
  return h("div", { class: "chips", role: "group", "aria-label": `turns of episode ${number + 1}` },
    episode.turns.map((turn, step) => chip(step, String(step + 1), turn, `turn ${step + 1}: ${turn.action === null ? "no action" : textOf(turn.action).slice(0, 80)}${turn.valid ? "" : " (invalid)"}, reward ${brief(turn.reward)}${told(turn)}`, "")),
    chip(episode.turns.length, episode.reflection ? "✎" : "end", episode.reflection, episode.reflection ? `the end, and the reflection${told(episode.reflection)}` : "the end", "end"));
}

/** One episode as a column. */
function column(trial, number, at, active, worth, go) {
  const episode = trial.episodes[number];
  const turn = episode.turns[at];
  return h("article", { class: `episode${active ? " active" : ""}`, "aria-label": `episode ${number + 1}`, "data-episode": number },
    h("header", {}, h("h3", {}, h("button", { type: "button", class: "plain", onclick: () => go(number, at) }, `Episode ${number + 1}`)), h("span", { class: `badge ${episode.success ? "won" : "lost"}` }, ending(episode)), h("span", { class: "reward" }, `reward ${brief(episode.reward)}`)),
    pictureAt(trial, episode, at),
    h("p", { class: "caption" }, turn
      ? [h("b", {}, `turn ${at + 1} `), turn.action === null ? "no action" : said(clipped(turn.action)), h("span", { class: turn.valid ? "reward" : "reward warn" }, turn.valid ? ` ${signed(turn.reward)}` : ` invalid, ${signed(turn.reward)}`)]
      : h("b", {}, `after ${plural(episode.turns.length, "turn")}`)),
    chips(trial, number, active ? at : null, worth, go),
    h("div", { class: "words" }, memories(episode, number), !episode.reflection ? null : h("div", { class: "reflection" }, h("h4", {}, "reflects", episode.reflection.valid ? null : h("span", { class: "warn" }, " (no remark could be read)")), said(clipped(episode.reflection.text, 600), { class: "said quoted" }))));
}

function clipped(text, most = 160) {
  const [shown, missing] = Array.isArray(text) ? text : [text, 0];
  return shown.length <= most ? text : [shown.slice(0, most), missing + shown.length - most];
}

/** What the policy wrote, every token shaded by how unlikely it was. */
export function written(call, text) {
  if (call === null || !call.ids.length) return h("div", { class: "written" }, said(text), h("p", { class: "note" }, call === null ? "No policy was called for this." : "No tokens were logged."));
  const probability = (at) => (call.logprobs[at] === null || call.logprobs[at] === undefined ? null : Math.exp(call.logprobs[at]));
  const style = (p) => ({ "--rare": p === null ? "0%" : `${Math.round(75 * Math.pow(1 - p, 0.8))}%` });
  const title = (at) => { const p = probability(at); return `${p === null ? "probability unknown" : `p = ${p >= 0.0995 ? p.toFixed(2) : p.toPrecision(2)}`}, token ${call.ids[at]}`; };
  const likely = call.logprobs.every((value) => value !== null) ? call.logprobs.reduce((sum, value) => sum + value, 0) : null;
  const note = h("p", { class: "note" }, plural(call.ids.length + call.more_tokens, "token"), likely === null ? "" : ` · p of the whole answer ${percentOf(Math.exp(likely))}`, call.more_tokens ? ` · the first ${count(call.ids.length)} are shown` : "");
  if (call.pieces) {
    return h("div", { class: "written" }, h("div", { class: "tokens" }, call.ids.map((_, at) => h("span", { class: "token", style: style(probability(at)), title: title(at) }, said(call.pieces[at] === "" ? "·" : call.pieces[at], { class: null })))), note);
  }
  return h("div", { class: "written" }, said(text), h("div", { class: "strip-tokens", role: "img", "aria-label": "the probability of every token" }, call.ids.map((_, at) => h("i", { style: style(probability(at)), title: title(at) }))), note,
    h("p", { class: "note" }, "The tokenizer is not at hand, so tokens cannot be told apart in the text: each is a box above."));
}

const percentOf = (p) => (p >= 0.001 ? percent(p) : p.toExponential(1));

function dropped(call) {
  if (!call || !call.dropped) return null;
  const parts = [];
  if (call.dropped.turns) parts.push(call.dropped.turns === 1 ? "the oldest turn" : `the oldest ${call.dropped.turns} turns`);
  if (call.dropped.memories) parts.push(call.dropped.memories === 1 ? "the oldest memory" : `the oldest ${call.dropped.memories} memories`);
  return h("p", { class: "notice dropped" }, `Left out, so that the prompt fits the policy's context: ${parts.join(" and ")}.`);
}

function prompt(trial, call) {
  if (!call) return null;
  return h("div", { class: "prompt" }, dropped(call), call.messages.map(([role, index]) => {
    const text = trial.texts[index];
    const long = textOf(text).length > 700;
    return h("details", { open: role === "system" || long ? null : true }, h("summary", {}, role, h("small", {}, `${count(textOf(text).length)} characters`)), h("pre", {}, said(text)));
  }));
}

function scaleOf(one, worth) {
  if (!worth) return null;
  const bar = (name) => one[name] === null || one[name] === undefined ? null : h("div", { class: "worth" }, h("dt", {}, name), h("dd", {}, h("i", { class: "swatch", style: shade(one, name === worth.name ? worth : { name, most: Math.max(worth.most, Math.abs(one[name])) }) }), signed(one[name])));
  return [bar("return"), bar("advantage")];
}

/** All there is to say of one step. */
function detail(trial, number, at, worth) {
  const episode = trial.episodes[number];
  const turn = at < episode.turns.length ? episode.turns[at] : null;
  const made = turn || episode.reflection;
  if (!made) return h("section", { class: "detail" }, h("p", { class: "empty" }, `Episode ${number + 1} was ${ending(episode)}${episode.success ? "" : "; no reflection followed"}.`));
  const call = made.call;
  const told = [["reward", turn ? brief(turn.reward) : null], ["policy", call && call.version], ["ended by", call && call.finish], ["prompt", call && call.prompt_tokens ? plural(call.prompt_tokens, "token") : null], ["took", call ? `${brief(call.seconds)} s` : null], ["seed", call && call.seed ? h("small", {}, call.seed) : null]];
  return h("section", { class: "detail", "aria-live": "polite" },
    h("div", { class: "card" }, h("h3", {}, turn ? `Episode ${number + 1}, turn ${at + 1}: what the policy wrote` : `After episode ${number + 1}: the reflection it wrote`), written(call, made.text),
      h("dl", { class: "facts" }, scaleOf(made, worth), told.filter(([, value]) => value).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value instanceof Node ? value : String(value)))))),
    h("div", { class: "card" }, h("h3", {}, "What it read"), call ? prompt(trial, call) : h("p", { class: "empty" }, "nothing: no policy was called"),
      turn ? h("details", {}, h("summary", {}, "observation"), h("pre", {}, said(turn.observation))) : null));
}

export async function loaded(run, row) {
  if (!has(run, row)) throw new Error(notHere(run));
  return fetchTrial(run, row);
}

/** The heading of a trial, with the ways to others. */
function heading(trial, run, row, around) {
  const rows = store.rows[run];
  const same = [];
  store.rows.forEach((other, number) => { if (other) for (let at = 0; at < other.length; at += 1) if (other.task[at] === rows.task[row] && !(number === run && at === row)) same.push([number, at]); });
  const [number, index] = [store.overview.runs[run].name, trial.trial ? ` #${trial.trial}` : ""];
  const beside = same.find(([other, at]) => other !== run && store.rows[other].trial[at] === rows.trial[row]) || same.find(([other]) => other !== run) || same[0];
  return h("header", { class: "headline" },
    h("p", { class: "crumbs" }, h("a", { href: "#/trials?run=" + run }, number), rows.update[row] === null ? null : [" · ", h("a", { href: `#/trials?run=${run}&update=${rows.update[row]}` }, `${rows.part[row]} at update ${rows.update[row]}`)], " · ", trial.started.slice(0, 16).replace("T", " ")),
    h("h1", {}, said(trial.task.id, { class: "said name" }), index),
    h("p", { class: "sub" }, pips(rows.outcome[row], rows.episodes[row]), h("b", { class: outcomeClass(rows.outcome[row]) }, outcomeWord(rows.outcome[row], rows.episodes[row])),
      same.length ? h("a", { href: link("task", trial.task.id) }, `all ${same.length + 1} trials of this task`) : null,
      beside ? h("a", { href: link("beside", run, row, beside[0], beside[1]) }, "beside another") : null,
      h("span", { class: "nav" }, around.before ? h("a", { rel: "prev", href: link("trial", ...around.before) }, "‹ before") : null, around.after ? h("a", { rel: "next", href: link("trial", ...around.after) }, "next ›") : null)),
    trial.error ? h("p", { class: "notice" }, h("b", {}, said(trial.error.type)), ": ", said(trial.error.message), trial.error.episode === null ? "" : ` (episode ${trial.error.episode + 1}${trial.error.turn === null ? "" : `, turn ${trial.error.turn + 1}`})`) : null);
}

function worthKey(worth) {
  if (!worth) return h("p", { class: "key-line" }, "Turns are not coloured: what they were worth is not known for this trial.");
  return h("p", { class: "key-line" }, `Turns by ${worth.name}: `, h("i", { class: "ramp" }), ` ${signed(-worth.most)} to ${signed(worth.most)}`, worth.name === "advantage" ? ", against the other trials of its task" : ", the discounted rewards from there on, of later episodes too");
}

/** The view of a trial; `place` is {run, row, episode, step}. Returns how it is stepped through. */
export function trialView(box, place, around, moved) {
  fill(box, busy("reading the trial …"));
  let trial = null, worth = null;
  const at = { episode: place.episode, step: place.step };
  const last = [];
  const stage = h("div", { class: "stage" });
  const below = h("div", {});
  const go = (episode, step, quiet) => {
    at.episode = Math.max(0, Math.min(trial.episodes.length - 1, episode));
    at.step = Math.max(0, Math.min(steps(trial.episodes[at.episode]), step));
    last[at.episode] = at.step;
    fill(stage, trial.episodes.map((_, number) => column(trial, number, last[number], number === at.episode, worth, go)));
    fill(below, detail(trial, at.episode, at.step, worth));
    const active = stage.children[at.episode];
    if (active && stage.scrollWidth > stage.clientWidth) stage.scrollLeft = active.offsetLeft - stage.offsetLeft - (stage.clientWidth - active.clientWidth) / 2;
    if (!quiet) moved(at.episode, at.step);
  };
  loaded(place.run, place.row).then((found) => {
    trial = found;
    worth = worthOf(trial);
    trial.episodes.forEach((episode, number) => { last[number] = steps(episode); });
    if (!trial.episodes.length) { fill(box, heading(trial, place.run, place.row, around), h("p", { class: "empty" }, "No episode was played.")); return; }
    fill(box, heading(trial, place.run, place.row, around), worthKey(worth), h("div", { class: trial.episodes.length === 1 ? "trial one" : "trial" }, stage, below), about(trial));
    go(place.episode, place.step === "end" ? Infinity : place.step, true);
    box.dataset.ready = "yes";
  }).catch((error) => fill(box, h("p", { class: "empty" }, said(String(error.message)))));
  return {
    step(by) {
      if (!trial || !trial.episodes.length) return;
      const end = steps(trial.episodes[at.episode]);
      if (at.step + by > end && at.episode + 1 < trial.episodes.length) go(at.episode + 1, 0);
      else if (at.step + by < 0 && at.episode > 0) go(at.episode - 1, steps(trial.episodes[at.episode - 1]));
      else go(at.episode, at.step + by);
    },
    episode(by) { if (trial && trial.episodes.length && trial.episodes[at.episode + by]) go(at.episode + by, 0); },
  };
}

function about(trial) {
  const facts = [["environment", trial.task.env], ["seed", trial.task.seed], ["split", trial.task.split], ["memory", JSON.stringify(trial.memory)], ["sampling", JSON.stringify(trial.sampling)], ["took", `${brief(trial.seconds)} s, ${brief(trial.policy_seconds)} s of it in policy calls`], ["extra", trial.extra ? JSON.stringify(trial.extra).slice(0, 4000) : null], ["trial", trial.id]];
  return h("details", { class: "about" }, h("summary", {}, "about this trial"), h("dl", {}, facts.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => [h("dt", {}, name), h("dd", {}, said(String(value)))])),
    trial.task.instance ? h("details", {}, h("summary", {}, "instance"), h("pre", {}, said(trial.task.instance))) : null,
    live ? null : h("p", { class: "note" }, "A page as a file; lamer-graph view shows a run while it goes on."));
}
