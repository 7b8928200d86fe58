"""Tasks for an application of one's own: they are collected, evaluated and trained on as an environment's are.

A trial is up to N attempts of the application (`with_retries`) on one task. What must stay true: the application is
built on the policy that is evaluated or trained, and its calls are logged with what the policy read and the exact
tokens of its answers; nothing here assumes that tools are pure. Where code needs a pure environment (to step, to solve,
to list actions), a task says that it is none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
from langchain_core.messages import AnyMessage, HumanMessage, convert_to_messages
from langgraph.config import get_config

from lamer_envs.base import Env, State, Step
from lamer_envs.errors import EnvParameterError, InstanceError, NotOfferedError
from lamer_envs.registry import add
from lamer_graph.apps.grading import Grader, called, check_function
from lamer_graph.apps.knowing import TRIAL_KEY, Known
from lamer_graph.apps.lessons import text_of
from lamer_graph.apps.once import is_marked, once
from lamer_graph.apps.policy_chat import PolicyChat
from lamer_graph.apps.retries import TIMEOUT_S, with_retries
from lamer_graph.errors import ConfigError, MissingLibraryError
from lamer_graph.text import plain_json
from lamer_graph.trial.harness import Harness
from lamer_graph.trial.states import Json
from lamer_graph.types import stable_seed

TASK_KEY = "lamer_task"
"""Key of `config["configurable"]` under which a trial's task is: what its grader is asked about."""
SPLITS = ("train", "val", "test")
MAX_TASK_BYTES = 1 << 20
LOOKED_AT = 8
"""Tasks of a function that tell it from another."""
NO_TASK = "is a task of an application, which is played as a whole"

Build = Callable[[Any], Any]
"""`build(model)` gives the compiled graph of the application that plays with this chat model."""


class TaskEnv(Env):
    """Tasks and their application, made by `task_agent`. Its spec is "task:NAME"."""

    name = "task"

    def __init__(
        self,
        title: str,
        build: Build,
        tasks: Sequence[Json] | Callable[[int], Json],
        grade: Grader,
        *,
        attempt_timeout: float | None,
        recursion_limit: int,
        timeout: float,
    ) -> None:
        self.title = title
        self.build = build
        self.grade = grade
        self.tasks = tasks
        self.max_turns = recursion_limit // 2
        self.attempt_timeout = attempt_timeout
        self.recursion_limit = recursion_limit
        self.timeout = timeout

    @property
    def spec(self) -> str:
        return f"{self.name}:{self.title}"

    @property
    def params(self) -> Mapping[str, Any]:
        return {"title": self.title}

    @property
    def rules(self) -> str:
        return f"Tasks of the application '{self.title}'."

    @property
    def action_format(self) -> str:
        return "as the application asks for it"

    def reset(self, seed: int) -> State:
        if not callable(self.tasks):
            return {"task": self.tasks[seed % len(self.tasks)]}
        try:
            task = self.tasks(seed)
        except Exception as error:  # whatever a user's module raises
            raise InstanceError(f"task {seed} of '{self.title}' failed: {type(error).__name__}: {error}") from error
        return {"task": checked(task, f"task {seed} of '{self.title}'")}

    def load(self, instance: Mapping[str, Any] | Path) -> State:
        if isinstance(instance, Path):
            instance = orjson.loads(instance.read_bytes())
        return {"task": checked(instance, "the instance")}

    def observe(self, state: State) -> str:
        return "\n".join(text_of(message) for message in asked(state["task"]))

    def step(self, state: State, action: str) -> Step:
        raise NotOfferedError(f"'{self.spec}' {NO_TASK}: use collect, eval, train or with_retries")

    def parse(self, answer: str) -> str | None:
        return None

    @property
    def fingerprint(self) -> str:
        """A digest of the tasks: of a list all, of a function its first."""
        told = [self.reset(seed)["task"] for seed in range(LOOKED_AT)] if callable(self.tasks) else self.tasks
        return f"{stable_seed(orjson.dumps(told, option=orjson.OPT_SORT_KEYS)):016x}"

    def count(self, split: str) -> int | None:
        """How many tasks the split has; None where there is no end of them."""
        if split == "train" or callable(self.tasks):
            return None
        return sum(self.split_of(self.reset(seed)) == split for seed in range(len(self.tasks)))

    def split_of(self, state: State) -> str:
        return str(state["task"].get("split") or super().split_of(state))

    def _seeds(self, split: str) -> Iterator[int]:
        """Of a list of tasks those of the split; "train" begins again behind the last, with seeds of its own."""
        if callable(self.tasks):
            yield from super()._seeds(split)
            return
        own = [seed for seed in range(len(self.tasks)) if self.split_of(self.reset(seed)) == split]
        if not own:
            raise EnvParameterError(
                f"none of the {len(self.tasks)} tasks of '{self.title}' is of split '{split}': name their splits "
                '({"split": "test"}), or give more'
            )
        for again in itertools.count() if split == "train" else (0,):
            yield from (seed + again * len(self.tasks) for seed in own)


def task_agent(
    build: Build | None = None,
    *,
    tools: Sequence[Any] = (),
    system_prompt: str | None = None,
    tasks: str | Path | Sequence[Mapping[str, Any]] | Callable[[int], Mapping[str, Any]],
    grade: Grader,
    name: str,
    attempt_timeout: float | None = None,
    recursion_limit: int = 25,
    timeout: float = TIMEOUT_S,
) -> TaskEnv:
    """An application with tasks and a grade, for `lamer-graph eval|collect|compare|train --task my_module:NAME`.

    The application is LangChain's `create_agent` with `tools` and `system_prompt`, or what `build(model)` makes of a
    chat model: any compiled graph that `with_retries` takes. `tasks` is a file of JSON lines, a list, or a function
    from a seed; each is an object with `input` (a text or a list of messages), perhaps `split` ("train", "val", "test";
    by a hash if it does not say) and whatever `grade(task, result)` wants to know. `grade` returns a Grade, a bool or a
    number. The other settings are those of `with_retries`; how often a task is tried and what is remembered the run
    says.

    Raises ConfigError and EnvParameterError for what cannot be played.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(f"name must be one word of letters, digits and underscores, such as 'helpdesk', not {name!r}")
    if (build is None) == (not tools):
        raise ConfigError("give either tools=[..] for LangChain's create_agent, or build=, a function of the model")
    if build is None:
        build = _agent_with(list(tools), system_prompt)
    elif system_prompt is not None:
        raise ConfigError("system_prompt= would do nothing: build= makes the whole application")
    check_function("build", build, "model")
    check_function("grade", grade, "task, result")
    given: Sequence[Json] | Callable[[int], Json]
    if isinstance(tasks, str | Path):
        given = read_tasks(Path(tasks))
    elif callable(tasks):
        given = tasks  # type: ignore[assignment]  # what it gives is checked when it gives it
    else:
        given = [checked(task, f"task {number}") for number, task in enumerate(tasks)]
    if not callable(given) and not given:
        raise ConfigError(f"there are no tasks in {tasks!r:.100}")
    env = TaskEnv(
        name,
        build,
        given,
        grade,
        attempt_timeout=attempt_timeout,
        recursion_limit=recursion_limit,
        timeout=timeout,
    )
    add(env)
    return env


def read_tasks(path: Path) -> list[Json]:
    """The tasks of a file of JSON lines. Raises ConfigError that names the line."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read the tasks in {path}: {error.strerror}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(checked(orjson.loads(line), f"{path} line {number}"))
        except ValueError as error:
            raise ConfigError(f"{path} line {number} is not JSON: {error}") from None
        except InstanceError as error:
            raise ConfigError(str(error)) from None
    return found


def checked(task: Any, where: str) -> Json:
    """A task as states and logs hold it. Raises InstanceError."""
    if isinstance(task, Mapping) and task.get("split", "train") not in SPLITS:
        raise InstanceError(f"{where} is of split {task['split']!r}: splits are {', '.join(SPLITS)}")
    if not isinstance(task, Mapping) or not task.get("input"):
        raise InstanceError(f'{where} must be a JSON object with an input, such as {{"input": "What is 2 + 2?"}}')
    try:
        data = orjson.dumps(plain_json(dict(task)))
        asked(task)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise InstanceError(f"{where} is malformed: {error}") from None
    if len(data) > MAX_TASK_BYTES:
        raise InstanceError(f"{where} takes {len(data):,} bytes, more than {MAX_TASK_BYTES:,}: give a reference")
    found: Json = orjson.loads(data)
    return found


def asked(task: Mapping[str, Any]) -> list[AnyMessage]:
    """What the application is asked: the task's input as messages."""
    given = task["input"]
    return [HumanMessage(given)] if isinstance(given, str) else convert_to_messages(given)  # type: ignore[return-value]


def _agent_with(tools: list[Any], system_prompt: str | None) -> Build:
    kept = [once(tool) if is_marked(tool) else tool for tool in tools]

    def build(model: Any) -> Any:
        try:
            from langchain.agents import create_agent
        except ImportError as error:
            raise MissingLibraryError(
                f"tools= makes an agent of LangChain's, which is not here ({error}): pip install langchain, or give "
                "build="
            ) from None
        return create_agent(model, kept, system_prompt=system_prompt)

    return build


@dataclass(frozen=True, slots=True)
class TaskApp:
    """A task environment's application on a harness's policy and memory."""

    app: Any
    h: Harness

    @classmethod
    def of(cls, env: TaskEnv, h: Harness, log: Any) -> TaskApp:
        """Raises what `build` and `with_retries` raise."""
        chat = PolicyChat(policy=h.policy, sampling=h.sampling, keep_messages=True)

        async def grade(_: Any, result: Any) -> Any:
            task = get_config()["configurable"][TASK_KEY]
            return await called(env.grade, (task, result), env.timeout)

        grade.__name__ = getattr(env.grade, "__name__", type(env.grade).__name__)
        try:
            graph = env.build(chat)
        except Exception as error:  # whatever a user's module raises
            raise ConfigError(f"'{env.spec}' cannot be built: {type(error).__name__}: {str(error)[:500]}") from error
        app = with_retries(
            graph,
            grade=grade,
            reflect=chat if h.reflects else None,
            max_attempts=h.max_episodes,
            attempt_timeout=env.attempt_timeout,
            recursion_limit=env.recursion_limit,
            memory=replace(h.memory, backend=h.backend),
            log=log,
            timeout=env.timeout,
            name=env.title,
        )
        return cls(app, h)

    async def play(self, state: State, trial: Known) -> None:
        """One trial of the task that begins in `state`, logged by the application. `trial` is what it is known by."""
        config = {"configurable": {TASK_KEY: state["task"], TRIAL_KEY: trial}}
        await self.app.ainvoke({"messages": asked(state["task"])}, config)
