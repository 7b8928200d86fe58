"""Run files of `train`: a closed, typed description of a training run, and the presets.

What must stay true: an unknown key is an error that names the nearest valid one, and everything that can be known to be
wrong is known before any work. `collect` is a `lamer_graph.CollectConfig`, per update: `tasks` new tasks of the
split, `trials` trials each (the group), up to `max_episodes` episodes a trial; plain RL is `max_episodes: 1, contents:
none` and a group of as many trials as one may have episodes (`presets.rl_baseline`). Complete ones that come with the
project are in `presets`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ValidationError, model_validator
from rapidfuzz import fuzz, process

from lamer_graph.collection.config import CollectConfig, check_rerolls
from lamer_graph.collection.sampled_by import rendered
from lamer_graph.errors import ConfigError
from lamer_graph.policies.rendering import knows, template_text
from lamer_graph.policies.shipped import (
    TEMPLATE,
    WORDING,
    base_of,
    is_adapter,
    shipped_policies,
    taught_style,
    taught_template,
    taught_wording,
)
from lamer_graph.trial.strategies import check_memory
from lamer_trainers.errors import TrainingConfigError
from lamer_trainers.learning.charges import APPLICATIONS
from lamer_trainers.learning.settings import LamerSettings
from lamer_trainers.presets import PRESETS
from lamer_trainers.sections import RENAMED as RENAMED
from lamer_trainers.sections import Closed, Count, Distil, Lora, Positive, Preferences
from lamer_trainers.sections import Optimise as Optimise
from lamer_trainers.sections import Remember as Remember
from lamer_trainers.sections import Server as Server
from lamer_trainers.sections import Validate as Validate

if TYPE_CHECKING:
    from lamer_trainers.learning.config import LamerConfig


class RunFile(Closed):
    """A training run: `policy` is a folder in Hugging Face format, or an adapter, which `lora` goes on with (without
    `lora` it is merged, and all weights are trained).

    `template` are arguments of its chat template, e.g. `{enable_thinking: false}`, wherever it plays and with what is
    trained (None: as its card says, or else the logs, or else none).

    With `collect.scope: tasks` a memory goes on from update to update: what an update sees of other tasks is what the
    updates before it left (at first what `collect.store` holds), fixed before its first trial; `remember` bounds it.

    `dtype` is the type of the frozen weights under an adapter, in this process (None: float32 on a CPU, bfloat16 on a
    GPU). What is trained is float32.

    `pipeline` batches are collected ahead while the trainer updates, with weights that are at most so many updates old.
    `logs` are folders of logged runs to train on instead of collecting: `collect.tasks` groups an update, each as large
    as it was logged; `collect` then says what the logs must be of, and how validation plays.
    """

    policy: str
    template: dict[str, bool | int | str] | None = None
    collect: CollectConfig
    logs: tuple[str, ...] = ()
    optimise: Optimise = Optimise()
    lora: Lora | None = None
    server: Server | None = None
    pipeline: Count = 0
    remember: Remember = Remember()
    distil: Distil | None = None
    preferences: Preferences = Preferences()
    validation: Validate | None = None
    save_every: Positive = 10
    concurrency: Positive = 128
    deterministic: bool = False
    dtype: Literal["float32", "bfloat16"] | None = None
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"

    @model_validator(mode="before")
    @classmethod
    def _moved(cls, data: Any) -> Any:
        """`server.template` of before is the policy's `template`, but for what its chat template ignored."""
        if not isinstance(data, dict) or not isinstance(data.get("server"), dict) or "template" not in data["server"]:
            return data
        server = {**data["server"]}
        moved = server.pop("template")
        text = template_text(Path(str(data.get("policy"))))
        if text is not None and isinstance(moved, dict):
            moved = {key: value for key, value in moved.items() if knows(text, key)}
        said = data.get("template")
        if moved and said is not None and said != moved:
            raise ValueError("`server.template` and `template` differ; say it once, as `template`")
        return {**data, "server": server, "template": moved or None if said is None else said}

    @property
    def base(self) -> str:
        """The model's folder: `policy`, or what it is an adapter of. Raises ConfigError for an adapter without it."""
        return str(base_of(Path(self.policy))) if is_adapter(Path(self.policy)) else self.policy

    @property
    def template_args(self) -> dict[str, Any]:
        """Arguments of the policy's chat template: as `template` says, or else its card, or else the logs, or none."""
        if self.template is not None:
            return dict(self.template)
        taught = taught_template(Path(self.policy))
        if taught is not None:
            return taught
        return next((noted["template"] for folder in self.logs if (noted := rendered(folder)) is not None), {})

    @property
    def card(self) -> dict[str, Any]:
        """What is written beside weights of this run (`lamer.json`): what they play, and how they are asked."""
        collect = self.collect
        said = collect.model_dump(mode="json", exclude_defaults=True)
        return {
            "env": collect.env,
            "prompt_style": collect.prompt_style,
            "trained": True,
            TEMPLATE: self.template_args,
            **{key: said[key] for key in WORDING if key in said},
        }

    @property
    def plays_here(self) -> bool:
        """Whether the policy is sampled in this process, be it to validate."""
        return self.server is None and (not self.logs or self.validation is not None)

    def check(self) -> None:
        """Raises TrainingConfigError for settings that contradict each other, ConfigError for a wrong memory.

        Loads no torch."""
        self._check_what_is_sampled()
        self._check_sampling_side()
        self._check_memory_side()
        algorithm, distils = self.optimise.algorithm, self.distil is not None
        self.preferences.check(algorithm, logged=bool(self.logs), distils=distils, temperature=self.collect.temperature)
        self._check_dtype()
        told, known = self._settings(), LamerSettings.__dataclass_fields__
        LamerSettings(**{name: value for name, value in told.items() if name in known}).check_settings()

    def trainer_config(self, folder: Path, *, cpu: bool | None = None) -> LamerConfig:
        """The trainer's configuration, with outputs in `folder`. Raises what `check` raises."""
        from lamer_trainers.learning.config import LamerConfig

        self.check()
        return LamerConfig(output_dir=str(folder), use_cpu=bool(cpu), **self._settings())

    def _settings(self) -> dict[str, Any]:
        """Arguments of `LamerConfig`, but for where it writes and computes."""
        return {
            **self.optimise.settings(),
            "max_staleness": None if self.logs else self.pipeline,
            "temperature": self.collect.temperature,
            "max_completion_length": self.collect.max_tokens,
            "save_updates": self.save_every,
            "save_total_limit": 2,
            "distil_floor": LamerSettings.distil_floor if self.distil is None else self.distil.floor,
            "report_to": self.report_to,
            "disable_tqdm": True,
        }

    def _check_what_is_sampled(self) -> None:
        """Raises TrainingConfigError for trials that cannot be trained on."""
        collect = self.collect
        if collect.of_application and (not self.logs or self.validation is not None):
            raise TrainingConfigError(
                f"'{collect.env}' is an application's, which is not played here: name its logs (--from-logs) and leave "
                "out `validation`"
            )
        if collect.top_p != 1.0 or collect.top_k != 0 or collect.temperature <= 0:
            raise TrainingConfigError(
                "the logprobs of other sampling are not the policy's: set collect.temperature above 0, collect.top_p=1 "
                "and collect.top_k=0"
            )
        if collect.strategy == "reflexion":
            raise TrainingConfigError(
                "collect.strategy 'reflexion' is the untrained baseline: set collect.strategy=lamer, which shows all "
                "reflections"
            )
        if not self.logs and (collect.skip or collect.shuffle_reflections):
            raise TrainingConfigError(
                "collect.skip and collect.shuffle_reflections are not for training, which counts tasks by updates and "
                "credits what a reflection led to: leave them out"
            )

    def _check_sampling_side(self) -> None:
        """Raises TrainingConfigError for logs, a server or a pipeline that the other settings rule out."""
        if self.logs and (self.server is not None or self.pipeline):
            raise TrainingConfigError("with `logs` nothing is collected: drop `server` and `pipeline`")
        if self.logs and self.collect.rerolls:
            raise TrainingConfigError("with `logs` nothing is played, so nothing is begun again: drop collect.rerolls")
        if self.logs and self.optimise.old_logprobs != "recomputed":
            raise TrainingConfigError(
                "logs are of other versions than the one that is trained: set optimise.old_logprobs=recomputed, which "
                "weighs every token by the ratio of the two"
            )
        if self.server is not None and self.lora is None:
            from lamer_graph.serving.vllm import vllm_flavour

            why = (
                "its answers do not say which weights made them, so no call could be proved"
                if vllm_flavour() == "gpu"
                else "on the CPU it reloads weights wrongly without an error"
            )
            raise TrainingConfigError(
                f"a running vLLM takes adapters, not weights ({why}): train an adapter with lora.rank=.., or drop "
                "`server` to train all weights and sample in process"
            )
        if self.server is not None and self.server.placement == "colocated":
            if self.pipeline:
                raise TrainingConfigError(
                    "colocated server and trainer take turns, so nothing is collected ahead: set pipeline=0, or "
                    "server.placement=apart"
                )
            if self.server.devices is not None:
                raise TrainingConfigError(
                    "a colocated server is on the trainer's device: drop server.devices, or set server.placement=apart"
                )
        apart = "`server`" if self.server is not None else "`pipeline`" if self.pipeline else None
        if apart and self.deterministic:
            raise TrainingConfigError(f"deterministic holds for sampling in process, in turns: drop it or {apart}")
        if apart and self.optimise.old_logprobs != "recomputed":
            raise TrainingConfigError(
                f"with {apart} the sampler's numbers are not the trainer's: set optimise.old_logprobs=recomputed, "
                "which weighs every token by their ratio"
            )

    def _check_dtype(self) -> None:
        """Raises TrainingConfigError for weights that would be trained in 16 bits."""
        if self.lora is None and self.dtype == "bfloat16":
            raise TrainingConfigError(
                "all weights are trained here, in float32, because a step would be lost in the rounding of bfloat16: "
                "train an adapter with lora.rank=.., or drop `dtype`"
            )

    def _check_memory_side(self) -> None:
        """Raises TrainingConfigError for a memory that training cannot have, ConfigError for another strategy's."""
        check_memory(self.collect.strategy, self.collect.contents, self.collect.scope)
        check_rerolls(self.collect)
        if self.collect.scope == "tasks" and self.collect.visible == "live":
            raise TrainingConfigError(
                "collect.visible 'live' would show the trials of a group each other's answers: leave it frozen"
            )
        of_app = self.collect.env.partition(":")[0] in APPLICATIONS
        if self.distil is not None and (self.collect.contents == "none" or of_app):
            raise TrainingConfigError(
                "distil leaves a memory out of prompts that are asked again: an environment's, with collect.contents "
                "other than none; set those, or drop distil"
            )
        if self.distil is not None and self.optimise.algorithm == "ppo":
            raise TrainingConfigError("distil goes with advantages of groups, not with ppo's critic: drop one of them")
        if self.optimise.by_memory and not (self.collect.control or self.logs):
            raise TrainingConfigError(
                "optimise.by_memory compares trials that see other tasks' records with each other only, and here all "
                "see them: set collect.control=0.5, or drop it"
            )
        if self.collect.scope == "trial" and self.remember != Remember():
            raise TrainingConfigError(
                "`remember` bounds a memory of other tasks, and scope 'trial' has none: use collect.scope=tasks"
            )


SECTIONS: dict[str, type[BaseModel]] = {
    "collect": CollectConfig,
    "optimise": Optimise,
    "lora": Lora,
    "server": Server,
    "remember": Remember,
    "distil": Distil,
    "preferences": Preferences,
    "validation": Validate,
}
"""The sections of a run file."""


def load_run(source: str | Path | None = None, *, preset: str | None = None, changes: Iterable[str] = ()) -> RunFile:
    """The run of a YAML file or a preset, with `section.key=value` changes (values in YAML) applied.

    Raises TrainingConfigError for a file that cannot be read, an unknown preset or key (with the nearest), a value of
    the wrong type, or settings that contradict each other.
    """
    if (source is None) == (preset is None):
        raise TrainingConfigError("give a run file or --preset, one of the two")
    if preset is not None:
        if preset not in PRESETS:
            raise TrainingConfigError(f"unknown preset '{preset}'{_nearest(preset, PRESETS)}")
        data = _copy(PRESETS[preset])
        shipped = shipped_policies().get(Path(data["policy"]).name)
        if shipped is not None and not Path(data["policy"]).is_dir():
            data["policy"] = str(shipped)
    else:
        data = _read(Path(str(source)))
    for change in changes:
        _apply(data, change)
    _choose_style(data)
    try:
        run = RunFile.model_validate(data)
    except ValidationError as error:
        raise TrainingConfigError(_explain(error)) from None
    except ConfigError as error:  # of what is a value of its own, as `collect.texts`
        raise TrainingConfigError(f"collect: {error}") from None
    if run.collect.store:  # a relative path in a run's configuration is taken from that run's folder, here it is ours
        store = str(Path(run.collect.store).resolve())
        run = run.model_copy(update={"collect": run.collect.model_copy(update={"store": store})})
    run.check()
    return run


def _choose_style(data: dict[str, Any]) -> None:
    """`collect.prompt_style` where nothing is said, or `auto`: as the policy was taught. In that style `WORDING`, too,
    where nothing is said."""
    collect, policy = data.setdefault("collect", {}), data.get("policy")
    if not isinstance(collect, dict) or not isinstance(policy, str):
        return
    taught = taught_style(Path(policy))
    if collect.get("prompt_style", "auto") == "auto":
        collect["prompt_style"] = taught
    if collect["prompt_style"] == taught:
        data["collect"] = {**taught_wording(Path(policy)), **collect}


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingConfigError(f"cannot read the run file {path} ({error})") from None
    except yaml.YAMLError as error:
        raise TrainingConfigError(f"{path} is not YAML: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(data, dict):
        raise TrainingConfigError(f"{path} is not a run file: it must hold keys such as policy, collect, optimise")
    return data


def _apply(data: dict[str, Any], change: str) -> None:
    name, equals, text = change.partition("=")
    if not equals or not name:
        raise TrainingConfigError(f"'{change}' is not of the form section.key=value")
    if name.startswith("server.template"):  # its place of before
        name = name.removeprefix("server.")
    *sections, key = name.split(".")
    for depth, section in enumerate(sections, start=1):
        inner = data.setdefault(section, {})
        if inner is None:
            inner = data[section] = {}
        if not isinstance(inner, dict):
            place = ".".join(sections[:depth])
            raise TrainingConfigError(
                f"'{change}' takes '{place}' for a section, and it is the value {inner!r}: "
                + (f"drop '{place}' first" if place in SECTIONS else f"write {place}=VALUE")
            )
        data = inner
    try:
        data[key] = _number(yaml.safe_load(text))
    except yaml.YAMLError:
        raise TrainingConfigError(f"the value in '{change}' is not YAML; put it in quotes") from None


def _number(value: Any) -> Any:
    """YAML 1.1 reads 5e-4 as text; people mean the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _copy(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in data.items()}


def _explain(error: ValidationError) -> str:
    """The first problem as one line, unknown keys before all: what is missing may have been written there."""
    problems = error.errors(include_url=False, include_context=False)
    problem = min(problems, key=lambda each: each["type"] != "extra_forbidden")
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        homes = _homes(problem["loc"])
        if homes:
            return f"unknown key '{place}': it belongs at {' or '.join(homes)}"
        return f"unknown key '{place}'{_nearest(str(problem['loc'][-1]), _fields(problem['loc'][:-1]))}"
    if problem["type"] == "missing":
        return f"the run file lacks '{place}'"
    if problem["type"] in ("model_type", "dict_type") and place in SECTIONS:
        first = next(iter(SECTIONS[place].model_fields))
        return (
            f"'{place}' is a section of keys, not {problem['input']!r:.100}: write {place}.KEY=.., e.g. {place}.{first}"
        )
    return f"{place}: {problem['msg']}, not {problem['input']!r}"[:400]


def _fields(sections: tuple[int | str, ...]) -> list[str]:
    """The keys that a section knows."""
    section: type[BaseModel] = RunFile
    for name in sections:
        kind = section.model_fields[str(name)].annotation
        section = next(one for one in (kind, *get_args(kind)) if isinstance(one, type) and issubclass(one, BaseModel))
    return list(section.model_fields)


def _homes(loc: tuple[int | str, ...]) -> list[str]:
    """Where else the key of that name is known, as it is written on the command line."""
    key, here = str(loc[-1]), ".".join(map(str, loc[:-1]))
    homes = [f"{name}.{key}" for name, section in SECTIONS.items() if name != here and key in section.model_fields]
    return [key, *homes] if here and key in RunFile.model_fields else homes


def _nearest(name: str, names: Iterable[str]) -> str:
    found = process.extractOne(name, list(names), scorer=fuzz.ratio, score_cutoff=50)
    return f"; did you mean '{found[0]}'?" if found else f"; there are: {', '.join(names)}"
