"""Off-line training: batches from logs that lie there already; the policy plays only to validate.

What must stay true: a log is trained on only if it is of this policy's kind. What sampled it, where it says so, has
this policy's architecture and tokenizer; its prompts, rendered and tokenised again by this policy, give the very ids
that were logged (another tokenizer or chat template does not), its game, prompts and sampling are the run file's, and
the trainer compares logprobs before its first update (`max_logprob_gap`). Versions may differ: every token is weighted
by the ratio of the trained policy to the one that was logged (`recomputed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamer_graph.collection.config import CollectConfig
from lamer_graph.collection.sampled_by import sampled_by
from lamer_graph.policies.base import Policy
from lamer_graph.policies.fingerprint import model_kind
from lamer_graph.runlog import read_config, read_trials
from lamer_trainers.errors import TrainingDataError
from lamer_trainers.learning.batch import check_sampling
from lamer_trainers.learning.samples import Credit, Limits, Trial, samples_of
from lamer_trainers.runfile import RunFile
from lamer_trainers.sources.batches import Batches, Collected
from lamer_trainers.sources.logs import LoggedRuns

MUST_FIT = ("env", "prompt_style", "strategy", "temperature", "top_p", "top_k")
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
    from transformers import AutoConfig, AutoTokenizer

    for folder in run.logs:
        check_config(run.collect, read_config(folder), folder)
    logged_runs(run)
    tokenizer = AutoTokenizer.from_pretrained(run.policy)
    kind = model_kind(AutoConfig.from_pretrained(run.policy), tokenizer)
    for folder in run.logs:
        check_model(kind, folder, run.policy)
        trial = next((trial for trial in read_trials(folder) if trial.get("error") is None), None)
        if trial is not None:
            samples_of([trial], Credit(), Limits(completion=run.collect.max_tokens))
            check_sampling([trial], run.collect.temperature)
            check_tokenizer(tokenizer, trial, folder, run.policy)


def check_config(wanted: CollectConfig, logged: Mapping[str, Any], folder: str | Path) -> None:
    """Raises TrainingDataError if a log was collected in another way than the run file says."""
    for name in MUST_FIT:
        there, here = logged.get(name, CollectConfig.model_fields[name].default), getattr(wanted, name)
        if there != here:
            raise TrainingDataError(
                f"the log {folder} has {name} {there!r}, the run {here!r}: set collect.{name}={there}, or train on a "
                "log that was collected like that"
            )


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


def check_tokenizer(tokenizer: Any, trial: Trial, folder: str | Path, policy: str) -> None:
    """Raises TrainingDataError if the tokenizer makes other ids of the trial's prompts than were logged."""
    texts = trial["texts"]
    made = [turn for episode in trial["episodes"] for turn in episode["turns"]] + list(trial["reflections"])
    for call in (entry["call"] for entry in made if entry["call"] is not None):
        chat = [{"role": role, "content": texts[index]} for role, index in call["messages"]]
        own = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        if list(own) != list(call["prompt_token_ids"]):
            raise TrainingDataError(
                f"the log {folder} is of another tokenizer or chat template than {policy}: a prompt of "
                f"{len(call['prompt_token_ids'])} tokens there has {len(own)} here, or others; name the policy that "
                "played it"
            )
