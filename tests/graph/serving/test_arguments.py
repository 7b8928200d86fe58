"""What a caller adds to vLLM's command, and devices: what is ours is not set twice, and every device is used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command_line import Cli
from lamer_graph.errors import ConfigError
from lamer_graph.serving import arguments, needs
from lamer_graph.serving.arguments import OURS, OURS_ON_CPU, SHORT, check_extra, check_parallel
from lamer_graph.serving.vllm import INSTALL_HINT, VllmServer, vllm_flavour


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with vLLM for GPUs, whose parser is not asked."""
    for module in (arguments, needs):
        monkeypatch.setattr(module, "vllm_flavour", lambda: "gpu")
    monkeypatch.setattr(needs, "_least_free", lambda devices: None)
    monkeypatch.setattr(arguments, "_parsed", lambda given: set())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--dtype", "float16"], "--dtype is not an extra argument of a server: that is dtype"),
        (["--gpu_memory_utilization=0.5"], r"--gpu-memory-utilization .*server\.gpu_memory"),
        (["-tp", "2"], r"--tensor-parallel-size .*server\.tensor_parallel"),
        (["--no-enable-lora"], "--enable-lora .* max_adapters"),
        (["--chat-template", "x.jinja"], "lamer-graph import --chat-template"),
        (["--trust-remote-code"], "no code from a model's folder is run"),
        (["--override-generation-config.top_k", "3"], "logprobs must be those of the sampling that was asked for"),
        (["--enforce-eager"], "it is set already on a CPU"),
        (["--config", "all.yaml"], "write its options out"),
    ],
)
def test_what_is_set_here_is_not_set_twice(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], says: str
) -> None:
    monkeypatch.setattr(arguments, "_parsed", lambda given: pytest.fail("nobody need ask vLLM"))
    with pytest.raises(ConfigError, match=says) as caught:
        VllmServer(tiny_model_dir, extra_args=given)
    assert "\n" not in str(caught.value)


@pytest.mark.slow  # it loads all of vLLM; what it refuses is tried by default
def test_vllms_own_parser_judges_the_rest() -> None:
    if vllm_flavour() is None:
        pytest.skip(INSTALL_HINT)
    check_extra(["--max-num-seqs", "8", "--block_size=16"])
    with pytest.raises(ConfigError, match=r"does not take extra_args --no-such-option 3: .*--no-such-option"):
        check_extra(["--no-such-option", "3"])
    with pytest.raises(ConfigError, match=r"does not take extra_args --max-num-seqs many: .*invalid.*'many'"):
        check_extra(["--max-num-seqs", "many"])
    with pytest.raises(ConfigError, match="it is no option, and the model is the policy"):
        check_extra(["max-num-seqs=8"])
    with pytest.raises(ConfigError, match=r"server\.gpu_memory"):  # argparse takes what it can complete
        check_extra(["--gpu-memory-util", "0.5"])


KNOWS = """
import json
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
print(json.dumps([action.dest for action in make_arg_parser(FlexibleArgumentParser())._actions]))
"""


def test_what_is_ours_has_vllms_names() -> None:
    if vllm_flavour() is None:
        pytest.skip(INSTALL_HINT)
    said = subprocess.run([sys.executable, "-c", KNOWS], capture_output=True, text=True, check=True).stdout
    assert (OURS | OURS_ON_CPU).keys() | {*SHORT.values()} <= set(json.loads(said.splitlines()[-1]))


def test_what_is_added_comes_last_and_parallelism_is_said(tiny_model_dir: Path, gpu: None) -> None:
    options: dict[str, Any] = {"devices": "0,1,2,3", "tensor_parallel": 2, "data_parallel": 2, "gpu_memory": 0.7}
    argv = VllmServer(tiny_model_dir, **options, extra_args=["--max-num-seqs", "8"])._argv()
    assert argv[-2:] == ["--max-num-seqs", "8"]
    for flag, value in {"--tensor-parallel-size": "2", "--data-parallel-size": "2"}.items():
        assert argv[argv.index(flag) + 1] == value
    assert argv[argv.index("--gpu-memory-utilization") + 1] == "0.7"
    plain = VllmServer(tiny_model_dir)._argv()
    assert not {"--tensor-parallel-size", "--data-parallel-size", "--gpu-memory-utilization"} & set(plain)


@pytest.mark.parametrize(
    ("parallel", "devices", "says"),
    [
        ((1, 1), "0,1", "devices 0,1 are 2, and .* uses 1: the others would do nothing"),
        ((2, 1), "0,1,2", "are 3, and tensor_parallel 2 x data_parallel 1 uses 2"),
        ((2, 2), "0,1", "are 2, and .* uses 4: name as many"),
        ((3, 1), None, "tensor_parallel 3 does not divide the model's 4 attention heads"),
        ((0, 1), None, "must be at least 1"),
    ],
)
def test_devices_and_parallelism_are_as_many(
    tiny_model_dir: Path, gpu: None, parallel: tuple[int, int], devices: str | None, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        VllmServer(tiny_model_dir, devices=devices, tensor_parallel=parallel[0], data_parallel=parallel[1])


def test_parallelism_needs_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "vllm_flavour", lambda: "cpu")
    with pytest.raises(ConfigError, match="tensor_parallel 2 x data_parallel 1 needs CUDA devices"):
        check_parallel(2, 1, None)
    check_parallel(1, 1, None)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("serve", "--out", "made", "--", "--no-such-option"), ("train",)])
def test_what_vllm_does_not_take_is_one_line_before_any_work(
    cli: Cli, tiny_model_dir: Path, arguments: tuple[str, ...]
) -> None:
    if vllm_flavour() is None:
        pytest.skip(INSTALL_HINT)
    if arguments[0] == "serve":
        outcome = cli("serve", "--policy", tiny_model_dir, *arguments[1:])
    else:
        changes = ("lora.rank=4", "optimise.old_logprobs=recomputed", "server.extra_args=[--no-such-option]")
        outcome = cli("train", "--preset", "minesweeper-cpu", "--out", "made", f"policy={tiny_model_dir}", *changes)
    assert outcome.code == 2
    assert "does not take extra_args --no-such-option" in outcome.error_line
    assert not Path("made").exists()
