"""The adapter is the one that the run file describes, and a layer that the model has not is refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import Cli
from lamer_graph.policies.local import LocalPolicy
from lamer_trainers.errors import TrainingConfigError
from lamer_trainers.loop.adapters import check_modules, with_adapter
from lamer_trainers.loop.shapes import shape_of
from lamer_trainers.loop.train import train
from lamer_trainers.runfile import load_run
from lamer_trainers.sections import Lora

pytestmark = pytest.mark.usefixtures("one_thread")


def test_modules_dropout_and_scaling_are_those_of_the_run_file(tiny_model_dir: Path) -> None:
    chosen = Lora(rank=4, alpha=8, modules=("q_proj", "down_proj"), dropout=0.1, rslora=True)
    model = with_adapter(LocalPolicy(tiny_model_dir).model, chosen)
    layers = [layer for layer in model.modules() if hasattr(layer, "lora_A")]
    assert len(layers) == 2 * 3
    assert {layer.scaling["default"] for layer in layers} == {8 / 4**0.5}
    assert {layer.lora_dropout["default"].p for layer in layers} == {0.1}
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert shape_of(str(tiny_model_dir)).adapter(4, chosen.modules) == trained
    every = with_adapter(LocalPolicy(tiny_model_dir).model, Lora(rank=4, alpha=8))
    (scaling,) = {layer.scaling["default"] for layer in every.modules() if hasattr(layer, "lora_A")}
    assert scaling == 2


def test_an_adapter_with_all_of_it_is_trained_and_says_so(tiny_model_dir: Path, tmp_path: Path) -> None:
    changes = ["lora.rank=4", "lora.modules=[q_proj, v_proj]", "lora.dropout=0.2", "lora.rslora=true"]
    small = ["collect.tasks=2", "collect.trials=2", "collect.max_turns=2", "optimise.updates=1", "validation=null"]
    run = load_run(
        preset="minesweeper-cpu", changes=[f"policy={tiny_model_dir}", "optimise.mini_batches=1", *small, *changes]
    )
    done = train(run, tmp_path / "run")
    text = (done.folder / "adapter_config.json").read_text()
    assert '"use_rslora": true' in text
    assert '"lora_dropout": 0.2' in text
    assert "v_proj" in text
    assert "down_proj" not in text


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("query", r"no linear layer 'query' below its head; there are: down_proj, gate_proj, k_proj"),
        ("q_prj", "did you mean 'q_proj'"),
        ("lm_head", "no linear layer 'lm_head' below its head"),
        ("embed_tokens", "no linear layer 'embed_tokens'"),
    ],
)
def test_a_layer_that_the_model_has_not_is_refused(tiny_model_dir: Path, cli: Cli, name: str, says: str) -> None:
    with pytest.raises(TrainingConfigError, match=says):
        check_modules(tiny_model_dir, Lora(modules=("q_proj", name)))
    outcome = cli(
        "train", "--preset", "minesweeper-cpu", f"policy={tiny_model_dir}", f"lora.modules=[{name}]", "--out", "made"
    )
    assert outcome.code == 2
    assert f"no linear layer '{name}'" in outcome.error_line
    assert not Path("made").exists()


def test_layers_may_be_named_by_more_of_their_path(tiny_model_dir: Path) -> None:
    check_modules(tiny_model_dir, Lora(modules=("layers.0.self_attn.q_proj",)))
    check_modules(tiny_model_dir, Lora())
