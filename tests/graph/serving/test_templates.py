"""A server renders prompts as a policy in this process does: template arguments, and the system's words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lamer_graph.errors import ConfigError
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.openai import OpenAIPolicy
from lamer_graph.serving.vllm import INSTALL_HINT, VllmServer, vllm_flavour
from lamer_graph.types import Message, Sampling
from tiny_random import CHAT_TEMPLATE

TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + CHAT_TEMPLATE
    + "{% if add_generation_prompt and enable_thinking is false %}<think></think>{% endif %}"
)
QUIET = {"enable_thinking": False}
ASKED: list[Message] = [{"role": "system", "content": "The rules."}, {"role": "user", "content": "Act"}]


@pytest.fixture
def quiet(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A policy that was played without thinking, whose template takes no system message."""
    folder = shutil.copytree(tiny_model_dir, tmp_path / "quiet")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "lamer.json").write_text(json.dumps({"template": QUIET}))
    return folder


def adapter_with(card: dict[str, object], folder: Path) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "lamer.json").write_text(json.dumps(card))
    return folder


@pytest.mark.slow  # a server of its own
async def test_server_and_process_render_the_same_ids(quiet: Path, tmp_path: Path) -> None:
    if vllm_flavour() is None:
        pytest.skip(INSTALL_HINT)
    here = LocalPolicy(quiet).encode(ASKED)
    loud = LocalPolicy(quiet, template_args={"enable_thinking": True}).encode(ASKED)
    assert here != loud
    with VllmServer(quiet, max_adapters=0, max_model_len=1024, run_dir=tmp_path / "run") as server:
        own = server.policy()
        assert (own.template_args, own.folds_system) == (QUIET, True)
        # Somebody else's client learns from the server that system messages are refused, and gets its arguments.
        stranger = await OpenAIPolicy(server.base_url, training=True).connect()
        assert (stranger.template_args, stranger.folds_system) == (None, True)
        asks_otherwise = await OpenAIPolicy(
            server.base_url, training=True, template_args={"enable_thinking": True}
        ).connect()
        for policy, expected in ((own, here), (stranger, here), (asks_otherwise, loud)):
            completion = await policy.generate(ASKED, Sampling(max_tokens=2, seed=1))
            assert completion.prompt_token_ids == expected
            await policy.aclose()
        assert await asks_otherwise.count_tokens(ASKED) == len(loud)
        await asks_otherwise.aclose()


def test_a_server_renders_as_the_cards_say(quiet: Path, tmp_path: Path) -> None:
    server = VllmServer(quiet)
    assert server.template_args == QUIET
    argv = server._argv()
    assert json.loads(argv[argv.index("--default-chat-template-kwargs") + 1]) == QUIET
    assert "--default-chat-template-kwargs" not in VllmServer(quiet, template_args={})._argv()
    (quiet / "lamer.json").unlink()
    assert VllmServer(quiet).template_args == {}
    trained = adapter_with({"template": QUIET}, tmp_path / "adapter")
    assert VllmServer(quiet, adapters={"v1": trained}).template_args == QUIET


def test_policies_that_were_rendered_otherwise_are_not_served_together_unasked(quiet: Path, tmp_path: Path) -> None:
    loud = adapter_with({"template": {"enable_thinking": True}}, tmp_path / "loud")
    message = "loud was played with prompts rendered with enable_thinking=true, .* renders with enable_thinking=false"
    with pytest.raises(ConfigError, match=message):
        VllmServer(quiet, adapters={"v1": loud})
    assert VllmServer(quiet, adapters={"v1": loud}, template_args=QUIET).template_args == QUIET
    with pytest.raises(ConfigError, match="has no argument 'think': it would do nothing"):
        VllmServer(quiet, template_args={"think": False})
