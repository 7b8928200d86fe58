"""What a training came to, as a folder to hand on: whole weights, tokenizer, chat template, and a card that says all.

What must stay true: the exported policy gives the log-probabilities of the one that was trained; the folder appears
whole or not at all; the card says nothing that the run's own files do not.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import torch
import yaml
from pydantic import ValidationError

from lamer_graph.errors import ConfigError, LamerError
from lamer_graph.policies.fingerprint import other_base
from lamer_graph.policies.loading import load_model, load_tokenizer, merged, no_bar
from lamer_graph.policies.shipped import CARD, TEMPLATE, base_of, card, is_adapter, is_policy, taught_template
from lamer_trainers.learning.saving import replacing
from lamer_trainers.loop.best import BEST, READING
from lamer_trainers.loop.run_folder import CHECKPOINTS, METRICS, RUN, last_checkpoint, steps_of
from lamer_trainers.runfile import RunFile

RESULTS = ("adapter", "policy")


class Subject(NamedTuple):
    """What is exported: weights at `folder` (an adapter, or all), of the run at `run` (None: of no run), and what they
    read in validation: [pass@1, ..], after which update."""

    folder: Path
    run: Path | None
    reading: list[float] | None = None
    update: int | None = None


class Exported(NamedTuple):
    folder: Path
    weights: Path
    parameters: int
    dtype: str
    reading: list[float] | None


def subject_of(source: Path, *, last: bool = False) -> Subject:
    """The weights that a run, an adapter's folder or a policy's stands for: of a run those that validated best, unless
    the `last` are wanted or none were validated. Raises ConfigError."""
    if is_adapter(source) or is_policy(source):
        return Subject(source, source.parent if (source.parent / RUN).is_file() else None, *_read(source))
    if not _trains(source):
        raise ConfigError(f"{source} is no training run and no policy: give the --out of `lamer-graph train`")
    if (source / BEST).is_dir() and not last:
        return Subject(source / BEST, source, *_read(source / BEST))
    for name in RESULTS:
        if is_adapter(source / name) or is_policy(source / name):
            return Subject(source / name, source, *_last_reading(source))
    checkpoint = last_checkpoint(source / CHECKPOINTS)
    if checkpoint is not None and (is_adapter(checkpoint) or is_policy(checkpoint)):
        run = _run_of(source)
        update = None if run is None else steps_of(checkpoint) // run.optimise.steps_per_update
        return Subject(checkpoint, source, *_last_reading(source, update))
    raise ConfigError(f"{source} has no weights yet: nothing was validated and no checkpoint written")


def _trains(folder: Path) -> bool:
    """Whether it is a training run's, collected or from logs; an evaluation has a `run.json`, too."""
    try:
        return "optimise" in orjson.loads((folder / RUN).read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def _read(folder: Path) -> tuple[list[float] | None, int | None]:
    try:
        told = orjson.loads((folder / READING).read_bytes())
        return [float(value) for value in told["pass@k"]], int(told["update"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, None


def _last_reading(run: Path, update: int | None = None) -> tuple[list[float] | None, int | None]:
    """The validation after the last update, or that `update`, if that one was validated."""
    try:
        lines = map(orjson.loads, (run / METRICS).read_bytes().splitlines())
        told = [line for line in lines if update is None or line["update"] == update][-1]
        return [float(value) for value in told["validation/pass@k"]], int(told["update"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None, None


def export(source: Path, out: Path, *, last: bool = False) -> Exported:
    """Write the policy that `source` stands for (see `subject_of`) to the new folder `out`, an adapter merged.

    Weights are merged in float32 and kept in the type that the base has them in. Raises ConfigError; then there is no
    `out`.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already; choose another folder, so that no model is overwritten")
    subject = subject_of(source, last=last)
    adapter = subject.folder if is_adapter(subject.folder) else None
    base = base_of(subject.folder) if adapter else subject.folder
    if adapter is not None and (other := other_base(adapter, base)) is not None:
        raise ConfigError(f"{base} is not what {adapter} was trained on (its {other} differs): put that back")
    stored = _stored(base)
    model = load_model(base, "cpu", "float32")
    if adapter is not None:
        model = merged(model, adapter)
    kind: torch.dtype = getattr(torch, stored)
    out.parent.mkdir(parents=True, exist_ok=True)
    with no_bar(), replacing(out) as fresh:
        model.to(kind).save_pretrained(fresh)
        tokenizer = load_tokenizer(subject.folder if (subject.folder / "tokenizer.json").is_file() else base)
        tokenizer.save_pretrained(fresh)
        told = _lamer_card(subject.folder, base)
        (fresh / CARD).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n")
        count = sum(weight.numel() for weight in model.parameters())
        (fresh / "README.md").write_text(_card(out.name, subject, base, told, count, stored))
        for licence in base.glob("LICENSE*"):
            shutil.copyfile(licence, fresh / licence.name)
        for path in fresh.iterdir():
            path.chmod(0o644)  # to be read by whoever gets it; safetensors writes for the owner alone
    return Exported(out, subject.folder, count, stored, subject.reading)


def _lamer_card(folder: Path, base: Path) -> dict[str, Any]:
    """What the weights play and how they are asked; what an adapter does not say of that its base does."""
    told, template = card(folder) or card(base), taught_template(folder, base)
    return told if template is None else {**told, TEMPLATE: template}


def _stored(base: Path) -> str:
    """The type that the base's weights are kept in, as its configuration says; float32 where it does not."""
    config = json.loads((base / "config.json").read_bytes())
    kind = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return kind if kind in ("float32", "bfloat16", "float16") else "float32"


def _run_of(folder: Path | None) -> RunFile | None:
    if folder is None:
        return None
    try:
        return RunFile.model_validate(orjson.loads((folder / RUN).read_bytes()))
    except (OSError, ValueError, ValidationError, LamerError):
        return None


def _card(name: str, subject: Subject, base: Path, told: dict[str, Any], parameters: int, stored: str) -> str:
    run = _run_of(subject.run)
    begun = base.name if run is None else Path(run.policy).name
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    lines += ["tags: [lamer-graph, reinforcement-learning, meta-rl]", "---"]
    lines += [f"# {name}", ""]
    what = "with an adapter merged into its weights" if is_adapter(subject.folder) else "all its weights trained"
    lines += [f"`{begun}`, {what}: {parameters:,} parameters in {stored}. It plays `{told.get('env', 'unknown')}`."]
    lines += ["", "## How it was trained", ""]
    if run is None:
        lines += ["The weights came without the run that made them, so this card cannot say."]
    else:
        lines += [*_trained(run), "", "## Training data", "", *_data(run), "", "## Memory", "", *_memory(run)]
    lines += ["", "## Measured", "", *_measured(run, subject), "", "## How to ask it", "", *_asked(told), ""]
    lines += ["## Limits", "", *_limits(told), ""]
    return "\n".join(lines)


def _trained(run: RunFile) -> list[str]:
    settings = run.model_dump(mode="json", exclude_defaults=True)
    settings.pop("policy", None)
    kept = {key: settings[key] for key in ("collect", "optimise", "lora", "distil", "preferences") if key in settings}
    said = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True).rstrip()
    head = (
        f"By {run.optimise.algorithm}, with this run file of `lamer-graph train` (what is left out is at its default):"
    )
    return [head, "", "```yaml", said, "```"]


def _data(run: RunFile) -> list[str]:
    collect = run.collect
    if run.logs:
        return [f"Logs of trials on `{collect.env}` that were collected before; nothing was played."]
    each = f"{collect.tasks} tasks x {collect.trials} trials of up to {collect.max_episodes} episodes"
    where = f"on the `{collect.split}` split of `{collect.env}`, {run.optimise.updates} updates of {each}"
    return [f"Trials that it played itself {where}. No person and no other model wrote any of it."]


def _memory(run: RunFile) -> list[str]:
    collect = run.collect
    if collect.contents == "none":
        return ["None: an episode saw nothing of the ones before it."]
    others = "" if collect.scope == "trial" else f" and up to {collect.k} records of other tasks"
    return [f"An episode saw of the ones before it: {collect.contents}, of its own trial{others}."]


def _measured(run: RunFile | None, subject: Subject) -> list[str]:
    if subject.reading is None:
        return ["Nothing was validated while it was trained. `lamer-graph eval --policy DIR --tasks 400` measures it."]
    heads = " | ".join(f"pass@{k}" for k in range(1, len(subject.reading) + 1))
    rules = "---|" * len(subject.reading)
    values = " | ".join(f"{value:.3f}" for value in subject.reading)
    of = "" if run is None or run.validation is None else f" on {run.validation.tasks} tasks of the validation split"
    return [
        f"After update {subject.update}{of}. Weights may have been chosen by this very reading, which flatters them.",
        "",
        f"| {heads} |",
        f"|{rules}",
        f"| {values} |",
    ]


def _asked(told: dict[str, Any]) -> list[str]:
    style = told.get("prompt_style", "standard")
    lines = [f"`lamer-graph play --policy DIR` asks it in prompts of style `{style}`, as `lamer.json` says."]
    template = told.get(TEMPLATE)
    if template:
        lines += [
            "",
            f"It was trained with these arguments of its chat template: `{json.dumps(template)}`. Whoever renders "
            "prompts by other means has to pass them, too.",
        ]
    return lines


def _limits(told: dict[str, Any]) -> list[str]:
    lines = [f"It was trained on `{told.get('env', 'one environment')}` alone, and measured nowhere else."]
    if told.get("prompt_style") == "compact":
        lines += ["It reads compact prompts, a shorthand of its own, and no plain language."]
    return lines
