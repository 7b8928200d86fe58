"""`lamer-graph train`: what it shows, what it leaves, what it refuses; the plan and the plot."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from command_line import Cli, slow_imports
from lamer_graph.cli.train import update_line
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.shipped import card, is_policy
from lamer_trainers.errors import TrainingConfigError, TrainingDataError
from lamer_trainers.loop.curves import draw, read_metrics, running_mean
from lamer_trainers.loop.plan import Plan, plan
from lamer_trainers.loop.shapes import KNOWN, Shape, shape_of
from lamer_trainers.presets import PRESETS, rl_baseline
from lamer_trainers.runfile import load_run

SMALL = (
    "collect.tasks=2",
    "collect.trials=2",
    "collect.max_turns=2",
    "collect.max_tokens=3",
    "optimise.mini_batches=1",
    "optimise.updates=2",
    "optimise.warmup_updates=0",
    "save_every=1",
    "validation=null",
)


pytestmark = pytest.mark.usefixtures("one_thread")


def small(model_dir: Path) -> tuple[str, ...]:
    return ("train", "--preset", "minesweeper-cpu", f"policy={model_dir}", *SMALL)


def test_training_shows_a_line_per_update_and_leaves_a_playable_policy_and_a_plot(
    cli: Cli, tiny_model_dir: Path, tmp_path: Path
) -> None:
    outcome = cli(*small(tiny_model_dir), "--out", "meta")
    assert outcome.code == 0, outcome.err
    assert "1/2" in outcome.out
    assert "2/2" in outcome.out
    for figure in ("@3", "reward", "entropy", "invalid", "calls/s", "collect", "train"):
        assert figure in outcome.out
    policy = tmp_path / "meta" / "policy"
    assert is_policy(policy)
    assert card(policy) == {"env": "minesweeper:4x4-3", "prompt_style": "compact", "trained": True, "template": {}}
    assert (tmp_path / "meta" / "curves.png").stat().st_size > 1000
    assert (tmp_path / "meta" / "curves.svg").read_text().startswith("<?xml")
    played = cli("eval", "--policy", policy, "--tasks", 2, "--max-tokens", 3, "--max-turns", 2, "--json").document
    assert played["config"]["prompt_style"] == "compact"


def test_without_matplotlib_a_word_says_why_there_is_no_plot(
    cli: Cli, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = cli(*small(tiny_model_dir), "optimise.updates=1", "--out", "meta")
    assert outcome.code == 0, outcome.err
    said = " ".join(outcome.out.split())
    assert "no plot of meta/metrics.jsonl: it needs matplotlib, pip install 'lamer-graph[viewer]'" in said
    assert not list(Path("meta").glob("curves.*"))


def test_machines_get_one_document_and_a_finished_run_can_be_resumed(cli: Cli, tiny_model_dir: Path) -> None:
    document = cli(*small(tiny_model_dir), "--out", "meta", "--json").document
    assert document["updates"] == 2
    assert document["last"]["update"] == 2
    again = cli(*small(tiny_model_dir), "--out", "meta", "--resume", "--json").document
    assert again["updates"] == 2
    assert len(read_metrics(Path("meta") / "metrics.jsonl")) == 2


def test_the_rl_baseline_is_the_same_preset_with_one_episode_a_trial_and_may_play_as_many(cli: Cli) -> None:
    preset = ("train", "--preset", "minesweeper-cpu", "--dry-run", "--json")
    meta, rl = (cli(*preset, *extra).document["run"]["collect"] for extra in ((), ("--rl",)))
    assert (rl["max_episodes"], rl["contents"]) == (1, "none")
    assert meta["tasks"] * meta["trials"] * meta["max_episodes"] == rl["tasks"] * rl["trials"] * rl["max_episodes"]
    assert {k for k in meta if meta[k] != rl[k]} == {"max_episodes", "contents", "trials"}


def test_a_run_that_is_refused_does_not_wait_for_torch(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    preset = ("train", "--preset", "minesweeper-cpu")
    calls = [("train",), ("train", "--preset", "mine"), (*preset, "optimise.updats=2"), (*preset, "--out", "run")]
    codes, loaded = slow_imports(tmp_path, calls)
    assert codes == [2, 2, 2, 2]
    assert loaded == []


def test_the_rl_baseline_of_another_group_or_trial_may_play_as_many_episodes(cli: Cli, tmp_path: Path) -> None:
    run = cli("train", "--preset", "minesweeper-cpu", "collect.trials=2", "collect.max_episodes=4", "--show", "--json")
    (tmp_path / "mine.yaml").write_text(json.dumps(run.document["run"]))
    rl = cli("train", "mine.yaml", "--rl", "--show", "--json").document["run"]["collect"]
    assert (rl["trials"], rl["max_episodes"], rl["contents"]) == (8, 1, "none")


def test_a_line_of_an_update_has_every_figure_that_the_run_has() -> None:
    line = {"update": 3, "batch/pass@1": 0.25, "batch/pass@2": 0.5, "batch/reward": 1.25, "kl": 0.125, "entropy": 0.75}
    line |= {"policy/kl": 0.00125}
    line |= {"clip_ratio/region_mean": 0.0625, "batch/invalid": 0.375, "batch/anchor_group": 4.5}
    line |= {"collect/calls_per_s": 1234, "train/tokens_per_s": 5678}
    line |= {"time/collect": 7.5, "time/train": 8.5, "time/swap": 0.25, "advantage/zero": 0.5}
    shown = update_line(line, 9).replace("[bold]", "").replace("[/]", "")
    assert " ".join(shown.split()) == (
        "3/9 @1 0.25 @2 0.50 reward 1.25 kl 0.0013 ref-kl 0.125 entropy 0.75 clip 0.062 invalid 0.375 anchors 4.5 "
        "1,234 calls/s 5,678 tok/s collect 7.5 s train 8.5 s swap 0.25 s"
    )
    assert "no signal" in update_line(line | {"advantage/zero": 1.0}, 9)


def test_the_presets_are_listed(cli: Cli) -> None:
    assert cli("train", "--presets").out.split() == list(PRESETS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give a run file or --preset"),
        (("a.yaml", "b.yaml"), "one run file, please"),
        (("--preset", "minesweeper-gpu"), "did you mean 'minesweeper-cpu'?"),
        (("--preset", "minesweeper-cpu", "optimise.learning_rte=1"), "did you mean 'learning_rate'?"),
        (("--preset", "minesweeper-cpu", "collect.env=minesweper"), "minesweeper"),
        (("--preset", "minesweeper-cpu", "policy=nowhere"), "policy 'nowhere' is not a folder with a model"),
        (("--preset", "minesweeper-cpu", "--resume"), "--resume needs --out DIR"),
        (("--preset", "minesweeper-cpu", "--device", "h100"), "--device is what --dry-run estimates for"),
        (("--preset", "minesweeper-cpu", "server.dtype=float32"), "a running vLLM takes adapters, not weights"),
        (("--preset", "minesweeper-cpu", "dtype=bfloat16"), "all weights are trained here, in float32"),
        (("--preset", "minesweeper-cpu", "policy=nowhere", "--dry-run"), "download it first"),
    ],
)
def test_what_is_wrong_is_one_line_before_any_work(cli: Cli, arguments: tuple[str, ...], message: str) -> None:
    outcome = cli("train", *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not list(Path().iterdir())


def test_a_folder_with_another_run_is_refused_and_left_alone(cli: Cli, tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "meta"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"policy": "another"}))
    for extra, message in (((), "already holds a run"), (("--resume",), "holds a run of other settings")):
        outcome = cli(*small(tiny_model_dir), "--out", "meta", *extra)
        assert outcome.code == 2
        assert message in outcome.err
    assert [path.name for path in folder.iterdir()] == ["run.json"]


def test_resuming_where_there_is_no_run_is_refused(cli: Cli, tiny_model_dir: Path) -> None:
    outcome = cli(*small(tiny_model_dir), "--out", "meta", "--resume")
    assert outcome.code == 2
    assert "holds no run to resume" in outcome.err


# -- the plan ---------------------------------------------------------------------------------------------------------


def test_the_size_of_a_model_is_that_of_its_weights(tiny_model_dir: Path) -> None:
    model = LocalPolicy(tiny_model_dir).model
    norms = sum(p.numel() for name, p in model.named_parameters() if "norm" in name)
    assert shape_of(str(tiny_model_dir)).parameters == sum(p.numel() for p in model.parameters()) - norms


def test_the_size_of_an_adapter_is_that_of_peft(tiny_model_dir: Path) -> None:
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(LocalPolicy(tiny_model_dir).model, settings)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert shape_of(str(tiny_model_dir)).adapter(4) == trained


@pytest.mark.parametrize(("name", "billions"), [("Qwen/Qwen3-4B", 4.02), ("meta-llama/Llama-3.1-8B-Instruct", 8.03)])
def test_the_known_models_have_the_size_that_their_cards_say(name: str, billions: float) -> None:
    assert KNOWN[name].parameters / 1e9 == pytest.approx(billions, abs=0.01)


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("changes", [(), rl_baseline(8, 3)], ids=["meta", "rl"])
def test_every_preset_has_a_plan(name: str, changes: tuple[str, ...], request: pytest.FixtureRequest) -> None:
    if "-cpu" in name:
        changes = (*changes, f"policy={request.config.rootpath / PRESETS[name]['policy']}")
    if "smollm2" in name:
        changes = (*changes, f"policy={request.getfixturevalue('tiny_model_dir')}")
    run = load_run(preset=name, changes=changes)
    made = plan(run, "cpu" if "-cpu" in name else "h100")
    assert 0 < made.calls[0] <= made.calls[1]
    assert made.tokens[0] < made.tokens[1]
    assert made.hours[0] < made.hours[1]
    assert made.tokens_measured is ("-cpu" in name or "smollm2" in name)
    episodes, turns = run.collect.max_episodes, run.collect.max_turns or 0
    assert made.calls[1] == run.collect.tasks * run.collect.trials * (episodes * turns + episodes - 1)
    assert 0 < made.trainer_gib < 80 - made.server_gib


def test_a_longer_answer_and_a_slower_device_take_longer(tiny_model_dir: Path) -> None:
    run = load_run(preset="minesweeper-cpu", changes=[f"policy={tiny_model_dir}"])
    longer = load_run(preset="minesweeper-cpu", changes=[f"policy={tiny_model_dir}", "collect.max_tokens=48"])
    assert plan(longer, "cpu").hours[1] > plan(run, "cpu").hours[1]
    assert plan(run, "cpu").hours[0] > plan(run, "a100").hours[0] > plan(run, "h100").hours[0]


def test_the_plan_counts_what_a_device_holds_at_once_by_placement(cli: Cli) -> None:
    def made(*changes: str) -> Plan:
        return plan(load_run(preset="minesweeper-qwen3-4b", changes=["pipeline=0", *changes]), "h100")

    both, turns, two = made(), made("server.placement=colocated"), made("server.devices=1")
    assert [one.placement for one in (both, turns, two)] == ["apart", "colocated", "apart"]
    # A server takes what it reserves, six tenths of the device by this preset.
    reserved = two.reserved_gib
    assert reserved is not None
    assert both.peak_gib == pytest.approx(both.trainer_gib + reserved)
    assert two.peak_gib == max(two.trainer_gib, reserved)
    # In turns the trainer's 4 billion weights of 2 bytes stay, its activations and the server's memory do not meet.
    assert two.peak_gib < turns.peak_gib < both.peak_gib
    assert turns.peak_gib >= reserved + 4.02e9 * 2 / 2**30
    shown = cli(
        *("train", "--preset", "minesweeper-qwen3-4b", "--dry-run", "--device", "h100"),
        *("pipeline=0", "server.placement=colocated"),
    )
    assert f"colocated, {turns.peak_gib:.1f} GiB on the fullest device" in " ".join(shown.out.split())


def test_a_window_that_is_too_short_is_noted() -> None:
    run = load_run(preset="minesweeper-qwen3-4b", changes=["server.max_model_len=1200"])
    assert "exceed server.max_model_len 1200" in plan(run, "h100").warnings[0]
    assert not plan(load_run(preset="minesweeper-qwen3-4b"), "h100").warnings


def test_a_folder_of_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"d_model": 64}')
    with pytest.raises(TrainingConfigError, match="num_attention_heads"):
        shape_of(str(tmp_path))


def test_an_untied_head_counts_twice() -> None:
    tied = Shape(1, 8, 16, 2, 1, 4, 100, tied=True)
    assert Shape(1, 8, 16, 2, 1, 4, 100, tied=False).parameters - tied.parameters == 800


# -- the plot ---------------------------------------------------------------------------------------------------------


def test_a_running_mean_is_of_what_is_there() -> None:
    assert running_mean([1.0, 2.0, 6.0], 3) == [1.5, 3.0, 4.0]
    assert running_mean([5.0]) == [5.0]


def test_plots_of_several_runs_stand_side_by_side(tmp_path: Path) -> None:
    runs = {
        name: [{"update": u, "batch/pass@1": u / 9, "validation/pass@k": [0.1]} for u in range(1, 9)] for name in "ab"
    }
    png, svg = draw(runs, tmp_path / "both")
    assert png.read_bytes().startswith(b"\x89PNG")
    first = svg.read_bytes()
    draw(runs, tmp_path / "both")
    assert svg.read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both.png", "both.svg"]


def test_how_much_reflections_say_of_their_task_is_drawn_below_where_it_was_measured(tmp_path: Path) -> None:
    metrics = [{"update": u, "batch/pass@1": 0.5, "batch/invalid": 0.1, "collapse/reflection_mi": 1.2} for u in (1, 2)]
    _, plain = draw({"a": [{"update": 1, "batch/pass@1": 0.5}]}, tmp_path / "plain")
    _, both = draw({"a": metrics, "b": metrics}, tmp_path / "both")
    assert "nats" not in plain.read_text()
    assert ">nats<" in both.read_text()
    assert both.read_text().count(">share of invalid actions<") == 2


def test_metrics_that_are_torn_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(TrainingDataError, match="cannot read"):
        read_metrics(path)
    path.write_bytes(b'{"update":1}\n{"upda')
    assert read_metrics(path) == [{"update": 1}]
    path.write_bytes(b"")
    with pytest.raises(TrainingDataError, match="no update yet"):
        read_metrics(path)
    path.write_bytes(b'{"update":1}\n<<<\n{"update":2}\n')
    with pytest.raises(TrainingDataError, match="line 2 is not JSON"):
        read_metrics(path)


def test_a_preset_whose_warm_start_missed_a_gate_says_so(cli: Cli) -> None:
    outcome = cli("train", "--preset", "alfworld-cpu", "--dry-run")
    assert outcome.code == 0, outcome.err
    assert "missed a gate of its warm start (valid actions 0.894 where 0.95 to 1 is asked for)" in plain(outcome.out)
    assert "missed a gate" not in plain(cli("train", "--preset", "minesweeper-cpu", "--dry-run").out)


@pytest.mark.parametrize("preset", PRESETS)
def test_what_show_prints_is_a_run_file_of_the_same_run(cli: Cli, tmp_path: Path, preset: str) -> None:
    outcome = cli("train", "--preset", preset, "optimise.updates=7", "--show")
    assert outcome.code == 0, outcome.err
    (tmp_path / "run.yaml").write_text(outcome.out)
    assert load_run(tmp_path / "run.yaml") == load_run(preset=preset, changes=["optimise.updates=7"])


def test_help_says_how_a_thinking_model_is_told_not_to(cli: Cli) -> None:
    assert "template.enable_thinking=false" in plain(cli("train", "--help-all").out)


def plain(text: str) -> str:
    """What a person reads, without the terminal's line breaks."""
    return " ".join(text.split())
