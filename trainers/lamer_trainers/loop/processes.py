"""A run in several processes, as `accelerate launch` starts them: the main one collects and writes, all of them train.

What must stay true: the main process alone touches the run's folder, plays and validates; what it decides (that a run
is refused, goes on from a checkpoint, or ends early) all of them do, so none waits for ever for another. Weights are
whole in every process (DDP): what is spread over processes cannot be sampled from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback

from lamer_trainers.errors import StoppedElsewhereError
from lamer_trainers.learning.launch import is_main, join, launched
from lamer_trainers.learning.samples import Trial

T = TypeVar("T")


class Group:
    """The processes of a run; of one alone nothing is asked."""

    def __init__(self) -> None:
        self.count = launched()
        self.main = is_main()
        self.device: str | None = None
        """Where this one trains; None: where a process alone would."""
        if self.count > 1:
            self.device = join()

    def first(self, act: Callable[[], T]) -> T:
        """What `act` gives in the main process, in all of them; its error is raised there.

        Raises StoppedElsewhereError in the others.
        """
        if self.count == 1:
            return act()
        box: list[Any] = [None]
        if self.main:
            try:
                box = [(True, act())]
            except BaseException as error:  # Ctrl-C, too: the others are waiting
                broadcast_object_list([(False, " ".join(str(error).split()) or type(error).__name__)])
                raise
        broadcast_object_list(box)
        done, found = box[0]
        if not done:
            raise StoppedElsewhereError(f"the main process stopped: {found}")
        result: T = found
        return result

    def leave(self) -> None:
        """The end: nobody goes before the main process has written what there is to write."""
        self.first(lambda: None)


class Agree(TrainerCallback):
    """Ends the training in all processes where the main one ends it. Comes after what decides that."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = self._group.first(lambda: bool(control.should_training_stop))


class Unasked:
    """The source of a process that is not the main one."""

    def next_batch(self, step: int) -> list[Trial]:
        _unasked(step)


def _unasked(step: int) -> NoReturn:
    raise AssertionError(f"update {step} is the main process's to collect")
