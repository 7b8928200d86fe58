"""The line format of the run log as closed pydantic models, and the check of a whole log against them.

What must stay true: these models are the contract between graph and trainer. An unknown field is an error, messages
are indices into the trial's `texts`, `token_ids[i]` was drawn with log-probability `logprobs[i]` (nats). A turn's
`observation` is `Env.observe` of the state that the turn began in, whatever the prompt showed of it (style "compact"
shows `Env.compact`; what the policy read is in its `messages`); step-level advantages take it for the anchor (GiGPO,
arXiv 2505.10978). A new meaning, or a field that old logs cannot do without, raises `runlog.SCHEMA_VERSION`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lamer_graph.errors import RunLogError
from lamer_graph.runlog.lines import TRIALS_FILE, LogLine, open_trials, scan, trial_of
from lamer_graph.runlog.recording import checked_extra

MAX_ERRORS = 100
"""Errors that a report spells out; the rest are counted."""

Count = Annotated[int, Field(ge=0)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class Call(_Closed):
    """One policy call. No `token_ids`: the policy could not give them, and the call cannot be trained on."""

    messages: list[tuple[Literal["system", "user", "assistant", "tool"], Count]]
    prompt_token_ids: list[Count]
    token_ids: list[Count]
    logprobs: list[float | None]  # JSON has no NaN: a null is a logprob that was not finite
    policy_version: str
    finish_reason: str
    seed: int | None
    dropped: Count
    seconds: float

    @property
    def trainable(self) -> bool:
        return bool(self.token_ids)


class Turn(_Closed):
    """What `Env.observe` showed of the state before it, the action played, and what the environment answered.

    `action` is in the environment's own form; one that it could not read is what stood between the tags, "" without
    any, and not `valid`. `text` is the whole answer (the first `steps.MAX_TEXT_CHARS`), `reward` the environment's,
    `plan` what the first turn of an episode planned, where its strategy asks for that.
    """

    observation: str
    action: str | None  # None in logs of other tools only
    reward: float
    valid: bool
    text: str
    call: Call | None
    plan: str | None = None


class Episode(_Closed):
    """`reward` is the sum over its turns; `truncated`: the turn budget, or the error of its trial, ended it."""

    turns: list[Turn]
    success: bool
    reward: float
    truncated: bool


class Reflection(_Closed):
    """What was written after `episode` (from 0); not `valid` where the answer had no complete tag."""

    episode: Count
    text: str
    valid: bool
    call: Call | None


class MemoryAccess(_Closed):
    """Keys that were read before, or written after, `episode` (from 0); `seconds` is how long a read took, with the
    wait for its turn (logs of before do not say)."""

    episode: Count
    keys: list[str]
    seconds: float | None = None
    held: list[str] = []
    """Keys of other tasks' records that it would have seen, and that were held back to compare with."""


class Task(_Closed):
    id: str
    env: str
    seed: int | None
    instance: dict[str, Any] | str | None
    split: str | None


class Timings(_Closed):
    """`seconds` from the trial's opening to its line, waits and interruptions included; `policy_seconds` in calls."""

    started: str
    seconds: float
    policy_seconds: float


class TrialFailure(_Closed):
    """Why a trial ended early: the error, and where it struck."""

    type: str
    message: str
    episode: int | None
    turn: int | None


class Branch(_Closed):
    """Where a re-roll was begun: `turn` of `episode` (from 0) of another trial of the run. What is before is that
    trial's, is here without calls, and was asked the same."""

    trial_id: str
    episode: Count
    turn: Count


class Trial(_Closed):
    """One line of `trials.jsonl`."""

    schema_version: Literal[1]
    trial_id: str
    task: Task
    trial: Count
    config_hash: str
    memory: dict[str, Any]
    sampling: dict[str, Any]
    texts: list[str]
    episodes: list[Episode]
    reflections: list[Reflection]
    memory_reads: list[MemoryAccess]
    memory_writes: list[MemoryAccess]
    success: bool
    timings: Timings
    error: TrialFailure | None
    progress: list[float] = []
    """`Env.progress` of the first state and of each episode's last, in [0, 1]; empty where it is not stated."""
    branch: Branch | None = None
    """Of a re-roll: where it was begun (logs of before have none)."""
    extra: dict[str, Any] = {}
    """A user's own fields, of at most `recording.MAX_EXTRA_BYTES`."""
    escaped: list[str] = []
    """Control tokens that stood in text from outside, broken by a backslash in `texts` (`trial.quoting.restore`)."""

    def calls(self) -> Iterator[tuple[str, Call]]:
        """Every policy call with its place, e.g. ("episodes.0.turns.3", call)."""
        for number, episode in enumerate(self.episodes):
            for position, turn in enumerate(episode.turns):
                if turn.call is not None:
                    yield f"episodes.{number}.turns.{position}", turn.call
        for number, reflection in enumerate(self.reflections):
            if reflection.call is not None:
                yield f"reflections.{number}", reflection.call


@dataclass
class CheckReport:
    """What `check` found. `ok` when nothing has to be mended before training."""

    path: str
    trials: int = 0
    tasks: int = 0
    episodes: int = 0
    turns: int = 0
    reflections: int = 0
    calls: int = 0
    tokens: int = 0
    successes: int = 0
    failed_trials: int = 0
    """Trials that ended in a recorded error; they are valid lines."""
    untrainable_calls: int = 0
    """Calls without tokens; valid, but a trainer skips them."""
    non_finite_calls: int = 0
    length_mismatches: int = 0
    duplicates: list[tuple[int, str]] = field(default_factory=list)
    """(line, trial id) of every trial that was already logged further up."""
    torn_bytes: int = 0
    """Length of a torn last line; the next open drops it."""
    policy_versions: dict[str, int] = field(default_factory=dict)
    error_count: int = 0
    errors: list[tuple[int, str]] = field(default_factory=list)
    """(line, message), the first `MAX_ERRORS`."""

    @property
    def ok(self) -> bool:
        return not self.error_count and not self.duplicates

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}

    def add_error(self, line: int, message: str) -> None:
        self.error_count += 1
        if len(self.errors) < MAX_ERRORS:
            self.errors.append((line, message))


def check(folder: str | Path) -> CheckReport:
    """Validate every line of a run's log, going on past bad ones. Raises RunLogError where there is no log."""
    path = Path(folder) / TRIALS_FILE
    report = CheckReport(path=str(path))
    seen: set[str] = set()
    tasks: set[str] = set()
    with open_trials(path) as file:
        for line in scan(file):
            if line.torn:
                report.torn_bytes = len(line.raw)
                break
            trial = _validated(line, path, report)
            if trial is None:
                continue
            if trial.error is None:  # a trial that an error ended may be followed by the one that a resume played
                if trial.trial_id in seen:
                    report.duplicates.append((line.number, trial.trial_id))
                seen.add(trial.trial_id)
            tasks.add(trial.task.id)
            _count(trial, line.number, report)
    report.tasks = len(tasks)
    return report


def _validated(line: LogLine, path: Path, report: CheckReport) -> Trial | None:
    try:
        trial_of(line, path)
        return Trial.model_validate_json(line.raw)
    except RunLogError as error:
        report.add_error(line.number, str(error))
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_context=False, include_input=False):
            place = ".".join(str(part) for part in problem["loc"])
            report.add_error(line.number, f"{place}: {problem['msg']}")
    return None


def _count(trial: Trial, line: int, report: CheckReport) -> None:
    report.trials += 1
    report.episodes += len(trial.episodes)
    report.turns += sum(len(episode.turns) for episode in trial.episodes)
    report.reflections += len(trial.reflections)
    report.successes += trial.success
    report.failed_trials += trial.error is not None
    for place, call in trial.calls():
        report.calls += 1
        report.tokens += len(call.token_ids)
        report.policy_versions[call.policy_version] = report.policy_versions.get(call.policy_version, 0) + 1
        for message in _call_problems(call, len(trial.texts), report):
            report.add_error(line, f"{place}: {message}")
    for message in _trial_problems(trial):
        report.add_error(line, message)


def _call_problems(call: Call, texts: int, report: CheckReport) -> Iterator[str]:
    if any(index >= texts for _, index in call.messages):
        yield f"a message points past the trial's {texts} texts"
    if not call.trainable:
        report.untrainable_calls += 1
    elif not call.prompt_token_ids:
        yield "tokens without prompt tokens"
    if len(call.token_ids) != len(call.logprobs):
        report.length_mismatches += 1
        yield f"{len(call.token_ids)} token_ids but {len(call.logprobs)} logprobs"
    if any(value is None for value in call.logprobs):
        report.non_finite_calls += 1
        yield "a logprob is not finite"


def _trial_problems(trial: Trial) -> Iterator[str]:
    if trial.success != any(episode.success for episode in trial.episodes):
        yield f"success is {trial.success}, its episodes say otherwise"
    try:
        checked_extra(trial.extra)
    except RunLogError as error:
        yield str(error)
    yield from _branch_problems(trial)
    if trial.progress and len(trial.progress) != len(trial.episodes) + 1:
        yield f"{len(trial.progress)} numbers of progress for the start and {len(trial.episodes)} episodes"
    if len(set(trial.texts)) != len(trial.texts):
        yield "texts are not unique"
    for reflection in trial.reflections:
        if reflection.episode >= len(trial.episodes):
            yield f"a reflection on episode {reflection.episode} of {len(trial.episodes)}"
    try:
        utc = datetime.fromisoformat(trial.timings.started).utcoffset() == timedelta(0)
    except ValueError:
        utc = False
    if not utc:
        yield f"timings.started is not an ISO-8601 UTC time: {trial.timings.started!r}"


def _branch_problems(trial: Trial) -> Iterator[str]:
    """What is before a re-roll's branch belongs to another trial, whose calls would else count twice."""
    branch = trial.branch
    if branch is None:
        return
    if branch.episode >= len(trial.episodes) or branch.turn >= len(trial.episodes[branch.episode].turns):
        yield f"it was begun at turn {branch.turn} of episode {branch.episode}, which it does not have"
        return
    turns = [turn for episode in trial.episodes[: branch.episode] for turn in episode.turns]
    turns += trial.episodes[branch.episode].turns[: branch.turn]
    before = [turn.call for turn in turns]
    before += [made.call for made in trial.reflections if made.episode < branch.episode]
    if any(call is not None for call in before):
        yield f"calls before the place that it was begun at, which are those of {branch.trial_id}"
