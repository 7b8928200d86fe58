"""What is left of a run is said from the first token on, and never too little."""

from __future__ import annotations

import pytest

from lamer_graph.cli.frame import Ui
from lamer_graph.cli.pace import Pace, solved_in


class Run:
    """A run of 10 trials of up to 6 calls of up to 100 tokens, and its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.tokens = 7
        self.pace = Pace(10, 6, 100, sampled=lambda: self.tokens, clock=lambda: self.now)


def test_before_anything_is_answered_tokens_say_how_fast_it_goes() -> None:
    run = Run()
    assert run.pace.line() == ""
    run.pace.begin(already=2)
    assert run.pace.line() == "0 calls, 0.0/s"
    run.now, run.tokens = 10.0, 87
    # 8 trials x 6 calls x 100 tokens at 8 a second.
    assert run.pace.line() == "0 calls, 0.0/s, 8 tokens/s, at most 0:10:00 left"


def test_before_a_trial_has_ended_calls_say_it_and_afterwards_what_trials_came_to() -> None:
    run = Run()
    run.pace.begin(already=0)
    run.now = 20.0
    for _ in range(10):
        run.pace.called()
    assert run.pace.line() == "10 calls, 0.5/s, at most 0:01:40 left"  # 50 of 60 calls
    run.pace.trial(2)
    assert run.pace.line() == "10 calls, 0.5/s, about 0:00:20 left"  # 10 trials of two calls


def test_the_first_figures_are_of_the_trials_that_ended_here() -> None:
    run = Run()
    run.pace.episodes = 3
    run.pace.begin(already=0)
    run.now = 10.0
    for solved in (1, 3, 0, None):  # an error is no failure
        run.pace.trial(5, solved)
    assert run.pace.line().startswith("pass@1 .33, pass@3 .67 of 3, 20 calls, 2.0/s, about ")


def test_a_logged_trial_says_in_which_attempt_it_was_solved() -> None:
    assert solved_in({"error": None, "success": True, "episodes": [{}, {}]}) == 2
    assert solved_in({"error": None, "success": False, "episodes": [{}, {}]}) == 0
    assert solved_in({"error": {"type": "PolicyError"}, "success": False, "episodes": []}) is None


def test_where_no_bar_can_be_shown_a_line_tells_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("lamer_graph.cli.frame.time.monotonic", lambda: now)
    with Ui(False, False).progress("trials", 100, lambda: "a rate") as advance:
        for second in range(40):
            now = second
            advance(1)
    told = capsys.readouterr().err.splitlines()
    assert told == [f"trials {done}/100, a rate" for done in (9, 17, 33)]
    with Ui(True, False).progress("trials", 100) as advance:
        now = 1000.0
        advance(1)
    assert capsys.readouterr().err == ""


def test_trials_of_other_processes_count_with_their_calls() -> None:
    run = Run()
    run.pace.sampled = None
    run.pace.begin(already=0)
    run.now = 10.0
    for _ in range(5):
        run.pace.trial(4)
    assert run.pace.line() == "20 calls, 2.0/s, about 0:00:10 left"
