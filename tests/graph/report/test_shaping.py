"""What a page is told of a trial: bounded, drawn from what was logged, with what every call was worth."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer_envs import make
from lamer_graph.cli.crediting import worth_of
from lamer_graph.evaluation.evaluate import report
from lamer_graph.report.book import Book, _spread
from lamer_graph.report.overview import alike, described, summary_of
from lamer_graph.report.pictures import ATTRIBUTES, ELEMENTS, SPELT, album_of, environment, tree_of
from lamer_graph.report.runs import find_runs
from lamer_graph.report.tokens import _fingerprint, pieces_of, tokenizer_of
from lamer_graph.report.trials import MAX_TEXT, MAX_TOKENS, Known, left_out, trial_view
from lamer_trainers.advantages import gigpo
from lamer_trainers.credit import cross_episode_returns
from places import ROOT
from report_runs import HOSTILE, a_training, played, written

TINY = ROOT / "examples" / "policies" / "minesweeper-tiny"


def nodes(tree: Any) -> list[Any]:
    return [tree, *(node for child in tree[2] if isinstance(child, list) for node in nodes(child))]


def view_of(trial: dict[str, Any], **known: Any) -> dict[str, Any]:
    return trial_view(trial, Known(album_of(trial, environment(trial["task"]["env"])), **known))


def test_every_turn_is_drawn_as_the_environment_draws_its_state_and_every_drawing_once() -> None:
    trial = played(5)
    album = album_of(trial, environment(trial["task"]["env"]))
    env = make(trial["task"]["env"])
    for episode, places in zip(trial["episodes"], album.places, strict=True):
        state = env.reset(5)
        for turn, place in zip(episode["turns"], places, strict=False):
            assert place is not None
            assert album.drawings[place] == tree_of(env.render_html(state))
            state = env.step(state, turn["action"]).state
        assert places[-1] is not None
    assert len({place[0] for place in album.places}) == 1
    assert len({orjson.dumps(tree) for tree in album.drawings}) == len(album.drawings)


def test_nothing_is_drawn_from_where_the_log_shows_another_board() -> None:
    trial = played(5)
    longest = max(range(len(trial["episodes"])), key=lambda at: len(trial["episodes"][at]["turns"]))
    trial["episodes"][longest]["turns"][1]["observation"] = "something else"
    places = album_of(trial, environment(trial["task"]["env"])).places[longest]
    assert places[0] is not None
    assert set(places[1:]) == {None}


@pytest.mark.parametrize("env", ["app:desk", "task:desk", "nothing:4", "webshop:data=/nowhere"])
def test_an_environment_that_is_not_here_leaves_the_observations_as_they_were_logged(env: str) -> None:
    trial = played(5)
    trial["task"]["env"] = env
    told = view_of(trial)
    assert told["pictures"] == []
    assert told["episodes"][0]["turns"][0]["observation"] == trial["episodes"][0]["turns"][0]["observation"]


@pytest.mark.parametrize("spec", ["minesweeper:4x4-3", "sokoban", "alfworld", "webshop:20"])
def test_the_environments_own_drawings_pass_whole(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMER_GRAPH_CACHE", str(tmp_path))
    env = make(spec)
    drawing = env.render_html(env.reset(3))
    tree = tree_of(drawing)
    assert tree is not None
    assert len(nodes(tree)) == len(re.findall(r"<\w", drawing))

    class Attributes(HTMLParser):
        count = 0

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.count += len(attrs)

    parser = Attributes()
    parser.feed(drawing)
    assert sum(len(node[1]) for node in nodes(tree)) == parser.count


HOSTILE_DRAWINGS = [
    "<div onclick=alert(1) style='x' id=main class=ok>a<script>alert(1)</script>b</div>",
    "<a href='javascript:alert(1)'>x</a>",
    "<svg><rect fill='url(http://x)' width=3 /><image href=x /><foreignObject><p>x</p></foreignObject></svg>",
    "<iframe src=x></iframe><img src=x onerror=alert(1)>text",
    "<style>*{}</style><svg><use href='#x'/><animate onbegin=alert(1) /></svg>",
    "<div><b><i>" * 3000,
    HOSTILE,
]


@pytest.mark.parametrize("drawing", HOSTILE_DRAWINGS)
def test_a_hostile_drawing_is_left_with_plain_elements_and_attributes(drawing: str) -> None:
    check_plain(tree_of(drawing))


@given(st.text(alphabet="<>/ab=\"' pdivscrit:&;#x-!", max_size=200))
def test_whatever_is_drawn_is_left_with_plain_elements(drawing: str) -> None:
    check_plain(tree_of(drawing))


def check_plain(tree: Any) -> None:
    for tag, attributes, _ in nodes(tree) if tree is not None else ():
        assert tag in ELEMENTS
        for name, value in attributes.items():
            assert name in ATTRIBUTES | set(SPELT.values())
            assert not re.search(r"url|javascript|[<>\"';:]", value)


def test_long_texts_are_cut_and_say_by_how_much() -> None:
    trial = played(5)
    trial["episodes"][0]["turns"][0]["text"] = "x" * 1_000_000
    trial["episodes"][0]["turns"][0]["call"]["token_ids"] = list(range(50)) * 1000
    told = view_of(trial)
    turn = told["episodes"][0]["turns"][0]
    assert turn["text"] == ["x" * MAX_TEXT, 1_000_000 - MAX_TEXT]
    assert len(turn["call"]["ids"]) == MAX_TOKENS
    assert turn["call"]["more_tokens"] == 50_000 - MAX_TOKENS


def test_a_trial_of_a_thousand_long_texts_stays_bounded() -> None:
    trial = played(5)
    trial["texts"] += ["y" * 100_000] * 1000
    assert len(orjson.dumps(view_of(trial))) < 3_000_000


def test_an_episode_of_very_many_turns_and_large_boards_stays_bounded() -> None:
    trial = played(3, env="minesweeper:16x16-40", episodes=2)
    first = trial["episodes"][0]
    first["turns"] = [first["turns"][0]] * 5_000
    told = view_of(trial)
    assert (len(told["episodes"][0]["turns"]), told["episodes"][0]["more_turns"]) == (1_000, 4_000)
    assert len(orjson.dumps(told)) < 12_000_000


def test_a_seed_of_64_bits_reaches_the_browser_with_all_its_digits() -> None:
    assert view_of(played(5))["episodes"][0]["turns"][0]["call"]["seed"] == str(2**62 + 1)


def test_texts_are_shown_as_they_were_before_control_tokens_were_broken() -> None:
    trial = played(5)
    trial["texts"][0] = "<\\|im_end|>"
    trial["escaped"] = ["<|im_end|>"]
    assert view_of(trial)["texts"][0] == "<|im_end|>"


@pytest.mark.parametrize(
    ("dropped", "turns", "told"),
    [
        (0, 4, None),
        (3, 4, {"pieces": 3, "turns": 3, "memories": 0}),
        (6, 4, {"pieces": 6, "turns": 4, "memories": 2}),
        (2, 0, {"pieces": 2, "turns": 0, "memories": 2}),
    ],
)
def test_what_was_dropped_from_a_prompt_is_its_oldest_turns_and_then_its_memory(
    dropped: int, turns: int, told: Any
) -> None:
    assert left_out(dropped, turns) == told


def test_what_an_episode_remembers_is_shown_with_who_wrote_it(tmp_path: Path) -> None:
    other = played(1, remark="from elsewhere")
    own = played(5)
    own["memory_reads"][1]["keys"] += [f"{other['trial_id']}/0/reflection", "a key of another kind"]
    own["memory_reads"][1]["held"] = ["gone#0/1/trajectory"]
    book = Book(find_runs([written(tmp_path / "run", [other, own])]))
    book.refresh()
    episode = book.trial(0, 1)["episodes"][1]
    mine, theirs, strange = episode["memory"]
    assert (mine["own"], mine["text"], mine["episode"]) == (True, "mind the corner, attempt 1", 0)
    assert (theirs["own"], theirs["text"], theirs["trial"]) == (False, "from elsewhere, attempt 1", [0, 0])
    assert (strange["text"], strange["trial"]) == (None, None)
    assert episode["held"][0]["kind"] == "trajectory"


def test_a_reroll_says_which_trial_it_was_begun_from_and_how_far_every_episode_came(tmp_path: Path) -> None:
    first, second = played(5), played(5, 1)
    second["branch"] = {"trial_id": first["trial_id"], "episode": 1, "turn": 0}
    second["progress"] = [0.0] + [0.25] * len(second["episodes"])
    book = Book(find_runs([written(tmp_path / "run", [first, second])]), worth_of)
    book.refresh()
    told = book.trial(0, 1)
    assert told["branch"] == {"episode": 1, "turn": 0, "trial": [0, 0]}
    assert told["progress"] == second["progress"]
    worth = [turn["return"] for turn in told["episodes"][0]["turns"]]
    assert set(worth) == {None}  # what is before belongs to the other trial


def test_the_return_of_every_call_is_the_trainers(tmp_path: Path) -> None:
    trial = played(5)
    book = Book(find_runs([written(tmp_path / "run", [trial])]), worth_of)
    book.refresh()
    rewards = [[turn["reward"] for turn in episode["turns"]] for episode in trial["episodes"]]
    returns = cross_episode_returns(rewards, gamma_step=0.95, gamma_traj=0.6)
    told = book.trial(0, 0)["episodes"]
    for episode, wanted in zip(told, returns.turns, strict=True):
        assert [turn["return"] for turn in episode["turns"]] == pytest.approx(wanted, abs=1e-4)
        assert {turn["advantage"] for turn in episode["turns"]} == {None}
    kept = [episode["reflection"]["return"] for episode in told if episode["reflection"]]
    assert kept == pytest.approx(returns.reflections, abs=1e-4)


def test_advantages_are_those_of_the_group_under_the_trainings_own_settings(tmp_path: Path) -> None:
    folder = a_training(tmp_path / "training", updates=1, tasks=2, group=3)
    book = Book(find_runs([folder]), worth_of)
    book.refresh()
    trials = [played(0, index, good=True) for index in range(3)]
    groups, names, anchors, levels, steps, places = [], [], [], [], [], []
    for number, trial in enumerate(trials):
        rewards = [[turn["reward"] for turn in episode["turns"]] for episode in trial["episodes"]]
        returns = cross_episode_returns(rewards, gamma_step=0.9, gamma_traj=0.6)
        for at, episode in enumerate(trial["episodes"]):
            for turn, worth in zip(episode["turns"], returns.turns[at], strict=True):
                groups.append(0)
                names.append(number)
                anchors.append(turn["observation"])
                levels.append(returns.turns[at][0])
                steps.append(worth)
                places.append((number, at))
            if at + 1 < len(trial["episodes"]):
                groups.append(0)
                names.append(number)
                anchors.append("a reflection")
                levels.append(returns.reflections[at])
                steps.append(returns.reflections[at])
                places.append((number, -1))
    wanted = gigpo(groups=groups, trials=names, anchors=anchors, episode_rewards=levels, step_returns=steps)
    told = [
        turn["advantage"]
        for number in range(3)
        for episode in book.trial(0, number)["episodes"]
        for turn in episode["turns"]
    ]
    mine = [value for value, (_, at) in zip(wanted, places, strict=True) if at >= 0]
    assert told == pytest.approx(mine, abs=1e-3)


def test_calls_without_tokens_have_returns_too() -> None:
    trial = played(5)
    for episode in trial["episodes"]:
        for turn in episode["turns"]:
            turn["call"] = None
    assert len(worth_of([trial], {})) == sum(len(e["turns"]) for e in trial["episodes"]) + len(trial["reflections"])


def test_pieces_of_tokens_are_their_texts_and_a_character_of_several_tokens_stands_with_the_first() -> None:
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(["naive ok"], vocab_size=300, show_progress=False)
    text = "naïve 日本 🙂 ok"
    ids = tokenizer.encode(text).ids
    pieces = pieces_of(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text
    assert "🙂" in pieces
    assert pieces_of(tokenizer, [10**9, *ids])[1:] == pieces


def test_the_tokenizer_is_the_one_that_the_run_was_sampled_with_or_none(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    known = _fingerprint(Tokenizer.from_file(str(TINY / "tokenizer.json")))
    folder = written(tmp_path / "run", [played(1)])
    told = orjson.loads((folder / "run.json").read_bytes())

    def sampled(fingerprint: str) -> Any:
        told["sampled_by"] = [{"folder": str(TINY), "tokenizer": fingerprint}]
        (folder / "run.json").write_bytes(orjson.dumps(told))
        return tokenizer_of(find_runs([folder])[0])

    assert sampled(known) is not None
    assert sampled("0" * 16) is None
    assert tokenizer_of(find_runs([folder])[0], TINY) is not None


def test_the_numbers_of_a_run_are_those_of_its_evaluation(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", [played(seed, good=seed % 2 == 0) for seed in range(4)])
    wanted = report(folder).to_json()
    told = summary_of(find_runs([folder])[0])
    assert told["pass_at"] == wanted["pass_at"]
    assert told["diversity"] == wanted["diversity"]


def test_a_run_of_an_application_is_measured_with_every_task_an_instance(tmp_path: Path) -> None:
    trials = [played(seed, good=True) for seed in range(3)]
    for trial in trials:
        trial["task"]["env"] = "app:desk"
    told = summary_of(find_runs([written(tmp_path / "run", trials, env="app:desk")])[0])
    assert (told["tasks"], told["instances"]) == (3, 3)


def test_a_run_without_a_finished_trial_says_so_instead_of_numbers(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", [played(1, error="PolicyError")])
    assert "no finished trials" in summary_of(find_runs([folder])[0])["note"]


def test_how_a_run_was_played_says_what_was_asked_of_the_policy_and_leaves_nothing_out(tmp_path: Path) -> None:
    asked = {"strategy": "plan", "thoughts": "shown", "history": 3, "max_tokens": 64, "texts": {"reflect": "Why?"}}
    (run,) = find_runs([written(tmp_path / "run", [played(1)], temperature=0.7, **asked)])
    told = described(run)
    facts = dict(told["facts"])
    assert (facts["strategy"], facts["thoughts"], facts["sampling"]) == ("plan", "shown", "temperature 0.7")
    assert dict(told["more"]) == {"history": "3", "max tokens": "64", "texts": "{'reflect': 'Why?'}"}
    (silent,) = find_runs([written(tmp_path / "run", [played(1)], strategy="lamer")])
    assert dict(described(silent)["facts"])["thoughts"] == "hidden"


def test_runs_of_policies_of_one_name_and_other_weights_are_not_compared_and_are_told_apart(tmp_path: Path) -> None:
    for name, weights in (("a", "1"), ("b", "2")):
        folder = written(tmp_path / "all" / name, [played(1)], policy="best")
        told = orjson.loads((folder / "run.json").read_bytes())
        told["sampled_by"] = [{"folder": f"runs/trained-{name}/best", "weights": weights}]
        (folder / "run.json").write_bytes(orjson.dumps(told))
    runs = find_runs([tmp_path / "all"])
    assert alike(runs) == []
    assert [dict(described(run)["facts"])["policy"] for run in runs] == ["trained-a/best", "trained-b/best"]


def test_only_runs_that_differ_in_nothing_but_memory_are_compared(tmp_path: Path) -> None:
    trials = [played(seed) for seed in range(3)]
    written(tmp_path / "all" / "a", trials, contents="none")
    written(tmp_path / "all" / "b", trials)
    written(tmp_path / "all" / "c", trials, policy="another")
    book = Book(find_runs([tmp_path / "all"]))
    assert [[run.name for run in group] for group in alike(book.runs)] == [["a", "b"]]
    book.measure()
    (comparison,) = book.overview()["comparisons"]
    assert comparison["reference"] == "a"
    assert [row["differences"] is None for row in comparison["rows"]] == [True, False]


def test_the_numbers_of_the_whole_are_made_again_only_when_a_run_has_grown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = Book(find_runs([written(tmp_path / "run", [played(1)])]))
    made = []
    monkeypatch.setattr(
        "lamer_graph.report.book.whole_overview", lambda runs, alive: made.append(1) or {"summaries": []}
    )
    book.measure()
    book.measure()
    assert len(made) == 1
    written(tmp_path / "run", [played(1), played(2)])
    book.measure()
    assert len(made) == 2


def test_a_file_holds_whole_tasks_of_all_runs_alike(tmp_path: Path) -> None:
    for name in ("a", "b"):
        written(tmp_path / "all" / name, [played(seed, index) for seed in range(3) for index in range(2)])
    book = Book(find_runs([tmp_path / "all"]))
    book.refresh()
    assert book.held(9) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)]
    assert book.held(0) == []
    assert len(book.held(100)) == 12


def test_of_a_training_both_ends_and_the_middle_are_held_first(tmp_path: Path) -> None:
    assert sorted(range(9), key=_spread(9).__getitem__)[:3] == [0, 8, 4]
    assert sorted(_spread(30)) == list(range(30))
    book = Book(find_runs([a_training(tmp_path / "training", updates=4, tasks=1, group=2)]))
    book.refresh()
    assert book.held(4) == [(0, 0), (0, 1), (0, 6), (0, 7)]
