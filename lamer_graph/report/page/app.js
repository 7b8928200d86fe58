// The page: which view the address names, the keyboard, light and dark, and the look for news while a run goes on.

import { live, look, open, page, store } from "./data.js";
import { count, fill, h, link, plain, plural, said, short } from "./dom.js";
import { chosen, FILTERS, list } from "./list.js";
import { overview } from "./overview.js";
import { besideView, taskView } from "./task.js";
import { training } from "./training.js";
import { trialView } from "./trial.js";

const EVERY_MS = 1500;
const TABS = 2;
const main = document.getElementById("main");
const tabs = document.getElementById("tabs");
const status = document.getElementById("status");
let walking = null;
let query = {};
let shown = "";
let missing = false;
let searching = false;

function parsed() {
  const [path, search] = location.hash.replace(/^#\/?/, "").split("?");
  const parts = path
    .split("/")
    .filter(Boolean)
    .map((part) => {
      try {
        return decodeURIComponent(part);
      } catch {
        return "?";
      }
    });
  const found = {};
  for (const [name, value] of new URLSearchParams(search || ""))
    if ((FILTERS.includes(name) || name === "show") && value) found[name] = value;
  return { parts, query: found };
}

const wholeNumber = (text) => (/^\d{1,9}$/.test(text || "") ? Number(text) : null);
const address = (view, wanted) => {
  const search = new URLSearchParams(Object.entries(wanted).filter(([, value]) => value)).toString();
  return "#/" + view + (search ? "?" + search : "");
};
const listAddress = (wanted) => address("trials", wanted);
const known = (run, row) => store.rows[run] && row !== null && row < store.rows[run].length;

function drawTabs(view) {
  const trained = store.overview.runs.map((run, number) => [run, number]).filter(([run]) => run.curves);
  const tab = (name, href, word, title) =>
    h("a", { href, title, "aria-current": view === name ? "page" : null }, word);
  fill(
    tabs,
    tab("overview", "#/", "Overview"),
    tab("trials", listAddress(query), "Trials"),
    trained
      .slice(0, TABS)
      .map(([run, number]) =>
        tab(
          "training-" + number,
          link("training", number),
          trained.length === 1 ? "Training" : short(run.name),
          plain(run.name),
        ),
      ),
    trained.length > TABS
      ? tab("more", link(), `${trained.length - TABS} more`, "all trainings are on the overview")
      : null,
  );
}

function draw(refreshing) {
  const { parts, query: wanted } = parsed();
  const [view, ...rest] = parts;
  const numbers = rest.map(wholeNumber);
  const keep = refreshing ? document.activeElement && document.activeElement.id : null;
  if (refreshing && ["trial", "beside", "task"].includes(view)) return drawTabs("trials");
  walking = null;
  missing = false;
  delete main.dataset.ready;
  shown = view || "overview";
  if (view === "trials") {
    query = wanted;
    fill(
      main,
      list(query, (next) => {
        query = next;
        history.replaceState(null, "", listAddress(next));
        draw(true);
      }),
    );
  } else if (view === "trial" && known(numbers[0], numbers[1])) {
    const [run, row] = numbers;
    const places = chosen(query);
    const at = places.findIndex((place) => place[0] === run && place[1] === row);
    const around = at < 0 ? {} : { before: places[at - 1], after: places[at + 1] };
    walking = {
      ...trialView(
        main,
        { run, row, episode: numbers[2] ?? 0, step: rest[3] === "end" ? "end" : (numbers[3] ?? 0) },
        around,
        (episode, step) => history.replaceState(null, "", link("trial", run, row, episode, step)),
      ),
      around,
    };
  } else if (view === "task" && rest[0]) {
    taskView(main, rest[0]);
  } else if (view === "beside" && known(numbers[0], numbers[1]) && known(numbers[2], numbers[3])) {
    walking = besideView(
      main,
      [
        [numbers[0], numbers[1]],
        [numbers[2], numbers[3]],
      ],
      { episode: numbers[4] ?? 0, step: numbers[5] ?? 0 },
      (episode, step) => history.replaceState(null, "", link("beside", ...numbers.slice(0, 4), episode, step)),
    );
  } else if (view === "training") {
    fill(main, training(numbers[0]));
    shown = "training-" + numbers[0];
  } else if (!view) {
    fill(
      main,
      overview(wanted.show, (show) => {
        history.replaceState(null, "", address("", { show }));
        draw(true);
      }),
    );
  } else {
    missing = true;
    fill(main, h("p", { class: "empty" }, "There is nothing at this address. ", h("a", { href: "#/" }, "Overview")));
  }
  drawTabs(["trial", "beside", "task"].includes(shown) ? "trials" : shown);
  focusSearch();
  if (keep) {
    const again = document.getElementById(keep);
    if (again) {
      again.focus();
      if (again.type === "search") again.setSelectionRange(again.value.length, again.value.length);
    }
  } else if (!refreshing) window.scrollTo(0, 0);
}

/** The list's search gets the keys once the list is there. */
function focusSearch() {
  const box = document.getElementById("search");
  if (!searching || !box) return;
  searching = false;
  box.focus();
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    const help = document.getElementById("help");
    if (help.open) help.close();
    else if (event.target.blur) event.target.blur();
    return;
  }
  if (event.target.matches("input, select, textarea")) return;
  const step = {
    ArrowRight: () => walking.step(1),
    ArrowLeft: () => walking.step(-1),
    ArrowDown: () => walking.episode(1),
    ArrowUp: () => walking.episode(-1),
    j: () => walking.around && walking.around.after && go(link("trial", ...walking.around.after)),
    k: () => walking.around && walking.around.before && go(link("trial", ...walking.around.before)),
  }[event.key];
  const anywhere = {
    "/": () => {
      searching = true;
      if (location.hash === listAddress(query)) focusSearch();
      else go(listAddress(query));
    },
    "?": () => document.getElementById("help").showModal(),
    o: () => go("#/"),
    t: () => go(listAddress(query)),
  }[event.key];
  if (step && walking) {
    step();
    event.preventDefault();
  } else if (anywhere) {
    anywhere();
    event.preventDefault();
  }
}

const go = (where) => {
  location.hash = where;
};

function theme() {
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const now = () => document.documentElement.dataset.theme || (dark.matches ? "dark" : "light");
  let stored = null;
  try {
    stored = localStorage.getItem("lamer-theme");
  } catch {
    stored = null;
  }
  if (stored === "dark" || stored === "light") document.documentElement.dataset.theme = stored;
  button.addEventListener("click", () => {
    const next = now() === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem("lamer-theme", next);
    } catch {
      /* a page of a file may not keep anything */
    }
  });
}

function news(text, kind) {
  status.dataset.kind = kind;
  status.title = text;
  fill(status, text);
}

async function watch() {
  try {
    const any = await look(() => draw(true));
    const total = store.state.counts.reduce((sum, one) => sum + one, 0);
    news(`live · ${plural(total, "trial")}`, any ? "new" : "live");
  } catch (error) {
    news("the server has stopped: what is here is as it was", "gone");
  }
  setTimeout(watch, EVERY_MS);
}

async function start() {
  theme();
  document.getElementById("help-button").addEventListener("click", () => document.getElementById("help").showModal());
  addEventListener("hashchange", () => draw(false));
  addEventListener("keydown", keys);
  try {
    let first = true;
    await open(() => {
      draw(!first);
      first = false;
    });
    if (missing || shown === "task") draw(false); // an address of a trial can be followed only once its line is known
    document.documentElement.dataset.open = "yes";
  } catch (error) {
    fill(main, h("p", { class: "empty" }, "The runs cannot be shown: ", said(String(error.message))));
    return;
  }
  if (live) watch();
  else news(`written ${page.written} · ${count(page.held)} trials with their turns`, "file");
}

start();
