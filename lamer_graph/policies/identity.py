"""Who answers: what tells one policy from another, in terms that are the same in another process.

What must stay true: descriptions that contradict each other are of two policies; what a policy is called and where its
folder lies decides nothing, and neither does what only one of two descriptions says.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lamer_graph.policies.fingerprint import sampler_fingerprint, weights_of

KINDS = {"served": "a server's model", "chat": "a chat model", "weights": "a model in this process"}
"""Keys that only descriptions of one kind have."""
LABELS = ("folder", "served", "chat", "name")
"""Keys by which a person knows the policy, the best first; `name` and `folder` are for that alone."""


class Origin(NamedTuple):
    """The folders that a model in this process was read from, and its weights as they were then."""

    folders: tuple[Path, ...]
    weights: str

    @classmethod
    def of(cls, policy: Any, model: Path | None, adapter: Path | None) -> Origin | None:
        """Of a policy that was just read; None where the model came from its caller."""
        now = None if model is None else sampler_fingerprint(policy)
        if now is None or model is None:
            return None
        return cls((model,) if adapter is None else (model, adapter), now["weights"])


def identity_of(policy: Any, origin: Origin | None) -> dict[str, Any] | None:
    """The identity of a policy whose model is in this process.

    `files` are hashes of the folders' weights, as long as those are what plays: of the same files another device or
    number of threads makes weights that differ in their last digits.
    """
    now = sampler_fingerprint(policy)
    if now is None or origin is None or origin.weights != now["weights"]:
        return None if now is None else {**now, "name": policy.version}
    return {**now, "files": [weights_of(folder) for folder in origin.folders], "folder": str(origin.folders[-1])}


def contradiction(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """What shows that two descriptions are of two policies, in a few words; None if nothing does."""
    kinds = [next((what for key, what in KINDS.items() if key in about), "") for about in (one, other)]
    if kinds[0] != kinds[1]:
        return f"{kinds[0]} there, {kinds[1]} here"
    told = {*one, *other} - {"name", "folder"} - ({"weights"} if "files" in one and "files" in other else set())
    for key in sorted(told):
        if key in one and key in other and one[key] != other[key]:
            return f"{key} {_short(one[key])} there, {_short(other[key])} here"
    return None


def called(about: Mapping[str, Any]) -> str:
    """What a person calls the policy."""
    return str(next((about[key] for key in LABELS if key in about), "another policy"))


def _short(value: Any) -> str:
    return " + ".join(map(str, value)) if isinstance(value, list) else str(value)
