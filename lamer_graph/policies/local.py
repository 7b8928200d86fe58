"""A policy in this process: a Hugging Face model, concurrent calls batched as they come, exact tokens and logprobs.

What must stay true: a Completion's tokens were all sampled from one version of the weights, and its logprobs are those
of the distribution they were sampled from. All torch work happens on one worker thread; callers of any event loop put a
request on its queue and are woken once per batch. Rows join and leave a running batch at token boundaries, so a long
reflection holds nobody up (continuous batching as in Orca, Yu et al., OSDI 2022).

`deterministic=True` trades speed for repeatability: every result depends on the request alone (see engine.py), so
a run repeats bit for bit on the same machine and library versions, whatever the order of arrival. The default promises
the distribution, not the bits: another batch shape may change the last digits of a logit.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import random
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lamer_graph.errors import ConfigError, MissingLibraryError, PolicyError, PolicyResponseError, PromptTooLongError

try:
    import torch
    import transformers as transformers
except ModuleNotFoundError as error:
    raise MissingLibraryError(
        f"a policy in this process needs torch and transformers ({error}): run `make setup`, or "
        "pip install 'lamer-graph[train]'; or let a server answer (OpenAIPolicy, --base-url)"
    ) from None

from lamer_graph.policies.base import Policy
from lamer_graph.policies.control import control_tokens_of
from lamer_graph.policies.engine import BROKEN, Engine, Row
from lamer_graph.policies.hub import folder_of
from lamer_graph.policies.identity import Origin, identity_of
from lamer_graph.policies.loading import check_folder, load_model, load_tokenizer, merged, origin_of
from lamer_graph.policies.prefixes import Prefixes
from lamer_graph.policies.rendering import Renderer
from lamer_graph.policies.sampling import token_logprobs
from lamer_graph.policies.shipped import card, taught_folding, taught_template
from lamer_graph.policies.stopping import Watch, check_stop
from lamer_graph.policies.tool_form import ToolForm
from lamer_graph.policies.vocabulary import check_words
from lamer_graph.types import Completion, Message, Sampling

LINGER_S = 0.001
"""How long the worker waits for the next request of callers that it has just answered."""
SMALL = 20_000_000
"""Parameters of a model that one thread serves best."""
IDLE_S = 30.0
"""An idle worker thread ends after this long; the next call starts another."""
CPU_CACHE_BYTES = 3 * 2**30
"""Keys and values on the CPU take at most this much."""
GPU_CACHE_SHARE = 0.3
"""Share of the free GPU memory that keys and values may take."""
KEPT_SHARE = 1 / 3
"""Of either, what is kept of prompts for later ones; the rest is for running rows."""
CLOSED = "this LocalPolicy is closed"


class LocalPolicy(Policy):
    """`path_or_model`: a folder in Hugging Face format, a hub id, or a loaded causal model (which needs `tokenizer`).

    `device=None` takes CUDA if there is one; `dtype=None` is float32 on the CPU and bfloat16 on a GPU. `adapter` is a
    PEFT folder that is merged into the weights. `max_batch` bounds the rows that run together, `threads` the torch
    threads of the worker (None: one for models under 20 M parameters, whose products are too small to share, else
    torch's default). `version` is what completions report as their policy version (default: the folder's name).
    `share_prefixes` keeps the keys and values of prompts for later ones that begin alike, as long as the weights are
    the same (None: of models from 20 M parameters, whose prompts cost more than the looking).
    Sampling computes in the weights' own type, whatever mixed precision a trainer of the same module computes in.
    `template_args` are arguments of the chat template and `fold_system` says whether the system's words go into the
    user's message (see rendering.py); None: as the adapter's or the model's card says, else no arguments, and folded
    where the template takes no system message (False is refused where the template refuses them). With `plays` False
    nothing is sampled here (a trainer's module whose answers a server gives), so models that cannot be sampled in this
    process may be loaded, too. A call takes as long as it takes: in this process nothing gets lost.
    Raises ConfigError. No code from the model's folder is run.
    """

    stops = True

    def __init__(
        self,
        path_or_model: Any,
        tokenizer: Any = None,
        *,
        device: str | None = None,
        dtype: str | None = None,
        max_batch: int = 128,
        deterministic: bool = False,
        adapter: str | Path | None = None,
        version: str | None = None,
        threads: int | None = None,
        template_args: Mapping[str, Any] | None = None,
        fold_system: bool | None = None,
        plays: bool = True,
        share_prefixes: bool | None = None,
    ) -> None:
        if dtype is not None and not isinstance(path_or_model, str | Path):
            raise ConfigError("dtype is for a folder's weights; a model that is given has a type: leave it out")
        if max_batch < 1 or (threads is not None and threads < 1):
            raise ConfigError("max_batch and threads must be at least 1")
        base = folder_of(path_or_model) if isinstance(path_or_model, str | Path) else None
        added = None if adapter is None else Path(adapter).expanduser()
        if base is None and tokenizer is None:
            raise ConfigError("LocalPolicy was given a model without its tokenizer")
        if base is not None:
            check_folder(base, plays=plays)
        named = added or base
        self.version = version or ("policy" if named is None else named.resolve().name)
        self._tokenizer = load_tokenizer(base) if tokenizer is None and base is not None else tokenizer
        # Before the weights, which may take minutes.
        cards = [place for place in (added, base or origin_of(self._tokenizer)) if place is not None]
        self.taught = next((about for place in cards if (about := card(place))), {})
        self._renderer = Renderer(
            self._tokenizer,
            taught_template(*cards) if template_args is None else template_args,
            fold_system=taught_folding(*cards) if fold_system is None else fold_system,
            name=self.version,
        )
        if fold_system is False and self._renderer.folds_system:
            raise ConfigError(
                f"the chat template of {self.version} refuses system messages, so their words are folded into the "
                "user's: fold_system=False cannot be had, leave it out"
            )
        self.template_args = self._renderer.template_args
        self.folds_system = self._renderer.folds_system
        if base is not None:
            self._model = load_model(base, device, dtype)
        else:
            self._model = path_or_model if device is None else path_or_model.to(device)
            check_words(len(self._tokenizer), self._model.get_input_embeddings().weight.shape[0], self.version)
        if added is not None:
            self._model = merged(self._model, added)
        self._model.eval()
        self._eos = _eos_ids(self._model, self._tokenizer)
        first: torch.Tensor = next(self._model.parameters())
        small = sum(parameter.numel() for parameter in self._model.parameters()) < SMALL
        if threads is None and small:
            threads = 1
        if deterministic and first.device.type == "cpu" and threads not in (None, 1):
            raise ConfigError(f"threads {threads} and deterministic exclude each other on a CPU: it takes one thread")
        # Split over several threads, a tensor's elements fall to other instructions at the seams.
        self._threads = 1 if deterministic and first.device.type == "cpu" else threads
        self.context_window = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        shares = not small if share_prefixes is None else share_prefixes
        self._plays = self._make_engine(max_batch, deterministic, first, shares) if plays else None
        self._origin = Origin.of(self, base, added)
        self.control_tokens = control_tokens_of(self._tokenizer)
        self._opening = self._renderer.opening
        self._queue: deque[Row] = deque()
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._busy = threading.Lock()
        self._pausers = 0
        self._worker: threading.Thread | None = None
        self._closed = False

    def _make_engine(self, max_batch: int, deterministic: bool, first: torch.Tensor, shares: bool) -> Engine:
        pad = self._tokenizer.pad_token_id
        room = _cache_tokens(self._model.config.get_text_config(), first)
        kept = int(room * KEPT_SHARE) if shares else 0
        return Engine(
            # The same weights and submodules, but a `forward` of its own: accelerate wraps the trained module's in
            # autocast, which gives float32 weights keys in float32 and values in 16 bits, and no cache holds both.
            copy.copy(self._model),
            eos=self._eos,
            pad=pad if pad is not None else min(self._eos),
            max_rows=max_batch,
            cache_tokens=room - kept,
            lockstep=deterministic,
            kept_tokens=kept,
        )

    @property
    def _engine(self) -> Engine:
        assert self._plays is not None
        return self._plays

    def __repr__(self) -> str:
        return f"LocalPolicy({self.version!r}, device='{self._model.device}')"

    # -- calls --------------------------------------------------------------------------------------------------------

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """One completion. Raises PromptTooLongError, and PolicyError if the weights or the machine fail."""
        prompt = self.encode(messages)
        assert self.context_window is not None
        room = self.context_window - len(prompt)
        if room < 1:
            raise PromptTooLongError(
                f"prompt of {len(prompt)} tokens exceeds the context of {self.context_window} of '{self.version}' by "
                f"{1 - room} (one is for the answer): shorten history and memory"
            )
        if self._plays is None:
            raise PolicyError(f"'{self.version}' was loaded without what samples here (plays=False)")
        _check(sampling)
        check_stop(sampling.stop)
        seed = random.getrandbits(62) if sampling.seed is None else sampling.seed
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Completion] = loop.create_future()
        watch = Watch(sampling.stop, self._said) if sampling.stop else None
        self._submit(Row(prompt, sampling, seed, min(sampling.max_tokens, room), owner=(loop, future), watch=watch))
        return await future

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        return len(self.encode(messages))

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the rendered chat prompt, generation prefix included."""
        return self._renderer.ids(messages)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of sampled tokens, special tokens left out."""
        return self._renderer.decode(token_ids)

    def tool_form(self, said: str, tools: Sequence[Mapping[str, Any]]) -> ToolForm | None:
        return self._renderer.tool_form(said, tools)

    def _said(self, token_ids: Sequence[int]) -> str:
        """The text of an answer."""
        return self._opening + self.decode(token_ids)

    def score(
        self, prompt: Sequence[Message] | Sequence[int], token_ids: Sequence[int], temperature: float = 1.0
    ) -> list[float]:
        """Logprobs (nats) of `token_ids` after `prompt` (messages or token ids) under the current weights.

        One forward pass without cache, on the caller's thread: the probe that shows whether a server or an update
        means the same numbers.
        """
        ids = [part for part in prompt if isinstance(part, int)]
        if len(ids) < len(prompt):
            ids = self.encode([part for part in prompt if not isinstance(part, int)])
        whole = torch.tensor([[*ids, *token_ids]], device=self._engine.device)
        with torch.inference_mode():
            output = self._engine.model(input_ids=whole[:, :-1], use_cache=False, logits_to_keep=len(token_ids))
            return token_logprobs(output.logits[0], whole[0, len(ids) :], temperature).tolist()

    # -- weights ------------------------------------------------------------------------------------------------------

    @property
    def sampled_tokens(self) -> int:
        """How many tokens it has sampled so far, of answers under way, too."""
        return 0 if self._plays is None else self._plays.sampled

    @property
    def prefixes(self) -> Prefixes | None:
        """What is kept of prompts for later ones; None where nothing is."""
        return None if self._plays is None else self._plays.prefixes

    @property
    def model(self) -> Any:
        """The module that samples. A trainer that shares it updates it inside `paused()` only."""
        return self._model

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    @contextlib.contextmanager
    def paused(self) -> Iterator[Any]:
        """Hold the worker between completions and yield the model; new requests wait.

        Running rows are finished first, so that no completion mixes two versions. Set `version` inside.
        """
        with self._lock:
            self._pausers += 1
        try:
            with self._busy:
                if self._plays is not None:
                    self._plays.release()
                yield self._model
                self._model.eval()
                if self._plays is not None:
                    self._plays.refresh(changed=True)
        finally:
            with self._lock:
                self._pausers -= 1
            self._wake.set()

    def set_weights(self, state_dict: Mapping[str, torch.Tensor], version: str) -> None:
        """Replace the named weights between completions; the others stay, e.g. the base under an adapter.

        Raises ConfigError if a name or shape does not fit, with nothing replaced.
        """
        with self.paused() as model:
            own = model.state_dict()
            for name, value in state_dict.items():
                if name not in own:
                    raise ConfigError(f"weights do not fit the model: it has none of the name '{name[:100]}'")
                if own[name].shape != value.shape:
                    shapes = f"{tuple(own[name].shape)}, not {tuple(value.shape)}"
                    raise ConfigError(f"weights do not fit the model: '{name}' is of shape {shapes}")
            model.load_state_dict(state_dict, strict=False)
            self.version = version

    def identity(self) -> dict[str, Any] | None:
        return identity_of(self, self._origin)

    async def aclose(self) -> None:
        """End the worker; waiting calls get a PolicyError."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            worker = self._worker
        self._wake.set()
        if worker is not None:
            worker.join()

    # -- the worker ---------------------------------------------------------------------------------------------------

    def _submit(self, row: Row) -> None:
        with self._lock:
            if self._closed:
                raise PolicyError(CLOSED)
            self._queue.append(row)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="lamer-local-policy", daemon=True)
                self._worker.start()
        if not self._wake.is_set():
            self._wake.set()

    def _work(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        while True:
            called = self._wake.wait(IDLE_S)
            self._wake.clear()
            with self._lock:
                if self._closed or (not called and not self._queue):
                    self._worker = None
                    leftovers = list(self._queue)
                    self._queue.clear()
                    break
            with self._busy, torch.inference_mode():
                self._engine.refresh()
                self._serve()
        _fail(leftovers, CLOSED)

    def _serve(self) -> None:
        """Run until nothing runs and nothing may start."""
        owed = 0
        while not self._closed:
            joining: list[Row] = []
            try:
                joining = self._take()
                if joining:
                    owed += self._deliver(self._engine.admit(joining)) - len(joining)
                # Callers that were just answered come back within a moment; a fuller batch costs less per row.
                blocked = not joining and bool(self._queue)
                if owed > 0 and self._engine.open and not blocked and not self._pausers:
                    self._wake.clear()
                    if self._queue or self._wake.wait(LINGER_S):
                        continue
                owed = 0
                if self._engine.rows:
                    owed = self._deliver(self._engine.step())
                elif not joining:
                    return
            except Exception as error:
                _fail([*self._engine.clear(), *joining], f"sampling failed: {type(error).__name__}: {error}")
        _fail(self._engine.clear(), CLOSED)

    def _take(self) -> list[Row]:
        """Waiting rows that join now; those whose caller has gone are dropped."""
        if self._pausers or not self._queue:
            return []
        with self._lock:
            chosen = self._engine.admissible(list(self._queue))
            taken = set(map(id, chosen))
            self._queue = deque(row for row in self._queue if id(row) not in taken)
        return [row for row in chosen if not row.owner[1].cancelled()]

    def _deliver(self, rows: list[Row]) -> int:
        """Hand results to their loops, one wake-up per loop; how many there were."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Completion], Completion | PolicyError]]] = {}
        for row in rows:
            loop, future = row.owner
            by_loop.setdefault(loop, []).append((future, self._result(row)))
        for loop, results in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                loop.call_soon_threadsafe(_resolve, results)
        return len(rows)

    def _result(self, row: Row) -> Completion | PolicyError:
        if row.finish == BROKEN or row.finish is None:
            return PolicyError(f"'{self.version}' gave logits that are not finite: its weights are broken")
        stopped = None if row.watch is None else row.watch.text
        text = self._said(row.tokens) if stopped is None else stopped
        return Completion(text, row.prompt, row.tokens, row.logprobs, self.version, row.finish)


def _resolve(results: list[tuple[asyncio.Future[Completion], Completion | PolicyError]]) -> None:
    """On the futures' own loop: set them, unless their callers have gone or were answered already."""
    for future, result in results:
        if future.done():
            continue
        if isinstance(result, Completion):
            future.set_result(result)
        else:
            future.set_exception(result)


def _fail(rows: Sequence[Row], reason: str) -> None:
    line = " ".join(reason.split())[:300]
    for row in rows:
        if row.owner is not None:
            loop, future = row.owner
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_resolve, [(future, PolicyError(line))])


def _check(sampling: Sampling) -> None:
    """Raises PolicyResponseError for numbers that no distribution has, as a server would with a 400."""
    if not (sampling.temperature >= 0 and 0 < sampling.top_p <= 1 and sampling.top_k >= 0 and sampling.max_tokens >= 1):
        raise PolicyResponseError(
            f"sampling needs temperature >= 0, 0 < top_p <= 1, top_k >= 0 and max_tokens >= 1, not {sampling.to_json()}"
        )


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends an answer: the tokenizer's and the generation config's, as vLLM takes them."""
    stored = model.generation_config.eos_token_id if model.generation_config is not None else None
    listed = stored if isinstance(stored, list) else [stored]
    found = frozenset(token for token in (*listed, tokenizer.eos_token_id) if token is not None)
    if not found:
        raise ConfigError("neither tokenizer nor generation config name an end-of-answer token")
    return found


def _cache_tokens(config: Any, parameter: torch.Tensor) -> int:
    """How many tokens of keys and values fit the memory set aside for them."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    per_token: int = 2 * config.num_hidden_layers * heads * head_dim * parameter.element_size()
    budget = CPU_CACHE_BYTES
    if parameter.device.type == "cuda":
        budget = int(torch.cuda.mem_get_info(parameter.device)[0] * GPU_CACHE_SHARE)
    return max(1, budget // per_token)
