"""What standard prompts say can be replaced by name, and is checked; which moves there are is said where need be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer_envs import Env, State, Step, make
from lamer_graph.errors import ConfigError
from lamer_graph.trial.prompt_texts import FIELDS, STANDARD, PromptTexts
from lamer_graph.trial.prompts import MAX_ACTIONS, MAX_ACTIONS_CHARS, PromptBuilder, Remembered, Turn, View

ENV = make("minesweeper:4x4-3")
VIEW = View(2, "board", [Turn("before", "(1, 1)", "(1, 1)=1")], [Remembered("reflection", "learned", 1)])


def said(builder: PromptBuilder, view: View = VIEW) -> str:
    return builder.act(view)[1]["content"]


class Bare(Env):
    """Knows nothing of its actions."""

    rules, action_format = "Say a word.", "a word"

    def reset(self, seed: int) -> State:
        return {}

    def observe(self, state: State) -> str:
        return "?"

    def step(self, state: State, action: str) -> Step:
        return Step(state, "?", 0.0, True, False, True)

    def parse(self, answer: str) -> str | None:
        return answer


# -- texts ------------------------------------------------------------------------------------------------------------


def test_every_text_can_be_replaced_and_stands_where_it_belongs() -> None:
    def marked(name: str) -> str:
        return f"{name}! {getattr(STANDARD, name)}"

    texts = PromptTexts(**{name: marked(name) for name in FIELDS})
    assert texts.to_json() == {name: marked(name) for name in FIELDS}
    other = Remembered("trajectory", "elsewhere", 1, own=False)
    told = [VIEW.turns[0]._replace(thought="perhaps")]
    view = View(2, "board", told, [other, Remembered("trajectory", "tried", 1), *VIEW.memory], ["(1, 2)"], "do this")
    builder = PromptBuilder(make("alfworld"), texts=texts, strategy="react", actions="always", thoughts="shown")
    seen = str(builder.act(view)) + str(builder.act(view, 1)) + str(builder.reflect(view))
    seen += str(builder.reflect(view, won=True))
    seen += str(PromptBuilder(ENV, texts=texts, max_episodes=1).system)
    planner = PromptBuilder(ENV, texts=texts, strategy="plan")
    seen += str(planner.act(View(1, "board"))) + str(planner.act(View(2, "board", last_plan="do that")))
    for name in FIELDS:
        assert f"{name}! " in seen, name


def test_texts_come_from_a_mapping_and_go_back_to_one() -> None:
    texts = PromptTexts.of({"reflect": "What now? <remark>..</remark>"})
    assert texts.to_json() == {"reflect": "What now? <remark>..</remark>"}
    assert PromptTexts.of(texts.to_json()) == texts
    assert STANDARD.to_json() == {}
    reflect = PromptBuilder(ENV, texts=texts).reflect(VIEW)[1]["content"]
    assert reflect.endswith("\n\n## What now? <remark>..</remark>")


def test_a_doubled_brace_is_text() -> None:
    texts = PromptTexts(act="{{turn}} {turn}?", quoted_many="{{all}}", thinking="{{}} ")
    builder = PromptBuilder(ENV, texts=texts, strategy="react")
    assert said(builder).endswith("## {turn} 2?")
    assert "show what {all}: " in builder.system["content"]
    assert "{} Put the action" in builder.system["content"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "act",
            "Turn {trun}?",
            r"texts.act has no field {trun}; its fields are: {episode}, {episodes}, {turn}, {turns}",
        ),
        ("system", "{rules} <action>", "texts.system lacks {action_format}"),
        ("played", "You played: {action}", "texts.played lacks {outcome}"),
        ("reflect", "Write {", "texts.reflect has a brace without its other half"),
        ("reflect", "Write }", "texts.reflect has a brace without its other half"),
        ("act", "{}", r"texts.act has no field {}; its"),
        ("act", "{0}", r"texts.act has no field {0}; its"),
        ("act", "{turn!r}", r"texts.act has no field {turn!r}"),
        ("act", "{turn:>90000000}", r"texts.act has no field {turn:>90000000}"),
        ("system", "{rules.__class__} {rules} {action_format}", r"texts.system has no field {rules.__class__}"),
        ("quoted_one", "{rules}", "its fields are: none"),
        ("observed", "You see {observation}", "must have a line to itself"),
        ("observed", "{observation}", "must have a line to itself"),
        ("observed", "You see\n{observation}.", "must have a line to itself"),
        ("observed", "You see\n{observation}{turn}", "must have a line to itself"),
        ("actions", "You can\n {actions}", "must have a line to itself"),
        ("played", "{action} did {outcome}", "words must stand before it on its line"),
        ("played", "You: {action}\r{outcome}", "words must stand before it on its line"),
        ("reflect", "What have you learned?", "must name the tag <remark>"),
        ("plan", "What will you do?", "texts.plan does not say how to answer, nor does texts.system"),
        ("replan", "Change your plan: <plan>..</plan>", "texts.replan lacks {plan}"),
        ("replan", "Change {plan}: <plan>..</plan>", "must have a line to itself"),
        ("reflect", 7, "texts.reflect must be a text, not 7"),
    ],
)
def test_a_text_that_cannot_be_filled_is_refused_in_one_line(name: str, text: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PromptTexts.of({name: text})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no text 'reflct' in texts; did you mean 'reflect'"):
        PromptTexts.of({"reflct": "x"})
    with pytest.raises(ConfigError, match="names with texts"):
        PromptTexts.of("reflect")


@given(st.sampled_from(sorted(FIELDS)), st.text("{}action turnobservation!:.\n", max_size=20))
def test_what_is_accepted_can_be_filled(name: str, text: str) -> None:
    try:
        texts = PromptTexts.of({name: text})
    except ConfigError:
        return
    turns = [VIEW.turns[0]._replace(thought="## Z")]
    memory = [*VIEW.memory, Remembered("reflection", "## Z", 1, own=False)]
    view = View(2, "## Z\n## Z", turns, memory, ["## Z"], "x\n## Z")
    builder = PromptBuilder(make("alfworld"), texts=texts, actions="always", strategy="plan")
    first = replace(view, turns=(), plan="", last_plan="## Z\n## Z")
    for messages in (builder.act(view), builder.act(view, 2), builder.reflect(view), builder.act(first)):
        assert "## Z" not in messages[1]["content"].splitlines()


def test_texts_that_would_do_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="texts and prompt style 'compact' exclude each other"):
        PromptBuilder(ENV, style="compact", texts=PromptTexts(act="What now?"))
    silent = PromptTexts(system="{rules} {action_format} <action>")
    assert PromptBuilder(ENV, texts=silent)
    with pytest.raises(ConfigError, match=r"texts.system says \{thinking\}"):
        PromptBuilder(ENV, texts=silent, strategy="react")


# -- actions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "listed"), [("minesweeper:4x4-3", True), ("sokoban:6x6-2", False), ("alfworld", False), ("webshop", True)]
)
def test_actions_are_listed_by_themselves_where_nothing_else_tells_them(spec: str, listed: bool) -> None:
    env = make(spec)
    state = env.reset(3)
    assert bool(PromptBuilder(env).actions_now(state)) == listed
    assert list(PromptBuilder(env, actions="always").actions_now(state)) == env.admissible(state)
    assert not PromptBuilder(env, actions="never").actions_now(state)
    assert not PromptBuilder(env, style="compact").actions_now(state)
    said_anyway = env.action_format + env.observe(state)
    if spec in ("sokoban:6x6-2", "alfworld"):  # told as "go to cabinet 1-3" where there are several
        for action in env.admissible(state):
            assert action in said_anyway or action == "help" or action.startswith("go to ")


def test_the_prompt_lists_what_can_be_done_now_behind_what_is_seen() -> None:
    state = ENV.reset(3)
    view = View(1, ENV.observe(state), actions=PromptBuilder(ENV).actions_now(state))
    pieces = said(PromptBuilder(ENV), view).split("\n\n")
    assert pieces[1] == "## Possible actions include:\n> " + "; ".join(ENV.admissible(state))
    assert pieces[2] == "## Attempt 1 of 3, turn 1 of 10. Which action do you take?"


@given(st.lists(st.text(max_size=40) | st.just("x" * 2_000), max_size=300))
def test_the_list_is_bounded_and_says_how_many_more_there_are(actions: list[str]) -> None:
    text = said(PromptBuilder(ENV), View(1, "board", actions=actions))
    if not actions:
        assert "Possible" not in text
        return
    lines = text.splitlines()
    at = lines.index("## Possible actions include:") + 1
    listed, more = [], 0
    for line in lines[at : lines.index("", at)]:
        if line.startswith("> "):
            assert not listed
            assert len(line) <= MAX_ACTIONS_CHARS + 2
            listed = line[2:].split("; ")
        else:
            more = int(line.removeprefix("(").removesuffix(" more)"))
    assert more >= len(actions) - MAX_ACTIONS
    if not any(";" in action for action in actions):
        assert len(listed) + more == len(actions)


def test_the_list_is_the_last_piece_to_go_and_the_prompt_says_so() -> None:
    builder = PromptBuilder(ENV)
    view = View(2, "board", VIEW.turns, VIEW.memory, ["(1, 1)", "(1, 2)"])
    assert builder.droppable(view) == 3
    assert builder.droppable(view, whole=True) == 2
    assert "(1, 1); (1, 2)" in said(builder, view)
    least = builder.act(view, 2)[1]["content"]
    assert "(1, 1); (1, 2)" in least
    assert "learned" not in least
    none = builder.act(view, 3)[1]["content"]
    assert "## Possible actions include:\n(2 more)\n" in none
    assert len(none) < len(least)


def test_actions_that_cannot_be_listed_are_refused() -> None:
    assert PromptBuilder(Bare()).actions_now({}) == ()
    assert PromptBuilder(Bare(), actions="never")
    with pytest.raises(ConfigError, match="bare has no `admissible`"):
        PromptBuilder(Bare(), actions="always")
    for actions in ("always", "never"):
        with pytest.raises(ConfigError, match=f"actions '{actions}' and prompt style 'compact' exclude each other"):
            PromptBuilder(ENV, style="compact", actions=actions)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="auto, always, never"):
        PromptBuilder(ENV, actions="some")  # type: ignore[arg-type]
