"""From messages to ids: template arguments, templates without a system role, dates, and tokenizers with habits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from lamer_graph.errors import ConfigError
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.openai import OpenAIPolicy
from lamer_graph.policies.rendering import Renderer, fold_system
from lamer_graph.policies.shipped import shipped_policies
from lamer_graph.serving.vllm import VllmServer
from lamer_graph.types import Message, Sampling
from tiny_random import CHAT_TEMPLATE

NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
WITHOUT_SYSTEM = CHAT_TEMPLATE.replace("in messages", "in messages if message['role'] != 'system'")
THINKING = CHAT_TEMPLATE + "{% if add_generation_prompt and enable_thinking is false %}<think></think>{% endif %}"
DATED = "{{ strftime_now('%d %b %Y') }}\n" + CHAT_TEMPLATE
ASKED: list[Message] = [{"role": "system", "content": "The rules."}, {"role": "user", "content": "Act"}]

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def moved(tiny_model_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the tiny policy with another chat template, card or tokenizer.json."""

    def move(template: str = CHAT_TEMPLATE, card: dict[str, Any] | None = None, edit: Edit | None = None) -> Path:
        folder = shutil.copytree(tiny_model_dir, tmp_path / "moved", dirs_exist_ok=True)
        (folder / "chat_template.jinja").write_text(template)
        if card is not None:
            (folder / "lamer.json").write_text(json.dumps(card))
        if edit is not None:
            stored = json.loads((folder / "tokenizer.json").read_text())
            edit(stored)
            (folder / "tokenizer.json").write_text(json.dumps(stored))
        return folder

    return move


def truncating(stored: dict[str, Any]) -> None:
    stored["truncation"] = {"direction": "Right", "max_length": 64, "strategy": "LongestFirst", "stride": 0}


def padding(stored: dict[str, Any]) -> None:
    stored["padding"] = {
        "strategy": {"Fixed": 2000}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }  # fmt: skip


# -- whole ids --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edit", [truncating, padding])
def test_what_a_tokenizers_file_would_cut_or_pad_is_whole_and_unpadded(
    moved: Callable[..., Path], tiny_model_dir: Path, edit: Edit
) -> None:
    asked: list[Message] = [{"role": "user", "content": "Open (1, 2)=1 Closed (3, 4) " * 40}]
    plain = LocalPolicy(tiny_model_dir)
    policy = LocalPolicy(moved(edit=edit))
    assert policy.encode(asked) == plain.encode(asked)
    assert 200 < len(policy.encode(asked)) < 2000


async def test_what_a_caller_does_with_the_tokenizer_changes_no_prompt(tiny_model_dir: Path) -> None:
    policy = LocalPolicy(tiny_model_dir)
    before = policy.encode(ASKED)
    policy.tokenizer(["a", "b c"], padding="max_length", truncation=True, max_length=8)
    assert policy.encode(ASKED) == before
    completion = await policy.generate(ASKED, Sampling(max_tokens=2, seed=1))
    assert completion.prompt_token_ids == before
    policy.close()


# -- the system's words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [NO_SYSTEM + CHAT_TEMPLATE, WITHOUT_SYSTEM], ids=["refused", "left out"])
def test_a_template_without_a_system_role_gets_its_words_in_the_users_message(
    moved: Callable[..., Path], template: str
) -> None:
    policy = LocalPolicy(moved(template))
    assert policy.folds_system
    text = policy.tokenizer.decode(policy.encode(ASKED))
    assert text == "<|im_start|>user\nThe rules.\n\nAct<|im_end|>\n<|im_start|>assistant\n"


def test_folding_that_the_template_forces_cannot_be_forbidden(moved: Callable[..., Path]) -> None:
    folder = moved(NO_SYSTEM + CHAT_TEMPLATE)
    with pytest.raises(ConfigError, match=r"refuses system messages.* fold_system=False cannot be had, leave it out"):
        LocalPolicy(folder, fold_system=False)


@pytest.mark.parametrize("given", ["enable_thinking", ["enable_thinking"], {1: True}, ""])
def test_template_arguments_that_are_no_mapping_of_names_are_refused(tiny_model_dir: Path, given: Any) -> None:
    with pytest.raises(ConfigError, match=r"template_args must be a mapping|name must be text"):
        LocalPolicy(tiny_model_dir, template_args=given)
    with pytest.raises(ConfigError, match=r"template_args must be a mapping|name must be text"):
        OpenAIPolicy("http://127.0.0.1:1", template_args=given)
    with pytest.raises(ConfigError, match=r"template_args must be a mapping|name must be text"):
        VllmServer(tiny_model_dir, template_args=given)


def test_a_template_with_one_is_left_alone(tiny_model_dir: Path) -> None:
    policy = LocalPolicy(tiny_model_dir)
    assert policy.folds_system is False
    assert policy.encode(ASKED) == policy.tokenizer.apply_chat_template(
        ASKED, add_generation_prompt=True, return_dict=False
    )


@pytest.mark.parametrize("name", sorted(shipped_policies()))
def test_policies_that_were_taught_without_the_rules_are_asked_without_them(name: str) -> None:
    policy = LocalPolicy(shipped_policies()[name])
    raw = policy.tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False)
    assert policy.encode(ASKED) == raw
    assert "rules" not in policy.tokenizer.decode(raw)
    # The same model by hand: the tokenizer knows where it is from.
    assert LocalPolicy(policy.model, policy.tokenizer).encode(ASKED) == raw


def test_a_template_that_takes_nothing_is_refused_before_the_weights_are_read(moved: Callable[..., Path]) -> None:
    folder = moved("{{ raise_exception('never') }}")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"moved cannot be asked anything: .*never"):
        LocalPolicy(folder)


def test_folding_loses_no_word_and_keeps_the_order() -> None:
    def said(*pairs: tuple[str, str]) -> list[Message]:
        return [{"role": role, "content": content} for role, content in pairs]  # type: ignore[typeddict-item]

    assert fold_system(said(("system", "a"), ("system", "b"), ("user", "c"), ("assistant", "d"))) == said(
        ("user", "a\n\nb\n\nc"), ("assistant", "d")
    )
    assert fold_system(said(("user", "a"), ("system", "b"), ("assistant", "c"), ("system", "d"))) == said(
        ("user", "a"), ("user", "b"), ("assistant", "c"), ("user", "d")
    )


# -- template arguments -----------------------------------------------------------------------------------------------


def test_template_arguments_are_the_policys_and_its_card_remembers_them(moved: Callable[..., Path]) -> None:
    folder = moved(THINKING)
    plain, quiet = LocalPolicy(folder), LocalPolicy(folder, template_args={"enable_thinking": False})
    assert plain.template_args == {}
    assert quiet.template_args == {"enable_thinking": False}
    end = plain.tokenizer.encode("<think></think>", add_special_tokens=False)
    assert quiet.encode(ASKED) == [*plain.encode(ASKED), *end]
    remembered = LocalPolicy(moved(THINKING, card={"template": {"enable_thinking": False}}))
    assert remembered.encode(ASKED) == quiet.encode(ASKED)
    # What is said counts before what is remembered.
    assert LocalPolicy(folder, template_args={}).encode(ASKED) == plain.encode(ASKED)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"enable_thinkin": False}, "moved has no argument 'enable_thinkin': it would do nothing"),
        ({"add_generation_prompt": False}, "'add_generation_prompt' is not a policy's to set"),
        ({"enable_thinking": {1, 2}}, "'enable_thinking' must be plain data"),
    ],
)
def test_template_arguments_that_would_do_nothing_or_harm_are_refused(
    moved: Callable[..., Path], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        LocalPolicy(moved(THINKING), template_args=given)


def test_a_template_that_prints_the_date_is_rendered_as_of_a_day(moved: Callable[..., Path]) -> None:
    renderer = Renderer(AutoTokenizer.from_pretrained(moved(DATED)))
    assert renderer.dated
    assert renderer.text(ASKED, datetime(2024, 2, 29)).startswith("29 Feb 2024\n")
    assert renderer.text(ASKED).startswith(f"{datetime.now():%d %b %Y}\n")


@pytest.mark.parametrize(
    "shape", ["%d %B %Y", "%-d.%-m.%y", "100 %% at %H:%M:%S", "%A, %j", "", "no date", "%Y-%m-%d T", "%F %T"]
)
@pytest.mark.parametrize("around", ["{}", "\n{}", "  {{% if true %}}{}{{% endif %}}"])
def test_a_date_is_written_as_python_writes_it(moved: Callable[..., Path], shape: str, around: str) -> None:
    day = datetime(2024, 2, 9, 4, 5, 6)
    printed = f"{{{{ strftime_now({shape!r}) }}}}"
    dated = Renderer(AutoTokenizer.from_pretrained(moved(around.format(printed) + CHAT_TEMPLATE)))
    fixed = Renderer(AutoTokenizer.from_pretrained(moved(around.format("THE DAY") + CHAT_TEMPLATE)))
    assert dated.text(ASKED, day) == fixed.text(ASKED).replace("THE DAY", day.strftime(shape))


@pytest.mark.parametrize(
    ("end", "opening"),
    [("", ""), ("<think>\n", "<think>\n"), ("[THINK]", "[THINK]"), ("<think>\n\n</think>\n\n", "")],
)
async def test_a_thought_that_the_template_opens_stands_in_the_text(
    moved: Callable[..., Path], end: str, opening: str
) -> None:
    policy = LocalPolicy(moved(CHAT_TEMPLATE + "{% if add_generation_prompt %}" + end + "{% endif %}"))
    tokenizer = policy.tokenizer
    done = await policy.generate(ASKED, Sampling(max_tokens=4, seed=1))
    assert done.text == opening + policy.decode(done.token_ids)
    policy.close()
    # Where texts show no marks of thoughts, nobody could see the thought's end: then it has no beginning, either.
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>", "[THINK]", "[/THINK]"]})
    assert Renderer(tokenizer).opening == ""
