"""The policy protocol: one async call that turns messages into exact tokens, and a sync door to it.

What must stay true: `generate` either returns a Completion drawn from `sampling`, but for the fields that `unheeded`
names, or raises a PolicyError; it never re-tokenises text to invent token ids, and its `policy_version` is the version
that really answered. A thought that the chat template opened stands in the completion's text with its opening mark, so
that the text alone says what is one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from lamer_graph.policies.control import CONTROL_TOKENS
from lamer_graph.policies.loops import run_sync as run_sync
from lamer_graph.policies.rendering import Rendered
from lamer_graph.policies.tool_form import ToolForm
from lamer_graph.types import Completion, Message, Sampling


class Policy(ABC):
    """Something that answers chat messages. Implementations are safe for concurrent calls."""

    context_window: int | None = None
    """Prompt plus completion tokens the model can take; None if unknown (prompts are then never trimmed)."""
    control_tokens: frozenset[str] = CONTROL_TOKENS
    """Texts that the tokenizer turns into control tokens: none of them enters a prompt (`trial.quoting`)."""
    stops: bool = False
    """Whether answers end at the strings of `Sampling.stop`."""
    opens_runs: bool = False
    """Whether a call opens a run of its own where LangChain's callbacks listen, as a chat model's does."""
    template_args: Mapping[str, Any] | None = None
    """Arguments of the chat template that prompts are rendered with; None if that is not known here."""
    folds_system: bool | None = None
    """Whether the system's words go into the next user message (see rendering.py); None if that is not known here."""

    taught: Mapping[str, Any] = MappingProxyType({})
    """What the policy's own card says of how it was taught (`lamer.json`: `env`, `prompt_style`), where it has one."""

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

    def tool_form(self, said: str, tools: Sequence[Mapping[str, Any]]) -> ToolForm | None:
        """How the policy's chat template tells of tools behind a system message that says `said`; None where that is
        not known, or not in a form that is read here."""
        return None

    def unheeded(self, sampling: Sampling) -> list[str]:
        """The fields of `sampling` that ask for something which this policy would not do."""
        return ["stop"] if sampling.stop and not self.stops else []

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


class Wrapped(Policy):
    """`policy` itself, whatever is asked of it; a subclass says what it does otherwise, mostly in `generate`."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        return await self.policy.generate(messages, sampling)


# Everything that a policy can be asked now or later, so that no wrapper can forget any of it.
for _name in vars(Policy).keys() - {"generate", "generate_sync"}:
    if not _name.startswith("_"):
        setattr(Wrapped, _name, property(attrgetter(f"policy.{_name}")))


class Watched(Wrapped):
    """`policy` itself, but for a word to `on_call` after every answer."""

    def __init__(self, policy: Policy, on_call: Callable[[], None]) -> None:
        super().__init__(policy)
        self._on_call = on_call

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        try:
            return await self.policy.generate(messages, sampling)
        finally:
            self._on_call()
