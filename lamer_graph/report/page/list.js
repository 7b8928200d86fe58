// Every trial as one line: filters, sorting, and only those lines as elements that are in sight.

import { outcomeWord, pips } from "./charts.js";
import { has, store } from "./data.js";
import { brief, count, fill, h, link, plain } from "./dom.js";

const HEIGHT = 44;
const SORTS = {
  order: ["as logged", () => 0],
  outcome: ["outcome", (rows, row) => (rows.outcome[row] < 0 ? 99 : rows.outcome[row] || 98)],
  turns: ["turns", (rows, row) => rows.turns[row]],
  invalid: ["invalid", (rows, row) => rows.invalid[row]],
  reward: ["reward", (rows, row) => rows.reward[row]],
  seconds: ["seconds", (rows, row) => rows.seconds[row]],
  task: ["task", (rows, row) => rows.task[row]],
};
export const FILTERS = ["q", "run", "outcome", "env", "version", "update", "error", "invalid", "sort", "down"];

/** The rows that a query keeps, as [run, row], in its order. */
export function chosen(query) {
  const found = [];
  const needle = (query.q || "").toLowerCase();
  store.rows.forEach((rows, run) => {
    if (!rows || (query.run && Number(query.run) !== run)) return;
    for (let row = 0; row < rows.length; row += 1) {
      if (needle && !rows.task[row].toLowerCase().includes(needle)) continue;
      if (query.outcome && !fits(query.outcome, rows.outcome[row])) continue;
      if (query.env && rows.env[row] !== query.env) continue;
      if (query.version && rows.version[row] !== query.version) continue;
      if (query.update && String(rows.update[row]) !== query.update) continue;
      if (query.error && rows.error[row] !== query.error) continue;
      if (query.invalid && !rows.invalid[row]) continue;
      found.push([run, row]);
    }
  });
  const sort = SORTS[query.sort];
  if (sort && query.sort !== "order") {
    const turn = query.down ? -1 : 1;
    const keyed = found.map((place, at) => [sort[1](store.rows[place[0]], place[1]), at, place]);
    keyed.sort((a, b) => (a[0] < b[0] ? -turn : a[0] > b[0] ? turn : a[1] - b[1]));
    return keyed.map((one) => one[2]);
  }
  return query.down ? found.reverse() : found;
}

function fits(wanted, outcome) {
  if (wanted === "solved") return outcome > 0;
  if (wanted === "lost") return outcome === 0;
  if (wanted === "error") return outcome < 0;
  return outcome === Number(wanted);
}

function values(name) {
  const found = new Set();
  for (const rows of store.rows)
    if (rows) for (const value of rows[name]) if (value !== "" && value !== null) found.add(value);
  return [...found].sort((a, b) => (typeof a === "number" ? a - b : a < b ? -1 : 1));
}

export function list(query, go) {
  const box = h("div", { class: "list" });
  const change = (name, value) => go({ ...query, [name]: value || undefined });
  const select = (name, label, choices) =>
    choices.length < 2 && !query[name]
      ? null
      : h(
          "label",
          {},
          h("span", {}, label),
          h(
            "select",
            { "data-filter": name, onchange: (event) => change(name, event.target.value) },
            name === "sort" ? null : h("option", { value: "" }, "all"),
            choices.map(([value, word]) =>
              h("option", { value, selected: String(query[name] || "") === String(value) }, String(word)),
            ),
          ),
        );
  const most = Math.max(
    0,
    ...store.rows.map((rows) => (rows ? rows.outcome.reduce((high, one) => (one > high ? one : high), 0) : 0)),
  );
  const outcomes = [
    ["solved", "solved"],
    ...Array.from({ length: most }, (_, k) => [String(k + 1), `solved in episode ${k + 1}`]),
    ["lost", "not solved"],
    ["error", "ended by an error"],
  ];
  const pairs = (name) =>
    values(name)
      .slice(0, 500)
      .map((value) => [value, value]);
  const search = h("input", {
    type: "search",
    id: "search",
    placeholder: "task id",
    value: query.q || "",
    autocomplete: "off",
    spellcheck: "false",
    "aria-label": "search by task id",
  });
  let timer = 0;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => change("q", search.value), 150);
  });
  const kept = chosen(query);
  const total = store.rows.reduce((sum, rows) => sum + (rows ? rows.total : 0), 0);
  const loaded = store.rows.reduce((sum, rows) => sum + (rows ? rows.length : 0), 0);
  const any = FILTERS.some((name) => query[name] && name !== "sort" && name !== "down");
  box.append(
    h(
      "form",
      { class: "filters", onsubmit: (event) => event.preventDefault() },
      h("label", { class: "wide" }, h("span", {}, "search"), search),
      select(
        "run",
        "run",
        store.overview.runs.map((run, number) => [String(number), run.name]),
      ),
      select("outcome", "outcome", outcomes),
      select("env", "environment", pairs("env")),
      select("version", "policy", pairs("version")),
      select("update", "update", pairs("update")),
      select("error", "error", pairs("error")),
      h(
        "label",
        { class: "check" },
        h("input", {
          type: "checkbox",
          "data-filter": "invalid",
          checked: Boolean(query.invalid),
          onchange: (event) => change("invalid", event.target.checked ? "1" : ""),
        }),
        h("span", {}, "invalid actions"),
      ),
      select(
        "sort",
        "sorted by",
        Object.entries(SORTS).map(([name, [word]]) => [name, word]),
      ),
      h(
        "button",
        {
          type: "button",
          class: "quiet",
          title: "the other way round",
          "aria-pressed": query.down ? "true" : "false",
          onclick: () => change("down", query.down ? "" : "1"),
        },
        query.down ? "↓" : "↑",
      ),
    ),
  );
  box.append(
    h(
      "p",
      { class: "found", role: "status" },
      count(kept.length),
      kept.length === total ? "" : ` of ${count(total)}`,
      kept.length === 1 ? " trial" : " trials",
      loaded < total ? `, ${count(total - loaded)} are still being read` : "",
      kept.some(([run, row]) => !has(run, row)) ? " · those in grey are listed without their turns" : "",
      any ? [" · ", h("a", { href: "#/trials" }, "clear filters")] : null,
    ),
  );
  if (!kept.length)
    box.append(h("p", { class: "empty" }, total ? "No trial is like that." : "No trial has ended yet."));
  else box.append(head(), windowed(kept, query));
  return box;
}

const head = () =>
  h(
    "div",
    { class: "row head", "aria-hidden": "true" },
    ["outcome", "task", "run", "policy", "turns", "invalid", "reward"].map((name) =>
      h("span", { class: "c-" + name.replace("policy", "version") }, name),
    ),
  );

/** A scrolling box that holds the lines in sight. */
function windowed(kept, query) {
  const several = store.overview.runs.length > 1;
  const tall = h("div", { class: "tall", style: { height: `${kept.length * HEIGHT}px` } });
  const view = h(
    "div",
    { class: "rows", tabindex: "0", role: "list", "aria-label": "trials", style: { "max-height": `${kept.length * HEIGHT + 2}px` } },
    tall,
  );
  let from = -1,
    to = -1;
  const draw = () => {
    const first = Math.max(0, Math.floor(view.scrollTop / HEIGHT) - 8);
    const last = Math.min(kept.length, Math.ceil((view.scrollTop + (view.clientHeight || 800)) / HEIGHT) + 8);
    if (first === from && last === to) return;
    [from, to] = [first, last];
    fill(
      tall,
      kept.slice(first, last).map(([run, row], at) => line(run, row, (first + at) * HEIGHT, several)),
    );
  };
  view.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  new ResizeObserver(draw).observe(view);
  draw();
  const stored = Number(sessionStorage.getItem("scroll:" + JSON.stringify(query)) || 0);
  requestAnimationFrame(() => {
    view.scrollTop = stored;
    draw();
  });
  view.addEventListener(
    "scroll",
    () => sessionStorage.setItem("scroll:" + JSON.stringify(query), String(view.scrollTop)),
    { passive: true },
  );
  view.addEventListener("keydown", (event) => {
    const move = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1 }[event.key];
    if (!move) return;
    const lines = [...tall.children];
    const next =
      lines[lines.indexOf(document.activeElement) + move] || (document.activeElement === view ? lines[0] : null);
    if (next) {
      next.focus({ preventScroll: true });
      next.scrollIntoView({ block: "nearest" });
    }
    event.preventDefault();
    event.stopPropagation();
  });
  return view;
}

function line(run, row, top, several) {
  const rows = store.rows[run];
  const part =
    rows.update[row] === null
      ? null
      : `${rows.part[row] === "validation" ? "validation " : "update "}${rows.update[row]}`;
  const where = [several ? store.overview.runs[run].name : null, part].filter(Boolean).join(" · ");
  const fields = [
    h(
      "span",
      { class: "c-task" },
      h("span", { dir: "ltr" }, rows.task[row]),
      rows.trial[row] ? h("small", {}, `#${rows.trial[row]}`) : null,
    ),
    h("span", { class: "c-run", title: plain(where) }, where),
    h("span", { class: "c-version" }, rows.error[row] ? h("b", { class: "bad" }, rows.error[row]) : rows.version[row]),
    h("span", { class: "c-turns" }, h("span", { class: "narrow" }, "turns "), String(rows.turns[row])),
    h(
      "span",
      { class: "c-invalid" },
      rows.invalid[row]
        ? h("b", { class: "warn" }, String(rows.invalid[row]), h("span", { class: "narrow" }, " invalid"))
        : "",
    ),
    h("span", { class: "c-reward" }, brief(rows.reward[row])),
  ];
  return h(
    "a",
    {
      class: "row",
      role: "listitem",
      href: link("trial", run, row),
      style: { transform: `translateY(${top}px)` },
      "data-held": has(run, row) ? "yes" : "no",
    },
    h(
      "span",
      { class: "c-outcome", title: outcomeWord(rows.outcome[row], rows.episodes[row]) },
      pips(rows.outcome[row], rows.episodes[row]),
    ),
    fields,
  );
}
