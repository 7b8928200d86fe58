"""A model and another's tokenizer: refused on every way to a policy, before weights are read or a folder is made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from command_line import Cli
from lamer_graph.errors import ConfigError
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.vocabulary import check_words, rows_of, words_of
from lamer_graph.serving.vllm import VllmServer


def with_rows(model: Path, folder: Path, rows: int) -> Path:
    """The model's folder with a configuration of `rows` tokens, and without weights."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": rows}))
    (folder / "model.safetensors").write_bytes(b"nobody reads this")
    return folder


@pytest.fixture(params=[300, 700], ids=["fewer", "far more"])
def mixed(request: pytest.FixtureRequest, tiny_model_dir: Path, tmp_path: Path) -> Path:
    return with_rows(tiny_model_dir, tmp_path / "mixed", request.param)


SAYS = r"its tokenizer has 320 tokens and its model knows [37]00: they are not one model's"


def test_another_models_tokenizer_is_refused_in_process_and_served(mixed: Path) -> None:
    for make in (LocalPolicy, VllmServer):
        with pytest.raises(ConfigError, match=SAYS) as caught:
            make(mixed)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ("eval", "--env", "minesweeper:4x4-3", "--tasks", "1", "--out", "made", "--policy"),
        ("serve", "--out", "made", "--policy"),
        ("train", "--preset", "minesweeper-cpu", "--out", "made", "policy="),
        ("train", "--preset", "minesweeper-cpu", "--dry-run", "policy="),
    ],
    ids=["eval", "serve", "train", "dry run"],
)
def test_anothers_tokenizer_is_one_line_before_any_work(cli: Cli, mixed: Path, arguments: tuple[str, ...]) -> None:
    *given, last = arguments
    outcome = cli(*given, *([f"{last}{mixed}"] if last.endswith("=") else [last, mixed]))
    assert outcome.code == 2
    assert "its tokenizer has 320 tokens" in outcome.error_line
    assert not Path("made").exists()


def test_a_loaded_model_and_another_models_tokenizer_are_refused(tiny_model_dir: Path) -> None:
    policy = LocalPolicy(tiny_model_dir)
    policy.tokenizer.add_tokens(["<|one more|>"])
    with pytest.raises(ConfigError, match="its tokenizer has 321 tokens and its model knows 320"):
        LocalPolicy(policy.model, policy.tokenizer)


def test_rows_to_spare_are_no_other_model() -> None:
    """As Qwen3 has them: 151,669 tokens of 151,936."""
    check_words(151_669, 151_936, "a model")
    check_words(320, 320, "a model")


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"model": {"vocab": {"a": 0, "b": 7}}}, 8),
        ({"model": {"vocab": [["a", -1.0], ["b", -2.0]]}, "added_tokens": [{"id": 5, "content": "<s>"}]}, 6),
        ({"model": {}}, None),
        ({"model": {"vocab": {}}}, None),
        ([], None),
    ],
)
def test_the_size_of_a_tokenizer_is_read_from_its_file(tmp_path: Path, stored: Any, words: int | None) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    assert words_of(tmp_path) == words


def test_the_size_of_a_model_is_that_of_its_text_part(tmp_path: Path) -> None:
    assert rows_of(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"vocab_size": 9}, "vision_config": {}}))
    assert rows_of(tmp_path) == 9
