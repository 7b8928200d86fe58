"""Off-line training from logs: through the command line, with everything that may be wrong with a log."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from command_line import Cli
from lamer_graph.cli.train import update_line
from lamer_graph.collection.collect import collect
from lamer_graph.collection.config import CollectConfig
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.runlog import read_trials
from lamer_trainers.errors import TrainingDataError
from lamer_trainers.loop.run_folder import last_checkpoint
from lamer_trainers.sources.offline import check_config
from tiny_random import build_tiny_random

Trial = dict[str, Any]
CHANGES = ("collect.max_tokens=3", "collect.max_turns=2", "optimise.mini_batches=1", "optimise.warmup_updates=0")


pytestmark = pytest.mark.usefixtures("one_thread")


def play(policy: Path, folder: Path, *, resume: bool = False, **more: Any) -> Path:
    config = CollectConfig(
        env="minesweeper:4x4-3", prompt_style="compact", max_turns=2, max_tokens=3, **{"tasks": 3, "trials": 2} | more
    )
    sampler = LocalPolicy(policy)
    asyncio.run(collect(config, sampler, folder, resume=resume))
    sampler.close()
    return folder


@pytest.fixture(scope="module")
def played(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks of two trials, as they are logged."""
    return play(tiny_model_dir, tmp_path_factory.mktemp("logs") / "played")


@pytest.fixture
def log(cli: Cli, played: Path) -> Path:
    """A copy of them in the folder where the command line works."""
    return shutil.copytree(played, Path("log"))


def changed(log: Path, change: Callable[[Trial], None]) -> None:
    """Apply `change` to every logged trial."""
    trials = list(read_trials(log))
    for trial in trials:
        change(trial)
    (log / "trials.jsonl").write_bytes(b"".join(orjson.dumps(trial) + b"\n" for trial in trials))


def calls(trial: Trial) -> list[Trial]:
    entries = [turn for episode in trial["episodes"] for turn in episode["turns"]] + trial["reflections"]
    return [entry["call"] for entry in entries]


def arguments(policy: Path, *more: object) -> tuple[object, ...]:
    changes = (f"policy={policy}", "validation=null", "collect.tasks=2", "optimise.updates=2", "save_every=1", *CHANGES)
    return ("train", "--preset", "minesweeper-cpu", "--from-logs", "log", "--out", "run", *changes, *more)


def test_a_policy_is_trained_on_its_log_and_validated_by_playing(cli: Cli, tiny_model_dir: Path, log: Path) -> None:
    before = (log / "trials.jsonl").read_bytes()
    validated = ("validation.tasks=2", "validation.every=2")
    document = cli(*arguments(tiny_model_dir, *validated, "--json")).document
    assert document["updates"] == 2
    last = document["last"]
    assert last["batch/trials"] == 4
    first = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[0])
    assert first["sampling/importance_mean"] == pytest.approx(1.0, abs=1e-3)  # it is the policy that was logged
    assert len(last["validation/pass@k"]) == 3
    assert "time/collect" not in last
    assert not Path("run/collected").exists()
    assert (log / "trials.jsonl").read_bytes() == before
    trained = AutoModelForCausalLM.from_pretrained("run/policy").state_dict()
    start = AutoModelForCausalLM.from_pretrained(tiny_model_dir).state_dict()
    assert any(not torch.equal(trained[name], start[name]) for name in start)
    # The run remembers its logs.
    assert cli(*arguments(tiny_model_dir, *validated, "--resume")).code == 0
    other = cli(
        *(argument for argument in arguments(tiny_model_dir, "--resume") if argument not in ("--from-logs", "log"))
    )
    assert other.code == 2
    assert 'logs is ["log"] there, [] here' in other.error_line


def test_several_logs_are_one_source_and_an_older_versions_log_is_weighted(
    cli: Cli, tiny_model_dir: Path, log: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(tiny_model_dir, tmp_path / "moved")
    model = AutoModelForCausalLM.from_pretrained(moved)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    model.save_pretrained(moved)
    play(moved, Path("second"), tasks=1, trials=1, split="val")
    document = cli(*arguments(moved, "--from-logs", "second", "collect.tasks=4", "--json")).document
    assert document["last"]["batch/trials"] == 7
    assert document["last"]["sampling/logprob_gap_mean"] > 0.005


def test_a_plan_for_logs_collects_nothing(cli: Cli, tiny_model_dir: Path) -> None:
    made = cli(*arguments(tiny_model_dir, "--dry-run", "--json")).document
    assert made["run"]["logs"] == ["log"]
    assert made["plan"]["collect_seconds"] == [0.0, 0.0]
    assert min(made["plan"]["train_seconds"]) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["optimise.old_logprobs=logged"], "set optimise.old_logprobs=recomputed"),
        (["pipeline=1"], "with `logs` nothing is collected: drop `server` and `pipeline`"),
        (["collect.env=minesweeper:5x5-4"], "log has env 'minesweeper:4x4-3', the run 'minesweeper:5x5-4'"),
        (["collect.prompt_style=standard"], "log has prompt_style 'compact', the run 'standard'"),
        (["collect.temperature=0.5"], "log has temperature 1.0, the run 0.5: set collect.temperature=1.0"),
        (["collect.max_tokens=2"], "exceeds max_completion_length 2; raise it"),
        (["collect.tasks=9"], "a batch of 9 groups cannot come from 3 tasks"),
        (["--from-logs", "log"], r"trial .*#\d+ is in log/trials.jsonl and in log/trials.jsonl"),
        (["--from-logs", "nowhere"], "nowhere/run.json is not a readable run description"),
    ],
)
def test_what_does_not_fit_the_run_is_one_line_before_any_work(
    cli: Cli, tiny_model_dir: Path, log: Path, changes: list[str], message: str
) -> None:
    outcome = cli(*arguments(tiny_model_dir, *changes))
    assert outcome.code == 2
    assert re.search(message, outcome.error_line)
    assert not Path("run").exists()


def test_a_log_of_other_wording_is_refused() -> None:
    logged = {"env": "minesweeper:4x4-3", "prompt_style": "standard"}
    ours = {**logged, "tasks": 1}
    check_config(CollectConfig(**ours), logged, "log")
    check_config(CollectConfig(**ours, texts={"act": "What now?"}), {**logged, "texts": {"act": "What now?"}}, "log")
    with pytest.raises(TrainingDataError, match=r"log has texts \{'act': 'What now\?'\}, the run \{\}"):
        check_config(CollectConfig(**ours), {**logged, "texts": {"act": "What now?"}}, "log")
    with pytest.raises(TrainingDataError, match=r"log has actions 'auto', the run 'never': set collect\.actions=auto"):
        check_config(CollectConfig(**ours, actions="never"), logged, "log")
    with pytest.raises(TrainingDataError, match=r"log has thoughts 'hidden', the run 'shown'"):
        check_config(CollectConfig(**ours, thoughts="shown"), logged, "log")
    with pytest.raises(TrainingDataError, match=r"has strategy 'plan', the run 'lamer': set collect\.strategy=plan"):
        check_config(CollectConfig(**ours), {**logged, "strategy": "plan"}, "log")


def no_tokens(trial: Trial) -> None:
    for call in calls(trial):
        call.update(prompt_token_ids=[], token_ids=[], logprobs=[])


def empty(trial: Trial) -> None:
    calls(trial)[1].update(token_ids=[], logprobs=[])


def failed(trial: Trial) -> None:
    trial["error"] = {"type": "PolicyError", "message": "gone", "episode": 0, "turn": 0}


def unknown_sampling(trial: Trial) -> None:
    trial["sampling"]["top_k"] = None


def another_tokenizer(trial: Trial) -> None:
    for call in calls(trial):
        call["prompt_token_ids"] = call["prompt_token_ids"][:-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_tokens, "no token ids were logged; collect with a policy that gives them"),
        (empty, "the completion is empty"),
        (failed, "no finished trial in"),
        (unknown_sampling, "was sampled with the top_k of a chat model or server, which nobody knows here"),
        (another_tokenizer, "the log log is of another tokenizer or chat template than"),
    ],
)
def test_a_log_that_cannot_be_trained_on_is_one_line_before_any_work(
    cli: Cli, tiny_model_dir: Path, log: Path, change: Callable[[Trial], None], message: str
) -> None:
    changed(log, change)
    outcome = cli(*arguments(tiny_model_dir))
    assert outcome.code == 2
    assert message in outcome.error_line
    assert not Path("run").exists()


def test_a_log_of_another_model_is_refused_before_an_update(cli: Cli, log: Path, tmp_path: Path) -> None:
    other = build_tiny_random(tmp_path / "other", seed=1)
    outcome = cli(*arguments(other))
    assert outcome.code == 1
    assert "the log is of another model, adapter or temperature" in outcome.error_line
    assert not list((tmp_path / "run").glob("checkpoints/*"))
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == b""
    outcome = cli(*arguments(other, "optimise.max_logprob_gap=50", "--out", "forced"))
    assert outcome.code == 0, outcome.err


def test_a_log_says_what_sampled_it_and_is_refused_for_another_kind_of_model(
    cli: Cli, tiny_model_dir: Path, log: Path, tmp_path: Path
) -> None:
    (sampler,) = json.loads((log / "run.json").read_text())["sampled_by"]
    assert sampler["config"]["num_hidden_layers"] == 3
    moved = shutil.copytree(tiny_model_dir, tmp_path / "moved")
    model = AutoModelForCausalLM.from_pretrained(moved)
    model.model.layers = model.model.layers[:2]
    model.config.num_hidden_layers = 2
    model.config.layer_types = model.config.layer_types[:2]
    model.save_pretrained(moved)
    outcome = cli(*arguments(moved))
    assert outcome.code == 2
    said = f"log was sampled by another model (unnamed) than {moved}: num_hidden_layers 3 there, 2 here"
    assert said in outcome.error_line
    assert not Path("run").exists()


def test_a_tokenizer_that_differs_beyond_the_logged_prompts_is_another(
    cli: Cli, tiny_model_dir: Path, log: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(tiny_model_dir, tmp_path / "moved")
    tokenizer = AutoTokenizer.from_pretrained(moved)
    tokenizer.add_tokens(["<never in a prompt>"])
    tokenizer.save_pretrained(moved)
    model = AutoModelForCausalLM.from_pretrained(moved)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(moved)
    outcome = cli(*arguments(moved))
    assert outcome.code == 2
    assert re.search(r"than \S*moved: .*tokenizer \w{16} there, \w{16} here", outcome.error_line)


def test_a_log_of_before_says_nothing_and_resumes_and_trains(cli: Cli, tiny_model_dir: Path, log: Path) -> None:
    path = log / "run.json"
    about = json.loads(path.read_text())
    noted = about.pop("sampled_by")
    path.write_text(json.dumps(about))
    assert cli(*arguments(tiny_model_dir, "optimise.updates=1")).code == 0
    assert "sampled_by" not in json.loads(path.read_text())
    play(tiny_model_dir, log, resume=True)
    assert json.loads(path.read_text()) == {**about, "sampled_by": noted}


def test_equal_rewards_are_a_warning_that_a_person_sees(
    cli: Cli, tiny_model_dir: Path, log: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def equal(trial: Trial) -> None:
        for episode in trial["episodes"]:
            episode["reward"] = 0.0
            for turn in episode["turns"]:
                turn["reward"] = 0.0

    changed(log, equal)
    outcome = cli(*arguments(tiny_model_dir))
    assert outcome.code == 0, outcome.err
    assert "update 0 has no signal" in caplog.text
    assert outcome.out.count("no signal") == 2
    assert json.loads(Path("run/metrics.jsonl").read_text().splitlines()[0])["advantage/zero"] == 1.0


# -- a full disk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limit", [pytest.param(1 << 20, id="weights"), pytest.param(4 << 20, id="optimiser", marks=pytest.mark.slow)]
)
def test_a_disk_that_fills_up_while_saving_costs_one_line_and_the_run_goes_on_from_the_checkpoint_before(
    cli: Cli, tiny_model_dir: Path, log: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Weights take 2.8 MB, the optimiser's state twice as much; from update 2 on no file may grow beyond the limit."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def line_of(line: Trial, updates: int) -> str:
        if line["update"] == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        return update_line(line, updates)

    monkeypatch.setattr("lamer_graph.cli.train.update_line", line_of)
    whole = arguments(tiny_model_dir, "optimise.updates=3")
    try:
        outcome = cli(*whole)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert outcome.code == 1
    assert "cannot save to run/checkpoints/checkpoint-2" in outcome.error_line
    assert "free some space, then go on with --resume" in outcome.error_line
    checkpoints = Path("run/checkpoints")
    assert last_checkpoint(checkpoints) == checkpoints / "checkpoint-1"
    assert [path.name for path in checkpoints.glob("checkpoint-*")] == ["checkpoint-1"]
    monkeypatch.setattr("lamer_graph.cli.train.update_line", update_line)
    resumed = cli(*whole, "--resume")
    assert resumed.code == 0, resumed.err
    noted = [json.loads(line)["update"] for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert noted == [1, 2, 3]
