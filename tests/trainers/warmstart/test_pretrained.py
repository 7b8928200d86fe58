"""Warm starts of a given model: adapters and whole weights, going on after a kill, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from random import Random
from typing import Any

import pytest
from safetensors.torch import load_file

from chat_tokenizers import chat_tokenizer
from fake_server import FakeServer
from ladder import Ladder, Played, Solved
from lamer_envs import Env, make, registry
from lamer_graph.errors import ConfigError, LamerError
from lamer_graph.policies.loading import renderer_of
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.shipped import base_of, card, is_adapter, is_policy
from lamer_trainers.warmstart.early import Early
from lamer_trainers.warmstart.pretrained import Given, check, forbidden_share, run_pretrained, teacher_for
from lamer_trainers.warmstart.report import missed_gates
from lamer_trainers.warmstart.teachers import Row
from lamer_trainers.warmstart.tuning import faster_precision
from tiny_llama import build_tiny_llama

ENV = "minesweeper:4x4-3"
SMOLLM2 = Path(os.environ.get("LAMER_SMOLLM2", Path(__file__).parents[3] / "models" / "smollm2-135m"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_llama(tmp_path_factory.mktemp("given") / "llama")


@pytest.fixture
def given(model: Path) -> Given:
    return Given(policy=model, env=ENV, rows=48)


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """What is compared bit by bit is computed the same way twice."""
    monkeypatch.setattr("lamer_trainers.warmstart.pretrained.faster_precision", lambda device: "float32")
    monkeypatch.setattr("lamer_trainers.warmstart.gates.MAX_TOKENS", {"standard": 4})


def _weights(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def _equal(one: Path, two: Path) -> bool:
    first, second = _weights(one), _weights(two)
    return first.keys() == second.keys() and all(bool((first[name] == second[name]).all()) for name in first)


# -- what comes of it -------------------------------------------------------------------------------------------------


def test_an_adapter_is_a_folder_that_plays_on_its_base(given: Given, model: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    report = run_pretrained(given, tmp_path / "made", tasks=1, progress=lines.append)
    made = tmp_path / "made"
    assert is_adapter(made)
    assert base_of(made) == model
    assert card(made) == {"env": ENV, "prompt_style": "standard", "template": {}}
    assert not (made / "fit").exists()
    assert {gate.name for gate in report.gates} >= {"valid actions", "pass@1", "forbidden-cell probability"}
    assert len(missed_gates(made)) == sum(not gate.passed for gate in report.gates)
    assert "rows/s" in " ".join(lines)
    assert "--lora-rank 32" in (made / "README.md").read_text()
    with_it = LocalPolicy(model, adapter=made)
    assert with_it.folds_system is False
    with_it.close()


def test_all_weights_are_a_model_of_their_own(given: Given, model: Path, tmp_path: Path) -> None:
    report = run_pretrained(replace(given, full=True), tmp_path / "made", tasks=1, progress=str)
    assert is_policy(tmp_path / "made")
    assert not _equal(tmp_path / "made", model)
    assert json.loads((tmp_path / "made" / "warmup.json").read_text())["given"]["weights"] == "all"
    assert report.rows == 48
    assert "--full" in (tmp_path / "made" / "README.md").read_text()


def test_the_fit_makes_the_taught_answers_likely(given: Given, tmp_path: Path) -> None:
    lines: list[str] = []
    longer = replace(given, full=True, rows=320, learning_rate=1e-2)
    run_pretrained(longer, tmp_path / "made", tasks=1, progress=lines.append)
    losses = [float(line.rpartition("loss ")[2].split()[0]) for line in lines if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("full", [False, True])
def test_a_killed_fit_goes_on_to_the_same_weights(
    given: Given, full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = replace(given, full=full)
    run_pretrained(given, tmp_path / "whole", tasks=1, progress=str)
    monkeypatch.setattr("lamer_trainers.warmstart.tuning.CHECKPOINT_SECONDS", 0.0)

    def killed(line: str) -> None:
        if "fitting 32/" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pretrained(given, tmp_path / "cut", tasks=1, progress=killed)
    assert not is_policy(tmp_path / "cut")
    assert not is_adapter(tmp_path / "cut")
    with pytest.raises(ConfigError, match="--resume"):
        run_pretrained(given, tmp_path / "cut", tasks=1, progress=str)
    with pytest.raises(ConfigError, match="another seed"):
        run_pretrained(replace(given, seed=1), tmp_path / "cut", resume=True, tasks=1, progress=str)
    with monkeypatch.context() as other:
        other.setattr("lamer_trainers.warmstart.teach_minesweeper.TOLD_SAFE", 0.0)
        with pytest.raises(ConfigError, match="other rows"):
            run_pretrained(given, tmp_path / "cut", resume=True, tasks=1, progress=str)
    earlier = json.loads(next((tmp_path / "cut" / "fit").glob("checkpoint-*/trainer_state.json")).read_text())
    lines: list[str] = []
    report = run_pretrained(given, tmp_path / "cut", resume=True, tasks=1, progress=lines.append)
    assert any("going on after 24 rows" in line for line in lines)
    assert report.given is not None
    assert 0 < earlier["log_history"][-1]["seconds"] < report.given["fit_seconds"] < report.seconds
    assert _equal(tmp_path / "whole", tmp_path / "cut")


def test_a_fit_that_was_killed_while_it_was_measured_is_not_made_again(
    given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut_short(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("lamer_trainers.warmstart.pretrained.measure", cut_short)
        with pytest.raises(KeyboardInterrupt):
            run_pretrained(given, tmp_path / "made", tasks=1, progress=str)
    assert not is_adapter(tmp_path / "made")
    lines: list[str] = []
    run_pretrained(given, tmp_path / "made", resume=True, tasks=1, progress=lines.append)
    assert not any("loss" in line for line in lines)
    assert is_adapter(tmp_path / "made")


def test_minutes_become_rows_by_the_measured_rate(
    given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lamer_trainers.warmstart.pretrained.rows_per_second", lambda *_: 0.5)
    report = run_pretrained(replace(given, rows=None, minutes=2.0), tmp_path / "made", tasks=1, progress=str)
    assert report.rows == 60


def test_a_forbidden_answer_counts_with_its_whole_probability(model: Path) -> None:
    policy = LocalPolicy(model)
    teacher = teacher_for(make(ENV), "standard", frozenset())
    asked = teacher.prompts.act(teacher.observe(teacher.begin(teacher.env.reset(0), (), Random(0)), 1))
    renderer = renderer_of(model)
    whole = [*renderer.plain_ids("<action>(1, 2)</action>"), renderer.tokenizer.eos_token_id]
    from math import exp

    wanted = exp(sum(policy.score(asked, whole)))
    policy.close()
    found = forbidden_share(policy.model, renderer, teacher, [Row(asked, "", ("(1, 2)",))])
    assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("kind", [Solved, Played])
def test_a_plug_in_with_a_player_gets_a_warm_start(
    kind: type[Env], given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Point(EntryPoint):
        def load(self) -> Any:
            return kind

    points = [Point(kind.name, "my.module:Mine", registry.GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    registry._plugins.cache_clear()
    try:
        report = run_pretrained(replace(given, env=kind.name, rows=32), tmp_path / "made", tasks=1, progress=str)
    finally:
        registry._plugins.cache_clear()
    assert report.env == kind.name
    assert {gate.name for gate in report.gates} == {"well-formed answers", "valid actions"}


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_fitted_is_refused_before_there_is_a_folder(
    given: Given, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    (bare / "chat_template.jinja").unlink()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    monkeypatch.setattr(
        "lamer_trainers.warmstart.pretrained.make", lambda spec: Ladder() if spec == "l" else make(spec)
    )
    out = tmp_path / "out"
    for wrong, says in (
        (replace(given, env="l"), "no scripted teacher for 'ladder'"),
        (replace(given, style="poetic"), "unknown prompt style 'poetic'"),  # type: ignore[arg-type]
        (replace(given, full=True, rank=8), "exclude each other"),
        (replace(given, minutes=1.0), "one of the two"),
        (replace(given, policy=bare), "no chat template"),
        (replace(given, policy=tmp_path / "nowhere"), "no model at"),
        (replace(given, template={"mood": "good"}), "has no argument 'mood'"),
    ):
        with pytest.raises(ConfigError, match=says):
            check(wrong, out, resume=False)
    with pytest.raises(ConfigError, match="not an empty folder"):
        check(given, tmp_path / "full", resume=False)
    with pytest.raises(ConfigError, match="no fit to go on with"):
        check(given, tmp_path / "full", resume=True)
    assert not out.exists()


def test_prompts_that_end_inside_of_a_thought_are_refused(given: Given, model: Path, tmp_path: Path) -> None:
    thinks = tmp_path / "thinks"
    shutil.copytree(model, thinks)
    template = thinks / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n"))
    with pytest.raises(ConfigError, match="inside of a thought"):
        check(replace(given, policy=thinks), tmp_path / "out", resume=False)


def test_an_adapter_is_no_beginning(given: Given, tmp_path: Path) -> None:
    run_pretrained(given, tmp_path / "made", tasks=1, progress=str)
    with pytest.raises(ConfigError, match="is an adapter"):
        check(replace(given, policy=tmp_path / "made"), tmp_path / "out", resume=False)


def test_the_faster_precision_is_one_that_autocast_knows() -> None:
    import torch

    assert faster_precision(torch.device("cpu")) in ("float32", "bfloat16")
    assert chat_tokenizer("qwen").eos_token is not None


# -- a real one -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not is_policy(SMOLLM2), reason="make smollm2 puts it there")
def test_smollm2_answers_in_the_form_after_a_hundred_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamer_trainers.warmstart.pretrained.faster_precision", faster_precision)
    given = Given(policy=SMOLLM2, env=ENV, rows=160)
    report = run_pretrained(given, tmp_path / "made", tasks=2, progress=print)
    assert report.reading.well_formed > 0.8


# -- early experience -------------------------------------------------------------------------------------------------


def test_a_given_model_models_the_world_first_and_a_killed_fit_goes_on_to_the_same_weights(
    given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = replace(given, early=Early("iwm"), dataset=tmp_path / "data")
    report = run_pretrained(given, tmp_path / "whole", tasks=1, progress=str)
    assert report.early is not None
    assert (report.early["world"], report.early["expert"], report.rows) == (16, 32, 48)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"world.parquet", "expert.parquet"}
    assert "--method iwm" in (tmp_path / "whole" / "README.md").read_text()
    monkeypatch.setattr("lamer_trainers.warmstart.tuning.CHECKPOINT_SECONDS", 0.0)
    given = replace(given, dataset=None)
    for at in ("fitting 8/16", "fitting 16/32"):  # in the first stage, then in the second

        def killed(line: str, at: str = at) -> None:
            if at in line:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_pretrained(given, tmp_path / "cut", resume=(tmp_path / "cut").exists(), tasks=1, progress=killed)
    with pytest.raises(ConfigError, match="another branches"):
        run_pretrained(replace(given, early=Early("iwm", 2)), tmp_path / "cut", resume=True, tasks=1, progress=str)
    run_pretrained(given, tmp_path / "cut", resume=True, tasks=1, progress=str)
    assert _equal(tmp_path / "whole", tmp_path / "cut")


def test_a_server_explains_and_one_that_is_not_there_is_named_before_any_work(
    given: Given, tmp_path: Path, server: FakeServer
) -> None:
    def explains(messages: Any, sampling: Any) -> str:
        """Tells of the better action what it did, as it was told."""
        said = messages[-1]["content"]
        action = said.split("The better choice is ")[1].split(". In one")[0]
        return f"{action} is safe."

    server.player = explains
    given = replace(given, early=Early("sr"), explainer=server.url)
    report = run_pretrained(given, tmp_path / "made", tasks=1, progress=str)
    assert report.early is not None
    assert report.early["explainer"] == server.url
    assert report.early["reflection"] == 16
    gone = replace(given, explainer="http://127.0.0.1:9")
    with pytest.raises(LamerError, match=r"127\.0\.0\.1:9"):
        check(gone, tmp_path / "out", resume=False)
    assert not (tmp_path / "out").exists()
