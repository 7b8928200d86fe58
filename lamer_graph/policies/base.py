"""The policy protocol: one async call that turns messages into exact tokens, and a sync door to it.

What must stay true: `generate` either returns a Completion drawn from `sampling`, but for the fields that `unheeded`
names, or raises a PolicyError; it never re-tokenises text to invent token ids, and its `policy_version` is the version
that really answered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lamer_graph.policies.control import CONTROL_TOKENS
from lamer_graph.policies.loops import run_sync as run_sync
from lamer_graph.policies.rendering import Rendered
from lamer_graph.types import Completion, Message, Sampling


class Policy(ABC):
    """Something that answers chat messages. Implementations are safe for concurrent calls."""

    context_window: int | None = None
    """Prompt plus completion tokens the model can take; None if unknown (prompts are then never trimmed)."""
    control_tokens: frozenset[str] = CONTROL_TOKENS
    """Texts that the tokenizer turns into control tokens: none of them enters a prompt (`trial.quoting`)."""
    opens_thought: bool = False
    """True where the chat template opens a thought, so that an answer begins inside one (`trial.answers`)."""
    template_args: Mapping[str, Any] | None = None
    """Arguments of the chat template that prompts are rendered with; None if that is not known here."""
    folds_system: bool | None = None
    """Whether the system's words go into the next user message (see rendering.py); None if that is not known here."""

    @property
    def rendering(self) -> Rendered | None:
        """How prompts are rendered, for the log; None if that is not known here."""
        if self.template_args is None:
            return None
        return {"template": dict(self.template_args), "folded": bool(self.folds_system)}

    async def window(self) -> int | None:
        """The context window, asked for where it can be and is not known yet. Raises PolicyError and ConfigError."""
        return self.context_window

    def as_sent(self, sampling: Sampling) -> dict[str, Any]:
        """What of `sampling` reaches the model, for the log: None where the model's own setting holds, unknown here.

        Names besides those of `Sampling` may be there, each with None: what else bends a server's distribution.
        """
        return sampling.to_json()

    @abstractmethod
    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """One completion, drawn from what of `sampling` is not `unheeded`. Raises PolicyError."""

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the rendered chat prompt, generation prefix included, by the serving model's own tokenizer."""
        raise NotImplementedError(f"{type(self).__name__} has a context window but cannot count tokens")

    def unheeded(self, sampling: Sampling) -> list[str]:
        """The fields of `sampling` that ask for something which this policy would not do; none for one that samples."""
        return []

    def why_unheeded(self, sampling: Sampling) -> str:
        """What of `sampling` would not be done, and what to do instead, in one line; where `unheeded` names any."""
        asked = ", ".join(f"{name} {getattr(sampling, name)}" for name in self.unheeded(sampling))
        return (
            f"sampling asks for {asked}, which {type(self).__name__} would not do: leave it out, set it on the model "
            "itself, or, where the chat model declares such a field, use ChatModelPolicy(model, sample=True)"
        )

    def identity(self) -> dict[str, Any] | None:
        """Who answers, for a run to know its policy by (see `policies.identity`); None where nothing is known."""
        return None

    def generate_sync(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """`generate` for callers that cannot await, also inside a running event loop."""
        return run_sync(self.generate(messages, sampling))

    async def aclose(self) -> None:  # noqa: B027  (most policies hold nothing)
        """Release connections and threads; calling it again does nothing."""


class Watched(Policy):
    """`policy` itself, but for a word to `on_call` after every answer."""

    def __init__(self, policy: Policy, on_call: Callable[[], None]) -> None:
        self._policy, self._on_call = policy, on_call
        self.context_window, self.control_tokens = policy.context_window, policy.control_tokens
        self.opens_thought, self.template_args = policy.opens_thought, policy.template_args
        self.folds_system = policy.folds_system

    async def window(self) -> int | None:
        return await self._policy.window()

    def as_sent(self, sampling: Sampling) -> dict[str, Any]:
        return self._policy.as_sent(sampling)

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        try:
            return await self._policy.generate(messages, sampling)
        finally:
            self._on_call()

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        return await self._policy.count_tokens(messages)

    def unheeded(self, sampling: Sampling) -> list[str]:
        return self._policy.unheeded(sampling)

    def why_unheeded(self, sampling: Sampling) -> str:
        return self._policy.why_unheeded(sampling)

    @property
    def rendering(self) -> Rendered | None:
        return self._policy.rendering

    def identity(self) -> dict[str, Any] | None:
        return self._policy.identity()
