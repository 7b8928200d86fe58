"""What `--set` changes: how all rows of a target are trained, or how all are read.

What must stay true: a change reaches every row, or it is refused with the names of those that say their own, so that
what is compared differs in nothing but what the target says. RL rows take their number of trials from the changed run
(`presets.rl_baseline`), so that they may play as many episodes as meta-RL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import yaml

from lamer_graph.errors import ConfigError
from lamer_trainers.errors import TrainingConfigError
from lamer_trainers.reproduce.grid import Arm, ScaleName, Setting, Target, setting_of

SEEDS = ("optimise.seed", "collect.seed")


class Changes(NamedTuple):
    """`trained`: changes to run files, `KEY=VALUE`; `read`: to readings."""

    trained: tuple[str, ...]
    read: Setting


def changes_of(settings: Sequence[str]) -> Changes:
    """What `--set KEY=VALUE` says, readings' as `reading.KEY=VALUE`. Raises TrainingConfigError."""
    trained, read = [], {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise TrainingConfigError(f"--set {setting} is not of the form section.key=value")
        if not key.startswith("reading."):
            trained.append(setting)
            continue
        try:
            read[key.removeprefix("reading.")] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise TrainingConfigError(f"the value in '--set {setting}' is not YAML; put it in quotes") from None
    return Changes(tuple(trained), setting_of(read))


def check_reach(changes: Changes, targets: Mapping[str, Target], scale: ScaleName) -> None:
    """Raises ConfigError for a change that some row, or level, of a target would undo."""
    for name, target in targets.items():
        for change in changes.trained:
            key = change.partition("=")[0]
            if key in SEEDS:
                raise ConfigError(f"--set {key} would do nothing: seeds are said with --seeds")
            _refuse(
                key, name, [row for row, arm in target.arms.items() if any(_overlap(key, own) for own in _own(arm))]
            )
        for key in changes.read.said():
            read = [row for row, arm in target.arms.items() if any(key in one.said() for one in arm.readings.values())]
            _refuse(f"reading.{key}", name, read)
            levels = target.part(scale).levels.values()
            _refuse(f"reading.{key}", name, [name for one in levels for name, own in one.items() if key in own.said()])


def unreached(changes: Changes, target: Target) -> Iterator[tuple[str, str]]:
    """Readings beside those that count that say their own of what is changed, by name, each with the change."""
    said = changes.read.said()
    beside = dict(pair for arm in target.arms.values() for pair in arm.beside.items())
    for name, setting in beside.items():
        for key in said.keys() & setting.said().keys():
            yield name, f"reading.{key}"


def _own(arm: Arm) -> set[str]:
    """Keys of a run file that a row says itself."""
    return {change.partition("=")[0] for change in arm.train or ()} | ({"collect.contents"} if arm.rl else set())


def _overlap(key: str, own: str) -> bool:
    """Whether one of them is the other, or its section."""
    return f"{own}.".startswith(f"{key}.") or f"{key}.".startswith(f"{own}.")


def _refuse(key: str, target: str, names: Sequence[str]) -> None:
    if names:
        raise ConfigError(
            f"--set {key} would not reach {', '.join(dict.fromkeys(names))} of {target}, which say their own: leave it "
            "out"
        )
