"""Which base an adapter belongs to: said by hashes where they were recorded, by shapes where they were not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from lamer_graph.errors import ConfigError
from lamer_graph.policies.fingerprint import BASE_FILE, base_fingerprint, check_adapter, record_base
from lamer_graph.serving.vllm import VllmServer
from tiny_random import build_tiny_random


@pytest.fixture
def adapter(tiny_model_dir: Path, tmp_path: Path) -> Path:
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model_dir), LoraConfig(target_modules="all-linear")
    )
    model.save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


def narrow(source: Path, target: Path) -> Path:
    """The same architecture with a narrower feed-forward layer."""
    from transformers import Qwen3ForCausalLM

    shutil.copytree(source, target)
    config = AutoModelForCausalLM.from_pretrained(source).config
    config.intermediate_size = 256
    Qwen3ForCausalLM(config).save_pretrained(target)
    return target


def test_a_model_is_the_same_wherever_it_lies_and_however_it_is_sharded(tiny_model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model_dir, tmp_path / "moved")
    (tmp_path / "moved" / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(tiny_model_dir).save_pretrained(tmp_path / "moved", max_shard_size="1MB")
    assert len(list((tmp_path / "moved").glob("*.safetensors"))) > 1
    assert base_fingerprint(tmp_path / "moved") == base_fingerprint(tiny_model_dir)


def test_other_weights_tokens_and_settings_each_show(tiny_model_dir: Path, tmp_path: Path) -> None:
    own = base_fingerprint(tiny_model_dir)
    other = base_fingerprint(build_tiny_random(tmp_path / "seed", seed=1))
    assert {part for part in own if own[part] != other[part]} == {"weights"}
    shutil.copytree(tiny_model_dir, tmp_path / "edited")
    path = tmp_path / "edited" / "tokenizer.json"
    data = json.loads(path.read_text())
    data["model"]["merges"].pop()
    path.write_text(json.dumps(data))
    path = tmp_path / "edited" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rms_norm_eps": 1e-3}))
    edited = base_fingerprint(tmp_path / "edited")
    assert {part for part in own if own[part] != edited[part]} == {"config", "tokenizer"}


def test_a_recorded_base_is_the_only_one_that_is_accepted(tiny_model_dir: Path, adapter: Path, tmp_path: Path) -> None:
    other = build_tiny_random(tmp_path / "other", seed=1)
    check_adapter(adapter, other)  # nothing recorded, and the shapes fit
    record_base(adapter, tiny_model_dir)
    check_adapter(adapter, tiny_model_dir)
    with pytest.raises(ConfigError, match="trained on a base with another weights than") as caught:
        check_adapter(adapter, other)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="another weights"):
        VllmServer(other, adapters={"policy-v0001": adapter})


def test_without_a_record_shapes_tell(tiny_model_dir: Path, adapter: Path, tmp_path: Path) -> None:
    check_adapter(adapter, tiny_model_dir)
    with pytest.raises(ConfigError, match=r"mlp\.\w+_proj where .* has 256: it is of another base"):
        check_adapter(adapter, narrow(tiny_model_dir, tmp_path / "narrow"))
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    del model.model.layers[2:]
    model.config.num_hidden_layers = 2
    model.config.layer_types = model.config.layer_types[:2]
    shutil.copytree(tiny_model_dir, tmp_path / "short")
    model.save_pretrained(tmp_path / "short")
    with pytest.raises(ConfigError, match=r"changes model\.layers\.2\.\S+, which .* does not have"):
        check_adapter(adapter, tmp_path / "short")


@pytest.mark.parametrize("damage", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", b"\x02\0\0\0\0\0\0\0{"])
def test_broken_files_are_one_clear_line(tiny_model_dir: Path, adapter: Path, damage: bytes) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(damage)
    with pytest.raises(ConfigError, match="is not a safetensors file"):
        check_adapter(adapter, tiny_model_dir)
    (adapter / BASE_FILE).write_bytes(damage)
    with pytest.raises(ConfigError, match=r"cannot read|no JSON object"):
        check_adapter(adapter, tiny_model_dir)
