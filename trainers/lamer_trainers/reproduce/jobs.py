"""From targets to jobs: every training and reading of a grid, its command and its folder.

What must stay true: a job's folder is named by a hash of its configuration (settings, and the weights that it begins
with), so equal ones are one job in whatever targets they stand, and a changed setting never meets results of another;
a cell of a table is a job that can be run, or it is said why it is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from lamer_graph.collection.config import CollectConfig
from lamer_graph.errors import ConfigError
from lamer_graph.policies.fingerprint import weights_of
from lamer_graph.policies.shipped import is_adapter, is_policy
from lamer_trainers.errors import TrainingConfigError
from lamer_trainers.loop.best import BEST
from lamer_trainers.presets import RL_BASELINE
from lamer_trainers.reproduce.grid import (
    SCALES,
    Arm,
    Measure,
    Scale,
    ScaleName,
    Setting,
    Target,
    World,
    load_scale,
    load_target,
    nearest,
    setting_of,
)
from lamer_trainers.runfile import RunFile, load_run

Json = dict[str, Any]
TRAININGS, READINGS, LOGS = "trainings", "readings", "logs"
BUDGET: tuple[Measure, ...] = ("seconds", "tokens", "episodes")
"""What is measured of trainings, without reading their policies."""
READ: Json = {"split": "test", "tasks": 400, "skip": 0, "trials": 1, "max_episodes": 3, "sampling": "train"}
"""How a policy is read where nothing else is said."""


@dataclass(frozen=True)
class Job:
    """A training or a reading; `after` is the training whose policy is read."""

    kind: Literal["train", "eval"]
    says: str
    folder: Path
    words: tuple[str, ...]
    run: RunFile
    seed: int
    made: Path
    """What is there once it is done."""
    after: Job | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def done(self) -> bool:
        return self.made.exists()

    @property
    def command(self) -> list[str]:
        """Arguments of `lamer-graph`, to begin with it or to go on."""
        resume = ["--resume"] if (self.folder / "run.json").exists() else []
        return [self.kind, *self.words, "--out", str(self.folder), *resume]


class Cell(NamedTuple):
    """What of a target a job is; `seed` is None where all seeds share it."""

    target: str
    column: str
    level: str
    arm: str
    reading: str
    seed: int
    job: Job


class LeftOut(NamedTuple):
    """What of a target is not run, and why."""

    target: str
    what: str
    why: str


@dataclass(frozen=True)
class Wanted:
    """What is asked for. `settings` are changes to all runs, those to readings as `reading.KEY=VALUE`."""

    targets: tuple[str, ...]
    scale: ScaleName
    seeds: tuple[int, ...]
    out: Path
    settings: tuple[str, ...] = ()
    preset: str | None = None
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """Everything of the wanted targets; `chosen` are the jobs that `only` leaves."""

    wanted: Wanted
    scale: Scale
    targets: dict[str, Target]
    cells: list[Cell]
    chosen: list[Job]
    left_out: list[LeftOut]
    makes: dict[str, str] = field(default_factory=dict)
    """How the policies that training begins with are made, by their names."""


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from "0,1,2". Raises ConfigError."""
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--seeds {text!r} must be whole numbers with commas between, e.g. 0,1,2") from None
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds {text} must be different numbers that are not negative")
    return seeds


def expand(wanted: Wanted) -> Grid:
    """The grid. Raises TrainingConfigError and ConfigError for what is unknown or contradicts itself."""
    if wanted.scale not in SCALES:
        raise ConfigError(f"unknown scale '{wanted.scale}'{nearest(wanted.scale, SCALES)}")
    scale = load_scale(wanted.scale)
    targets = {name: load_target(name) for name in dict.fromkeys(wanted.targets)}
    changes, reading = _settings(wanted.settings)
    _check_changes(changes, targets)
    grid = Grid(wanted, scale, targets, [], [], [])
    for name, target in targets.items():
        for cell in _Maker(grid, name, target, changes, reading).cells():
            grid.cells.append(cell)
    arms = dict.fromkeys(arm for target in targets.values() for arm in target.arms)
    columns = dict.fromkeys((*(column for one in targets.values() for column in one.columns), wanted.preset or ""))
    for name in wanted.only:
        if name not in arms and name not in columns:
            raise ConfigError(f"--only {name}: there is no such row or column{nearest(name, [*arms, *columns])}")
    rows = [name for name in wanted.only if name in arms] or arms
    of = [name for name in wanted.only if name in columns] or [*columns]
    chosen: dict[str, Job] = {}
    for cell in _by_seed(grid.cells):
        if cell.arm in rows and cell.column in of:
            chosen.setdefault(cell.job.name, cell.job)
    for job in list(chosen.values()):
        if job.after is not None:
            chosen.setdefault(job.after.name, job.after)
    grid.chosen.extend(chosen.values())
    return grid


def _by_seed(cells: Sequence[Cell]) -> list[Cell]:
    """All of the first seed before anything of the second, so that something whole is there soon."""
    seeds = list(dict.fromkeys(cell.seed for cell in cells))
    return sorted(cells, key=lambda cell: seeds.index(cell.seed))


def _settings(settings: Sequence[str]) -> tuple[tuple[str, ...], Setting]:
    """Changes of trainings and of readings. Raises TrainingConfigError."""
    changes, readings = [], {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise TrainingConfigError(f"--set {setting} is not of the form section.key=value")
        if key.startswith("reading."):
            readings[key.removeprefix("reading.")] = yaml.safe_load(value)
        else:
            changes.append(setting)
    return tuple(changes), setting_of(readings)


def _check_changes(changes: Sequence[str], targets: Mapping[str, Target]) -> None:
    """Raises ConfigError for a change that every training's own would undo."""
    trained = [_changes(arm) for target in targets.values() for arm in target.arms.values() if arm.train is not None]
    for key in (change.partition("=")[0] for change in changes):
        if trained and all(any(own.startswith(f"{key}=") for own in arm) for arm in trained):
            raise ConfigError(f"--set {key} would do nothing: every row says its own")


def _changes(arm: Arm) -> tuple[str, ...]:
    return (*(RL_BASELINE if arm.rl else ()), *(arm.train or ()))


class _Maker:
    """The cells of one target."""

    def __init__(self, grid: Grid, name: str, target: Target, changes: tuple[str, ...], reading: Setting) -> None:
        self._grid, self._name, self._target = grid, name, target
        self._changes, self._reading = changes, reading

    def cells(self) -> Iterator[Cell]:
        part = self._target.part(self._grid.wanted.scale)
        arms = {}
        for name, arm in self._target.arms.items():
            if arm.needs == "language" and not self._grid.scale.language:
                self._leave_out(name, "it needs a policy that reads plain language, which this scale's do not")
            else:
                arms[name] = arm
        for column, world in self._worlds().items():
            levels = part.levels.get(column) or {"": Setting()}
            for name, arm in arms.items():
                for seed in self._grid.wanted.seeds:
                    yield from self._of(column, world, levels, name, arm, seed)

    def _worlds(self) -> dict[str, World]:
        part, wanted = self._target.part(self._grid.wanted.scale), self._grid.wanted
        if wanted.preset is not None:
            if part.levels:
                raise ConfigError(f"--preset and {self._name} exclude each other: its tasks are those of its columns")
            return {wanted.preset: World(preset=wanted.preset)}
        found = {}
        for column in part.columns or self._target.columns:
            if column in self._grid.scale.worlds:
                found[column] = self._grid.scale.worlds[column]
                continue
            self._leave_out(f"column {column}", f"scale {wanted.scale} has no policy for it")
        return found

    def _leave_out(self, what: str, why: str) -> None:
        self._grid.left_out.append(LeftOut(self._name, what, why))

    def _of(
        self, column: str, world: World, levels: Mapping[str, Setting], name: str, arm: Arm, seed: int
    ) -> Iterator[Cell]:
        shared = (*self._grid.scale.changes, *world.changes, *self._target.changes, *self._changes)
        changes = (*shared, *_changes(arm), f"optimise.seed={seed}", f"collect.seed={seed}")
        run = load_run(preset=world.preset, changes=changes)
        if world.make:
            self._grid.makes[run.policy] = world.make
        says = f"{column} {name}"
        training = None if arm.train is None else self._training(run, world.preset, changes, f"{says} seed {seed}")
        if self._target.measure in BUDGET:
            if training is not None:
                yield Cell(self._name, column, "", name, "", seed, training)
            return
        for level, harder in levels.items():
            for reading, setting in {**arm.readings, **arm.beside}.items():
                layers = (self._grid.scale.reading, world.reading, self._target.reading, harder, self._reading, setting)
                job = self._read(run, training, seed, layers, " ".join(filter(None, (says, level, reading))))
                yield Cell(self._name, column, level, name, reading, seed, job)

    def _training(self, run: RunFile, preset: str, changes: tuple[str, ...], says: str) -> Job:
        told = run.model_dump(mode="json", exclude_defaults=True) | {"policy": _begins(run.policy)}
        seed = run.optimise.seed
        folder = self._grid.wanted.out / TRAININGS / f"{preset}-s{seed}-{_hash(told)}"
        words = ("--preset", preset, *changes)
        made = folder / ("adapter" if run.lora else "policy")
        return Job("train", says, folder, words, run, seed, made)

    def _read(self, run: RunFile, training: Job | None, seed: int, layers: Sequence[Setting], says: str) -> Job:
        given: Json = {**READ}
        for layer in layers:
            given |= layer.said()
        collect = run.collect
        given.setdefault("contents", collect.contents)
        given.setdefault("env", collect.env)
        given.setdefault("max_tokens", collect.max_tokens)
        given.setdefault("max_turns", collect.max_turns)
        if collect.history is not None:
            given["history"] = collect.history
        if collect.strategy != "lamer":
            given.setdefault("strategy", collect.strategy)
        if given.pop("unseen_by_training", False):
            given["skip"] += run.optimise.updates * collect.tasks
        given["prompt_style"] = collect.prompt_style
        policy = Path(run.policy)
        if training is not None:
            # Where the run validates, the policy is the one that did best on the validation tasks.
            policy = training.folder / BEST if run.validation else training.made
        begins = _begins(run.policy) if training is None else training.name
        subject = Path(run.policy).name if training is None else f"{training.name.rpartition('-')[0]}"
        folder = self._grid.wanted.out / READINGS / f"{subject}-{_hash({'policy': begins, **given})}"
        words = ("--policy", str(policy), *_options(given))
        played = collect.model_copy(
            update={key: value for key, value in given.items() if key in CollectConfig.model_fields}
        )
        read = run.model_copy(update={"collect": played})
        says = f"{says}, read" + ("" if training is None else f" seed {seed}")
        return Job("eval", says, folder, words, read, seed, folder / "reading.json", training)


OPTIONS = {"max_episodes": "--episodes", "contents": "--memory"}


def _options(given: Mapping[str, Any]) -> list[str]:
    """A reading as options of `eval`."""
    words = []
    for key, value in given.items():
        option = OPTIONS.get(key, "--" + key.replace("_", "-"))
        if value is True:
            words.append(option)
        elif value is not None and value is not False and not (key == "skip" and value == 0):
            words += [option, str(value)]
    return words


def _begins(policy: str) -> str:
    """What stands for the weights that a run begins with: their hash, or their name where they are not here."""
    folder = Path(policy)
    return weights_of(folder) if is_policy(folder) or is_adapter(folder) else policy


def _hash(told: Mapping[str, Any]) -> str:
    text = json.dumps(told, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()
