"""Off-line training: batches from logs that lie there already; the policy plays only to validate.

What must stay true: a log is trained on only if it is of this policy's kind. What sampled it, where it says so, has
this policy's architecture and tokenizer; its prompts, rendered and tokenised again by this policy, give the very ids
that were logged (another tokenizer or chat template does not), its game, prompts and sampling are the run file's, and
the trainer compares logprobs before its first update (`max_logprob_gap`). Versions may differ: every token is weighted
by the ratio of the trained policy to the one that was logged (`recomputed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from lamer_graph.collection.config import CollectConfig
from lamer_graph.collection.sampled_by import rendered, sampled_by
from lamer_graph.policies.base import Policy
from lamer_graph.policies.fingerprint import model_kind
from lamer_graph.policies.loading import renderer_of
from lamer_graph.policies.rendering import Renderer, difference, shown
from lamer_graph.runlog import read_config, read_trials
from lamer_graph.runlog.lines import APPLICATION
from lamer_graph.types import Message
from lamer_trainers.errors import TrainingDataError
from lamer_trainers.learning.batch import check_sampling
from lamer_trainers.learning.samples import Credit, Limits, Trial, samples_of
from lamer_trainers.runfile import RunFile
from lamer_trainers.sources.batches import Batches, Collected
from lamer_trainers.sources.logs import LoggedRuns

MUST_FIT = ("env", "prompt_style", "strategy", "thoughts", "actions", "texts", "temperature", "top_p", "top_k")
"""Fields of `collect` that a log must share: what is played, how it is put to the policy, how answers are drawn."""


class LoggedBatches(Batches):
    """`LoggedRuns` for the loop: `collect.tasks` groups an update. Raises what LoggedRuns raises."""

    def __init__(self, run: RunFile) -> None:
        self._runs = logged_runs(run)

    async def collect(self, step: int, policy: Policy) -> Collected:
        """The logged trials of update `step`, whole groups; nothing is played."""
        return Collected(self._runs.next_batch(step), None)


def logged_runs(run: RunFile) -> LoggedRuns:
    """The source of a run with `logs`. Raises RunLogError and TrainingDataError."""
    return LoggedRuns(run.logs, groups=run.collect.tasks, seed=run.optimise.seed)


def check_logs(run: RunFile) -> None:
    """What can be known about the logs before any work, from each one's description and its first finished trial.

    Raises RunLogError for a log that cannot be read, TrainingDataError for one that cannot be trained on.
    """
    from transformers import AutoConfig

    for folder in run.logs:
        config = read_config(folder)
        check_application(run.collect, next(read_trials(folder), None), folder)
        if not run.collect.of_application:
            check_config(run.collect, config, folder)
    logged_runs(run)
    renderer = renderer_of(run.policy, run.template_args)
    kind = model_kind(AutoConfig.from_pretrained(run.base), renderer.tokenizer)
    for folder in run.logs:
        check_model(kind, folder, run.policy)
        check_rendering(renderer, folder)
        trial = next((trial for trial in read_trials(folder) if trial.get("error") is None), None)
        if trial is not None:
            samples_of([trial], Credit(), Limits(completion=run.collect.max_tokens))
            check_sampling([trial], run.collect.temperature)
            check_prompts(renderer, trial, folder)


def check_config(wanted: CollectConfig, logged: Mapping[str, Any], folder: str | Path) -> None:
    """Raises TrainingDataError if a log was collected in another way than the run file says."""
    ours = wanted.model_dump(mode="json")
    for name in MUST_FIT:  # what is left out is at its default
        default = {} if name == "texts" else CollectConfig.model_fields[name].default
        there, here = logged.get(name, default), ours.get(name, default)
        if there != here:
            raise TrainingDataError(
                f"the log {folder} has {name} {there!r}, the run {here!r}: set collect.{name}={there}, or train on a "
                "log that was collected like that"
            )


def check_application(wanted: CollectConfig, trial: Trial | None, folder: str | Path) -> None:
    """Raises TrainingDataError if one of the two is an application's and they are not of the same."""
    there = wanted.env if trial is None else trial["task"]["env"]
    if there != wanted.env and (wanted.of_application or there.startswith(APPLICATION)):
        raise TrainingDataError(f"the log {folder} is of {there}, the run of {wanted.env}: set collect.env={there}")


def check_model(kind: Mapping[str, Any], folder: str | Path, policy: str) -> None:
    """Raises TrainingDataError if the log says that a model of another kind sampled it; other weights are no matter."""
    for sampler in (one for one in sampled_by(folder) if "weights" in one):
        there, here = ({**one["config"], "tokenizer": one["tokenizer"]} for one in (sampler, kind))
        # What only one of them says may be another version of transformers.
        differing = [
            f"{key} {there[key]} there, {here[key]} here" for key in here if there.get(key, here[key]) != here[key]
        ]
        if differing:
            name = read_config(folder).get("policy") or "unnamed"
            raise TrainingDataError(
                f"the log {folder} was sampled by another model ({name}) than {policy}: {'; '.join(differing)}"
            )


def check_rendering(renderer: Renderer, folder: str | Path) -> None:
    """Raises TrainingDataError if the log says that its prompts were rendered in another way."""
    there, here = rendered(folder), renderer.rendering
    if there is not None and there != here:
        raise TrainingDataError(
            f"the log {folder} was {difference(there, here)}: set `template` in the run to what the log says, or train "
            "on a log that was rendered like that"
        )


def check_prompts(renderer: Renderer, trial: Trial, folder: str | Path) -> None:
    """Raises TrainingDataError if the policy makes other ids of the trial's prompts than were logged.

    A template that prints the date is rendered as of the days of the trial, in any time zone.
    """
    if trial["task"]["env"].startswith(
        APPLICATION
    ):  # a server's template was given the tools, of which a log says nothing
        return
    texts, days = trial["texts"], _days(trial) if renderer.dated else [None]
    ways = [renderer]
    if rendered(folder) is None and renderer.system_role == "dropped":
        ways.append(renderer.unfolded())  # logs of before left the system's words out, as the template does
    made = [turn for episode in trial["episodes"] for turn in episode["turns"]] + list(trial["reflections"])
    for call in (entry["call"] for entry in made if entry["call"] is not None):
        chat = [Message(role=role, content=texts[index]) for role, index in call["messages"]]
        logged = list(call["prompt_token_ids"])
        if any(way.ids(chat, day) == logged for way in ways for day in days):
            continue
        counts = f"a prompt of {len(logged)} tokens there has {len(ways[0].ids(chat, days[0]))} here, or others"
        if renderer.dated:
            raise TrainingDataError(
                f"the log {folder} does not fit {renderer.name}, whose chat template prints the date or time: as of "
                f"{trial['timings']['started'][:10]}, and the days around it, {counts}; if it prints the time of day, "
                "such a log cannot be checked or trained on, else name the policy that played it"
            )
        raise TrainingDataError(
            f"the log {folder} is of another tokenizer or chat template than {renderer.name}, or of other template "
            f"arguments than {shown(renderer.template_args)} (`template` in the run): {counts}; name the policy that "
            "played it"
        )


def _days(trial: Trial) -> list[datetime]:
    """When the trial may have been played by its machine's own calendar, likeliest first."""
    began = datetime.fromisoformat(trial["timings"]["started"]).astimezone()
    ended = began + timedelta(seconds=trial["timings"]["seconds"])
    moments = [began, ended, began - timedelta(days=1), ended + timedelta(days=1)]
    return list({moment.date(): moment for moment in moments}.values())
