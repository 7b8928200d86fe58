"""Weight sync: the trained adapter goes into a running vLLM under a new name, is proved there, and old ones leave.

What must stay true: a version is sampled from only after its probe: the server's own logprobs of what it sampled for
fixed prompts lie within `tolerance` of what the trainer's module says of the same tokens. No request ever fails for a
swap: a version is unloaded only when nobody holds it (`using`).

Adapters lie in `folder/policy-v<update>`, written to a temporary folder and renamed; a restarted server reads them from
there again, so a folder goes only after its adapter was unloaded. The probe samples instead of asking for the logprobs
of a prompt: with LoRA on, vLLM 0.32 for the CPU dies of `prompt_logprobs`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import shutil
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lamer_graph.errors import ConfigError, ServeError
from lamer_graph.policies.base import run_sync
from lamer_graph.policies.fingerprint import BASE_FILE, base_fingerprint
from lamer_graph.policies.openai import OpenAIPolicy
from lamer_graph.serving.vllm import VllmServer
from lamer_graph.types import Completion, Message, Sampling
from lamer_trainers.errors import WeightSyncError
from lamer_trainers.learning.packing import read_alone
from lamer_trainers.learning.saving import saving, write_card
from lamer_trainers.learning.scoring import score
from lamer_trainers.sources.batches import version_name

PROBES = (
    "Act",
    "Episode 1  Open (1, 2)=1 (2, 2)=2  Closed (1, 1) (2, 1)  Act",
    "The last attempt failed. What went wrong, and what will you do instead?",
    "The box is left of you, the target is above it. Choose: up, down, left, right.",
)
"""What the server is asked after every swap."""
PROBE_TOKENS = 2
"""Sampled for each probe at temperature 1: one from a prefill, one from a decoding step."""
TOLERANCE = {"float32": 0.02, "bfloat16": 0.3}
"""Nats between server and trainer on any probe token, by the served type: 5 and more times what rounding makes, and far
below what wrong weights do (1.4 for a reload that mixed two versions)."""
DEATH_SHOWS_S = 60.0
"""How long after a failed request an ailing server may take to die."""
RESTART_S = 600.0


class Swap(NamedTuple):
    """One adapter brought to the server: seconds for each part, and the largest logprob difference of the probe."""

    update: int
    save: float
    load: float
    verify: float
    error: float

    @property
    def seconds(self) -> float:
        return self.save + self.load + self.verify

    def metrics(self) -> dict[str, float]:
        return {
            "time/swap": self.seconds,
            "swap/save": self.save,
            "swap/load": self.load,
            "swap/verify": self.verify,
            "swap/probe_error": self.error,
        }


class AdapterSync:
    """Keeps `server` on the PEFT `model`'s newest adapter.

    `push` brings a version, `using` lends a policy that samples from it. The newest `keep` versions stay loaded, so the
    server needs room for `keep + 1` adapters. `tolerance` is in nats; `copies` is how often the server has the weights,
    which it spreads its probes over; `card` is what the adapters' folders say of how they play. Raises WeightSyncError
    for a model without adapter or of another base than the server's.
    """

    def __init__(
        self,
        server: VllmServer,
        model: Any,
        folder: str | Path,
        *,
        keep: int = 1,
        tolerance: float = 0.02,
        copies: int = 1,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.server = server
        self.folder = Path(folder)
        self.swap: Swap | None = None
        """The last one."""
        self._model = model
        self._keep = keep
        self._tolerance = tolerance
        self._probes = PROBES * copies
        self._card = card
        self._base = _check_base(model, server)
        self._prober = server.policy(training=True)
        self._lock = threading.Lock()
        self._loaded: list[int] = []
        self._users: Counter[int] = Counter()
        self._proved_at = 0
        """The server's restarts when the newest version was last proved."""

    @property
    def newest(self) -> int | None:
        """The newest version that the server has."""
        return self._loaded[-1] if self._loaded else None

    def push(self, update: int) -> Swap | None:
        """Save the adapter as the version after `update` updates, load it and prove it; None if it was there already.

        A server that dies meanwhile is waited for, and what it brought back is proved again. Raises WeightSyncError if
        the server does not take the adapter or computes other numbers, CheckpointError if it cannot be saved.
        """
        if self.newest == update:
            if self.server.restarts != self._proved_at:
                self._prove(update)
            return None
        begun = time.perf_counter()
        path = self._save(update)
        saved = time.perf_counter()
        self._load(update, path)
        loaded = time.perf_counter()
        try:
            error = self._prove(update)
        except BaseException:
            with contextlib.suppress(ServeError):
                self.server.unload_adapter(version_name(update))
            raise
        with self._lock:
            self._loaded.append(update)
        self.swap = Swap(update, saved - begun, loaded - saved, time.perf_counter() - loaded, error)
        self._retire()
        return self.swap

    @contextlib.contextmanager
    def using(self) -> Iterator[OpenAIPolicy]:
        """A policy of the newest version, which stays loaded while this is open. Raises WeightSyncError before any."""
        with self._lock:
            if not self._loaded:
                raise WeightSyncError("no adapter was brought to the server yet: push one first")
            update = self._loaded[-1]
            self._users[update] += 1
        try:
            yield self.server.policy(version_name(update), training=True)
        finally:
            with self._lock:
                self._users[update] -= 1
            self._retire()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _save(self, update: int) -> Path:
        path = self.folder / version_name(update)
        fresh, old = (path.with_name(f".{path.name}.{kind}") for kind in ("new", "old"))
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
        with saving(fresh, new=True):
            fresh.mkdir(parents=True)
            # The hub would be asked whether the base's vocabulary has grown.
            self._model.save_pretrained(fresh, save_embedding_layers=False)
            (fresh / BASE_FILE).write_text(json.dumps(self._base))
            if self._card is not None:
                write_card(fresh, self._card)
            if path.exists():  # of a killed run; this server never read it
                path.rename(old)
            fresh.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        return path

    def _load(self, update: int, path: Path) -> None:
        """Load it, once more if the server died of it or before it."""
        restarts = self.server.restarts
        try:
            self.server.load_adapter(version_name(update), path)
            return
        except (ServeError, ConfigError) as error:
            if not self._died_since(restarts):
                raise WeightSyncError(f"the server did not take {version_name(update)}: {error}") from None
        try:
            self.server.wait_ready(RESTART_S)
            self.server.load_adapter(version_name(update), path)
        except ServeError as error:
            raise WeightSyncError(f"the server did not come back for {version_name(update)}: {error}") from None

    def _died_since(self, restarts: int) -> bool:
        """Whether the server has been started again since; one that is dying is waited for, a healthy one is not."""
        deadline = time.monotonic() + DEATH_SHOWS_S
        while self.server.restarts == restarts and self.server.alive and time.monotonic() < deadline:
            with contextlib.suppress(ServeError):
                self.server.wait_ready(0.01)
                break
            time.sleep(0.05)
        return self.server.restarts != restarts and self.server.alive

    def _prove(self, update: int) -> float:
        """Largest difference on the probes, in nats. Raises WeightSyncError beyond the tolerance."""
        restarts = self.server.restarts
        self._prober.model = version_name(update)
        answers = run_sync(_sample(self._prober, self._probes))
        worst = self._difference(answers)
        if not worst <= self._tolerance:
            raise WeightSyncError(
                f"vLLM's {version_name(update)} differs from the trained weights by {worst:.3g} nats on a probe "
                f"(tolerance {self._tolerance:g}): nothing was sampled with it; if served and trained types differ, "
                "raise server.tolerance, else this vLLM cannot serve this adapter"
            )
        self._proved_at = restarts
        return worst

    def _difference(self, answers: Sequence[Completion]) -> float:
        """Largest difference between the answers' logprobs and our own, nan where one is none; one forward pass."""
        device = next(self._model.parameters()).device
        computed, reading, _ = read_alone(answers)
        mode = self._model.training
        self._model.eval()
        try:
            with torch.no_grad():
                own = score(self._model, computed.to(device), reading.to(device)).logprobs.tolist()
        finally:
            self._model.train(mode)
        gaps = [
            abs(mine - theirs)
            for answer, line in zip(answers, own, strict=True)
            for mine, theirs in zip(line[: len(answer.token_ids)], answer.logprobs, strict=True)
        ]
        return max(gaps) if all(map(math.isfinite, gaps)) else math.nan

    def _retire(self) -> None:
        """Unload what is old and unused; what the server does not let go now is tried again at the next call."""
        with self._lock:
            old = [update for update in self._loaded[: -self._keep] if not self._users[update]]
            for update in old:
                self._loaded.remove(update)
        for update in old:
            try:
                self.server.unload_adapter(version_name(update))
            except ServeError:
                with self._lock:
                    self._loaded.insert(0, update)
                continue
            shutil.rmtree(self.folder / version_name(update), ignore_errors=True)


async def _sample(policy: OpenAIPolicy, probes: Sequence[str]) -> list[Completion]:
    def ask(number: int, text: str) -> Coroutine[Any, Any, Completion]:
        messages: list[Message] = [{"role": "user", "content": text}]
        return policy.generate(messages, Sampling(max_tokens=PROBE_TOKENS, seed=number))

    return await asyncio.gather(*(ask(number, text) for number, text in enumerate(probes)))


def _check_base(model: Any, server: VllmServer) -> dict[str, str]:
    """The fingerprint of the base of both. Raises WeightSyncError if they have two."""
    settings = getattr(model, "peft_config", None)
    if not settings:
        raise WeightSyncError("the model has no adapter: a running vLLM takes LoRA adapters, not weights; set `lora`")
    if not isinstance(server.model, Path):
        return {}
    trained = Path(settings[model.active_adapter].base_model_name_or_path or "")
    served = server.fingerprint
    if (trained / "config.json").is_file() and trained.resolve() != server.model:
        own = base_fingerprint(trained)
        for part, value in own.items():
            if served[part] != value:
                raise WeightSyncError(
                    f"the adapter's base {trained} has another {part} than the served model {server.model}; "
                    "serve the base that is trained"
                )
    return served
