"""The best weights of a run, and processes that are killed while they are exchanged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lamer_trainers.loop.best import Best


class Killed(BaseException):
    pass


def weights(text):
    def write(folder):
        folder.mkdir()
        (folder / "weights").write_text(text)
        (folder / "tokenizer").write_text(text)

    return write


def held(best):
    """What the folder holds; the same in both files, or it is half of something."""
    (kept,) = {(best.place / name).read_text() for name in ("weights", "tokenizer")}
    return kept


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_best_is_replaced_and_says_what_it_read(tmp_path):
    best = Best(tmp_path)
    best.keep(5, [0.25, 0.5], weights("of 5"))
    best.keep(10, [0.25, 0.75], weights("of 10"))
    best.checkpointed()
    assert held(best) == "of 10"
    assert (best.place / "validation.json").read_text() == '{"update":10,"pass@k":[0.25,0.75]}'
    assert names(tmp_path) == ["best"]


def test_a_run_that_goes_back_finds_what_was_best_up_to_its_checkpoint(tmp_path):
    best = Best(tmp_path)
    best.keep(5, [0.5], weights("of 5"))
    best.keep(10, [0.6], weights("of 10"))
    best.checkpointed()
    for update in (15, 18):  # both after the checkpoint of update 10
        best.keep(update, [0.7], weights(f"of {update}"))
    assert Best(tmp_path).go_back(10)
    assert held(best) == "of 10"
    assert names(tmp_path) == ["best"]


def test_a_best_of_no_checkpoint_is_forgotten(tmp_path):
    Best(tmp_path).keep(3, [0.5], weights("of 3"))
    assert not Best(tmp_path).go_back(0)
    assert names(tmp_path) == []


def test_a_folder_that_does_not_say_its_update_is_kept(tmp_path):
    weights("of an older release")(tmp_path / "best")
    assert Best(tmp_path).go_back(0)
    assert held(Best(tmp_path)) == "of an older release"


@pytest.mark.parametrize("steps", range(12))
@pytest.mark.parametrize("after", [False, True], ids=["before-it", "half-way"])
def test_a_kill_at_any_step_leaves_the_best_of_the_checkpoint(tmp_path, monkeypatch, steps, after):
    """Killed in one of two exchanges after the checkpoint, before a rename or removal or (of removals) half-way."""
    best = Best(tmp_path)
    best.keep(10, [0.6], weights("of 10"))
    best.checkpointed()
    left = [steps]

    def dying(real, half):
        def act(path, *rest, **options):
            if Path(path).exists():
                left[0] -= 1
                if left[0] < 0:
                    half(path)
                    raise Killed
            return real(path, *rest, **options)

        return act

    def half(path):
        if after:
            next(iter(Path(path).iterdir())).unlink()

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", dying(shutil.rmtree, half))
        patched.setattr(Path, "rename", dying(Path.rename, lambda path: None))
        try:
            best.keep(15, [0.7], weights("of 15"))
            best.keep(18, [0.8], weights("of 18"))
        except Killed:
            pass
    assert Best(tmp_path).go_back(10)
    assert held(best) == "of 10"
    assert names(tmp_path) == ["best"]
