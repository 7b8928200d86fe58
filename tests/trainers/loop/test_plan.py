"""The plan's memory: it is what the trainer allocates and the server reserves, and it says where that does not fit."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lamer_envs import Env
from lamer_envs.minesweeper.env import Minesweeper
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.room import GIB
from lamer_trainers.loop import plan as planning
from lamer_trainers.loop import train as loop
from lamer_trainers.loop.devices import DEVICES, DeviceName
from lamer_trainers.loop.memory import VLLM_SHARE, trainer_bytes
from lamer_trainers.loop.plan import Plan, distinct_share, plan
from lamer_trainers.loop.shapes import KNOWN, shape_of
from lamer_trainers.presets import PRESETS, rl_baseline
from lamer_trainers.runfile import load_run
from training import Trials, load, make_trials, train

GPU_PRESETS = [name for name in PRESETS if "-cpu" not in name and "smollm2" not in name]
WEIGHTS = KNOWN["Qwen/Qwen3-4B"].parameters / GIB


pytestmark = pytest.mark.usefixtures("one_thread")


def made(*changes: str, device: DeviceName = "h100") -> Plan:
    return plan(load_run(preset="minesweeper-qwen3-4b", changes=["server.gpu_memory=null", *changes]), device)


# -- what a server reserves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GPU_PRESETS)
@pytest.mark.parametrize("changes", [(), rl_baseline(8, 3)], ids=["meta", "rl"])
@pytest.mark.parametrize("device", ["a100", "h100"])
def test_a_gpu_preset_fits_on_one_card_of_80_gb(name: str, changes: tuple[str, ...], device: DeviceName) -> None:
    fit = plan(load_run(preset=name, changes=changes), device)
    assert fit.warnings == ()
    assert fit.reserved_gib is not None
    assert fit.device_gib is not None
    assert 0 < fit.server_gib <= fit.reserved_gib
    assert fit.peak_gib == pytest.approx(fit.trainer_gib + fit.reserved_gib)
    assert fit.peak_gib <= fit.device_gib < 80


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ((), 0.5),
        (("server.placement=colocated",), 0.5),
        (("server.devices=1",), VLLM_SHARE),
        (("server.gpu_memory=0.7",), 0.7),
        (("server.devices=1", "server.gpu_memory=0.7"), 0.7),
    ],
)
def test_a_server_on_a_gpu_takes_its_share_whatever_it_needs(changes: tuple[str, ...], share: float) -> None:
    one, fewer = made(*changes, "concurrency=64"), made(*changes, "concurrency=32")
    assert one.device_gib is not None
    assert one.reserved_gib == fewer.reserved_gib == pytest.approx(share * one.device_gib)
    assert one.peak_gib == fewer.peak_gib >= one.reserved_gib
    assert one.server_gib > fewer.server_gib
    assert f"the server reserves {one.reserved_gib:.1f} GiB" in one.peak_says
    assert not one.warnings


def test_on_a_cpu_nothing_is_reserved() -> None:
    slow = made("concurrency=100000", device="cpu")
    assert slow.reserved_gib is None
    assert slow.device_gib is None
    assert "reserves" not in slow.peak_says
    assert not slow.warnings


def test_the_default_share_is_that_of_the_installed_vllm() -> None:
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("vLLM is not installed")
    source = (Path(found.origin).parent / "config" / "cache.py").read_text()
    default = re.search(r"gpu_memory_utilization: float = Field\(default=([\d.]+)", source)
    assert default is not None
    assert float(default[1]) == VLLM_SHARE


def test_what_does_not_fit_into_the_reservation_is_noted() -> None:
    (note,) = made("server.gpu_memory=0.3").warnings
    known = re.match(
        r"the server needs ([\d.]+) GiB for 128 of .* reserves 23.4 GiB: only (\d+) fit, others wait", note
    )
    assert known is not None
    assert float(known[1]) == pytest.approx(made().server_gib, abs=0.05)
    assert not made("server.gpu_memory=0.3", f"concurrency={known[2]}").warnings
    assert made("server.gpu_memory=0.3", f"concurrency={int(known[2]) + 1}").warnings
    (note,) = made("server.gpu_memory=0.1").warnings
    assert "reserves 7.8 GiB: vLLM will not start; raise server.gpu_memory" in note


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("server.gpu_memory=0.8",), r"8\d.\d GiB do not fit on a device of 78 GiB: lower server.gpu_memory or"),
        (("server.gpu_memory=0.92", "server.placement=colocated"), r"8\d.\d GiB do not fit .* 78 GiB: lower server"),
        (("server=null", "lora=null"), r"\d+.\d GiB do not fit .*: lower optimise.micro_batch_tokens, or train an ad"),
    ],
)
def test_trainer_and_server_that_do_not_fit_on_the_device_are_noted(changes: tuple[str, ...], message: str) -> None:
    (note,) = made(*changes).warnings
    assert re.match(message, note)
    assert not made(*changes, device="h200").warnings


# -- what the trainer allocates ---------------------------------------------------------------------------------------


class _Gpu(LocalPolicy):
    """Loads as on a GPU, where the type that is not asked for is bfloat16."""

    def __init__(self, model: Any, *rest: Any, dtype: str | None = None, **options: Any) -> None:
        loaded = dtype or ("bfloat16" if isinstance(model, str) else None)
        super().__init__(model, *rest, dtype=loaded, **options)


def test_what_is_trained_is_float32_where_policies_are_loaded_in_16_bits(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LocalPolicy", _Gpu)
    changes = [f"policy={tiny_model_dir}"]
    whole = loop.make_policy(load_run(preset="minesweeper-cpu", changes=changes)).model
    assert {value.dtype for value in whole.parameters()} == {torch.float32}
    adapted = loop.make_policy(load_run(preset="minesweeper-cpu-lora", changes=changes)).model
    types = {(value.requires_grad, value.dtype) for value in adapted.parameters()}
    assert types == {(True, torch.float32), (False, torch.bfloat16)}


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("changes", [{}, {"algorithm": "ppo"}, {"beta": 0.1}], ids=["gigpo", "ppo", "kl"])
def test_what_stays_in_memory_is_what_is_allocated(
    tiny_model_dir: Path, tmp_path: Path, lora: bool, changes: dict[str, Any]
) -> None:
    model, tokenizer = load(tiny_model_dir, lora)
    source = Trials(make_trials(12, model=model))
    trainer, gradients = train(tmp_path, model, tokenizer, source, max_logprob_gap=None, **changes)
    tensors = [*model.parameters(), gradients[0], *_moments(trainer.optimizer)]
    tensors += [] if trainer.ref_model is None else trainer.ref_model.parameters()
    if trainer.critic is not None:
        critic = trainer.critic._parameters
        tensors += [*critic, *(value.grad for value in critic), *_moments(trainer.critic._optimiser)]
    allocated = sum(value.numel() * value.element_size() for value in tensors)
    options = [f"optimise.algorithm={changes.get('algorithm', 'gigpo')}", f"optimise.kl={changes.get('beta', 0)}"]
    options += ["lora.rank=4"] if lora else []
    if "ppo" in options[0]:
        options += ["optimise.anchor=observation", "optimise.normalise=mean"]
    run = load_run(preset="minesweeper-cpu", changes=[f"policy={tiny_model_dir}", *options])
    assert trainer_bytes(run, shape_of(str(tiny_model_dir)), DEVICES["cpu"]).held == pytest.approx(allocated, rel=0.01)


def _moments(optimiser: Any) -> list[torch.Tensor]:
    return [value for state in optimiser.state.values() for value in state.values() if torch.is_tensor(value)]


def test_weights_count_in_the_type_that_they_are_trained_in() -> None:
    """4 bytes of each, its gradient and two moments, and 2 of autocast; of a frozen base 2."""
    process = ("server=null", "optimise.micro_batch_tokens=1")
    assert made(*process, "lora=null").trainer_gib == pytest.approx(18 * WEIGHTS, rel=1e-3)
    assert made(*process, "lora.rank=1").trainer_gib == pytest.approx(2 * WEIGHTS, rel=1e-2)
    # The critic is a copy of the body in float32, with its own gradients and moments.
    ppo = (*process, "optimise.algorithm=ppo")
    assert made(*ppo, "lora=null").trainer_gib == pytest.approx((16 + 18) * WEIGHTS, rel=1e-3)
    assert made(*ppo, "lora.rank=1").trainer_gib == pytest.approx((16 + 2) * WEIGHTS, rel=1e-2)


def test_a_sampler_that_runs_ahead_in_process_has_weights_of_its_own() -> None:
    shared, ahead = made("server=null"), made("server=null", "pipeline=1")
    assert ahead.peak_gib - shared.peak_gib == pytest.approx(2 * WEIGHTS, rel=0.05)
    assert "copy" in ahead.peak_says


@pytest.mark.parametrize("offered", ["weak", "nothing"])
def test_prompts_are_measured_of_an_environment_that_lists_no_actions(
    offered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unlisted(Minesweeper):
        admissible = Env.admissible
        weak = Env.weak

    if offered == "weak":
        monkeypatch.setattr(Unlisted, "weak", lambda self, state, rng: Minesweeper(4, 3).weak(state, rng))
    monkeypatch.setattr(planning, "make", lambda spec: Unlisted(4, 3))
    played = planning.measure(load_run(preset="minesweeper-cpu"), planning._by_characters)
    assert len(played.prompts) > planning.PLAYED
    assert min(played.prompts) > 20
    assert played.shortest >= 2
    assert 0 < played.distinct <= 1


# -- what is common, and the machine that is here ---------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=12))
def test_the_distinct_share_is_that_of_the_different_beginnings(prompts: list[list[int]]) -> None:
    beginnings = {tuple(prompt[:end]) for prompt in prompts for end in range(1, len(prompt) + 1)}
    assert distinct_share(prompts) == pytest.approx(len(beginnings) / sum(map(len, prompts)))


def test_pieces_of_characters_are_as_long_as_tokens_on_average() -> None:
    pieces = planning._by_characters([{"role": "user", "content": "x" * 700}, {"role": "user", "content": "y"}])
    assert len(pieces) == 200
    assert "".join(pieces) == ("x" * 700 + "y")[: round(200 * planning.CHARS_PER_TOKEN)]


def test_groups_share_more_than_tasks_of_their_own() -> None:
    def distinct(trials: int) -> float:
        return plan(load_run(preset="minesweeper-cpu", changes=[f"collect.trials={trials}"]), "cpu").distinct

    assert distinct(8) < distinct(1) < 1


def test_unless_it_is_told_a_plan_is_for_the_device_that_is_here(tiny_model_dir: Path) -> None:
    run = load_run(preset="minesweeper-cpu", changes=[f"policy={tiny_model_dir}"])
    found = plan(run)
    assert found.device == "here"
    assert "as measured" in found.device_says
    assert found.device_gib is not None
    assert 0 < found.train_seconds[0] < found.train_seconds[1]
    threads = torch.get_num_threads()
    assert plan(run, "h100").device_says.startswith("one H100")
    assert torch.get_num_threads() == threads


def test_a_frozen_base_costs_less_than_its_training_and_checkpointing_more() -> None:
    def seconds(*changes: str) -> float:
        return made("server=null", *changes).train_seconds[0]

    assert seconds("lora.rank=1") < seconds("lora=null")
    assert seconds("optimise.gradient_checkpointing=false") < seconds("optimise.gradient_checkpointing=true")
