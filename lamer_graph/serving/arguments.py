"""vLLM's command line: what a server is started with, and what a caller may add to it.

What must stay true: a server's logprobs, sampling numbers, prompts and names are as `vllm.VllmServer` promises, so
nothing that decides them is set twice; every device that is named is used. What a caller adds is checked against
vLLM's own parser, where it is installed, before anything starts.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lamer_graph.errors import ConfigError
from lamer_graph.serving.needs import LOAD_TIMEOUT_S, vllm_flavour

CPU_CONTEXT = 4096
"""Context served on a CPU unless asked for more: a long one would not fit the small key-value cache."""
BATCHED_TOKENS = 4096
"""Least token budget of one step of the CPU engine; a whole prompt must fit."""
_ONE_ADDRESS = "the server has one address here"
_EXACT = "logprobs must be those of the sampling that was asked for"
_TEMPLATE = "prompts are rendered as the policy's folder and card say (lamer-graph import --chat-template, --template)"
OURS = {
    "model": "that is the policy",
    "model_tag": "it is no option, and the model is the policy",
    "tokenizer": "a policy's tokenizer lies in its folder",
    "trust_remote_code": "no code from a model's folder is run",
    "served_model_name": "that is model_name (--model)",
    "host": _ONE_ADDRESS,
    "port": _ONE_ADDRESS,
    "uds": _ONE_ADDRESS,
    "root_path": _ONE_ADDRESS,
    "ssl_keyfile": "put a proxy in front of it",
    "ssl_certfile": "put a proxy in front of it",
    "api_key": "keys travel by environment (LAMER_API_KEY)",
    "config": "write its options out",
    "headless": _ONE_ADDRESS,
    "grpc": _ONE_ADDRESS,
    "api_server_count": "adapters are loaded by one process",
    "logprobs_mode": _EXACT,
    "generation_config": _EXACT,
    "override_generation_config": _EXACT,
    "seed": "a call's seed is the call's",
    "dtype": "that is dtype (server.dtype)",
    "max_model_len": "that is max_model_len (server.max_model_len, --max-model-len)",
    "gpu_memory_utilization": "that is gpu_memory (server.gpu_memory, --gpu-memory)",
    "tensor_parallel_size": "that is tensor_parallel (server.tensor_parallel, --tensor-parallel)",
    "data_parallel_size": "that is data_parallel (server.data_parallel, --data-parallel)",
    "pipeline_parallel_size": "devices are counted as tensor_parallel x data_parallel",
    "enable_lora": "that is max_adapters",
    "max_loras": "that is max_adapters",
    "max_lora_rank": "that is lora.rank",
    "lora_modules": "those are the adapters (--adapter)",
    "enable_sleep_mode": "that is server.placement",
    "chat_template": _TEMPLATE,
    "default_chat_template_kwargs": _TEMPLATE,
    "disable_uvicorn_access_log": "it is set already",
}
"""What a caller may not add, by vLLM's names, and why or where it is set."""
OURS_ON_CPU = {
    "enforce_eager": "it is set already on a CPU",
    "enable_chunked_prefill": "it kills the CPU's engine",
    "max_num_batched_tokens": "on a CPU it is as long as the longest prompt",
}
SHORT = {
    "-tp": "tensor_parallel_size",
    "-dp": "data_parallel_size",
    "-pp": "pipeline_parallel_size",
    "-asc": "api_server_count",
}


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What a server is started with; fields are those of `vllm.VllmServer`, `config` the model's own."""

    model: Path | str
    model_name: str
    config: Mapping[str, Any]
    host: str
    max_adapters: int
    max_lora_rank: int
    max_model_len: int | None
    can_sleep: bool
    template_args: Mapping[str, Any]
    dtype: str
    gpu_memory: float | None
    tensor_parallel: int
    data_parallel: int
    extra_args: tuple[str, ...]

    def computes_in(self, flavour: str) -> str:
        """What vLLM computes in; `auto`: as the weights are stored.

        float32 checkpoints (small ones, or trained whole) are exact on the CPU and bfloat16 on a GPU, where vLLM would
        choose float16.
        """
        if self.dtype != "auto":
            return self.dtype
        text = self.config.get("text_config", self.config)
        stored = text.get("dtype") or text.get("torch_dtype") or "float32"
        if stored != "float32" or not self.config:
            return "auto"
        return "float32" if flavour == "cpu" else "bfloat16"

    def argv(self, flavour: Literal["cpu", "gpu"], port: int, adapters: Mapping[str, Path]) -> list[str]:
        """The command that starts it on `port` with these adapters loaded."""
        argv = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        argv += ["--model", str(self.model), "--served-model-name", self.model_name]
        argv += ["--host", self.host, "--port", str(port)]
        argv += ["--logprobs-mode", "processed_logprobs", "--generation-config", "vllm", "--seed", "0"]
        argv += ["--disable-uvicorn-access-log", "--dtype", self.computes_in(flavour)]
        window = self.max_model_len
        if flavour == "cpu":
            window = window or min(CPU_CONTEXT, int(self.config.get("max_position_embeddings", CPU_CONTEXT)))
            # A prefill cut in two rewinds the request's seeded generator, which a CPU generator cannot do: one such
            # request (prompt beyond the batch's token budget) killed the engine.
            argv += ["--enforce-eager", "--no-enable-chunked-prefill"]
            argv += ["--max-num-batched-tokens", str(max(BATCHED_TOKENS, window))]
        if window is not None:
            argv += ["--max-model-len", str(window)]
        for flag, size in (
            ("--tensor-parallel-size", self.tensor_parallel),
            ("--data-parallel-size", self.data_parallel),
        ):
            argv += [flag, str(size)] if size > 1 else []
        if self.gpu_memory is not None:
            argv += ["--gpu-memory-utilization", str(self.gpu_memory)]
        if self.max_adapters:
            argv += ["--enable-lora", "--max-loras", str(self.max_adapters)]
            argv += ["--max-lora-rank", str(self.max_lora_rank)]
        if self.can_sleep:
            argv += ["--enable-sleep-mode"]
        if self.template_args:
            argv += ["--default-chat-template-kwargs", json.dumps(dict(self.template_args))]
        if adapters:
            argv += ["--lora-modules"]
            argv += [json.dumps({"name": name, "path": str(path)}) for name, path in adapters.items()]
        return [*argv, *self.extra_args]


# -- devices ----------------------------------------------------------------------------------------------------------


def check_parallel(
    tensor_parallel: int, data_parallel: int, devices: str | None, config: Mapping[str, Any] | None = None
) -> None:
    """Raises ConfigError for parallelism that this machine, the named `devices` or the model's heads do not have."""
    if tensor_parallel < 1 or data_parallel < 1:
        raise ConfigError("tensor_parallel and data_parallel must be at least 1")
    wanted, said = tensor_parallel * data_parallel, f"tensor_parallel {tensor_parallel} x data_parallel {data_parallel}"
    if wanted > 1 and vllm_flavour() == "cpu":
        raise ConfigError(f"{said} needs CUDA devices and vLLM's build for them: leave it out here")
    if devices is not None and (named := len(devices.split(","))) != wanted:
        raise ConfigError(
            f"devices {devices} are {named}, and {said} uses {wanted}: "
            + ("the others would do nothing; raise one of the two or name fewer" if named > wanted else "name as many")
        )
    text = (config or {}).get("text_config", config) or {}
    heads = text.get("num_attention_heads")
    if isinstance(heads, int) and heads % tensor_parallel:
        raise ConfigError(f"tensor_parallel {tensor_parallel} does not divide the model's {heads} attention heads")


# -- what a caller adds -----------------------------------------------------------------------------------------------


def check_extra(arguments: Sequence[str]) -> None:
    """Raises ConfigError for arguments that are ours to set, or that the installed vLLM does not know.

    Asking vLLM takes a process of its own, for some 15 s, once for the same arguments.
    """
    _refuse_ours(_named(arguments))
    if arguments and vllm_flavour() is not None:
        _refuse_ours(_parsed(tuple(arguments)))


def _named(arguments: Sequence[str]) -> set[str]:
    """The options in `arguments`, by vLLM's names where they are written out."""
    found = set()
    for argument in arguments:
        flag = re.split(r"[=.]", argument, maxsplit=1)[0]
        if flag in SHORT:
            found.add(SHORT[flag])
        elif flag.startswith("--"):
            name = flag[2:].replace("-", "_")
            found |= {name, name.removeprefix("no_")}
    return found


def _refuse_ours(names: set[str]) -> None:
    ours = OURS if vllm_flavour() == "gpu" else OURS | OURS_ON_CPU
    for name in sorted(names & ours.keys()):
        raise ConfigError(f"--{name.replace('_', '-')} is not an extra argument of a server: {ours[name]}")


@functools.cache
def _parsed(arguments: tuple[str, ...]) -> set[str]:
    """The options that vLLM's own parser finds in `arguments`, by its names. Raises ConfigError for what it refuses."""
    command = [sys.executable, "-c", _PARSES, json.dumps(arguments)]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:  # nothing is known: the server itself will tell
        return set()
    if asked.returncode == REFUSED:
        said = [line for line in asked.stderr.splitlines() if "error:" in line] or asked.stderr.splitlines()[-1:]
        reason = said[-1].partition("error:")[2].strip() if said else "no reason given"
        raise ConfigError(f"this vLLM does not take extra_args {' '.join(arguments)[:200]}: {reason[:300]}")
    return set(json.loads(asked.stdout.splitlines()[-1])) if asked.returncode == PARSED else set()


PARSED, REFUSED = 4, 3
_PARSES = f"""
import argparse, json, os, sys
try:
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    try:
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
    except ImportError:
        from vllm.entrypoints.openai.cli_args import make_arg_parser
    parser = make_arg_parser(FlexibleArgumentParser())
    for action in parser._actions:
        action.default = argparse.SUPPRESS
except Exception:
    os._exit(0)  # of another make: the server itself will tell
try:
    found = parser.parse_args(json.loads(sys.argv[1]))
except (SystemExit, Exception) as error:
    if not isinstance(error, SystemExit):
        print("error:", " ".join(str(error).split()), file=sys.stderr)
    sys.stderr.flush()
    os._exit({REFUSED})
print()
print(json.dumps(sorted(vars(found))), flush=True)
os._exit({PARSED})
"""
