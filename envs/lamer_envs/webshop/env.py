"""WebShop: find, configure and buy the product that a customer describes, on a text web site.

What must stay true: the state is a small JSON object (goal, page, query, product, chosen options) and never holds any
of the catalogue; a seed is a position in the catalogue's fixed order of goals, so a retry has the same goal and the
splits never share one. Pages, actions and the score follow WebShop (Yao et al., arXiv 2207.01206); the engine is ours.

The catalogue is generated (`make("webshop")`), or comes in the original's formats from a folder or from memory. A
purchase ends the episode; with reward="binary" it is worth 10 if its score is 1.0, else 0 (LaMer, arXiv 2512.16848).
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lamer_envs.base import MAX_ACTION_CHARS, Env, State, Step
from lamer_envs.errors import EnvParameterError, InstanceError
from lamer_envs.instances import read_instance
from lamer_envs.parameters import check_whole
from lamer_envs.webshop.catalogue import Catalogue, GeneratedCatalogue
from lamer_envs.webshop.goals import Goal, canonical, read_goal
from lamer_envs.webshop.judge import is_true
from lamer_envs.webshop.official import load_folder, load_mapping
from lamer_envs.webshop.pages import (
    BACK,
    BUY,
    NEXT,
    PREVIOUS,
    SEPARATOR,
    Link,
    View,
    compact,
    html_text,
    key_of,
    links,
    listed_slice,
    parts,
    plain,
    rich_text,
)
from lamer_envs.webshop.players import plan, weak
from lamer_envs.webshop.reward import Score, score
from lamer_envs.webshop.search import require_tantivy
from lamer_envs.webshop.shop import INLINE, data_in_memory, has_people, place_of, shared_shop, stamp
from lamer_envs.webshop.words import keywords

SUCCESS = 10.0
DEFAULT_PRODUCTS = 1000
MAX_PRODUCTS = 2_000_000
MAX_QUERY_CHARS = 400
"""Characters of a query that are kept; the rest is not searched for."""

REWARDS = ("binary", "score")
GOALS = ("human", "synthetic")
BRIEFS = ("verdicts", "plain")
_ACTION = re.compile(r"\s*(search|click)\s*\[(.*)\]\s*", re.IGNORECASE | re.DOTALL)
_LONG_SEARCH = re.compile(r"\s*search\s*\[(.*)", re.IGNORECASE | re.DOTALL)


class Webshop(Env):
    """A shop of `products` products and its customers' goals.

    `data`: None for the generated catalogue, a folder with the original's files, or a mapping with their contents
    (`products`, `attributes`, `human_instructions`). `products`: how many; default 1,000 generated ones, or what the
    data has (of a folder with both sizes, the small files). `reward`: "binary" or "score", the score of the purchase
    in [0, 1]. `goals`: "human" (options as a list; the default wherever there are human instructions) or "synthetic"
    (one goal per combination of options, options as a dict). `seed` draws the generated catalogue. `brief`: what
    compact pages tell of products, "verdicts" or "plain" (see `compact`).

    State (JSON): `{"goal": position or goal dict, "page", "query", "number": page of results, "product": id | None,
    "options": {name: value}, "score": float | None}`; page is search, results, item, description, features, reviews
    or done. Raises EnvParameterError for wrong parameters and for data that is missing, incomplete or malformed.
    """

    name: ClassVar[str] = "webshop"
    max_turns = 12

    def __init__(
        self,
        products: int | None = None,
        data: str | Path | Mapping[str, Any] | None = None,
        reward: str = "binary",
        goals: str | None = None,
        seed: int = 0,
        brief: str = "verdicts",
    ) -> None:
        require_tantivy()
        if products is not None:
            check_whole("webshop's products", products, 1, MAX_PRODUCTS)
        check_whole("webshop's seed", seed, 0, 2**31)
        _check_word("reward", reward, REWARDS)
        _check_word("brief", brief, BRIEFS)
        if goals is not None:
            _check_word("goals", goals, GOALS)
        self.reward, self.seed, self.brief = reward, seed, brief
        self._data = data
        if data is None:
            self.products: int | None = products or DEFAULT_PRODUCTS
            self.goals_kind = goals or "human"
            where = f"generated {self.products} {seed} {self.goals_kind}"
            self._place = ""
        else:
            if seed:
                raise EnvParameterError("seed draws the generated catalogue; with data= there is nothing to draw")
            self.products = products
            self.goals_kind = goals or ("human" if has_people(data) else "synthetic")
            self._place = place_of(data)
            where = f"{self._place} {products} {self.goals_kind} {stamp(data)}"
        self.shop = shared_shop(where, self._place, self._catalogue, self.goals_kind, data)

    def _catalogue(self) -> Catalogue:
        if self._data is None:
            return GeneratedCatalogue(self.products or DEFAULT_PRODUCTS, self.seed)
        if isinstance(self._data, Mapping):
            return load_mapping(self._data, self.products)
        return load_folder(Path(self._data).expanduser(), self.products, self.goals_kind == "human")

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (self.params, self._data)

    # -- identity ---------------------------------------------------------------------------------------------------

    @property
    def spec(self) -> str:
        words = [] if self.products is None else [str(self.products)]
        words += [f"reward={self.reward}"] * (self.reward != "binary")
        words += [f"brief={self.brief}"] * (self.brief != "verdicts")
        if self._data is None:
            words += [f"goals={self.goals_kind}"] * (self.goals_kind != "human")
            words += [f"seed={self.seed}"] * bool(self.seed)
        else:
            words += [f"goals={self.goals_kind}", f"data={self._place}"]  # last: a path may hold commas
        return f"{self.name}:{','.join(words)}"

    @classmethod
    def from_spec(cls, params: str) -> Webshop:
        """`webshop:1000`, `webshop:5000,reward=score,goals=synthetic,seed=3`, `webshop:reward=score,data=FOLDER`."""
        found: dict[str, Any] = {}
        rest = params
        while rest:
            if rest.startswith("data="):
                found["data"], rest = rest[5:], ""
                break
            word, _, rest = rest.partition(",")
            key, equals, value = word.strip().partition("=")
            if not equals:
                key, value = "products", key
            if key not in ("products", "reward", "brief", "goals", "seed") or key in found:
                raise EnvParameterError(
                    f"'{params[:60]}' is no shop; write webshop:PRODUCTS[,reward=score][,brief=plain]"
                    "[,goals=synthetic][,seed=N][,data=FOLDER], for example webshop:1000"
                )
            found[key] = _integer(key, value) if key in ("products", "seed") else value
        place = found.get("data", "")
        if place.startswith(INLINE):
            found["data"] = data_in_memory(place)
        return cls(**found)

    @property
    def params(self) -> Mapping[str, Any]:
        return {
            "products": self.products,
            "data": self._place or None,
            "reward": self.reward,
            "goals": self.goals_kind,
            "seed": self.seed,
            "brief": self.brief,
        }

    # -- what the policy is told ------------------------------------------------------------------------------------

    @property
    def rules(self) -> str:
        return (
            "This is WebShop, a shopping web site in text form. The instruction describes what to buy: the kind of "
            "product, qualities it must have, options such as a color or a size, and often a highest price. Search for "
            "products, open one from the results by its id, read its description, features and reviews if needed, "
            "choose every option the instruction speaks of by clicking its value, and buy it. The results show ten "
            "products a page. Options you have chosen are not displayed again; they hold until you leave the product, "
            "and clicking another value of the same option replaces the first. The purchase ends the episode. "
            "It succeeds only if the product is of the wanted kind, has all wanted qualities, is bought with all "
            "wanted options, and costs no more than the highest price."
        )

    @property
    def action_format(self) -> str:
        return (
            "search[words to search for] on any page, or click[something that can be clicked on this page], for "
            "example search[red wool scarf], click[next >], click[b0qkjs6q97] or click[buy now]"
        )

    def observe(self, state: State) -> str:
        return SEPARATOR.join(parts(self.view(state)))

    def compact(self, state: State) -> str:
        """The page in few tokens.

        With brief="verdicts", where the instruction is in the generated catalogue's wording, it says *more* than the
        page: the wish as a list, and of each product which of the wanted qualities its text has, "other kind", and "too
        dear". The original's pages hold no such verdicts. With brief="plain" it says nothing that the page does not.
        """
        return compact(self.view(state)) if self.brief == "verdicts" else plain(self.view(state))

    def outcome(self, before: State, action: str, step: Step) -> str:
        after = step.state
        if not step.valid:
            return "invalid"
        if step.done:
            chosen = "".join(f", {value}" for value in after["options"].values())
            return f"bought {after['product']}{chosen}: score {after['score']:.2f}"
        if after["page"] == "results":
            if after["query"] != before["query"] or not (self.parse(action) or "").startswith("click["):
                return f"found {len(self.shop.search(after['query']))}"
            return f"results page {after['number']}"
        if after["page"] == "item":
            news = [value for name, value in after["options"].items() if before["options"].get(name) != value]
            if before["product"] == after["product"] and news:
                return f"chose {', '.join(news)}"
            return f"at {after['product']}"
        return f"at the {after['page']} page" if after["page"] == "search" else f"read {after['page']}"

    # -- dynamics ---------------------------------------------------------------------------------------------------

    def reset(self, seed: int) -> State:
        """The search page with goal number `seed` of the fixed order, which starts anew after the last goal."""
        return _start(seed % self._goal_count())

    def step(self, state: State, action: str) -> Step:
        parsed = self.parse(action)
        following = None if parsed is None or state["page"] == "done" else self._follow(state, parsed)
        if following is None:
            over = state["page"] == "done"
            return Step(dict(state), self.observe(state), 0.0, over, over and state["score"] == 1.0, False)
        done = following["page"] == "done"
        reward, won = 0.0, done and following["score"] == 1.0
        if done:
            reward = following["score"] if self.reward == "score" else SUCCESS * won
        return Step(following, self.observe(following), reward, done, won, True)

    def _follow(self, state: State, action: str) -> State | None:
        """The state after a parsed action, None if it is not possible on this page."""
        argument = action[action.index("[") + 1 : -1]
        if action.startswith("search["):
            return _page(state, "results", query=argument, number=1, product=None, options={})
        view = self.view(state)
        link = links(view).get(argument)
        if link is None:
            return None
        if link.kind == "product":
            return _page(state, "item", product=link.value, options={})
        if link.kind == "option":
            return _page(state, "item", options={**state["options"], link.name: link.value})
        return self._press(view, link)

    def _press(self, view: View, link: Link) -> State:
        state, button = view.state, link.value
        if button == BACK:
            return _start(state["goal"])
        if button == BUY:
            return _page(state, "done", score=self.score(state).total)
        if button == NEXT:
            return _page(state, "results", number=state["number"] + 1)
        if button == PREVIOUS and state["page"] == "results":
            return _page(state, "results", number=state["number"] - 1)
        if button == PREVIOUS and state["page"] == "item":
            return _page(state, "results", product=None, options={})
        return _page(state, "item" if button == PREVIOUS else button.lower())

    def score(self, state: State) -> Score:
        """The score, with its parts, of buying what the state's page shows with the options chosen so far.

        Raises ValueError where no product is shown.
        """
        view = self.view(state)
        if view.item is None:
            raise ValueError("no product is open on this page")
        return score(view.item, self.goal(state), state["options"], self.shop.catalogue.nouns)

    def parse(self, answer: str) -> str | None:
        if len(answer) > MAX_ACTION_CHARS:
            # A search may be of any length; only its beginning is looked at, and no click is that long.
            match = _LONG_SEARCH.fullmatch(answer[:MAX_ACTION_CHARS]) if answer[-50:].rstrip().endswith("]") else None
            kind, argument = "search", match[1] if match else ""
        else:
            match = _ACTION.fullmatch(answer)
            kind, argument = (match[1].lower(), match[2]) if match else ("", "")
        text = argument.encode("utf-8", "replace").decode("utf-8")
        text = key_of(text if kind == "click" else text[:MAX_QUERY_CHARS])
        return f"{kind}[{text}]" if text else None

    def admissible(self, state: State) -> list[str]:
        """Every click of the page in its order, then one search that stands for all: the instruction's own words."""
        if state["page"] == "done":
            return []
        words = " ".join(keywords(self.goal(state)["instruction_text"])) or "anything"
        asked = self.parse(f"search[{words}]") or "search[anything]"
        return [*(f"click[{key}]" for key in links(self.view(state))), asked]

    def load(self, instance: Mapping[str, Any] | Path) -> State:
        """A state from `{"goal": position in the fixed order}` or `{"goal": goal dict}`, or a `Path` to either."""
        data = read_instance(instance, ("goal",), '{"goal": 3} or {"goal": {"asin": .., "instruction_text": ..}}')
        goal = data.get("goal")
        if isinstance(goal, int) and not isinstance(goal, bool):
            if not 0 <= goal < len(self.shop.goals):
                raise InstanceError(f"goal {goal} does not exist; this shop has goals 0 to {len(self.shop.goals) - 1}")
            return _start(goal)
        checked = read_goal(goal, self.shop.catalogue)
        known = self.shop.goals.find(checked)
        return _start(checked if known is None else known)

    def progress(self, state: State) -> float:
        """The score of what was bought; before that half the score of buying what is open, as it is configured."""
        if state["page"] == "done":
            return float(state["score"])
        return 0.0 if state["product"] is None else self.score(state).total / 2

    # -- instances and splits ---------------------------------------------------------------------------------------

    def goal(self, state: State) -> Goal:
        """The goal of a state. Shared: not to be changed."""
        goal = state["goal"]
        return goal if isinstance(goal, dict) else self.shop.goals.goal(goal)

    def instance(self, state: State) -> str:
        return canonical(self.goal(state))

    def split_of(self, state: State) -> str:
        """By position in the fixed order; goals from outside by a stable hash."""
        goal = state["goal"]
        return super().split_of(state) if isinstance(goal, dict) else self.shop.goals.split_of(goal)

    def seeds(self, split: str) -> Iterator[int]:
        """The positions of the split's goals, again and again with the number of goals added."""
        if split not in self.splits:
            raise EnvParameterError(f"{self.name} has no split '{split}'; splits are {', '.join(self.splits)}")
        count, places = self._goal_count(), self.shop.goals.splits[split]
        if not places:
            raise EnvParameterError(f"this shop has {count} goals, too few for a split '{split}'")
        return (turn * count + place for turn in itertools.count() for place in places)

    def _goal_count(self) -> int:
        count = len(self.shop.goals)
        if not count:
            raise EnvParameterError(
                f"this shop's data has no {self.goals_kind} goal with attributes; load({{'goal': ..}}) plays your own"
            )
        return count

    # -- scripted players and pictures ------------------------------------------------------------------------------

    def judge(self, start: State, actions: Sequence[str], text: str) -> bool | None:
        """Whether the text says truly that what was bought was wrong, or with which options it was right; None where
        nothing was bought."""
        last = self.replay(start, actions)[-1][2].state if actions else start
        catalogue = self.shop.catalogue
        at = catalogue.find(last["product"]) if last["page"] == "done" else None
        return None if at is None else is_true(text, catalogue.product(at), self.goal(start), catalogue.nouns)

    def solve(self, state: State) -> list[str] | None:
        shop = self.shop
        return plan(state, self.goal(state), shop.catalogue, shop.search, self.parse)

    def weak(self, state: State, rng: random.Random) -> str:
        return weak(self.view(state), rng)

    def render(self, state: State) -> str:
        return rich_text(self.view(state))

    def render_html(self, state: State) -> str:
        """The state for a browser: one HTML element, everything in it escaped."""
        return html_text(self.view(state))

    def view(self, state: State) -> View:
        """What the page of a state is drawn from: all that a customer can see of it."""
        catalogue = self.shop.catalogue
        total, listed = 0, []
        if state["page"] == "results":
            hits = self.shop.search(state["query"])
            total = len(hits)
            listed = [catalogue.product(at) for at in hits[listed_slice(state["number"])]]
        at = catalogue.find(state["product"]) if state["product"] is not None else None
        item = None if at is None else catalogue.product(at)
        return View(state, self.goal(state)["instruction_text"], total, listed, item)


def _start(goal: object) -> State:
    return {"goal": goal, "page": "search", "query": "", "number": 1, "product": None, "options": {}, "score": None}


def _page(state: State, page: str, **changes: Any) -> State:
    return {**state, "page": page, **changes}


def _remade(params: Mapping[str, Any], data: Any) -> Webshop:
    return Webshop(**{**params, "data": data})


def _integer(key: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text.strip(), re.ASCII):
        raise EnvParameterError(f"webshop's {key} must be a whole number, not '{text[:40]}'; for example webshop:1000")
    return int(text)


def _check_word(key: str, value: object, words: tuple[str, ...]) -> None:
    if value not in words:
        raise EnvParameterError(f"webshop's {key} must be {' or '.join(words)}, not '{str(value)[:40]}'")
