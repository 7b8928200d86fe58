// Where the page's data is: in this very file, or on the server that shows a run while it goes on.
// What must stay true: both answer the same questions in the same form, and a trial is held only as long as it is of use.

import { count } from "./dom.js";

const KEPT = 40;

function embedded(id) {
  const found = document.getElementById(id);
  return found === null ? null : JSON.parse(found.textContent);
}

async function asked(path) {
  const answer = await fetch(path, { headers: { accept: "application/json" }, cache: "no-store" });
  const told = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error((told && told.error && told.error.message) || `the server answered ${answer.status}`);
  return told;
}

export const page = embedded("page");
export const live = page.live;

/** The runs and all rows that are known of them. */
export const store = { overview: null, rows: [], state: null, listeners: new Set() };

const kept = new Map();

export async function fetchTrial(run, row) {
  const key = `${run}-${row}`;
  if (!kept.has(key)) {
    const found = live ? asked(`api/trial?run=${run}&row=${row}`) : Promise.resolve(embedded(`trial-${key}`));
    kept.set(key, found);
    found.catch(() => kept.delete(key));
    if (kept.size > KEPT) kept.delete(kept.keys().next().value);
  }
  return kept.get(key);
}

export const has = (run, row) => live || document.getElementById(`trial-${run}-${row}`) !== null;

export const notHere = (run) =>
  `This file holds the turns of ${count(page.held)} trials, and this is not one of them. ` +
  `See it with: lamer-graph view ${store.overview.runs[run].name}, or write the report with a larger --most.`;

/** All trials of a task, as [run, row]. */
export function trialsOf(task) {
  const found = [];
  store.rows.forEach((rows, run) => {
    if (rows) for (let row = 0; row < rows.length; row += 1) if (rows.task[row] === task) found.push([run, row]);
  });
  return found;
}

const COLUMNS = [
  "task",
  "env",
  "trial",
  "outcome",
  "episodes",
  "turns",
  "invalid",
  "reward",
  "seconds",
  "started",
  "version",
  "error",
  "update",
  "part",
];

function takeIn(told) {
  const { run, first, begun, columns, total } = told;
  if (store.rows[run] === undefined || store.rows[run].begun !== begun) {
    store.rows[run] = { begun, length: 0, total };
    for (const name of COLUMNS) store.rows[run][name] = [];
  }
  const rows = store.rows[run];
  rows.total = total;
  if (first !== rows.length) return;
  for (const name of COLUMNS) for (const value of columns[name]) rows[name].push(value);
  rows.length += columns.task.length;
}

/** Fetch what is missing of the rows, a page at a time; `told` is called after each. */
async function fetchRows(told) {
  for (let run = 0; run < store.overview.runs.length; run += 1) {
    for (;;) {
      const before = store.rows[run] ? store.rows[run].length : 0;
      const answer = await asked(`api/rows?run=${run}&first=${before}`);
      const anew = store.rows[run] && store.rows[run].begun !== answer.begun;
      if (anew) {
        store.rows[run] = undefined;
        kept.clear();
        continue;
      }
      takeIn(answer);
      told();
      if (store.rows[run].length >= answer.total || answer.columns.task.length === 0) break;
    }
  }
}

export async function open(told) {
  if (!live) {
    store.overview = embedded("overview");
    for (const rows of embedded("rows")) takeIn(rows);
    told();
    return;
  }
  store.overview = await asked("api/overview");
  store.rows = store.overview.runs.map(() => undefined);
  for (let run = 0; run < store.overview.runs.length; run += 1)
    takeIn({ run, first: 0, begun: 0, total: 0, columns: Object.fromEntries(COLUMNS.map((name) => [name, []])) });
  told();
  await fetchRows(told);
}

/** Ask whether anything is new; true if there was. Raises Error where the server is gone. */
export async function look(told) {
  const state = await asked("api/state");
  const before = JSON.stringify(store.state);
  store.state = state;
  if (before === JSON.stringify(state)) return false;
  store.overview = await asked("api/overview");
  await fetchRows(() => {});
  told();
  return true;
}
