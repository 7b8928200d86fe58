"""Official ALFWorld games: found, listed, played, and refused with a way out where they are missing or broken."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from alfworld_problems import GOALS, kitchen
from lamer_envs import Env, EnvParameterError, InstanceError, make
from lamer_envs.alfworld.data import KIND_OF_TASK
from lamer_envs.alfworld.house import KINDS, house

TASK_OF_KIND = {kind: task for task, kind in KIND_OF_TASK.items()}
GRAMMAR = 'grammar :: """ { "task": [ { "rhs": "Your task is to: WORDS." } ] } """;'


def game(kind: str, words: str) -> str:
    """A game file of our own in the official form."""
    parts = {
        "pddl_domain": "(define (domain alfred))",
        "grammar": GRAMMAR.replace("WORDS", words),
        "pddl_problem": kitchen(kind),
        "solvable": True,
        "walkthrough": [],
    }
    return json.dumps(parts)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two games of each kind in two splits, one in the third, and what the original leaves out."""
    for split, kinds in (("train", KINDS), ("valid_seen", KINDS), ("valid_unseen", ("heat",))):
        for kind in kinds:
            for number in (1, 2):
                folder = tmp_path / "json_2.1.1" / split / f"{TASK_OF_KIND[kind]}-Apple-None-X-{number}" / "trial_T1"
                folder.mkdir(parents=True)
                (folder / "traj_data.json").write_text("{}")
                (folder / "game.tw-pddl").write_text(game(kind, f"do {kind} {split} {number}"))
    left_out = ("pick_and_place_with_movable_recep-Mug-Pan-X-1", "pick_and_place_simple-AppleSliced-None-X-1")
    for name in (*left_out, "pick_and_place_simple-NotSolvable-None-X-9"):
        folder = tmp_path / "json_2.1.1" / "train" / name / "trial_T1"
        folder.mkdir(parents=True)
        (folder / "traj_data.json").write_text("{}")
        if name in left_out:
            (folder / "game.tw-pddl").write_text("not read")
    return tmp_path


def words(env: Env, seed: int) -> str:
    return house(env.reset(seed)["house"]).words


def test_a_split_of_the_official_games_plays(data: Path) -> None:
    env = make("alfworld", data=data, split="valid_unseen")
    assert env.splits == ("valid_unseen",)
    assert [words(env, seed) for seed in range(3)] == [f"do heat valid_unseen {number}" for number in (1, 2, 1)]
    state = env.reset(0)
    for command in env.solve(state) or []:
        state = env.step(state, command).state
    assert state["won"]
    assert list(islice(env.seeds("valid_unseen"), 4)) == [0, 1, 2, 3]
    assert list(islice(env.seeds("test"), 2)) == [0, 1]
    with pytest.raises(EnvParameterError, match="no split 'train'"):
        env.seeds("train")


def test_all_official_splits_are_disjoint_and_their_seeds_belong_to_them(data: Path) -> None:
    env = make("alfworld", data=data)
    assert env.splits == ("train", "valid_seen", "valid_unseen")
    games: dict[str, set[str]] = {}
    for split, count in (("train", 12), ("valid_seen", 12), ("valid_unseen", 2)):
        seeds = list(islice(env.seeds(split), 2 * count))
        assert seeds == sorted(set(seeds))
        states = [env.reset(seed) for seed in seeds]
        assert all(env.split_of(state) == split for state in states)
        games[split] = {env.instance(state) for state in states}
        assert len(games[split]) == count
    assert len(set.union(*games.values())) == 26
    assert list(islice(env.seeds("val"), 3)) == list(islice(env.seeds("valid_seen"), 3))


def test_task_types_pick_among_the_official_games(data: Path) -> None:
    env = make("alfworld", types="clean", data=data, split="train")
    assert {words(env, seed) for seed in range(5)} == {"do clean train 1", "do clean train 2"}
    with pytest.raises(EnvParameterError, match="holds no games of cool in valid_unseen"):
        make("alfworld", types="cool", data=data, split="valid_unseen")


def test_games_marked_as_unsolvable_are_passed_over(data: Path) -> None:
    path = next((data / "json_2.1.1" / "valid_unseen").rglob("*-1/trial_T1/game.tw-pddl"))
    path.write_text(path.read_text().replace('"solvable": true', '"solvable": false'))
    env = make("alfworld", data=data, split="valid_unseen")
    assert [words(env, seed) for seed in range(2)] == ["do heat valid_unseen 2"] * 2


def test_the_environment_variable_is_found(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALFWORLD_DATA", str(data))
    assert words(make("alfworld", split="valid_unseen"), 0) == "do heat valid_unseen 1"
    assert "split" not in make("alfworld").reset(0)  # drawn households stay the default


def test_the_spec_of_official_games_makes_an_equal_environment(data: Path) -> None:
    for params in ({"split": "valid_seen", "types": "clean+heat", "max_turns": 30}, {}):
        env = make("alfworld", data=data, **params)
        assert make(env.spec) == env
        assert make("alfworld", **env.params) == env
    assert str(data) in env.spec


@pytest.mark.parametrize("kind", GOALS)
def test_a_game_file_or_its_folder_loads(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "game.tw-pddl"
    path.write_text(game(kind, "see to it"))
    env = make("alfworld")
    assert env.observe(env.load(path)).startswith("Your task: see to it.")
    assert env.load(tmp_path) == env.load(path) == env.load(json.loads(path.read_text()))


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    env, path = make("alfworld"), tmp_path / "game.tw-pddl"
    path.write_text(game("heat", "the first"))
    assert house(env.load(path)["house"]).words == "the first"
    path.write_text(game("heat", "another one"))
    assert house(env.load(path)["house"]).words == "another one"


# -- missing and broken data ------------------------------------------------------------------------------------------


def one_line(error: Exception) -> str:
    assert "\n" not in str(error)
    return str(error)


def test_a_missing_folder_is_named_with_the_way_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path / "nowhere"))
    for params in ({"split": "train"}, {"data": tmp_path / "nowhere"}):
        with pytest.raises(EnvParameterError) as caught:
            make("alfworld", **params)
        message = one_line(caught.value)
        assert str(tmp_path / "nowhere") in message
        assert "alfworld-download" in message


def test_an_empty_folder_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(EnvParameterError) as caught:
        make("alfworld", data=tmp_path)
    message = one_line(caught.value)
    assert str(tmp_path) in message
    assert "json_2.1.1/valid_unseen" in message
    assert "alfworld-download" in message


def test_half_downloaded_data_names_the_missing_file(data: Path) -> None:
    """The first of the three archives holds the trajectories, the last the games."""
    for path in (data / "json_2.1.1" / "valid_seen").rglob("game.tw-pddl"):
        path.unlink()
    with pytest.raises(EnvParameterError) as caught:
        make("alfworld", data=data, split="valid_seen")
    message = one_line(caught.value)
    assert "half downloaded" in message
    assert "trial_T1/game.tw-pddl" in message
    assert "all 12 game files" in message
    assert "alfworld-download" in message


def test_a_split_that_is_not_there_is_named(data: Path) -> None:
    for path in sorted((data / "json_2.1.1" / "valid_seen").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    with pytest.raises(EnvParameterError, match=r"no games of .* in valid_seen; .*alfworld-download"):
        make("alfworld", data=data, split="valid_seen")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (game("heat", "x")[:700], "cut off or no JSON; download it again: 'alfworld-download -f'"),
        ("", "cut off or no JSON"),
        ("[1]", "must hold a JSON object with 'pddl_problem'"),
        ("{}", "'pddl_problem' is missing"),
        ('{"pddl_problem": 3}', "'pddl_problem' must be text, not int"),
        ('{"pddl_problem": "(define"}', "PDDL problem, line 1: the text ends inside"),
        ('{"pddl_problem": "", "secret": 1, "grammar": []}', "'grammar' must be text"),
        ("\x00\xff", "cut off or no JSON"),
    ],
)
def test_a_broken_game_file_is_named_with_the_reason(content: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "game.tw-pddl"
    path.write_text(content)
    with pytest.raises(InstanceError) as caught:
        make("alfworld").load(path)
    message = one_line(caught.value)
    assert str(path) in message
    assert reason in message


@pytest.mark.parametrize(
    ("instance", "reason"),
    [
        (Path("/nowhere/game.tw-pddl"), "'/nowhere/game.tw-pddl' is not there.*alfworld-download"),
        (Path("x" * 5_000), "is not there"),
        (Path("a\0b"), "is not there"),
        ("/nowhere/game.tw-pddl", "text is not opened"),
        ({}, "'pddl_problem' is missing"),
        ({"pddl_problem": kitchen(), "gaol": "x"}, "unknown instance key 'gaol'"),
        ({"pddl_problem": kitchen(), "goal": 3}, "'goal' must be text"),
        (7, "a mapping such as"),
    ],
)
def test_a_wrong_instance_is_refused_in_one_clear_line(instance: object, reason: str) -> None:
    with pytest.raises(InstanceError, match=reason) as caught:
        make("alfworld").load(instance)  # type: ignore[arg-type]
    one_line(caught.value)


def test_textworld_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamer_envs.alfworld.textworld.find_spec", lambda _name: None)
    with pytest.raises(EnvParameterError, match=r"pip install 'lamer-graph\[alfworld\]'"):
        make("alfworld", engine="textworld")
