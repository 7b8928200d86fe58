"""The trainer of `optimise.algorithm: dpo`: pairs of a run's logs, and DPO's settings as the run file says them.

What must stay true: the same logs, settings and seed give the same pairs in the same order, so that a resumed run reads
on where it stopped; the pairs that were trained on lie in the run's folder.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoConfig
from trl.trainer.dpo_config import DPOConfig

from lamer_trainers.errors import TrainingConfigError, TrainingDataError
from lamer_trainers.learning.batch import check_sampling
from lamer_trainers.learning.config import LamerConfig
from lamer_trainers.learning.launch import launched
from lamer_trainers.learning.preferences import Pair, PairRules, Which, pairs_of
from lamer_trainers.learning.preferring import SIDES, PreferenceTrainer, at_a_time, dataset_of, longest
from lamer_trainers.learning.samples import Credit, Limits, samples_of
from lamer_trainers.learning.saving import write_table
from lamer_trainers.runfile import RunFile
from lamer_trainers.sections import Preferences
from lamer_trainers.sources.logs import LoggedRuns

PAIRS = "pairs.parquet"
PLAIN, UNBOUNDED = Credit(), Limits()


def logged_pairs(
    logs: LoggedRuns,
    rules: PairRules,
    credit: Credit = PLAIN,
    limits: Limits = UNBOUNDED,
    *,
    seed: int = 0,
    temperature: float | None = None,
) -> list[Pair]:
    """The pairs of logged runs, one group in memory at a time.

    Raises TrainingDataError for a call that cannot be trained on, or drawn at another temperature than this one.
    """
    pairs: list[Pair] = []
    for group in logs.groups():
        if temperature is not None:
            check_sampling(group, temperature)
        pairs += pairs_of(samples_of(group, credit, limits), rules, seed)
    return pairs


def exported_pairs(run: Path, out: Path, which: Which) -> Counter[str]:
    """Write the pairs of one logged run to the Parquet file `out`; how many there are of each kind.

    Credit and choice are a run file's defaults. Raises RunLogError and TrainingDataError.
    """
    wanted = Preferences(pairs=which)
    pairs = logged_pairs(LoggedRuns(run, groups=1), rules_of(wanted))
    write_table(dataset_of(pairs), out)
    return Counter(pair.kind for pair in pairs)


def rules_of(wanted: Preferences) -> PairRules:
    return PairRules(wanted.pairs, wanted.gap, wanted.per_group, wanted.reflections)


def pairs_for(run: RunFile) -> Dataset:
    """The data set that `run` trains on. Raises TrainingDataError where the logs hold too few pairs."""
    args, config = run.trainer_config(Path(PAIRS), cpu=True), AutoConfig.from_pretrained(run.base).get_text_config()
    limits = Limits(
        tokens=getattr(config, "max_position_embeddings", None),
        completion=args.max_completion_length,
        vocabulary=int(config.vocab_size),
    )
    logs = LoggedRuns(run.logs, groups=1)
    found = logged_pairs(
        logs, rules_of(run.preferences), args.credit_rule, limits, seed=run.optimise.seed, temperature=args.temperature
    )
    pairs = dataset_of(found)
    if len(pairs) < run.preferences.batch:
        raise TrainingDataError(
            f"the logs hold {len(pairs)} pairs of {len(logs)} tasks, and a step takes {run.preferences.batch}: set "
            "preferences.batch lower, or collect more trials"
        )
    return pairs


@dataclass(frozen=True, slots=True)
class Counted:
    """What logs hold to prefer: pairs of each kind, tasks that have any, tokens of all calls of all sides."""

    kinds: dict[str, int]
    tasks: int
    tokens: int

    @property
    def pairs(self) -> int:
        return sum(self.kinds.values())

    def to_json(self) -> dict[str, Any]:
        return {"pairs": self.pairs, **asdict(self)}


def counted(run: RunFile) -> Counted:
    """What `run` would train on. Reads the logs; raises what `pairs_for` raises."""
    pairs = pairs_for(run)
    tokens = sum(
        len(call["prompt_ids"]) + len(call["token_ids"]) for row in pairs for side in SIDES for call in row[side]
    )
    return Counted(dict(Counter(pairs["kind"])), len(set(pairs["task_id"])), tokens)


def preference_trainer(run: RunFile, pairs: Dataset, args: LamerConfig, policy: Any) -> PreferenceTrainer:
    """The trainer of `run` on `pairs`; `args` is what other algorithms are trained with."""
    wanted, optimise = run.preferences, run.optimise
    size = at_a_time(wanted.batch, longest(pairs), optimise.micro_batch_tokens)
    settings = DPOConfig(
        output_dir=args.output_dir,
        beta=wanted.beta,
        precompute_ref_log_probs=True,
        max_length=None,
        disable_dropout=run.lora is None or not run.lora.dropout,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=wanted.batch // size,
        dataloader_drop_last=True,
        max_steps=optimise.updates,
        learning_rate=args.learning_rate,
        lr_scheduler_type=args.lr_scheduler_type,
        warmup_steps=args.warmup_steps,
        weight_decay=args.weight_decay,
        max_grad_norm=args.max_grad_norm,
        gradient_checkpointing=args.gradient_checkpointing,
        seed=args.seed,
        use_cpu=args.use_cpu,
        bf16=args.bf16,
        remove_unused_columns=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy=args.save_strategy,
        save_steps=run.save_every,
        save_total_limit=args.save_total_limit,
        report_to=args.report_to,
        disable_tqdm=True,
    )
    return PreferenceTrainer(
        policy.model,
        pairs,
        settings,
        reference=wanted.reference,
        budget=optimise.micro_batch_tokens,
        processing_class=policy.tokenizer,
    )


def check_alone() -> None:
    """Raises TrainingConfigError where several processes would train."""
    if launched() > 1:
        raise TrainingConfigError("dpo trains in one process: start it without `accelerate launch`")
