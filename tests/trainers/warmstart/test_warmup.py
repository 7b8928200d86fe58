"""The tiny warm start: tokenizer, teachers, fit, gates, and the policies that ship with the project."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer_envs import make
from lamer_graph.errors import ConfigError
from lamer_graph.policies.base import run_sync
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.shipped import card, is_policy, shipped_policies, shipped_policy
from lamer_graph.trial.answers import ACTION_TAG, REMARK_TAG, extract
from lamer_graph.types import Sampling
from lamer_trainers.warmstart.fitting import IGNORE, FitConfig, LeftCollator, WarmupTrainer, encode, fit, parting
from lamer_trainers.warmstart.gates import Gate, forbidden_probability, held_out_drills, trials
from lamer_trainers.warmstart.teach_minesweeper import MinesweeperTeacher
from lamer_trainers.warmstart.teachers import Row, Teacher, rows
from lamer_trainers.warmstart.tiny import ANSWER, END, USER, Piece, build_model, build_tokenizer
from lamer_trainers.warmstart.warmup import run_warmup, teacher_of

SPECS = ("minesweeper:4x4-3", "sokoban:6x6-2")
MEAN_PROMPT_TOKENS, LONGEST_PROMPT_TOKENS = 45, 200


@pytest.fixture(scope="module", params=SPECS)
def teacher(request: pytest.FixtureRequest) -> Teacher:
    return teacher_of(make(request.param))[0]


def token_texts() -> st.SearchStrategy[str]:
    """Texts that mix whole pieces, halves of pieces, specials' look-alikes and anything else."""
    pieces = [piece.text for spec in SPECS for piece in teacher_of(make(spec))[0].pieces()]
    part = st.one_of(
        st.sampled_from(pieces),
        st.sampled_from(pieces).map(lambda text: text[: len(text) // 2]),
        st.sampled_from(
            ["<action>", "</remark>", "\nEpisode 2", "<|", "|>", "\r\n", "  ", "(1,2)", "((1, 2)=", "mine at "]
        ),
        st.text(max_size=8),
    )
    return st.lists(part, max_size=12).map("".join)


# -- tokenizer --------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(text=token_texts())
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    tokenizer = _cached_tokenizer()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True) == text


@settings(max_examples=100, deadline=None)
@given(text=token_texts())
def test_decoding_token_by_token_gives_the_same_text(text: str) -> None:
    """Servers stream: pieces of a text must concatenate to it (bytes of one character may come together)."""
    from tokenizers.decoders import DecodeStream

    core = _cached_tokenizer().backend_tokenizer
    stream = DecodeStream(skip_special_tokens=True)
    ids = core.encode(text, add_special_tokens=False).ids
    assert "".join(stream.step(core, token) or "" for token in ids) == text


def _cached_tokenizer(cache: list[Any] = []) -> Any:  # noqa: B006  (built once for hundreds of examples)
    if not cache:
        cache.append(build_tokenizer([p for spec in SPECS for p in teacher_of(make(spec))[0].pieces()]))
    return cache[0]


def test_a_saved_tokenizer_is_loaded_equal_without_custom_code(
    tokenizer: Any, taught: list[Row], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert (loaded.eos_token, loaded.pad_token) == (tokenizer.eos_token, tokenizer.pad_token)
    chats = [row.messages for row in taught[:50]]
    assert loaded.apply_chat_template(chats, add_generation_prompt=True) == tokenizer.apply_chat_template(
        chats, add_generation_prompt=True
    )


def test_the_chat_template_asks_for_an_answer_and_leaves_the_system_message_out(tokenizer: Any) -> None:
    chat = [{"role": "system", "content": "rules"}, {"role": "user", "content": "Episode 1\nAct"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert prompt == f"{USER}Episode 1\nAct{ANSWER}"
    answered = [*chat, {"role": "assistant", "content": "<action>x</action>"}]
    assert tokenizer.apply_chat_template(answered, tokenize=False) == f"{prompt}<action>x</action>{END}"


@pytest.mark.parametrize("text", ["", "é"])
def test_a_piece_that_would_not_round_trip_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ASCII"):
        build_tokenizer([Piece(text)])


def test_prompts_and_answers_are_few_tokens(tokenizer: Any, taught: list[Row]) -> None:
    prompts = tokenizer.apply_chat_template([row.messages for row in taught], add_generation_prompt=True)["input_ids"]
    lengths = [len(ids) for ids in prompts]
    assert sum(lengths) / len(lengths) <= MEAN_PROMPT_TOKENS
    assert max(lengths) <= LONGEST_PROMPT_TOKENS
    assert all(len(tokenizer(row.answer)["input_ids"]) <= 8 for row in taught)
    newline = tokenizer("\n")["input_ids"][0]
    loose = sum(token < 256 and token != newline for ids in prompts for token in ids)
    assert loose == 0, "a word of the prompts has no token of its own"


# -- model ------------------------------------------------------------------------------------------------------------


def test_the_model_is_small_and_the_same_for_a_seed(tokenizer: Any, teacher: Teacher) -> None:
    first, second, other = (build_model(tokenizer, teacher.pieces(), seed=seed) for seed in (1, 1, 2))
    assert 500_000 < first.num_parameters() < 1_000_000
    assert _equal(first, second)
    assert not _equal(first, other)


def test_tokens_of_one_cell_start_alike(tokenizer: Any, teacher: Teacher) -> None:
    weight = build_model(tokenizer, teacher.pieces(), seed=0).get_input_embeddings().weight.detach()
    here, spaced, elsewhere = (
        weight[tokenizer.convert_tokens_to_ids(text)] for text in ("(2, 3)", " (2, 3)", "(4, 4)")
    )
    near, far = (torch.cosine_similarity(here, there, dim=0) for there in (spaced, elsewhere))
    assert near > 0.5 > far


def _equal(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


# -- fit --------------------------------------------------------------------------------------------------------------


def test_only_answers_are_trained_on_and_forbidden_answers_part_where_they_differ(
    tokenizer: Any, taught: list[Row]
) -> None:
    data = encode(tokenizer, taught[:64])
    batch = LeftCollator(tokenizer.pad_token_id, len(tokenizer))([data[i] for i in range(len(data))])
    for i, row in enumerate(taught[:64]):
        labels = batch["labels"][i]
        assert tokenizer.decode(labels[labels != IGNORE]) == row.answer + END
        assert bool(batch["attention_mask"][i, -1])
        places, tokens = batch["forbidden"][i].nonzero(as_tuple=True)
        assert bool(places.numel()) == bool(row.forbidden)
        for place, token in zip(places.tolist(), tokens.tolist(), strict=True):
            kept = labels[labels != IGNORE][: place - int((labels == IGNORE).sum())]
            turned = tokenizer.decode([*kept.tolist(), token])
            assert any(f"<action>{action}".startswith(turned) for action in row.forbidden)


def test_parting_is_the_first_difference() -> None:
    assert parting([1, 2, 3], [1, 2, 4, 5]) == (2, 3)
    assert parting([1, 2], [1, 2, 3]) is None


def test_a_row_with_ties_is_taught_all_of_them_alike_where_they_part() -> None:
    """The loss of a fit against one summed by hand, token by token, from the model's plain log-probabilities."""
    teacher = MinesweeperTeacher(make("minesweeper:5x5-4"))
    tokenizer = build_tokenizer(teacher.pieces())
    model = build_model(tokenizer, teacher.pieces(), seed=0)
    found = [row for row in rows(teacher, 300, seed=1) if len(row.ties) > 1][:4]
    data, by_hand = encode(tokenizer, found), 0.0
    for row in found:
        prompt = tokenizer.apply_chat_template(row.messages, add_generation_prompt=True, return_dict=False)
        answers = [tokenizer(teacher.prompts.action_answer(tie) + END)["input_ids"] for tie in row.ties]
        taught = tokenizer(row.answer + END)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *taught]])).logits[0, len(prompt) - 1 : -1]
        for at, logprobs in enumerate(logits.log_softmax(-1)):
            tokens = [answer[at] for answer in answers if answer[:at] == taught[:at]]
            by_hand -= float(logprobs[sorted(set(tokens))].mean()) / 2 / len(found)
    batch = LeftCollator(tokenizer.pad_token_id, len(tokenizer))([data[i] for i in range(len(data))])
    trainer: Any = SimpleNamespace(unlikelihood=0.0, reading=0.0, _metrics=defaultdict(lambda: defaultdict(list)))
    with torch.no_grad():
        loss = float(WarmupTrainer.compute_loss(trainer, model, batch))
    assert len(found) == 4
    assert loss == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.slow
def test_a_short_warm_start_repeats_and_says_that_it_missed_its_gates(tmp_path: Path) -> None:
    lines: list[str] = []
    first, second = (
        run_warmup("minesweeper:4x4-3", tmp_path / name, seed=7, minutes=0.1, progress=lines.append, tasks=4)
        for name in ("first", "second")
    )
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second")]
    assert weights[0] == weights[1]
    assert not first.passed
    assert any("rows/s" in line for line in lines)
    report = json.loads((tmp_path / "first" / "warmup.json").read_text())
    assert report["gates"] == [gate.to_json() for gate in first.gates]
    assert report["rows"] == second.rows < 5000
    assert is_policy(tmp_path / "first")
    assert card(tmp_path / "first") == {"env": "minesweeper:4x4-3", "prompt_style": "compact"}
    assert "missed" in (tmp_path / "first" / "README.md").read_text()


@pytest.mark.slow  # two fits
def test_a_fit_learns_the_form_and_its_unlikelihood_term_pushes_forbidden_answers_down() -> None:
    teacher = teacher_of(make("minesweeper:4x4-3"))[0]
    data, held_out = rows(teacher, 2000, seed=0), held_out_drills(teacher, 100, seed=0)
    left = []
    for weight in (0.0, 1.0):
        tokenizer = build_tokenizer(teacher.pieces())
        model = build_model(tokenizer, teacher.pieces(), seed=0)
        config = FitConfig(batch=32, rise_steps=10, unlikelihood=weight)
        fit(model, tokenizer, data, config, seed=0, progress=lambda line: None)
        left.append(forbidden_probability(model, tokenizer, held_out))
    assert _share_formed(LocalPolicy(model, tokenizer, fold_system=False), held_out[:50]) >= 0.5
    assert left[1] < 0.8 * left[0]


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("spec", SPECS)
def test_a_full_warm_start_passes_its_gates_within_fifteen_minutes_of_two_cores(spec: str, tmp_path: Path) -> None:
    began = time.process_time()
    report = run_warmup(spec, tmp_path / "policy", seed=1)
    assert report.passed, report.gates
    assert time.process_time() - began < 2 * 15 * 60


def _share_formed(policy: LocalPolicy, asked: list[Row]) -> float:
    """Share of answers that hold a complete tag of the kind asked for."""
    tags = [ACTION_TAG if row.messages[-1]["content"].endswith("Act") else REMARK_TAG for row in asked]
    answers = [run_sync(policy.generate(r.messages, Sampling(max_tokens=32, seed=i))) for i, r in enumerate(asked)]
    return sum(extract(a.text, tag).failure is None for a, tag in zip(answers, tags, strict=True)) / len(asked)


def test_warmup_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty folder"):
        run_warmup("minesweeper:4x4-3", tmp_path)


# -- shipped ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=(*SPECS, "minesweeper:5x5-4"))
def shipped(request: pytest.FixtureRequest) -> tuple[str, Path]:
    folder = shipped_policy(request.param)
    assert folder is not None, f"no policy is shipped for {request.param}: {sorted(shipped_policies())}"
    return request.param, folder


def test_shipped_policies_say_how_they_were_made_and_passed_their_gates(shipped: tuple[str, Path]) -> None:
    spec, folder = shipped
    report = json.loads((folder / "warmup.json").read_text())
    assert report["env"] == spec
    teacher, recipe = teacher_of(make(spec))
    gates = {g["name"]: Gate(g["name"], g["value"], g["low"], g["high"]) for g in report["gates"]}
    assert {name: (gate.low, gate.high) for name, gate in gates.items()} == recipe.gates
    assert all(gate.passed for gate in gates.values())
    assert report["passed"] is True
    assert report["rows"] == int(recipe.rows * teacher.breadth)
    assert (folder / "README.md").read_text().count("passed") >= len(gates)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000


def test_shipped_policies_answer_in_form(shipped: tuple[str, Path]) -> None:
    spec, folder = shipped
    asked = rows(teacher_of(make(spec))[0], 200, seed=99)[:50]
    assert _share_formed(LocalPolicy(folder), asked) >= 0.95


def test_a_shipped_policy_plays_near_its_stated_strength(shipped: tuple[str, Path]) -> None:
    spec, folder = shipped
    stated = json.loads((folder / "warmup.json").read_text())["reading"]["pass_at"]["none"][0]
    states = run_sync(trials(make(spec), LocalPolicy(folder), "none", 100, seed=1))
    won = sum(state["episodes"][0]["success"] for state in states) / 100
    assert abs(won - stated["value"]) < 0.15


def test_a_fit_that_was_not_measured_is_no_policy_and_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, asked = tmp_path / "tiny", {"rows": 200, "tasks": 2, "progress": lambda _: None}

    async def cut_short(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("lamer_trainers.warmstart.warmup.measure", cut_short)
        with pytest.raises(KeyboardInterrupt):
            run_warmup("minesweeper:4x4-3", made, **asked)
    assert not is_policy(made)
    with pytest.raises(ConfigError, match="go on with the fit in it by --resume"):
        run_warmup("minesweeper:4x4-3", made, **asked)
    with pytest.raises(ConfigError, match="begun with another seed"):
        run_warmup("minesweeper:4x4-3", made, seed=1, resume=True, **asked)
    whole = run_warmup("minesweeper:4x4-3", tmp_path / "whole", **asked)
    with monkeypatch.context() as patched:
        patched.setattr("lamer_trainers.warmstart.warmup.fit", lambda *_, **__: pytest.fail("it was fitted again"))
        resumed = run_warmup("minesweeper:4x4-3", made, resume=True, **asked)
    assert (resumed.reading, resumed.gates) == (whole.reading, whole.gates)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (made, tmp_path / "whole")]
    assert weights[0] == weights[1]
    assert {path.name for path in made.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}


def test_a_fit_that_was_killed_while_it_was_handed_out_is_handed_out_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, asked = tmp_path / "tiny", {"rows": 100, "tasks": 1, "progress": lambda _: None}
    replace = Path.replace

    def cut_short(path: Path, target: Path) -> Path:
        if target.name == "model.safetensors":
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", cut_short)
        with pytest.raises(KeyboardInterrupt):
            run_warmup("minesweeper:4x4-3", made, **asked)
    assert (made / "config.json").exists()
    assert not is_policy(made)
    run_warmup("minesweeper:4x4-3", made, resume=True, **asked)
    whole = tmp_path / "whole"
    run_warmup("minesweeper:4x4-3", whole, **asked)
    assert {path.name for path in made.iterdir()} == {path.name for path in whole.iterdir()}
    assert (made / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_fit_that_was_cut_short_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_short(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("lamer_trainers.warmstart.warmup.fit", cut_short)
        with pytest.raises(KeyboardInterrupt):
            run_warmup("minesweeper:4x4-3", tmp_path / "tiny", rows=100, progress=lambda _: None)
    run_warmup("minesweeper:4x4-3", tmp_path / "tiny", rows=100, tasks=1, resume=True, progress=lambda _: None)
    assert is_policy(tmp_path / "tiny")
