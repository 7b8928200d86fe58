"""Run files: what is read, what is refused in one clear line, and what the presets are."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import yaml

from lamer_graph.errors import ConfigError
from lamer_graph.policies.shipped import shipped_policy, taught_wording
from lamer_graph.serving import vllm
from lamer_graph.trial.prompt_texts import PromptTexts
from lamer_trainers.errors import TrainingConfigError
from lamer_trainers.loop.run_folder import finish
from lamer_trainers.presets import rl_baseline
from lamer_trainers.runfile import PRESETS, RunFile, load_run
from lamer_trainers.sources.served import make_server


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_is_valid(name):
    assert load_run(preset=name).optimise.updates > 0


@pytest.mark.parametrize("name", [name for name in PRESETS if "-cpu" not in name and "smollm2" not in name])
def test_the_large_presets_are_the_papers_but_for_what_an_adapter_needs(name):
    """Against the hyper-parameters that arXiv 2512.16848 states, one by one; what differs is named here."""
    run = load_run(preset=name)
    collect, optimise = run.collect, run.optimise
    assert (collect.tasks, collect.trials, collect.max_episodes) == (16, 8, 3)
    turns = {"minesweeper": 7, "sokoban": 7, "webshop": 12, "alfworld": 10}
    assert collect.max_turns == turns[collect.env.partition(":")[0]]
    assert (collect.temperature, collect.top_p, collect.top_k, collect.max_tokens) == (1.0, 1.0, 0, 1024)
    assert collect.contents == "reflection"  # the best of the paper's table 3
    assert (optimise.algorithm, optimise.normalise, optimise.step_weight) == ("gigpo", "mean", 1.0)
    assert (optimise.gamma_step, optimise.gamma_traj) == (0.95, 0.6)
    assert (optimise.updates, optimise.clip, optimise.invalid_penalty) == (300, 0.2, 0.5)
    assert run.template_args == ({"enable_thinking": False} if "qwen3" in name else {})
    # Differences: an adapter instead of all weights, at ten times the rate; mini-batches by number, not by size.
    assert run.lora is not None
    assert optimise.learning_rate == pytest.approx(10 * 1e-6)
    assert optimise.mini_batches == 32
    baseline = load_run(preset=name, changes=rl_baseline(run.collect.trials, run.collect.max_episodes))
    assert (baseline.collect.max_episodes, baseline.collect.trials, baseline.collect.contents) == (1, 24, "none")


def test_a_run_file_says_the_same_as_its_preset(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(PRESETS["minesweeper-cpu"]))
    assert load_run(path) == load_run(preset="minesweeper-cpu")


def test_changes_reach_into_sections_and_are_typed():
    run = load_run(
        preset="minesweeper-cpu",
        changes=["optimise.learning_rate=1e-4", "collect.max_episodes=1", "collect.contents=none", "lora.rank=8"],
    )
    assert run.optimise.learning_rate == 1e-4
    assert (run.collect.max_episodes, run.collect.contents) == (1, "none")
    assert run.lora is not None
    assert run.lora.rank == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimise.learning_rat=1", "unknown key 'optimise.learning_rat'; did you mean 'learning_rate'"),
        ("optimize.updates=1", "unknown key 'optimize'; did you mean 'optimise'"),
        ("collect.task=1", "unknown key 'collect.task'; did you mean 'tasks'"),
        ("optimise.updates=many", "optimise.updates: .*integer"),
        ("optimise.updates=0", "optimise.updates: .*greater than or equal to 1"),
        ("optimise.algorithm=gigp", "optimise.algorithm: "),
        ("optimise.algorithm=grpo", "normalise='batch' belongs to algorithm='gigpo'"),
        ("optimise.gamma_traj=1.5", "gamma_step and gamma_traj lie in"),
        ("updates", "not of the form section.key=value"),
        ("collect.top_p=0.9", "are not the policy's: set collect.temperature above 0, collect.top_p=1"),
        ("collect.top_k=5", "are not the policy's"),
        ("collect.temperature=0", "are not the policy's"),
        ("collect.skip=3", "collect.skip and collect.shuffle_reflections are not for training"),
        ("collect.shuffle_reflections=true", "not for training"),
        ("collect.strategy=reflexion", "'reflexion' is the untrained baseline: set collect.strategy=lamer"),
        ("collect.strategy=reflection", "collect.strategy: .*'reflexion'"),
        ("env=sokoban", "unknown key 'env': it belongs at collect.env$"),
        ("optimise.policy=x", "unknown key 'optimise.policy': it belongs at policy"),
        ("policy.model=DIR", "'policy.model=DIR' takes 'policy' for a section, .* write policy=VALUE"),
        ("optimise.updates.more=3", "takes 'optimise.updates' for a section, .* write optimise.updates=VALUE"),
        ("collect.texts.reflct=x", "collect: there is no text 'reflct' in texts; did you mean 'reflect'"),
        ("collect.texts.act='{trun}?'", "collect: texts.act has no field {trun}; its fields are: {episode}"),
        ("collect.texts=short", "collect: texts must be names with texts"),
        ("optimise=3", "'optimise' is a section of keys, not 3: write optimise.KEY=.., e.g. optimise.updates"),
    ],
)
def test_what_is_wrong_in_a_run_is_one_clear_line(change, message):
    with pytest.raises(TrainingConfigError, match=message) as caught:
        load_run(preset="minesweeper-cpu", changes=[change])
    assert "\n" not in str(caught.value)


def test_a_run_file_words_the_prompts(tmp_path):
    run = {**PRESETS["minesweeper-cpu"], "policy": "x"}
    run["collect"] = {**run["collect"], "prompt_style": "standard", "actions": "never", "strategy": "plan"}
    run["collect"]["texts"] = {"reflect": "What now? <remark>..</remark>"}
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(run))
    loaded = load_run(path, changes=["collect.texts.act='Move {turn}?'"])
    assert loaded.collect.texts == PromptTexts(reflect="What now? <remark>..</remark>", act="Move {turn}?")
    assert RunFile.model_validate(loaded.model_dump(mode="json")) == loaded
    finish(tmp_path, loaded, SimpleNamespace(save_pretrained=lambda folder: None))
    taught = {"actions": "never", "texts": loaded.collect.texts.to_json(), "strategy": "plan"}
    assert taught_wording(tmp_path) == taught


def test_a_run_that_remembers_nothing_is_trained_and_one_that_says_both_is_refused(tmp_path):
    path = tmp_path / "run.yaml"
    run = {**PRESETS["minesweeper-cpu"], "policy": "x"}
    run["collect"] = {key: value for key, value in run["collect"].items() if key != "contents"}
    path.write_text(json.dumps(run))
    assert load_run(path, changes=["collect.strategy=zero_shot"]).collect.contents == "none"
    with pytest.raises(ConfigError, match="strategy 'zero_shot' and memory 'both' exclude each other"):
        load_run(path, changes=["collect.strategy=zero_shot", "collect.contents=both"])


def test_a_run_is_worded_as_its_policy_was_taught_unless_it_says_otherwise(tmp_path):
    texts = {"act": "Move {turn}?"}
    (tmp_path / "lamer.json").write_text(json.dumps({"prompt_style": "standard", "actions": "never", "texts": texts}))
    policy = [f"policy={tmp_path}", "collect.prompt_style=auto"]
    run = load_run(preset="minesweeper-cpu", changes=policy).collect
    assert (run.prompt_style, run.actions, run.texts.to_json()) == ("standard", "never", texts)
    run = load_run(preset="minesweeper-cpu", changes=[*policy, "collect.texts={}", "collect.actions=always"]).collect
    assert (run.actions, run.texts.to_json()) == ("always", {})
    run = load_run(preset="minesweeper-cpu", changes=[f"policy={tmp_path}", "collect.prompt_style=compact"]).collect
    assert (run.actions, run.texts.to_json()) == ("auto", {})


def test_a_misplaced_key_of_a_file_is_named_before_what_it_leaves_missing(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("policy: x\nenv: sokoban\ncollect: {tasks: 2}\n")
    with pytest.raises(TrainingConfigError, match=r"unknown key 'env': it belongs at collect\.env"):
        load_run(path)


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(TrainingConfigError, match="did you mean 'minesweeper-cpu'"):
        load_run(preset="minesweper-cpu")


@pytest.mark.parametrize("text", ["a: [", "- just\n- a list", "policy: x"])
def test_a_broken_run_file_is_refused(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(TrainingConfigError):
        load_run(path)


def test_a_missing_run_file_is_refused(tmp_path):
    with pytest.raises(TrainingConfigError, match="cannot read"):
        load_run(tmp_path / "no.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["server.dtype=auto"], r"takes adapters, not weights .*: train an adapter with lora\.rank"),
        (["server.placement=colocated", "lora.rank=8", "pipeline=1"], r"take turns, .*: set pipeline=0"),
        (["server={placement: colocated, devices: '1'}", "lora.rank=8"], "drop server.devices"),
        (["server.devices=gpu1", "lora.rank=8"], r"server\.devices: "),
        (["server.gpu_memory=1.5", "lora.rank=8"], r"server\.gpu_memory: .*less than or equal to 1"),
        (["server.dtype=auto", "lora.rank=8"], r"with `server` .* set optimise\.old_logprobs=recomputed"),
        (["pipeline=1"], r"with `pipeline` .* set optimise\.old_logprobs=recomputed"),
        (["pipeline=-1"], "pipeline: .*greater than or equal to 0"),
        (["pipeline=1", "deterministic=true", "optimise.old_logprobs=recomputed"], "drop it or `pipeline`"),
        (["server.dtyp=auto", "lora.rank=8"], "unknown key 'server.dtyp'; did you mean 'dtype'"),
    ],
)
def test_what_cannot_be_served_or_pipelined_is_refused_before_any_work(changes: list[str], message: str) -> None:
    with pytest.raises(TrainingConfigError, match=message) as caught:
        load_run(preset="minesweeper-cpu", changes=changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flavour", "reason"),
    [("cpu", "on the CPU it reloads weights wrongly"), ("gpu", "its answers do not say which weights made them")],
)
def test_full_weights_with_a_server_are_refused_with_the_machines_own_reason(
    monkeypatch: pytest.MonkeyPatch, flavour: str, reason: str
) -> None:
    monkeypatch.setattr(vllm, "vllm_flavour", lambda: flavour)
    with pytest.raises(TrainingConfigError, match=f"{reason}.*drop `server` to train all weights"):
        load_run(preset="minesweeper-cpu", changes=["server.dtype=auto"])


def test_arguments_of_the_chat_template_reach_the_server_by_either_name(tmp_path):
    new, old = (
        load_run(preset="minesweeper-qwen3-4b", changes=[f"{place}.enable_thinking=true"])
        for place in ("template", "server.template")
    )
    assert new == old
    argv = make_server(new, tmp_path)._argv()
    assert json.loads(argv[argv.index("--default-chat-template-kwargs") + 1]) == {"enable_thinking": True}


def test_a_run_file_of_before_says_the_template_beside_the_server_and_means_the_policys(tiny_model_dir, tmp_path):
    path = tmp_path / "run.yaml"
    data = {"policy": "Qwen/Qwen3-4B", "collect": {"env": "minesweeper:4x4-3", "tasks": 1}, "lora": {}}
    path.write_text(yaml.safe_dump({**data, "server": {"template": {"enable_thinking": False}}}))
    run = load_run(path)
    assert run.template == {"enable_thinking": False}
    assert run.server is not None
    # What the chat template of a policy ignored, it ignores.
    path.write_text(
        yaml.safe_dump({**data, "policy": str(tiny_model_dir), "server": {"template": {"enable_thinking": False}}})
    )
    assert load_run(path).template is None
    path.write_text(yaml.safe_dump({**data, "template": {"a": 1}, "server": {"template": {"a": 2}}}))
    with pytest.raises(TrainingConfigError, match="say it once, as `template`"):
        load_run(path)


def test_a_policy_is_asked_as_it_was_taught_unless_the_run_file_says_otherwise(tmp_path):
    policy = shipped_policy("minesweeper:4x4-3")
    file = tmp_path / "run.yaml"
    file.write_text(f"policy: {policy}\ncollect: {{env: 'minesweeper:4x4-3', tasks: 2}}\n")
    assert load_run(file).collect.prompt_style == "compact"
    assert load_run(file, changes=["collect.prompt_style=standard"]).collect.prompt_style == "standard"
    assert load_run(file, changes=["collect.prompt_style=auto"]).collect.prompt_style == "compact"
    file.write_text(f"policy: {tmp_path}\ncollect: {{env: sokoban, tasks: 2}}\n")  # a model without a card
    assert load_run(file).collect.prompt_style == "standard"
