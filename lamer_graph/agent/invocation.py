"""What one invocation says beside its task: whose memory it plays with, its seed, who logs it.

What must stay true: only what is ours is read, by name, from a context that is a mapping (an application's own class,
or its other keys, are none of our business, but for its `user_id`); what is ours and malformed is refused, and never
taken for something else.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from difflib import get_close_matches
from hashlib import blake2b
from typing import Annotated, Any, cast
from uuid import uuid4

import orjson
from langgraph.config import get_config
from langgraph.runtime import get_runtime
from pydantic import InstanceOf
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import TypedDict

from lamer_graph.errors import ConfigError
from lamer_graph.runlog import RunLog
from lamer_graph.runlog.recording import TrialRecorder
from lamer_graph.trial.harness import Harness
from lamer_graph.trial.states import TrialState
from lamer_graph.trial.steps import owner_of
from lamer_graph.trial.tasks import check_seed
from lamer_graph.trial.whose import as_namespace
from lamer_graph.types import Sampling
from lamer_memory.base import Namespace

CONTEXT_NAMESPACE = "context's namespace"
BY_INDEX: Any = object()
"""A context's `unique` of a collection, whose trials are known by task and index alone."""


class LamerContext(TypedDict, total=False):
    """Handles and settings of one invocation, given as `context=`; none of it is checkpointed.

    `namespace` says whose memory it is, as a text or several: `"acme"` is `("acme",)`. Without it that is the user's,
    `config={"configurable": {"user_id": ..}}` (or a `user_id` of the context), else the agent's own `namespace=`; where
    records outlive their trial one of them must be there. A trial keeps its namespace: a resume need not say it again.
    `seed` replaces the sampling's run seed (without either every trial has one of its own), `recorder` logs the
    finished trial with its exact tokens. `unique` tells this trial's records from those of other trials of the same
    task and index (default: the thread's id, or a random one); whose memory it is, and the step of a graph around the
    agent, tell them apart as well. A log takes a trial of a given `unique` once. What else an application keeps in its
    context, or in which class, is not looked at.
    """

    namespace: str | list[str] | tuple[str, ...]
    user_id: str
    seed: int
    # A handle: JSON has no form of it, so clients that read the schema do not see it.
    recorder: Annotated[InstanceOf[TrialRecorder], SkipJsonSchema()]
    unique: str


def _context() -> LamerContext:
    given = get_runtime().context
    return cast(LamerContext, given if isinstance(given, Mapping) else {})


def _configurable() -> Mapping[str, Any]:
    return get_config().get("configurable", {})


def _user() -> Any:
    """Who the invocation is for, as LangGraph applications say it: in the configuration, or in their own context."""
    if (user := _configurable().get("user_id")) is not None:
        return user
    given = get_runtime().context
    return given.get("user_id") if isinstance(given, Mapping) else getattr(given, "user_id", None)


def chosen(h: Harness, own: Namespace | None) -> Namespace | None:
    """Whose memory it plays with: the context's namespace, else the user's, else the agent's `own`.

    Raises ConfigError for a malformed one. A user's id is looked at only where records outlive their trial: elsewhere
    it is the application's alone, in whatever form.
    """
    if (given := _context().get("namespace")) is not None:
        return as_namespace(given, CONTEXT_NAMESPACE)
    return own if (named := user(h)) is None else as_namespace(named, "user_id")


def user(h: Harness) -> str | None:
    """Who the invocation is for, where that matters. Raises ConfigError for what is no text."""
    given = _user() if h.outlives else None
    if given is not None and not isinstance(given, str):
        raise ConfigError(f"user_id must be a text, not {str(given)[:100]!r} of {type(given).__name__}")
    return given


def owned(h: Harness, state: TrialState, own: Namespace | None) -> TrialState:
    """A trial that goes on, in its own namespace. Raises ConfigError where the invocation names another's.

    A user's id is another's if the trial was not begun for it; trials of before that was kept go on.
    """
    given, kept = _context().get("namespace"), state.get("namespace")
    if kept is None:  # a checkpoint of before trials kept it
        return cast(TrialState, {**state, "namespace": list(owner_of(h, chosen(h, own)))})
    if given is not None and kept != list(as_namespace(given, CONTEXT_NAMESPACE)):
        raise ConfigError(f"the trial on this thread belongs to namespace {tuple(kept)}, not to {given!r}")
    if given is None and "user" in state and (named := user(h)) not in (None, state["user"]):
        raise ConfigError(
            f"the trial on this thread belongs to namespace {tuple(kept)} and was not begun for user_id {named!r}: go "
            "on without a user_id, or play the task on a thread of that user's"
        )
    return state


def unique(owner: Namespace) -> tuple[str, bool]:
    """What tells the trial from others of its task and index, and whether its thread counts its trials.

    That is the context's `unique`, else the thread's name, and a digest (no names of users in ids) of whose memory it
    is and which step of a graph around this one plays it; both are the same when that step is resumed. Raises
    ConfigError for a `unique` that is no text, or an empty one.
    """
    given = _context().get("unique")
    return ("", False) if given is BY_INDEX else named(owner, given)


def named(owner: Namespace, given: Any) -> tuple[str, bool]:
    """`unique` for what a context gives, None where it gives nothing."""
    if given is not None and not (isinstance(given, str) and given.strip()):
        raise ConfigError(f"context's unique must be a text that is not empty, not {given!r}")
    name = _configurable().get("thread_id") if given is None else given
    if name in (None, ""):
        return uuid4().hex, True
    step = str(_configurable().get("checkpoint_ns", "")).rpartition("|")[0]  # without the node that is asking
    if not owner and not step:
        return str(name), given is None
    digest = blake2b(
        orjson.dumps([step, *(part.encode(errors="surrogatepass").hex() for part in owner)]), digest_size=6
    )
    return f"{name}~{digest.hexdigest()}", given is None


def check_context() -> None:
    """Raises ConfigError for a key that is nearly one of ours. Inside another graph the context is that graph's."""
    context = _context()
    if "|" in str(_configurable().get("checkpoint_ns", "")):
        return
    ours = sorted(LamerContext.__annotations__)
    for key in context:
        close = get_close_matches(key, ours, n=1, cutoff=0.85) if isinstance(key, str) and key not in ours else []
        if close and close[0] not in context:
            raise ConfigError(f"context has {key!r}, which does nothing: did you mean {close[0]!r}?")


def fresh_seed() -> int:
    """A run seed that no other trial has."""
    return secrets.randbits(62)


def seed(h: Harness) -> int | None:
    """The trial's run seed: the context's, else the sampling's own (None), else another for every trial.

    A collection's trials are known by their index alone, and draw the same each time. Raises ConfigError where it is
    none, or where the policy would not be seeded.
    """
    given = _context().get("seed")
    if given is None and h.sampling.seed is None and _context().get("unique") is not BY_INDEX:
        return fresh_seed()
    if given is not None:
        check_seed("context's seed", given)
        if h.policy.unheeded(Sampling(seed=given)):
            raise ConfigError(f"context's seed {given} would do nothing: {type(h.policy).__name__} passes no seed on")
    return given


def recorder(own: TrialRecorder | None) -> TrialRecorder | None:
    """Who logs the trial: the context's recorder, else the agent's `own`."""
    return check_recorder("context's recorder", _context().get("recorder", own))


def check_recorder(name: str, given: Any) -> TrialRecorder | None:
    """`given` where it is one or none. Raises ConfigError."""
    if given is not None and not isinstance(given, TrialRecorder):
        fix = ": TrialRecorder(log)" if isinstance(given, RunLog) else ""
        raise ConfigError(f"{name} must be a TrialRecorder, not a {type(given).__name__}{fix}")
    return given
