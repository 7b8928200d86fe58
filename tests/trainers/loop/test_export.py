"""`export`: the policy that comes out is the one that was trained, and its card says what the run says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from command_line import Cli
from lamer_graph.policies.base import run_sync
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.shipped import is_policy
from lamer_graph.types import Message, Sampling
from lamer_trainers.loop.export import export

pytestmark = pytest.mark.usefixtures("one_thread")
ASKED = [Message(role="user", content="Episode 1\nOpen (2, 2)=1 Closed (1, 1) (1, 2)\nAct")]


@pytest.fixture(scope="module", params=["all weights", "adapter"])
def trained(request: pytest.FixtureRequest, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from lamer_trainers.loop.train import train
    from lamer_trainers.runfile import load_run

    changes = [
        f"policy={tiny_model_dir}", "collect.tasks=2", "collect.trials=2", "collect.max_turns=2",
        "collect.max_tokens=4",
        "optimise.updates=2", "optimise.warmup_updates=0", "optimise.learning_rate=0.01", "save_every=2",
        "validation.tasks=2", "validation.every=1",
    ]  # fmt: skip
    changes += ["lora.rank=4", "lora.alpha=8"] if request.param == "adapter" else []
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(load_run(preset="minesweeper-cpu", changes=changes), folder)
    return folder


def said(policy: LocalPolicy) -> tuple[list[int], list[float]]:
    answer = run_sync(policy.generate(ASKED, Sampling(max_tokens=12, seed=3)))
    policy.close()
    return list(answer.token_ids), list(answer.logprobs)


def test_the_exported_policy_is_the_trained_one_and_its_card_says_how_it_was_made(
    trained: Path, tmp_path: Path
) -> None:
    made = export(trained, tmp_path / "mine", last=True)
    assert is_policy(tmp_path / "mine")
    adapter = trained / "adapter"
    if adapter.exists():
        from lamer_graph.policies.shipped import base_of

        before = LocalPolicy(base_of(adapter), adapter=adapter, deterministic=True)
    else:
        before = LocalPolicy(trained / "policy", deterministic=True)
    tokens, logprobs = said(before)
    again, as_exported = said(LocalPolicy(tmp_path / "mine", deterministic=True))
    assert again == tokens
    assert as_exported == pytest.approx(logprobs, abs=1e-5)
    card = (tmp_path / "mine" / "README.md").read_text()
    for told in (
        "By gigpo",
        "learning_rate: 0.01",
        "2 updates of 2 tasks x 2 trials",
        "reflection",
        "minesweeper:4x4-3",
        "## Limits",
    ):
        assert told in card
    assert made.parameters > 0


@pytest.fixture
def stirred(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """An adapter that changes much, which so short a run does not: where no trial was won it has not moved at all."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype="float32")
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    dice = torch.Generator().manual_seed(5)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape, generator=dice) * 0.02
    adapted.save_pretrained(tmp_path / "stirred")
    return tmp_path / "stirred"


def test_every_log_probability_is_that_of_base_and_adapter_apart(
    stirred: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def of(folder: Path) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype="float32")

    def logprobs(model: Any) -> Any:
        tokens = torch.randint(0, 300, (4, 60), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():  # summed in float64: else that sum's own rounding is as large as what is measured
            return model(tokens).logits.double().log_softmax(-1)

    export(stirred, tmp_path / "mine")
    apart = logprobs(PeftModel.from_pretrained(of(tiny_model_dir), stirred))
    assert float((logprobs(of(tmp_path / "mine")) - apart).abs().max()) < 1e-5
    assert float((logprobs(of(tiny_model_dir)) - apart).abs().max()) > 0.1


def test_an_adapter_that_says_nothing_is_asked_as_its_base_is(
    stirred: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_model_dir, tmp_path / "base")
    (base / "lamer.json").write_text('{"env": "sokoban:6x6-1", "template": {"enable_thinking": false}}')
    config = json.loads((stirred / "adapter_config.json").read_text())
    (stirred / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    export(stirred, tmp_path / "mine")
    assert json.loads((tmp_path / "mine" / "lamer.json").read_text())["template"] == {"enable_thinking": False}


def test_a_killed_run_gives_the_weights_of_its_last_checkpoint(trained: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    killed.mkdir()
    for name in ("run.json", "collected", "checkpoints", "metrics.jsonl"):
        (killed / name).symlink_to(trained / name)
    made = export(killed, tmp_path / "mine")
    assert made.weights.parent == killed / "checkpoints"
    assert is_policy(tmp_path / "mine")
    assert "After update 2" in (tmp_path / "mine" / "README.md").read_text()


def test_the_weights_that_validated_best_are_taken_and_what_they_read_is_told(trained: Path, tmp_path: Path) -> None:
    made = export(trained, tmp_path / "mine")
    assert made.weights == trained / "best"
    told = json.loads((trained / "best" / "validation.json").read_text())
    assert made.reading == told["pass@k"]
    card = (tmp_path / "mine" / "README.md").read_text()
    assert " | ".join(f"{value:.3f}" for value in told["pass@k"]) in card
    assert f"After update {told['update']}" in card


def test_the_templates_arguments_are_told_and_kept(tiny_model_dir: Path, tmp_path: Path) -> None:
    taught = shutil.copytree(tiny_model_dir, tmp_path / "taught")
    (taught / "lamer.json").write_text('{"env": "sokoban:6x6-1", "template": {"enable_thinking": false}}')
    export(taught, tmp_path / "mine")
    card = (tmp_path / "mine" / "README.md").read_text()
    assert '`{"enable_thinking": false}`' in card
    assert "came without the run that made them" in card
    assert json.loads((tmp_path / "mine" / "lamer.json").read_text())["template"] == {"enable_thinking": False}


def test_an_exported_policy_is_played_by_name_of_its_folder(cli: Cli, trained: Path) -> None:
    document = cli("export", trained, "--out", "mine", "--json").document
    assert document["validation"] is not None
    assert cli("eval", "--policy", "mine", "--env", "minesweeper", "--tasks", "2", "--max-tokens", "4").code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere", "--out", "mine"), "no run at nowhere"),
        (("empty", "--out", "mine"), "is no training run and no policy"),
        (("read", "--out", "mine"), "is no training run and no policy"),
        (("begun", "--out", "mine"), "has no weights yet"),
        (("empty", "--out", "there"), "exists already"),
        (("empty", "--out", "mine", "--push", "me"), "OWNER/NAME"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(
    cli: Cli, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    (tmp_path / "begun").mkdir()  # of logs, say: nothing is collected
    (tmp_path / "begun" / "run.json").write_text('{"optimise": {}}')
    (tmp_path / "read").mkdir()
    (tmp_path / "read" / "run.json").write_text('{"config": {}}')
    outcome = cli("export", *arguments)
    assert outcome.code == 2
    assert says in outcome.error_line
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("offline", "token", "says"), [(True, "t", "HF_HUB_OFFLINE is set"), (False, None, "nobody is logged in")]
)
def test_a_push_that_cannot_be_is_refused_before_any_work(
    cli: Cli,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    offline: bool,
    token: str | None,
    says: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
    outcome = cli("export", tiny_model_dir, "--out", "mine", "--push", "me/mine")
    assert outcome.code == 2
    assert says in outcome.error_line
    assert not (tmp_path / "mine").exists()


def test_what_the_hub_refuses_leaves_the_folder_and_says_how_to_go_on(
    cli: Cli, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError("the hub is away")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "t")
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refused)
    outcome = cli("export", tiny_model_dir, "--out", "mine", "--push", "me/mine")
    assert outcome.code == 1
    assert "mine is whole, but was not pushed to me/mine (the hub is away)" in outcome.error_line
    assert is_policy(tmp_path / "mine")
