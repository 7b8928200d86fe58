"""Weights that do not fit the memory: how much is needed and how much there is, on every way, before any is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import Cli
from lamer_graph.errors import ConfigError
from lamer_graph.policies import loading, room
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.room import GIB, free_bytes, weight_bytes
from lamer_graph.serving import arguments, needs, vllm
from lamer_graph.serving.vllm import VllmServer


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 1 MiB of free memory, on which nothing may be loaded."""
    monkeypatch.setattr(room, "free_bytes", lambda place="cpu": 2**20)
    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", None)


def test_what_weights_take_is_what_is_loaded(tiny_model_dir: Path) -> None:
    model = LocalPolicy(tiny_model_dir).model
    stored = sum(weight.numel() for weight in model.parameters())
    assert weight_bytes(tiny_model_dir) == weight_bytes(tiny_model_dir, 4) == 4 * stored
    assert weight_bytes(tiny_model_dir, 2) == 2 * stored


@pytest.mark.usefixtures("full")
def test_in_process_the_error_says_how_much_is_needed_and_how_much_there_is(tiny_model_dir: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"tiny-random in float32 needs 0\.0 GiB of memory on cpu, where 0\.0 GiB are free"
    ):
        LocalPolicy(tiny_model_dir)


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("eval", "--env", "minesweeper:4x4-3", "--tasks", "1", "--out", "made", "--policy"), "in float32 needs"),
        (("serve", "--out", "made", "--policy"), "a server of"),
        (("train", "--preset", "minesweeper-cpu", "--out", "made", "policy="), "training"),
        (("train", "--preset", "minesweeper-cpu-lora", "--out", "made", "policy="), "training"),
        (("import", "--out", "made"), "in float32 needs"),
    ],
    ids=["eval", "serve", "train", "train an adapter", "import"],
)
def test_what_does_not_fit_is_one_line_before_any_work(
    cli: Cli, tiny_model_dir: Path, arguments: tuple[str, ...], what: str
) -> None:
    if arguments[0] == "serve" and needs.vllm_flavour() != "cpu":
        pytest.skip("vLLM for the CPU is not installed")
    *given, last = arguments
    outcome = cli(*given, *([f"{last}{tiny_model_dir}"] if last.endswith("=") else [last, tiny_model_dir]))
    assert outcome.code == 2
    assert what in outcome.error_line
    assert "0.0 GiB are free" in outcome.error_line
    assert not Path("made").exists()


def test_a_gpu_needs_room_for_its_share_of_the_weights(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (arguments, needs, vllm):
        monkeypatch.setattr(module, "vllm_flavour", lambda: "gpu")
    held = weight_bytes(tiny_model_dir, 2)
    monkeypatch.setattr(needs, "_least_free", lambda devices: held // 2 + 1)
    VllmServer(tiny_model_dir, devices="0,1", tensor_parallel=2)
    with pytest.raises(ConfigError, match=r"GiB for weights on every device, .* raise tensor_parallel"):
        VllmServer(tiny_model_dir, devices="0")


def test_what_a_container_may_have_is_all_that_is_free(tmp_path: Path) -> None:
    assert free_bytes() > 0
    assert room._left_to_the_container(tmp_path) > 2**60
    for name, text in {"memory.max": "max", "memory.current": "0", "memory.stat": ""}.items():
        (tmp_path / name).write_text(text)
    assert room._left_to_the_container(tmp_path) > 2**60
    (tmp_path / "memory.max").write_text(str(8 * GIB))
    (tmp_path / "memory.current").write_text(str(5 * GIB))
    (tmp_path / "memory.stat").write_text(f"anon {3 * GIB}\ninactive_file {2 * GIB}\n")
    assert room._left_to_the_container(tmp_path) == 5 * GIB
