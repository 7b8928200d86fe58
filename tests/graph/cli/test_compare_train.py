"""`lamer-graph compare --train`: every memory plays with the policy that was trained with it, and says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from command_line import Cli
from lamer_graph.errors import ConfigError
from lamer_graph.evaluation.compare import compare
from lamer_graph.runlog import read_config, read_trials
from lamer_trainers.presets import PRESETS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run_file(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A preset, cut down to a second of work."""
    run = json.loads(json.dumps(PRESETS["minesweeper-cpu"]))
    run["policy"] = str(tiny_model_dir)
    run["validation"] = None
    run["collect"] |= {"tasks": 2, "trials": 2, "max_turns": 2, "max_tokens": 3}
    run["optimise"] |= {"mini_batches": 1, "updates": 9, "warmup_updates": 0}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


GAME = ("--memory", "none,both", "--backend", "chroma", "--tasks", "3", "--max-turns", "2")
GAME = (*GAME, "--max-tokens", "3", "--out", "c", "--json")


def test_each_configuration_plays_with_the_policy_that_was_trained_with_its_memory(
    cli: Cli, run_file: Path, tmp_path: Path
) -> None:
    arguments = ("compare", "--train", "1", "--run-file", run_file, *GAME)
    outcome = cli(*arguments)
    assert outcome.code == 0, outcome.err
    document = outcome.document
    rows = {row["name"]: row for row in document["rows"]}
    assert list(rows) == ["none", "both/chroma"]
    assert document["trained"] is True
    assert document["policy"] is None
    for name in rows:
        folder = tmp_path / "c" / name.replace("/", "-")
        run = json.loads((folder / "training" / "run.json").read_text())
        contents, _, backend = name.partition("/")
        assert run["optimise"]["updates"] == 1
        assert (run["collect"]["contents"], run["collect"]["backend"]) == (contents, backend or "in-context")
        assert document["training"][name]["policy"] == str(Path("c") / folder.name / "training" / "policy")
        assert read_config(folder)["policy"] == f"tiny-random + 1 updates with {name}"
        assert read_config(folder)["prompt_style"] == "compact"
        weights = (folder / "training" / "policy" / "model.safetensors").read_bytes()
        assert weights != (Path(run["policy"]) / "model.safetensors").read_bytes()
        assert sum(1 for _ in read_trials(folder)) == 3
    text = (tmp_path / "c" / "compare.md").read_text()
    assert "Trained with the memory they play with: none: tiny-random + 1 updates with none; both/chroma" in text
    # Where they are not said to be trained so, other policies are another comparison.
    with pytest.raises(ConfigError, match="differ in more than memory: policy"):
        compare({name: tmp_path / "c" / name.replace("/", "-") for name in rows})
    # It goes on where it was cut short, with the trainings that there are.
    (tmp_path / "c" / "both-chroma" / "trials.jsonl").unlink()
    before = (tmp_path / "c" / "both-chroma" / "training" / "metrics.jsonl").read_bytes()
    again = cli(*arguments, "--resume")
    assert again.code == 0, again.err
    assert (tmp_path / "c" / "both-chroma" / "training" / "metrics.jsonl").read_bytes() == before
    assert [row["pass_at"] for row in again.document["rows"]] == [row["pass_at"] for row in document["rows"]]
    other = cli("compare", "--train", "2", "--run-file", run_file, *GAME, "--resume")
    assert other.code == 2
    assert "optimise.updates is 1 there, 2 here" in other.error_line


@pytest.mark.slow  # three trainings
def test_a_memory_of_other_tasks_is_trained_with_before_it_is_compared(
    cli: Cli, run_file: Path, tmp_path: Path
) -> None:
    scope = ("--memory", "reflection", "--backend", "chroma", "--scope", "trial,tasks", "--k", "2", "--warm", "3")
    outcome = cli("compare", "--train", "2", "--run-file", run_file, *GAME, *scope)
    assert outcome.code == 0, outcome.err
    assert [row["name"] for row in outcome.document["rows"]] == ["reflection/chroma", "reflection/chroma/tasks"]
    folder = tmp_path / "c" / "reflection-chroma-tasks"
    run = json.loads((folder / "training" / "run.json").read_text())["collect"]
    assert (run["scope"], run["k"], run["store"]) == ("tasks", 2, "")
    for seen in (folder / "training" / "collected" / "update-00001", folder):
        reads = [trial["memory_reads"][0]["keys"] for trial in read_trials(seen)]
        assert {len(keys) for keys in reads} == {2}


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "no run file": (("--train", "1"), "--train needs a run file"),
    "two run files": (("--train", "1", "--run-file", "run.yaml", "--preset", "minesweeper-cpu"), "one of the two"),
    "no updates": (("--preset", "minesweeper-cpu"), "give --train N"),
    "a server": (
        ("--train", "1", "--run-file", "run.yaml", "--base-url", "http://127.0.0.1:9"),
        "--base-url is a server",
    ),
    "another game": (("--train", "1", "--run-file", "run.yaml", "--env", "sokoban"), "trains on minesweeper:4x4-3"),
    # The bare name means the board of the start's card, which is the run file's: it is the memory that is refused.
    "unknown memory": (
        ("--train", "1", "--preset", "minesweeper-cpu", "--env", "minesweeper", "--memory", "telepathy"),
        "--memory takes",
    ),
    "unknown preset": (("--train", "1", "--preset", "minesweeper-gpu"), "did you mean 'minesweeper-cpu'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_by_name_before_any_work(
    cli: Cli, run_file: Path, tmp_path: Path, name: str
) -> None:
    arguments, named = REFUSED[name]
    outcome = cli("compare", *arguments)
    assert outcome.code == 2
    assert named in outcome.error_line
    assert list(tmp_path.iterdir()) == [run_file]
