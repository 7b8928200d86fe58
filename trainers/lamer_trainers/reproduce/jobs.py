"""From targets to jobs: every training and reading of a grid, its command and its folder.

What must stay true: a job's folder is named by a hash of its configuration (settings, and the weights that it begins
with), so equal ones are one job in whatever targets they stand, and a changed setting never meets results of another;
a cell of a table is a job that can be run, or it is said why it is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lamer_graph.collection.config import CollectConfig
from lamer_graph.errors import ConfigError
from lamer_graph.policies.fingerprint import weights_of
from lamer_graph.policies.shipped import is_adapter, is_policy
from lamer_trainers.loop.best import BEST
from lamer_trainers.presets import rl_baseline
from lamer_trainers.reproduce.changes import SEEDS, Changes, changes_of, check_reach, unreached
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
    """What of a target a job is. A policy that no seed trained is one job for all of them."""

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
    makes: dict[str, str]
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
    changes = changes_of(wanted.settings)
    check_reach(changes, targets, wanted.scale)
    makers = [_Maker(wanted, scale, name, target, changes) for name, target in targets.items()]
    cells = [cell for maker in makers for cell in maker.cells()]
    left_out = [one for maker in makers for one in maker.left_out]
    makes = {policy: how for maker in makers for policy, how in maker.makes.items()}
    return Grid(wanted, scale, targets, cells, _chosen(wanted, targets, cells), left_out, makes)


def _chosen(wanted: Wanted, targets: Mapping[str, Target], cells: Sequence[Cell]) -> list[Job]:
    """The jobs of the rows and columns that `only` names, and the trainings that they read. Raises ConfigError."""
    arms = dict.fromkeys(arm for target in targets.values() for arm in target.arms)
    columns = dict.fromkeys((*(column for one in targets.values() for column in one.columns), wanted.preset or ""))
    for name in wanted.only:
        if name not in arms and name not in columns:
            raise ConfigError(f"--only {name}: there is no such row or column{nearest(name, [*arms, *columns])}")
    rows = [name for name in wanted.only if name in arms] or arms
    of = [name for name in wanted.only if name in columns] or columns
    chosen: dict[str, Job] = {}
    for cell in _by_seed(cells):
        if cell.arm in rows and cell.column in of:
            chosen.setdefault(cell.job.name, cell.job)
    for job in list(chosen.values()):
        if job.after is not None:
            chosen.setdefault(job.after.name, job.after)
    return list(chosen.values())


def _by_seed(cells: Sequence[Cell]) -> list[Cell]:
    """All of the first seed before anything of the second, so that something whole is there soon."""
    seeds = list(dict.fromkeys(cell.seed for cell in cells))
    return sorted(cells, key=lambda cell: seeds.index(cell.seed))


class _Column(NamedTuple):
    """What all rows of a column share: `changes` to its preset, and `baseline`, what RL changes besides."""

    name: str
    world: World
    levels: Mapping[str, Setting]
    changes: tuple[str, ...]
    baseline: tuple[str, ...]


class _Maker:
    """The cells of one target."""

    def __init__(self, wanted: Wanted, scale: Scale, name: str, target: Target, changes: Changes) -> None:
        self._wanted, self._scale, self._name, self._target, self._changes = wanted, scale, name, target, changes
        self.left_out: list[LeftOut] = []
        self.makes: dict[str, str] = {}

    def cells(self) -> Iterator[Cell]:
        part = self._target.part(self._wanted.scale)
        arms = {}
        for name, arm in self._target.arms.items():
            if arm.needs == "language" and not self._scale.language:
                self._leave_out(name, "it needs a policy that reads plain language, which this scale's do not")
            else:
                arms[name] = arm
        for reading, key in unreached(self._changes, self._target):
            self._leave_out(f"--set {key} of the reading '{reading}'", "it says its own")
        for column, world in self._worlds().items():
            levels = part.levels.get(column) or {"": Setting()}
            shared = (*self._scale.changes, *world.changes, *self._target.changes, *self._changes.trained)
            collect = load_run(preset=world.preset, changes=shared).collect
            place = _Column(column, world, levels, shared, rl_baseline(collect.trials, collect.max_episodes))
            for name, arm in arms.items():
                for seed in self._wanted.seeds:
                    yield from self._of(place, name, arm, seed)

    def _worlds(self) -> dict[str, World]:
        part, wanted = self._target.part(self._wanted.scale), self._wanted
        if wanted.preset is not None:
            if part.levels:
                raise ConfigError(f"--preset and {self._name} exclude each other: its tasks are those of its columns")
            return {wanted.preset: World(preset=wanted.preset)}
        found = {}
        for column in part.columns or self._target.columns:
            if column in self._scale.worlds:
                found[column] = self._scale.worlds[column]
                continue
            self._leave_out(f"column {column}", f"scale {wanted.scale} has no policy for it")
        return found

    def _leave_out(self, what: str, why: str) -> None:
        self.left_out.append(LeftOut(self._name, what, why))

    def _of(self, place: _Column, name: str, arm: Arm, seed: int) -> Iterator[Cell]:
        column, world = place.name, place.world
        changes = (*place.changes, *(place.baseline if arm.rl else ()), *(arm.train or ()))
        changes += tuple(f"{key}={seed}" for key in SEEDS)
        run = load_run(preset=world.preset, changes=changes)
        if world.make:
            self.makes[run.policy] = world.make
        says = f"{column} {name}"
        training = None if arm.train is None else self._training(run, world.preset, changes, f"{says} seed {seed}")
        if self._target.measure in BUDGET:
            if training is not None:
                yield Cell(self._name, column, "", name, "", seed, training)
            return
        for level, harder in place.levels.items():
            for reading, setting in {**arm.readings, **arm.beside}.items():
                layers = (
                    self._scale.reading,
                    world.reading,
                    self._target.reading,
                    harder,
                    self._changes.read,
                    setting,
                )
                job = self._read(run, training, seed, layers, " ".join(filter(None, (says, level, reading))))
                yield Cell(self._name, column, level, name, reading, seed, job)

    def _training(self, run: RunFile, preset: str, changes: tuple[str, ...], says: str) -> Job:
        told = run.model_dump(mode="json", exclude_defaults=True) | {"policy": _begins(run.policy)}
        seed = run.optimise.seed
        folder = self._wanted.out / TRAININGS / f"{preset}-s{seed}-{_hash(told)}"
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
        folder = self._wanted.out / READINGS / f"{subject}-{_hash({'policy': begins, **given})}"
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
