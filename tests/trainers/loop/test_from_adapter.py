"""Runs that begin with an adapter, such as a warm start's: gone on with, or merged."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from adapters import adapted
from lamer_graph.policies.fingerprint import BASE_FILE, record_base
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.shipped import base_of, is_adapter, is_policy
from lamer_graph.types import Message
from lamer_trainers.errors import TrainingConfigError
from lamer_trainers.loop.plan import plan
from lamer_trainers.loop.train import make_policy, train
from lamer_trainers.runfile import RunFile, load_run
from loop_run import SMALL

pytestmark = pytest.mark.usefixtures("one_thread")
ASKED = [Message(role="user", content="Act")]


@pytest.fixture
def adapter(tiny_model_dir: Path, tmp_path: Path) -> Path:
    policy = adapted(tiny_model_dir)
    policy.model.save_pretrained(tmp_path / "adapter")
    policy.tokenizer.save_pretrained(tmp_path / "adapter")
    record_base(tmp_path / "adapter", tiny_model_dir)
    policy.close()
    return tmp_path / "adapter"


def _run(adapter: Path, *changes: str) -> RunFile:
    base = (f"policy={adapter}", *SMALL, "validation=null", "optimise.updates=1")
    return load_run(preset="minesweeper-cpu", changes=[*base, *changes])


LORA = ("lora.rank=8", "lora.alpha=8")


@pytest.mark.parametrize("changes", [(), LORA], ids=["merged", "gone on with"])
def test_what_plays_first_is_the_adapter_on_its_base(
    adapter: Path, tiny_model_dir: Path, changes: tuple[str, ...]
) -> None:
    wanted = LocalPolicy(tiny_model_dir, adapter=adapter)
    begun = make_policy(_run(adapter, *changes))
    bare = LocalPolicy(tiny_model_dir)
    tokens = wanted.encode(ASKED)[-5:]
    assert begun.score(ASKED, tokens) == pytest.approx(wanted.score(ASKED, tokens), abs=1e-4)
    assert begun.score(ASKED, tokens) != pytest.approx(bare.score(ASKED, tokens), abs=1e-2)
    for policy in (wanted, begun, bare):
        policy.close()


def test_a_run_goes_on_with_the_adapter_and_leaves_one_of_the_same_base(
    adapter: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    run = _run(adapter, *LORA)
    assert plan(run).trained_parameters < plan(run).parameters
    done = train(run, tmp_path / "run")
    assert is_adapter(done.folder)
    assert base_of(done.folder) == tiny_model_dir
    assert (done.folder / BASE_FILE).read_text() == (adapter / BASE_FILE).read_text()
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, done.folder))
    assert before.keys() == after.keys()
    moved = [float((after[name] - before[name]).norm() / before[name].norm()) for name in before]
    assert 0 < max(moved) < 0.5, "it did not begin with the adapter's own weights"


def test_a_run_of_all_weights_leaves_a_policy_of_its_own(adapter: Path, tmp_path: Path) -> None:
    done = train(_run(adapter), tmp_path / "run")
    assert is_policy(done.folder)


@pytest.mark.parametrize(("key", "says"), [("rank", "lora.rank=8"), ("alpha", "lora.alpha=8")])
def test_another_size_than_the_adapters_is_refused_by_name(adapter: Path, tmp_path: Path, key: str, says: str) -> None:
    run = _run(adapter, *LORA, f"lora.{key}=16")
    with pytest.raises(TrainingConfigError, match=says):
        train(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_adapter_of_another_base_is_refused(adapter: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    from lamer_graph.errors import ConfigError
    from tiny_random import build_tiny_random

    other = build_tiny_random(tmp_path / "other", seed=3)
    config = adapter / "adapter_config.json"
    config.write_text(config.read_text().replace(str(tiny_model_dir), str(other)))
    with pytest.raises(ConfigError, match="another weights"):
        train(_run(adapter, *LORA), tmp_path / "run")
    assert not (tmp_path / "run").exists()
