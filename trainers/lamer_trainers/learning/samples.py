"""From logged trials to training samples: one policy call, one sample, with what it earned.

What must stay true: a sample's tokens and logprobs are those that were logged, never tokenised again, and a call that
cannot be trained on stops the run with an error that names its trial and place, before anything is updated. Left out
without an error are only trials that ended in a recorded error, reflections that a person wrote or edited, and, of an
application, calls without tokens: it may ask models of all kinds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from lamer_graph.runlog.lines import APPLICATION
from lamer_trainers.advantages import anchored, gigpo, grpo, mr_search, reinforce_plus_plus, rloo
from lamer_trainers.credit import (
    Objective,
    Variant,
    call_discounts,
    counted,
    cross_episode_returns,
    with_progress,
)
from lamer_trainers.errors import TrainingConfigError, TrainingDataError
from lamer_trainers.learning.charges import penalty_of

Trial = Mapping[str, Any]
"""One line of a run log, as `lamer_graph.runlog.read_trials` yields it."""

Level = Literal["return", "reference"]
Algorithm = Literal["gigpo", "grpo", "rloo", "reinforce++", "mr-search", "ppo"]
Normalise = Literal["mean", "std", "batch"]
Anchor = Literal["observation", "episode+observation"]
Baseline = Literal["task", "task+episode"]

REFLECTION_ANCHOR = "\x00reflection"
"""The anchor of every reflection; no observation begins with a NUL."""
_VERSION = re.compile(r"-v([0-9]+)$")


def check_choices(owner: object, **choices: Any) -> None:
    """Raises TrainingConfigError where an attribute is not one of its Literal's values."""
    for name, literal in choices.items():
        if getattr(owner, name) not in get_args(literal):
            raise TrainingConfigError(f"{name} is one of {', '.join(get_args(literal))}, not {getattr(owner, name)!r}")


@dataclass(frozen=True, slots=True)
class Credit:
    """How rewards become returns. `level` is what the episode-level methods compare: G_0(n) of the call's episode (for
    a reflection G_0(n + 1)), or the authors' undiscounted reward of its own episode (0 for a reflection).

    `invalid_penalty` is subtracted from both returns of a turn whose action was invalid, and not carried to earlier
    turns (paper: 0.5). It is off where the environment itself charges more for such actions than for any legal turn.
    `objective` says which episodes' rewards count (`credit.counted`), `progress_weight` how much an attempt's progress
    over the earlier ones is worth beside them (`credit.with_progress`).
    """

    gamma_step: float = 0.95
    gamma_traj: float = 0.6
    variant: Variant = "paper"
    level: Level = "return"
    invalid_penalty: float = 0.5
    objective: Objective = "all"
    progress_weight: float = 0.0

    def __post_init__(self) -> None:
        check_choices(self, variant=Variant, level=Level, objective=Objective)
        if not (0 <= self.gamma_step <= 1 and 0 <= self.gamma_traj <= 1) or self.invalid_penalty < 0:
            raise TrainingConfigError("gamma_step and gamma_traj lie in [0, 1], invalid_penalty is at least 0")
        if not self.progress_weight >= 0:
            raise TrainingConfigError(f"progress_weight is at least 0, not {self.progress_weight}")


@dataclass(frozen=True, slots=True)
class Estimator:
    """How returns become advantages (see `advantages`).

    `normalise`: "mean" or "std" in the group; "batch" (gigpo only) is `advantages.anchored`, step level alone with a
    fallback to (episode, turn), in the batch's standard deviations, clamped at `clamp`. `anchor` says which turns share
    a step-level baseline, `baseline` which calls an episode-level one: returns of a trial's first and third episode
    differ by construction, so comparing like with like removes variance, at the price of smaller groups. `by_memory`
    compares trials that may see other tasks' records with each other alone, and so those that they were held back from
    (`collect.control`): what a memory does for a trial is not its own doing (Memory-R2, arXiv 2605.21768).
    `gamma_traj` discounts later episodes' relative rewards for mr-search, which compares before it sums up.
    """

    algorithm: Algorithm = "gigpo"
    normalise: Normalise = "mean"
    anchor: Anchor = "observation"
    baseline: Baseline = "task"
    step_weight: float = 1.0
    clamp: float = 4.0
    by_memory: bool = False
    gamma_traj: float = 0.6

    def __post_init__(self) -> None:
        check_choices(self, algorithm=Algorithm, normalise=Normalise, anchor=Anchor, baseline=Baseline)
        if self.normalise == "batch" and self.algorithm != "gigpo":
            raise TrainingConfigError(f"normalise='batch' belongs to algorithm='gigpo', not '{self.algorithm}'")
        if self.by_memory and self.algorithm in ("ppo", "reinforce++"):
            raise TrainingConfigError(
                f"by_memory says which trials are a group, and {self.algorithm} compares no groups"
            )


@dataclass(frozen=True, slots=True)
class Sample:
    """One policy call. `turn` counts within the episode; a reflection follows the last turn of its episode. `held` says
    that other tasks' records were held back from its trial, `remembered` that it was drawn with a memory that its
    prompt no longer has (`distil`), `rerolled` that its trial was begun from another's midst.

    `step_return` is G_t(n), `episode_return` what `Credit.level` says, `episode_reward` the undiscounted reward of its
    episode (of a reflection: of the one that it prepares), all after the penalty, in the units of rewards;
    `discount` is how much of the trial's next call counts (for GAE). `group` names what it is compared with: the task,
    or for a re-roll the place that it was begun from.
    """

    trial: str
    group: str
    kind: Literal["turn", "reflection"]
    episode: int
    turn: int
    anchor: str
    text: str
    prompt_token_ids: Sequence[int]
    token_ids: Sequence[int]
    logprobs: Sequence[float]
    policy_version: str
    valid: bool
    reward: float
    step_return: float
    episode_return: float
    discount: float
    episode_reward: float = 0.0
    held: bool = False
    remembered: bool = False
    rerolled: bool = False

    @property
    def length(self) -> int:
        return len(self.prompt_token_ids) + len(self.token_ids)

    @property
    def place(self) -> str:
        """Where the call is, for messages."""
        where = "the reflection on" if self.kind == "reflection" else f"turn {self.turn} of"
        return f"{where} episode {self.episode} of trial {self.trial}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a model can take: `tokens` for prompt and answer together, ids below `vocabulary`, `completion` for the
    answer alone; None is no limit."""

    tokens: int | None = None
    completion: int | None = None
    vocabulary: int | None = None


def samples_of(trials: Iterable[Trial], credit: Credit = Credit(), limits: Limits = Limits()) -> list[Sample]:
    """The samples of all finished trials, each trial's in time order.

    Raises TrainingDataError for a call without token ids or with logprobs that are missing or not finite, for an empty
    or too long completion, and for a trial that comes twice.
    """
    samples: list[Sample] = []
    seen: set[str] = set()
    for trial in trials:
        if trial.get("error") is not None:
            continue
        name = str(trial["trial_id"])
        if name in seen:
            raise TrainingDataError(f"trial {name} comes twice in one batch: give every trial once")
        seen.add(name)
        samples += _of_trial(trial, name, credit, limits)
    return samples


def _of_trial(trial: Trial, name: str, credit: Credit, limits: Limits) -> list[Sample]:
    episodes, spec = trial["episodes"], trial["task"]["env"]
    first, played = begun_at(trial)
    try:
        rewards = _rewards(trial, credit)[first:]
        rewards[:1] = [rewards[0][played:]]
        returns = cross_episode_returns(
            rewards, gamma_step=credit.gamma_step, gamma_traj=credit.gamma_traj, variant=credit.variant
        )
    except (ValueError, IndexError) as error:
        raise TrainingDataError(f"trial {name}: {error}") from None
    reflections = {made["episode"]: made for made in trial["reflections"] if made["call"] is not None}
    discounts = iter(
        call_discounts(
            [len(episode) for episode in rewards],
            [number in reflections for number in range(first, len(episodes))],
            gamma_step=credit.gamma_step,
            gamma_traj=credit.gamma_traj,
        )
    )
    penalty = penalty_of(spec, credit.invalid_penalty)
    common: dict[str, Any] = {
        "trial": name,
        "group": group_of(trial),
        "rerolled": trial.get("branch") is not None,
        "held": any(read.get("held") for read in trial.get("memory_reads", ())),
    }
    samples: list[Sample] = []
    gaps = spec.startswith(APPLICATION)
    for index, episode in enumerate(episodes[first:]):
        number, skipped = first + index, 0 if index else played
        own = sum(rewards[index])
        level = returns.turns[index][0] if credit.level == "return" else own
        for position, turn in enumerate(episode["turns"][skipped:]):
            lost = 0.0 if turn["valid"] else penalty
            reward, discount = rewards[index][position], next(discounts)
            if gaps and not _has_tokens(turn):
                _leave_out(samples, reward, discount)
                continue
            samples.append(
                _sample(
                    turn,
                    limits,
                    kind="turn",
                    episode=number,
                    turn=skipped + position,
                    anchor=turn["observation"],
                    reward=reward - lost,
                    step_return=returns.turns[index][position] - lost,
                    episode_return=level - lost,
                    episode_reward=own - lost,
                    discount=discount,
                    **common,
                )
            )
        made = reflections.get(number)
        if made is None or number + 1 == len(episodes):
            continue
        following = returns.reflections[index]
        discount = next(discounts)
        if gaps and not _has_tokens(made):
            _leave_out(samples, 0.0, discount)
            continue
        samples.append(
            _sample(
                made,
                limits,
                kind="reflection",
                episode=number,
                turn=len(episode["turns"]),
                anchor=REFLECTION_ANCHOR,
                reward=0.0,
                step_return=following,
                episode_return=following if credit.level == "return" else 0.0,
                episode_reward=sum(rewards[index + 1]),
                discount=discount,
                **common,
            )
        )
    return samples


def begun_at(trial: Trial) -> tuple[int, int]:
    """The episode and turn (from 0) of a trial's first own call: a re-roll's `branch`, what is before is another's."""
    branch = trial.get("branch")
    return (0, 0) if branch is None else (branch["episode"], branch["turn"])


def group_of(trial: Trial) -> str:
    """What a trial is compared with: its task's trials, or the re-rolls that were begun where it was."""
    task, branch = str(trial["task"]["id"]), trial.get("branch")
    return task if branch is None else f"{task} from {branch['trial_id']} {branch['episode']}.{branch['turn']}"


def _rewards(trial: Trial, credit: Credit) -> list[list[float]]:
    """The rewards of all turns as they count. Raises ValueError where progress is to count and was not logged."""
    rewards = [[turn["reward"] for turn in episode["turns"]] for episode in trial["episodes"]]
    if credit.progress_weight:
        progress = trial.get("progress")
        if not progress:
            raise ValueError(
                f"progress_weight is {credit.progress_weight:g}, but no progress was logged: the environment "
                f"'{trial['task']['env']}' states none, or the log is of before it did; leave progress_weight at 0"
            )
        rewards = with_progress(rewards, progress[0], progress[1:], credit.progress_weight)
    return counted(rewards, credit.objective)


def _has_tokens(made: Trial) -> bool:
    return bool((made["call"] or {}).get("token_ids"))


def _leave_out(samples: list[Sample], reward: float, discount: float) -> None:
    """Give the call before one that cannot be trained on what that one earned."""
    if samples:
        last = samples[-1]
        earned = last.reward + last.discount * reward
        samples[-1] = replace(last, reward=earned, discount=last.discount * discount)


def _sample(made: Trial, limits: Limits, **fields: Any) -> Sample:
    call = made["call"] or {}
    sample = Sample(
        text=made["text"],
        valid=made["valid"],
        prompt_token_ids=call.get("prompt_token_ids", ()),
        token_ids=call.get("token_ids", ()),
        logprobs=call.get("logprobs", ()),
        policy_version=call.get("policy_version", ""),
        **fields,
    )
    problem = _problem(sample, limits)
    if problem is not None:
        raise TrainingDataError(f"{sample.place}: {problem}")
    return sample


def _problem(sample: Sample, limits: Limits) -> str | None:
    tokens, prompt = sample.token_ids, sample.prompt_token_ids
    if not prompt and not tokens:
        return (
            "no token ids were logged; collect with a policy that gives them (LocalPolicy, or OpenAIPolicy with "
            "training=True and vLLM), not a chat model"
        )
    if not prompt:
        return "the answer has token ids but its prompt has none; collect again with return_token_ids on"
    if not tokens:
        return "the completion is empty (not even a stop token), there is nothing to train on; drop the trial"
    if len(tokens) != len(sample.logprobs):
        return f"{len(tokens)} tokens but {len(sample.logprobs)} logprobs; collect again with logprobs on"
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in sample.logprobs):
        return "a logprob is missing or not finite; drop the trial and check the model that sampled it"
    if limits.completion is not None and len(tokens) > limits.completion:
        return f"a completion of {len(tokens)} tokens exceeds max_completion_length {limits.completion}; raise it"
    if limits.tokens is not None and sample.length > limits.tokens:
        return f"{sample.length} tokens exceed the model's context of {limits.tokens}; train a model that can hold them"
    if limits.vocabulary is not None and max(max(tokens), max(prompt)) >= limits.vocabulary:
        return f"a token id is beyond the model's {limits.vocabulary} tokens: the log is of another tokenizer"
    return None


def anchors_of(samples: Sequence[Sample], anchor: Anchor) -> list[Hashable]:
    """What the calls of a task must have in common to share a step-level baseline, one for each sample."""
    if anchor == "episode+observation":
        return [(sample.episode, sample.anchor) for sample in samples]
    return [sample.anchor for sample in samples]


def advantages_of(samples: Sequence[Sample], estimator: Estimator) -> list[float]:
    """One advantage per sample. PPO's come from its critic, not from here: raises ValueError."""
    if estimator.algorithm == "ppo":
        raise ValueError("the advantages of ppo need its critic, see critic.Critic.judge")
    tasks: list[Any] = [sample.group for sample in samples]
    if estimator.by_memory:
        tasks = [(sample.group, sample.held) for sample in samples]
    groups = tasks
    if estimator.baseline == "task+episode":
        groups = [(task, sample.episode, sample.kind) for task, sample in zip(tasks, samples, strict=True)]
    trials = [sample.trial for sample in samples]
    rewards = [sample.episode_return for sample in samples]
    returns = [sample.step_return for sample in samples]
    anchors = anchors_of(samples, estimator.anchor)
    if estimator.algorithm == "reinforce++":
        return reinforce_plus_plus(step_returns=returns)
    if estimator.algorithm == "rloo":
        return rloo(groups=groups, trials=trials, episode_rewards=rewards)
    if estimator.algorithm == "mr-search":
        return mr_search(
            groups=tasks,
            trials=trials,
            episodes=[sample.episode + (sample.kind == "reflection") for sample in samples],
            episode_rewards=[sample.episode_reward for sample in samples],
            gamma=estimator.gamma_traj,
        )
    if estimator.normalise == "batch":
        fallbacks = [(sample.episode, sample.turn, sample.kind) for sample in samples]
        return anchored(groups=tasks, anchors=anchors, fallbacks=fallbacks, step_returns=returns, clamp=estimator.clamp)
    if estimator.algorithm == "grpo":
        return grpo(groups=groups, episode_rewards=rewards, normalise=estimator.normalise)
    return gigpo(
        groups=groups,
        # A baseline of (task, episode) splits a trial over groups; its calls are then told apart by their group.
        trials=[(trial, group) for trial, group in zip(trials, groups, strict=True)],
        anchors=anchors,
        episode_rewards=rewards,
        step_returns=returns,
        step_weight=estimator.step_weight,
        normalise=estimator.normalise,
    )


def version_number(version: str) -> int | None:
    """7 for "policy-v0007"; None for a name that does not say."""
    found = _VERSION.search(version)
    return int(found.group(1)) if found else None


def staleness(samples: Sequence[Sample], current: int) -> list[int]:
    """How many versions ago each sample was drawn. Raises TrainingDataError where its version does not say."""
    ages = []
    for sample in samples:
        number = version_number(sample.policy_version)
        if number is None:
            raise TrainingDataError(
                f"{sample.place}: policy version '{sample.policy_version}' has no number (like policy-v0007), so its "
                "staleness is unknown; leave max_staleness out"
            )
        ages.append(current - number)
    return ages
