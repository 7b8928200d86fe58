"""What a training run will take: calls, tokens, memory and time of an update, before anything is loaded or started.

What must stay true: every number says what it rests on, and what depends on the policy's behaviour is a range. Its low
end is play with random admissible actions and the shortest answers that name an action, its high end uses every turn
and `collect.max_tokens`. Prompts are those of the random play, in tokens of the policy's tokenizer where its folder is
here, else at `CHARS_PER_TOKEN`. Memory is what is allocated, a server's what it reserves; where that is too little, or
the device is, a warning says so.

Arithmetic per token of a transformer with P parameters (Kaplan et al., arXiv 2001.08361, table 1): 2 P to run it, 6 P
to train it (8 P where activations are computed again). Decoding reads all weights once per step of the whole batch.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lamer_envs import make
from lamer_envs.base import Env
from lamer_graph.policies.loading import check_folder, renderer_of
from lamer_graph.policies.local import CPU_CACHE_BYTES, GPU_CACHE_SHARE
from lamer_graph.policies.shipped import is_policy
from lamer_graph.trial.prompts import Remembered, Turn
from lamer_graph.types import Message
from lamer_trainers.errors import TrainingConfigError
from lamer_trainers.runfile import RunFile
from lamer_trainers.sources.served import gpu_share

CHARS_PER_TOKEN = 3.5
PLAYED = 16
"""Tasks that are played at random to measure prompts."""
GIB = 2**30
VLLM_SHARE = 0.92
"""What vLLM 0.32 reserves of a device unless it is told (`gpu_memory_utilization`, vllm/config/cache.py)."""
VLLM_BESIDES = 4 * GIB
"""What vLLM takes on a GPU beside weights, keys and values: activations and logits of its largest step, CUDA graphs,
adapters. A rule of thumb, not measured here."""


@dataclass(frozen=True)
class Shape:
    """What size a decoder-only transformer with a gated feed-forward has."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool

    @property
    def parameters(self) -> int:
        """Weights, without norms."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        block = attention + 3 * self.hidden * self.ffn
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.layers * block

    @property
    def body(self) -> int:
        """Weights without an untied head, which a critic leaves out."""
        return self.parameters - (0 if self.tied else self.vocabulary * self.hidden)

    def adapter(self, rank: int) -> int:
        """Weights of a LoRA of that rank on all linear layers but the head."""
        h, q, kv = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        sides = (h + q) + 2 * (h + kv) + (q + h) + 3 * (h + self.ffn)
        return self.layers * rank * sides

    @property
    def cache_bytes(self) -> int:
        """Of one token in the key-value cache, in 16 bits."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim


KNOWN = {
    # From the models' public configuration files.
    "Qwen/Qwen3-4B": Shape(36, 2560, 9728, 32, 8, 128, 151_936, tied=True),
    "meta-llama/Llama-3.1-8B-Instruct": Shape(32, 4096, 14_336, 32, 8, 128, 128_256, tied=False),
}


@dataclass(frozen=True)
class Device:
    """Sustained arithmetic in FLOP/s, memory traffic in bytes/s and memory in bytes, as used here.

    Of a GPU's memory the contexts of two processes are taken off; None: it is the machine's, which is not looked at.
    """

    flops: float
    bandwidth: float
    says: str
    memory: float | None = None


DeviceName = Literal["cpu", "a100", "h100", "h200"]
_SHARE = 0.4
DEVICES: dict[str, Device] = {
    "cpu": Device(7e10, 2e10, "one CPU core, about what the preset minesweeper-cpu gets"),
    "a100": Device(312e12 * _SHARE, 2.0e12 * _SHARE, "one A100 of 80 GB at 40% of its data sheet", 78 * GIB),
    "h100": Device(989e12 * _SHARE, 3.35e12 * _SHARE, "one H100 at 40% of its data sheet", 78 * GIB),
    "h200": Device(989e12 * _SHARE, 4.8e12 * _SHARE, "one H200 at 40% of its data sheet", 138 * GIB),
}


@dataclass(frozen=True)
class Plan:
    """A run's needs. Ranges are (shortest answers, longest answers).

    `server_gib` is what the sampler needs, `reserved_gib` what a vLLM takes for it (None: no share of a device).
    """

    calls: tuple[int, int]
    prompt_tokens_mean: float
    prompt_tokens_max: int
    tokens_measured: bool
    answer_tokens: tuple[int, int]
    tokens: tuple[int, int]
    parameters: int
    trained_parameters: int
    trainer_gib: float
    server_gib: float
    reserved_gib: float | None
    placement: str
    peak_gib: float
    peak_says: str
    device: str
    device_gib: float | None
    device_says: str
    collect_seconds: tuple[float, float]
    train_seconds: tuple[float, float]
    updates: int
    hours: tuple[float, float]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(run: RunFile, device: DeviceName | None = None) -> Plan:
    """What `run` will take on `device` (default: cpu for models under 100 M parameters, else h100).

    Raises TrainingConfigError for a policy whose size cannot be known here, ConfigError for one that cannot play here.
    """
    if is_policy(Path(run.policy)):
        check_folder(Path(run.policy), plays=run.plays_here)
    shape, count = shape_of(run.policy), tokens_of(run.policy, run.template_args)
    chosen = device or ("cpu" if shape.parameters < 1e8 else "h100")
    speed = DEVICES[chosen]
    collect = run.collect
    turns = collect.max_turns or make(collect.env).max_turns
    reflections = collect.max_episodes - 1 if collect.contents in ("reflection", "both") else 0
    most = collect.max_episodes * turns + reflections
    trials = collect.tasks * collect.trials
    prompts, shortest = measure(run, count or _by_characters)
    calls = (round(trials * len(prompts) / PLAYED), trials * most)
    mean, longest = sum(prompts) / len(prompts), max(prompts)
    answers = (shortest, collect.max_tokens)
    tokens = (round(calls[0] * (mean + answers[0])), round(calls[1] * (mean + answers[1])))
    parameters = shape.parameters
    trained = shape.adapter(run.lora.rank) if run.lora else parameters
    waves = -(-trials // run.concurrency)
    trainer = _trainer(run, shape, speed)
    sampler = _sampler(run, shape, longest + answers[1], speed)
    placement, peak, peak_says = _placed(run, trainer, sampler)
    # Old logprobs are one more forward pass.
    backward = 8 if run.optimise.gradient_checkpointing else 6
    passes = run.optimise.passes * backward + (2 if run.optimise.old_logprobs == "recomputed" else 0)
    collecting = tuple(
        2 * parameters * total / speed.flops + made / trials * waves * answer * sampler.weights / speed.bandwidth
        for total, made, answer in zip(tokens, calls, answers, strict=True)
    )
    if run.logs:  # they are read; how many calls theirs have is not looked up
        collecting = (0.0, 0.0)
    training = tuple(passes * parameters * total / speed.flops for total in tokens)
    if run.pipeline:
        whole = tuple(max(a, b) for a, b in zip(collecting, training, strict=True))
    else:
        whole = tuple(a + b for a, b in zip(collecting, training, strict=True))
    return Plan(
        calls=calls,
        prompt_tokens_mean=round(mean, 1),
        prompt_tokens_max=longest,
        tokens_measured=count is not None,
        answer_tokens=answers,
        tokens=tokens,
        parameters=parameters,
        trained_parameters=trained,
        trainer_gib=trainer.total / GIB,
        server_gib=sampler.needs / GIB,
        reserved_gib=None if sampler.reserved is None else sampler.reserved / GIB,
        placement=placement,
        peak_gib=peak / GIB,
        peak_says=peak_says,
        device=chosen,
        device_gib=None if speed.memory is None else speed.memory / GIB,
        device_says=speed.says,
        collect_seconds=(collecting[0], collecting[1]),
        train_seconds=(training[0], training[1]),
        updates=run.optimise.updates,
        hours=(whole[0] * run.optimise.updates / 3600, whole[1] * run.optimise.updates / 3600),
        warnings=(*_window_warnings(run, longest), *_memory_warnings(run, sampler, peak, speed)),
    )


class TrainerBytes(NamedTuple):
    """What stays, what one pass takes besides, and a copy of what it changes."""

    held: float
    passing: float
    changed: float

    @property
    def total(self) -> float:
        return self.held + self.passing


class SamplerBytes(NamedTuple):
    """Weights, keys and values if all calls are at their longest at once, and what a vLLM has.

    A vLLM on a GPU takes what it reserves, whatever it needs.
    """

    weights: float
    cache: float
    besides: float = 0.0
    reserved: float | None = None

    @property
    def needs(self) -> float:
        return self.weights + self.cache + self.besides

    @property
    def takes(self) -> float:
        return self.needs if self.reserved is None else self.reserved


def _trainer(run: RunFile, shape: Shape, device: Device) -> TrainerBytes:
    """Weights, for what is trained gradients and Adam's two moments, all float32; PPO's critic; activations and logits.

    With `kl` there is a reference of what is trained. The critic trains a whole body in float32, without gradient
    checkpointing. On a GPU autocast makes 16-bit copies of what is trained.
    """
    optimise = run.optimise
    weights = shape.parameters * _weight_size(run, device)
    changed = 4 * (shape.adapter(run.lora.rank) if run.lora else shape.parameters)
    held = weights + (4 if run.lora else 3) * changed + (changed if optimise.kl else 0)
    wide, copies = (4, 0.0) if device.memory is None else (2, changed / 2)
    batch = optimise.micro_batch_tokens
    block = batch * (10 * shape.hidden + 4 * shape.ffn)
    kept = optimise.gradient_checkpointing
    activations = wide * (block + batch * shape.layers * shape.hidden if kept else shape.layers * block)
    passing = activations + batch * shape.vocabulary * 4 * 2 + copies
    if optimise.algorithm == "ppo":
        held += 4 * shape.body * 4
        passing = max(passing, shape.layers * block * 4)
    return TrainerBytes(held, passing, changed)


def _weight_size(run: RunFile, device: Device) -> int:
    """Bytes of one of the policy's weights, as `loop.make_policy` loads them: 16 bits for a frozen base on a GPU."""
    return 2 if run.lora and device.memory is not None else 4


def _sampler(run: RunFile, shape: Shape, length: int, device: Device) -> SamplerBytes:
    """`concurrency` calls of `length` tokens. In process keys and values are of the weights' type and bounded."""
    server, tokens = run.server, run.concurrency * length
    if server is None:
        size = _weight_size(run, device)
        weights = shape.parameters * size
        most = CPU_CACHE_BYTES if device.memory is None else GPU_CACHE_SHARE * max(0.0, device.memory - weights)
        return SamplerBytes(weights, min(tokens * shape.cache_bytes * size / 2, most))
    size = 4 if server.dtype == "float32" or (server.dtype == "auto" and device.memory is None) else 2
    weights, cache = shape.parameters * size, tokens * shape.cache_bytes * size / 2
    if device.memory is None:
        return SamplerBytes(weights, cache)
    share = gpu_share(server, cuda=True) or VLLM_SHARE
    return SamplerBytes(weights, cache, VLLM_BESIDES, share * device.memory)


def _placed(run: RunFile, trainer: TrainerBytes, sampler: SamplerBytes) -> tuple[str, float, str]:
    """Where trainer and sampler are, the bytes that the fullest device needs at once, and how they come about."""
    if run.server is None:
        if run.pipeline:
            copied = sampler.weights + trainer.changed
            return "in process", trainer.total + copied + sampler.cache, "the sampler has a copy of the weights"
        return "in process", trainer.total + sampler.cache, "weights are shared"
    reserved = "" if sampler.reserved is None else f"; the server reserves {sampler.reserved / GIB:.1f} GiB"
    if run.server.placement == "colocated":
        return (
            "colocated",
            max(trainer.total, trainer.held + sampler.takes),
            f"in turns: the trainer's weights and states stay, the server's go{reserved}",
        )
    if run.server.devices is not None:
        says = f"on two devices, the server on {run.server.devices}{reserved}"
        return "apart", max(trainer.total, sampler.takes), says
    return "apart", trainer.total + sampler.takes, f"both at once on one device{reserved}"


def _memory_warnings(run: RunFile, sampler: SamplerBytes, peak: float, device: Device) -> list[str]:
    """What does not fit into the server's reservation, or on the device."""
    found: list[str] = []
    if sampler.reserved is not None and sampler.needs > sampler.reserved:
        says = (
            f"the server needs {sampler.needs / GIB:.1f} GiB for {run.concurrency} of the longest calls at once and "
            f"reserves {sampler.reserved / GIB:.1f} GiB: "
        )
        left = int((sampler.reserved - sampler.weights - sampler.besides) / sampler.cache * run.concurrency)
        if left < 1:
            found.append(says + "vLLM will not start; raise server.gpu_memory")
        else:
            found.append(says + f"only {left} fit, others wait; raise server.gpu_memory or lower concurrency")
    if device.memory is not None and peak > device.memory:
        found.append(
            f"{peak / GIB:.1f} GiB do not fit on a device of {device.memory / GIB:.0f} GiB: lower {_smaller(run)}"
        )
    return found


def _smaller(run: RunFile) -> str:
    """What to make smaller where a device is too small."""
    if run.server is not None and run.server.devices is None:
        return "server.gpu_memory or optimise.micro_batch_tokens, or give the server a device (server.devices)"
    if run.lora is None:
        return "optimise.micro_batch_tokens, or train an adapter (lora.rank)"
    return "optimise.micro_batch_tokens"


def _window_warnings(run: RunFile, longest: int) -> list[str]:
    window = run.server.max_model_len if run.server else None
    needed = longest + run.collect.max_tokens
    if window is not None and needed > window:
        return [
            f"prompts of up to {longest} tokens and answers of {run.collect.max_tokens} exceed server.max_model_len "
            f"{window}: oldest turns will be left out; {needed} would hold all"
        ]
    return []


def shape_of(policy: str) -> Shape:
    """The size of a model folder, or of one of the known models. Raises TrainingConfigError."""
    path = Path(policy) / "config.json"
    try:
        config: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        config = config.get("text_config", config)
    except (OSError, ValueError):
        if policy in KNOWN:
            return KNOWN[policy]
        raise TrainingConfigError(
            f"policy '{policy}' is neither a folder with a config.json nor one of {', '.join(KNOWN)}: download it first"
        ) from None
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        return Shape(
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            ffn=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads", heads)),
            head_dim=int(config.get("head_dim") or hidden // heads),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", True)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingConfigError(f"{path} is not of a decoder-only transformer known here: it lacks {error}") from None


Count = Callable[[Sequence[Message]], int]


def tokens_of(policy: str, template_args: Mapping[str, Any] | None = None) -> Count | None:
    """Counts a prompt's tokens as the policy does, chat template included; None where its tokenizer is not here."""
    if not is_policy(Path(policy)):
        return None
    renderer = renderer_of(policy, template_args)
    return lambda messages: len(renderer.ids(messages))


def _by_characters(messages: Sequence[Message]) -> int:
    return round(sum(len(message["content"]) for message in messages) / CHARS_PER_TOKEN)


def measure(run: RunFile, count: Count) -> tuple[list[int], int]:
    """Tokens of every prompt of `PLAYED` trials of random admissible play, and of the shortest answer."""
    collect, rng = run.collect, random.Random(0)
    env = make(collect.env)
    prompts = collect.prompts(env)
    found: list[int] = []
    shortest: list[int] = []
    seeds = env.seeds(collect.split)
    memory: list[Remembered] = []
    for _ in range(PLAYED):
        start = env.reset(next(seeds))
        others = [replace(record, own=False) for record in memory] if collect.scope == "tasks" else []
        memory = (others * collect.k)[: collect.k]
        for episode in range(1, collect.max_episodes + 1):
            turns: list[Turn] = []
            state, over = start, False
            while not over:
                messages = prompts.act(prompts.view(state, episode, tuple(turns), memory))
                found.append(count(messages))
                action = _some_action(env, state, rng)
                said = Message(role="user", content=prompts.action_answer(action))
                shortest.append(max(2, count([said]) - count([Message(role="user", content="")])))
                step = env.step(state, action)
                turns.append(Turn(env.observe(state), action, env.outcome(state, action, step)))
                state, over = step.state, step.done or len(turns) >= prompts.turns
            if step.success:
                break
            last = prompts.view(state, episode).observation
            if collect.contents in ("trajectory", "both"):
                memory.append(Remembered("trajectory", prompts.trajectory(turns, last), episode))
            if collect.contents in ("reflection", "both"):
                memory.append(Remembered("reflection", "x" * min(200, collect.max_tokens), episode))
    return found, min(shortest)


def _some_action(env: Env, state: Any, rng: random.Random) -> str:
    """An admissible action; of an environment that lists none, its weak player's or else an invalid one."""
    if env.offers("admissible"):
        return rng.choice(env.admissible(state))
    return env.weak(state, rng) if env.offers("weak") else "?"
