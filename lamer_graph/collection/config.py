"""What a run collects, in one value: tasks, rules, memory, sampling; and which of these exclude each other.

What must stay true: two runs with equal configurations hold trials of the same tasks under the same rules, and what
cannot work is refused by name before there is a folder.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from lamer_envs import make
from lamer_envs.base import Env
from lamer_envs.errors import EnvError
from lamer_graph.errors import ConfigError
from lamer_graph.policies.base import Policy
from lamer_graph.runlog.lines import APPLICATION
from lamer_graph.trial import strategies
from lamer_graph.trial.harness import Harness, Stop, make_harness
from lamer_graph.trial.prompt_texts import STANDARD, PromptTexts
from lamer_graph.trial.prompts import ActionLists, PromptBuilder, PromptStyle
from lamer_graph.trial.states import Json
from lamer_graph.trial.strategies import Strategy, Thoughts
from lamer_graph.types import SAMPLING_PRESETS, Sampling
from lamer_memory import Contents, MemoryBackend, MemoryConfig, Outcomes, Scope
from lamer_memory.config import DEFAULT_K, Lessons, check_backend
from lamer_memory.embedders import open_embedder
from lamer_memory.utility import Select

Positive = Annotated[int, Field(ge=1)]
Texts = Annotated[PromptTexts, PlainValidator(PromptTexts.of), PlainSerializer(PromptTexts.to_json)]
HASHING = "hashing"
SAMPLING_FIELDS = tuple(one.name for one in fields(Sampling) if one.name != "stop")
DISTRIBUTION = ("temperature", "top_p", "top_k")
"""What of them says which distribution answers are drawn from."""
OF_OTHERS = ("outcomes", "select", "control", "lessons")
"""What is said of other tasks' records, and left out where it is the default."""
MEMORY_FIELDS = frozenset(one.name for one in fields(MemoryConfig)) | {"store", "visible", "embedder"}
REROLLS = ("rerolls", "reroll_trials")


class CollectConfig(BaseModel):
    """What is collected. Two runs with equal configurations hold trials of the same tasks under the same rules.

    `tasks_of` is a digest of an application's tasks, noted by itself. `stop="auto"` ends an answer at the closing tag
    that standard prompts ask for, "never" where the model ends it. `policy` names what plays, for the record: the
    caller hands over the policy itself. `skip` leaves out that many tasks of the split before the first.
    `shuffle_reflections` gives every trial another trial's reflection (an ablation: what is lost was memory at work).

    `backend` names what keeps the memory: "in-context", "chroma" (a folder of the run), "chroma:DIR",
    "chroma:http://host:port" or "store:postgresql://..", which runs may share. With `scope="tasks"` it may be filled
    from `store` first, which is an earlier run's folder or a Chroma directory (taken from the run's own folder if
    relative); `visible="frozen"` then shows what was there before the run's first trial, "live" also what its other
    trials have written (see `run_memory`). `outcomes` chooses among their records by what they came to, `select` by
    what they are worth, which is measured with the share of each task's trials that is the `control`; `same_task`
    recalls those of the same task as well, `lessons` says after which trials there are some (see `MemoryConfig`);
    `embedder` says what they are compared by ("hashing", "minilm" or "URL#MODEL", see `lamer_memory.embedders`).

    With `rerolls` up to `reroll_trials` failed trials of each task are begun again at a turn that the seed draws, and
    that many times each, as trials of their own: same past, new future (see `rerolls`).

    `actions` says whether standard prompts list what can be done now, `texts` replaces what they say, by name:
    `{"reflect": ".."}` (see `PromptBuilder` and `PromptTexts`). `strategy` is what the policy is asked for besides its
    actions (see `trial.strategies`), of which "zero_shot" has no `contents` where nothing is said; `thoughts` says
    whether later turns show what was said before an action.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    env: str
    tasks_of: str = ""
    policy: str = ""
    split: str = "train"
    tasks: Positive
    skip: Annotated[int, Field(ge=0)] = 0
    trials: Positive = 1
    max_episodes: Positive = 3
    max_turns: Positive | None = None
    contents: Contents = "reflection"
    backend: str = "in-context"
    scope: Scope = "trial"
    k: Positive = DEFAULT_K
    max_chars: Positive = 2000
    store: str = ""
    visible: Literal["frozen", "live"] = "frozen"
    outcomes: Outcomes = "any"
    same_task: bool = False
    select: Select = "similar"
    control: float = 0.0
    lessons: Lessons = "failed"
    embedder: str = HASHING
    prompt_style: PromptStyle = "standard"
    strategy: Strategy = "lamer"
    history: Positive | None = None
    actions: ActionLists = "auto"
    thoughts: Thoughts = "hidden"
    texts: Texts = STANDARD
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    max_tokens: Positive = 512
    stop: Stop = "auto"
    seed: int = 0
    shuffle_reflections: bool = False
    rerolls: Annotated[int, Field(ge=0)] = 0
    reroll_trials: Positive = 1

    @model_validator(mode="before")
    @classmethod
    def _known_tasks(cls, given: Any) -> Any:
        """Note which tasks an application has, so that a run is not gone on with after they were changed."""
        if not isinstance(given, dict) or given.get("tasks_of") or not str(given.get("env")).startswith("task:"):
            return given
        try:
            return {**given, "tasks_of": getattr(make(given["env"]), "fingerprint", "")}
        except EnvError:  # not imported here: whoever plays them says so
            return given

    @model_validator(mode="before")
    @classmethod
    def _implied_memory(cls, given: Any) -> Any:
        """A strategy that remembers nothing has no contents, where nothing is said of them."""
        if isinstance(given, dict) and given.get("strategy") == "zero_shot":
            return {"contents": "none", **given}
        return given

    @model_serializer(mode="wrap")
    def _plain(self, plain: SerializerFunctionWrapHandler) -> Json:
        # What says nothing is left out, so that a run of before these fields is still the same run.
        unsaid = {"store", "visible"} if self.scope == "trial" else set()
        silent = ("tasks_of", *OF_OTHERS, *REROLLS, "same_task", "embedder", "actions", "thoughts", "texts", "stop")
        unsaid |= {key for key in silent if getattr(self, key) == type(self).model_fields[key].default}
        return {key: value for key, value in plain(self).items() if key not in unsaid}

    @classmethod
    def sampling_preset(cls, name: str) -> dict[str, Any]:
        """The sampling fields of a preset ("train" or "paper"). Raises ConfigError for another name."""
        if name not in SAMPLING_PRESETS:
            raise ConfigError(f"unknown sampling '{name}'; choose one of: {', '.join(SAMPLING_PRESETS)}")
        return {key: value for key, value in SAMPLING_PRESETS[name].to_json().items() if key in DISTRIBUTION}

    @property
    def of_application(self) -> bool:
        """Whether it says what a log of an application's is of, which can be trained on and not played."""
        return self.env.startswith(APPLICATION)

    @property
    def sampling(self) -> Sampling:
        return Sampling(**{name: getattr(self, name) for name in SAMPLING_FIELDS})

    def prompts(self, env: Env | None = None) -> PromptBuilder:
        """What prompts are made with, but for a policy's control tokens. Raises ConfigError, and what `make` raises."""
        return PromptBuilder(
            make(self.env) if env is None else env,
            style=self.prompt_style,
            max_episodes=self.max_episodes,
            max_turns=self.max_turns,
            strategy=self.strategy,
            history=self.history,
            actions=self.actions,
            thoughts=self.thoughts,
            texts=self.texts,
        )

    def harness(self, policy: Policy, backend: MemoryBackend | None = None) -> Harness:
        """The harness of this configuration, with `backend` or else a new one of its name.

        Raises ConfigError and the environment's and memory's own errors.
        """
        check_memory(self)
        if self.shuffle_reflections and self.contents not in ("reflection", "both"):
            raise ConfigError(f"shuffle_reflections needs memory with reflections, not '{self.contents}'")
        memory = memory_config(self)
        harness = make_harness(
            policy,
            make(self.env),
            memory if backend is None else replace(memory, backend=backend),
            max_episodes=self.max_episodes,
            max_turns=self.max_turns,
            prompt_style=self.prompt_style,
            strategy=self.strategy,
            sampling=self.sampling,
            history=self.history,
            actions=self.actions,
            thoughts=self.thoughts,
            texts=self.texts,
            stop=self.stop,
        )
        return replace(harness, memory=memory)


def check_memory(config: CollectConfig, workers: int = 1) -> None:
    """Refuse what cannot work, by name. Raises ConfigError, MemoryConfigError and, without its library, the backend's
    MemoryBackendError."""
    check_rerolls(config, workers)
    check_backend(config.backend)
    memory_config(config)
    strategies.check_memory(config.strategy, config.contents, config.scope)
    name, _, place = config.backend.partition(":")
    address, compared_at = _address(place), _address(config.embedder)
    if config.scope == "tasks" and name == "in-context":
        raise ConfigError(
            "backend 'in-context' and scope 'tasks' exclude each other: it ends with its process and cannot tell which "
            "tasks are alike; use backend 'chroma' (or 'store'), or scope 'trial'"
        )
    if config.embedder != HASHING:
        open_embedder(config.embedder)
        if name not in ("chroma", "store"):
            raise ConfigError(
                f"embedder '{config.embedder}' and backend '{config.backend}' exclude each other: it does not rank by "
                "vectors; use backend 'chroma' or 'store'"
            )
        if compared_at.password:
            raise ConfigError("the address of an embedder may not hold a password, it would be logged")
    if config.scope == "trial":
        for given, what in (
            (config.store, f"store '{config.store}'"),
            (config.visible == "live", "visible 'live'"),
            (config.embedder != HASHING, f"embedder '{config.embedder}'"),
        ):
            if given:
                raise ConfigError(f"{what} and scope 'trial' exclude each other: other tasks are not seen; use 'tasks'")
    if name == "store" and not place:
        raise ConfigError("backend 'store' needs an address, e.g. 'store:postgresql://user@host/database'")
    if address.password or "password=" in address.query:
        raise ConfigError("the address of a memory may not hold a password, it would be logged: set PGPASSWORD instead")
    if workers > 1 and name == "chroma" and not is_served(config.backend):
        raise ConfigError(
            f"{workers} workers and a Chroma folder exclude each other: a folder belongs to one process; start a "
            "server with `chroma run` and give its address, or use one worker"
        )


def _address(text: str) -> SplitResult:
    """The parts of an address. Raises ConfigError for what is none."""
    try:
        return urlsplit(text)
    except ValueError as error:
        # Not the text itself, which may hold a password.
        raise ConfigError(f"a malformed address ({error}): write it as scheme://host:port") from None


def check_rerolls(config: CollectConfig, workers: int = 1) -> None:
    """Refuse re-rolls of what cannot be played again from its midst. Raises ConfigError."""
    if not config.rerolls:
        if config.reroll_trials != 1:
            raise ConfigError("reroll_trials says how many trials are begun again, and rerolls is 0: set both, or none")
        return
    for refused, why in (
        (config.rerolls == 1, "rerolls 1 would have nothing to be compared with: use 2 or more"),
        (
            config.of_application or config.env.partition(":")[0] == "task",
            "re-rolls begin at a stored state, and an application has none: what its tools did cannot be taken back; "
            "leave rerolls out",
        ),
        (config.scope == "tasks", "rerolls and scope 'tasks' exclude each other: a re-roll would recall other records"),
        (config.shuffle_reflections, "rerolls and shuffle_reflections exclude each other: reflections change hands"),
        (workers > 1, f"{workers} workers and rerolls exclude each other: a task's trials must all be known; use one"),
    ):
        if refused:
            raise ConfigError(why)


def check_idle(config: CollectConfig) -> None:
    """Refuse what a new run would be told for nothing; a run of before this check goes on. Raises ConfigError."""
    if config.scope == "trial" and config.k != DEFAULT_K:
        raise ConfigError(f"k {config.k} and scope 'trial' exclude each other: other tasks are not seen; use 'tasks'")
    strategies.check_style(config.prompt_style, config.strategy, config.thoughts)


def memory_config(config: CollectConfig) -> MemoryConfig:
    """What a run's configuration says of memory. Raises MemoryConfigError."""
    told = {one.name: getattr(config, one.name) for one in fields(MemoryConfig)}
    return MemoryConfig(**{**told, "k": config.k if config.scope == "tasks" else DEFAULT_K})


def is_shared(backend: str) -> bool:
    """Whether other runs may have their memory at the same place: a folder or server of its own a run has only where
    nothing is said."""
    return backend not in ("in-context", "chroma")


def is_served(backend: str) -> bool:
    """Whether several processes may use the memory at once, because a server keeps it."""
    return bool(_address(backend.partition(":")[2]).netloc)
