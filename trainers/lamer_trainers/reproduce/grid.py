"""Targets and scales: the data files that say which runs a table or figure of the paper is made of.

What must stay true: closed and typed, an unknown key is an error that names its file and place; the tasks that are read
are the same for all arms of a target; what an arm changes wins over what all share (scale, world, target, `--set`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator
from rapidfuzz import fuzz, process

from lamer_trainers.errors import TrainingConfigError
from lamer_trainers.sections import Closed, Positive

Json = dict[str, Any]
ScaleName = Literal["cpu", "smollm2", "paper"]
SCALES: tuple[ScaleName, ...] = ("cpu", "smollm2", "paper")
Measure = Literal["pass", "gain", "diversity", "seconds", "tokens", "episodes"]
PLACE = resources.files("lamer_trainers.reproduce")


class Setting(Closed):
    """How a policy is read: what `eval` is told. None: as the layer below says, at last the run that was trained."""

    env: str | None = None
    split: str | None = None
    tasks: Positive | None = None
    skip: int | None = Field(default=None, ge=0)
    trials: Positive | None = None
    max_episodes: Positive | None = None
    max_turns: Positive | None = None
    max_tokens: Positive | None = None
    contents: Literal["none", "trajectory", "reflection", "both"] | None = None
    strategy: str | None = None
    sampling: Literal["train", "paper"] | None = None
    shuffle_reflections: bool | None = None
    unseen_by_training: bool | None = None
    """Of a training split: beyond all tasks that the training can have drawn."""

    def said(self) -> Json:
        return self.model_dump(exclude_none=True)


class World(Closed):
    """A column of a table: what is trained on and read in one environment. `make` is how its policy is made, where it
    does not come with us."""

    preset: str
    changes: tuple[str, ...] = ()
    reading: Setting = Setting()
    make: str = ""


class Scale(Closed):
    """`language`: whether policies read and write plain language. `threads` of a job (None: as many as there are), and
    so whether several run at once."""

    says: str
    language: bool
    threads: Positive | None = None
    changes: tuple[str, ...] = ()
    reading: Setting = Setting()
    worlds: dict[str, World]


class Arm(Closed):
    """A row. `train` are changes to the world's run file, after those of the RL baseline where it is `rl`; None is the
    policy before any training. `counts`: which of its readings a table shows, the first or the best of `readings`
    that are not `beside`."""

    train: tuple[str, ...] | None = ()
    rl: bool = False
    needs: Literal["language"] | None = None
    counts: Literal["first", "best"] = "first"
    readings: dict[str, Setting] = Field(default={"": Setting()}, min_length=1)
    beside: dict[str, Setting] = Field(default={})

    @model_validator(mode="after")
    def _whole(self) -> Arm:
        if self.rl and self.train is None:
            raise ValueError("`rl` is a training: leave it out where `train` is null")
        return self


class Claim(Closed):
    """`ours` is above `theirs` (the best of them, where they are several): arms, or `arm/reading`. With `between` it is
    their ratio that lies there."""

    says: str
    ours: str
    theirs: tuple[str, ...] = Field(min_length=1)
    measure: Measure | None = None
    at: Positive = 3
    columns: tuple[str, ...] | None = None
    between: tuple[float, float] | None = None


class Paper(Closed):
    """Where the paper's numbers are: a table of `paper.json`, and which of its columns (`{column}`, `{level}`, `{k}`);
    `at`: what pass@k a table of one number stands beside."""

    table: str
    key: str
    at: Positive | None = None


class Part(Closed):
    """What a target is at one scale: its columns, if not all of the target's; harder or other tasks by column, which
    are read beside each other; and what has to be said of it."""

    columns: tuple[str, ...] | None = None
    levels: dict[str, dict[str, Setting]] = Field(default={})
    says: str = ""


class Target(Closed):
    """One table or figure."""

    title: str
    about: str
    paper: Paper | None = None
    statement: str = ""
    measure: Measure = "pass"
    columns: tuple[str, ...]
    changes: tuple[str, ...] = ()
    reading: Setting = Setting()
    arms: dict[str, Arm]
    claims: tuple[Claim, ...] = ()
    scales: dict[ScaleName, Part] = Field(default={})

    @model_validator(mode="after")
    def _known(self) -> Target:
        for claim in self.claims:
            for named in (claim.ours, *claim.theirs):
                arm, _, reading = named.partition("/")
                if arm not in self.arms:
                    raise ValueError(f"a claim names the arm '{arm}', which is not there")
                if reading and reading not in {**self.arms[arm].readings, **self.arms[arm].beside}:
                    raise ValueError(f"a claim names the reading '{named}', which is not there")
        return self

    def part(self, scale: ScaleName) -> Part:
        return self.scales.get(scale, Part())


def target_names() -> list[str]:
    """The targets, the paper's first."""
    found = sorted(path.name.removesuffix(".yaml") for path in PLACE.joinpath("targets").iterdir())
    return sorted(found, key=lambda name: "-" in name or name == "optimisers")


@cache
def load_target(name: str) -> Target:
    """Raises TrainingConfigError for an unknown name (with the nearest) and for a file that is not a target."""
    names = target_names()
    if name not in names:
        raise TrainingConfigError(f"unknown target '{name}'{nearest(name, names)}")
    file = f"targets/{name}.yaml"
    made: Target = _valid(Target, yaml.safe_load(PLACE.joinpath(file).read_text(encoding="utf-8")), file)
    return made


@cache
def load_scale(name: ScaleName) -> Scale:
    """Raises TrainingConfigError for a file that holds no scales."""
    given = yaml.safe_load(PLACE.joinpath("scales.yaml").read_text(encoding="utf-8"))
    made: Scale = _valid(Scale, given[name], f"scales.yaml, {name}")
    return made


@cache
def paper() -> Json:
    """The paper's numbers and statements (arXiv 2512.16848)."""
    found: Json = yaml.safe_load(PLACE.joinpath("paper.json").read_text(encoding="utf-8"))
    return found


def paper_number(where: Paper | None, arm: str, column: str, level: str, k: int) -> float | None:
    """The paper's number of a cell, a share of 1; None where it has none."""
    if where is None or (where.at is not None and where.at != k):
        return None
    table = paper()[where.table]
    columns = table.get("columns") or [*table["in_distribution"], *table["out_of_distribution"]]
    key = where.key.format(column=column, level=level, k=k)
    if arm not in table or key not in columns:
        return None
    return float(table[arm][columns.index(key)]) / 100


def nearest(name: str, names: Iterable[str]) -> str:
    """What was meant, or what there is."""
    names = list(names)
    found = process.extractOne(name, names, scorer=fuzz.ratio, score_cutoff=50)
    return f"; did you mean '{found[0]}'?" if found else f"; there are: {', '.join(names)}"


def setting_of(changes: Mapping[str, Any]) -> Setting:
    """The setting that `--set reading.KEY=VALUE` says. Raises TrainingConfigError."""
    made: Setting = _valid(Setting, dict(changes), "--set reading")
    return made


def _valid(model: Any, given: Any, where: str) -> Any:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = list(model.model_fields) if len(problem["loc"]) == 1 else []
            hint = nearest(str(problem["loc"][-1]), known) if known else ""
            raise TrainingConfigError(f"{where}: unknown key '{place}'{hint}") from None
        raise TrainingConfigError(f"{where}: {place}: {problem['msg']}") from None
