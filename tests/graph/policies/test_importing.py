"""Models from elsewhere: what is written is what was given, and what is wrong is one line and no folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lamer_graph.errors import ConfigError
from lamer_graph.policies.hub import is_hub_id
from lamer_graph.policies.importing import import_model
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.types import Message, Sampling

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = [*(chr(code) for code in range(33, 127)), "Ġ", "Ċ", "ab", "la", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
HEADS, LAYERS, HIDDEN, WINDOW = 4, 2, 32, 4096


@pytest.fixture(scope="module")
def original() -> LlamaForCausalLM:
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def halves(weight: np.ndarray) -> np.ndarray:
    """Rows of a projection as GGUF has them: each head's two halves of rotary dimensions interleaved."""
    return weight.reshape(HEADS, 2, weight.shape[0] // HEADS // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(file: Path, model: LlamaForCausalLM, *, template: str | None = CHATML, **changes: Any) -> Path:
    """The model as llama.cpp keeps it; `changes`: architecture, words, quantised."""
    words = changes.get("words", WORDS)
    writer = GGUFWriter(file, changes.get("architecture", "llama"))
    writer.add_name('Small & odd: "name"')
    writer.add_license("apache-2.0")
    writer.add_context_length(WINDOW)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(WORDS))
    if words is not None:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(words)
        writer.add_token_types([3 if word.startswith("<|") else 1 for word in words])
        writer.add_token_merges(["a b", "l a"])
        writer.add_bos_token_id(len(WORDS) - 2)
        writer.add_eos_token_id(len(WORDS) - 1)
        if template is not None:
            writer.add_chat_template(template)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    state = {name: value.detach().float().numpy() for name, value in model.state_dict().items()}
    for name, value in {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}.items():
        writer.add_tensor(f"{name}.weight", state[f"{value}.weight"])
    for layer in range(LAYERS):
        for theirs, ours in names.items():
            weight = state[f"model.layers.{layer}.{theirs}.weight"]
            weight = halves(weight) if ours in ("attn_q", "attn_k") else weight
            kind = GGMLQuantizationType.Q8_0 if changes.get("quantised") and weight.ndim == 2 else None
            packed = weight if kind is None else quants.quantize(weight, kind)
            writer.add_tensor(f"blk.{layer}.{ours}.weight", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def logits(folder: Path, ids: list[int]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([ids])).logits[0]
    return found


IDS = [3, 60, 7, 7, 95, 20, 41]


async def test_an_imported_model_computes_what_the_original_does_and_plays(
    original: LlamaForCausalLM, tmp_path: Path
) -> None:
    said: list[str] = []
    made = import_model(write_gguf(tmp_path / "m.gguf", original), tmp_path / "deep" / "out", note=said.append)
    with torch.no_grad():
        truth = original(torch.tensor([IDS])).logits[0]
    assert torch.allclose(logits(made.folder, IDS), truth, atol=1e-6)
    assert (made.architecture, made.dtype) == ("llama", "float32")
    assert made.parameters == sum(weight.numel() for weight in original.parameters())
    assert len(said) == 2
    policy = LocalPolicy(made.folder)
    chat: list[Message] = [{"role": "user", "content": "hi"}]
    assert policy.decode(policy.encode(chat)).endswith("assistant\n")
    done = await policy.generate(chat, Sampling(max_tokens=5, seed=1))
    assert 1 <= len(done.token_ids) <= 5
    policy.close()
    card = (made.folder / "README.md").read_text()
    assert card.startswith('---\nlicense: "apache-2.0"\n')
    assert made.origin["sha256 of the GGUF file"] in card
    assert [path.name for path in made.folder.parent.iterdir()] == ["out"]


def test_quantised_weights_come_out_as_their_own_dequantisation_in_the_type_that_was_asked_for(
    original: LlamaForCausalLM, tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "m.gguf", original, quantised=True)
    made = import_model(file, tmp_path / "out", dtype="bfloat16")
    stored = AutoModelForCausalLM.from_pretrained(made.folder, dtype="auto")
    assert {weight.dtype for weight in stored.parameters()} == {torch.bfloat16}
    name = "model.layers.1.mlp.up_proj.weight"
    given = original.state_dict()[name].numpy()
    expected = quants.dequantize(quants.quantize(given, GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0)
    assert np.abs(expected - given).max() > 0
    assert torch.equal(stored.state_dict()[name], torch.from_numpy(expected).to(torch.bfloat16))
    assert "quantised" in (made.folder / "README.md").read_text()


def test_a_wheel_with_one_model_in_it_is_read_and_nothing_of_it_runs(
    original: LlamaForCausalLM, tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "m.gguf", original)
    wheel = tmp_path / "odd-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(file, "../../escape/m.GGUF")
        archive.writestr("odd/__init__.py", "raise SystemExit('run')")
    made = import_model(wheel, tmp_path / "out")
    assert made.parameters > 0
    assert not (tmp_path.parent.parent / "escape").exists()
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.write(file, "second.gguf")
    with pytest.raises(ConfigError, match=r"must hold one GGUF file and holds ../../escape/m.GGUF, second.gguf"):
        import_model(wheel, tmp_path / "other")


def test_a_chat_template_can_be_given_to_a_file_or_a_folder_without_one(
    original: LlamaForCausalLM, tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "m.gguf", original, template=None)
    with pytest.raises(ConfigError, match=r"has no chat template.*--chat-template FILE"):
        import_model(file, tmp_path / "out")
    (tmp_path / "t.jinja").write_text(CHATML)
    made = import_model(file, tmp_path / "out", chat_template=tmp_path / "t.jinja")
    assert AutoTokenizer.from_pretrained(made.folder).chat_template == CHATML
    (made.folder / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match=r"lamer-graph import FOLDER --chat-template FILE"):
        LocalPolicy(made.folder)
    again = import_model(made.folder, tmp_path / "again", chat_template=tmp_path / "t.jinja")
    assert torch.equal(logits(again.folder, IDS), logits(made.folder, IDS))
    LocalPolicy(again.folder).close()


def damaged(kind: str, folder: Path, original: LlamaForCausalLM) -> Path:
    whole = write_gguf(folder / "whole.gguf", original)
    file = folder / f"{kind.replace(' ', '-')}.gguf"
    match kind:
        case "cut in its weights":
            file.write_bytes(whole.read_bytes()[:-5000])
        case "cut in its header":
            file.write_bytes(whole.read_bytes()[:300])
        case "noise":
            file.write_bytes(b"GGUF" + bytes(range(256)) * 8)
        case "another file":
            file.write_bytes(b"not a model at all")
        case "empty":
            file.write_bytes(b"")
        case "a damaged wheel":
            with zipfile.ZipFile(file, "w") as archive:
                archive.write(whole, "m.gguf")
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 255
            file.write_bytes(data)
        case "no language model":
            write_gguf(file, original, words=None)
        case "of an unknown kind":
            write_gguf(file, original, architecture="clip")
        case "more words than rows":
            write_gguf(file, original, words=[*WORDS[:-2], "extra", "more", *WORDS[-2:]])
    return file


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("cut in its weights", "damaged GGUF file or cut short"),
        ("cut in its header", "damaged GGUF file or cut short"),
        ("noise", "damaged GGUF file or cut short"),
        ("another file", "is no GGUF file"),
        ("empty", "is no GGUF file"),
        ("a damaged wheel", "damaged archive"),
        ("no language model", "no language model: it has no words"),
        ("of an unknown kind", "kind 'clip', which transformers cannot read from GGUF; it reads"),
        ("more words than rows", "they are not one model's|cannot read"),
    ],
)
def test_what_is_no_model_is_one_line_and_leaves_nothing(
    kind: str, says: str, original: LlamaForCausalLM, tmp_path: Path
) -> None:
    file = damaged(kind, tmp_path, original)
    with pytest.raises(ConfigError, match=says) as caught:
        import_model(file, tmp_path / "new" / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_what_is_there_already_is_not_overwritten_and_what_is_not_there_is_said(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    shown = cli("import", "m.gguf", "--out", tmp_path / "out")
    assert (shown.code, "exists already" in shown.error_line) == (2, True)
    missing = cli("import", "m.gguf", "--out", tmp_path / "new", "--json")
    assert missing.code == 2
    assert "there is no m.gguf" in missing.document["error"]


# -- the hub ----------------------------------------------------------------------------------------------------------


def test_a_path_that_is_here_is_never_a_name_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("org/name")
    (tmp_path / "org").mkdir()
    assert not is_hub_id("org/name")  # a mistyped folder is not fetched from strangers
    for odd in ("name", "/org/name", "./org2/name", "../org2/name", "a/b/c", "org2/", "org2/na me", "~/x"):
        assert not is_hub_id(odd)


def test_offline_a_hub_id_says_how_to_fetch_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lamer_graph.cli", "eval", "--policy", "some-org/some-model", "--tasks", "1"]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(command, capture_output=True, text=True, env=offline, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert "HF_HUB_OFFLINE is set" in done.stderr
    assert "hf download some-org/some-model --local-dir some-model" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    # Offline is respected, not forced: without it the hub is asked, here one that nobody listens as.
    asks = {key: value for key, value in offline.items() if key != "HF_HUB_OFFLINE"} | {
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=asks, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert "HF_HUB_OFFLINE" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_what_the_hubs_cache_has_is_played_offline(original: LlamaForCausalLM, tmp_path: Path) -> None:
    made = import_model(write_gguf(tmp_path / "m.gguf", original), tmp_path / "out")
    cache = tmp_path / "hf" / "hub" / "models--some-org--some-model"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    (cache / "snapshots").mkdir()
    made.folder.rename(cache / "snapshots" / ("0" * 40))
    command = [sys.executable, "-m", "lamer_graph.cli", "eval", "--policy", "some-org/some-model", "--tasks", "1"]
    command += ["--env", "minesweeper:4x4-3", "--max-turns", "1", "--episodes", "1", "--max-tokens", "1", "--json"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pass_at"][0]["value"] == 0
