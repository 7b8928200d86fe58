"""The model card of a warm start, written from its report alone, so that the card and `warmup.json` cannot disagree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [lamer-graph, reinforcement-learning, warm-start]
---
# A tiny warm start for `{env}`

A Qwen3-architecture policy of {parameters:,} parameters in float32 (tied embeddings, vocabulary {vocabulary}), made
from nothing on a CPU. It writes well-formed answers, plays weakly, heeds what its memory warns of, and reflects truly
sometimes: a starting point for reinforcement learning, of no use for anything else.

## How it was made

    lamer-graph warmup --env {env} --seed {seed}{method} --out DIR

{minutes:.1f} minutes, {threads} torch threads, Python {python}, {versions}. The same command on the same machine and
versions gives the same weights.

- Data: {rows:,} rows of scripted play on the training split, generated from the seed; nothing was downloaded and no
  other model or person wrote any of it. Seven in ten rows come from trials of up to three episodes under all four
  memory contents; the others are drills, in which a made-up memory forbids some moves.
{teacher}{early}
- Fit: TRL's SFTTrainer on {learnt}, one pass, plus an unlikelihood term on forbidden answers.
- Tokenizer: byte-level without merges, with whole pieces of the compact prompts ({pieces}) as tokens. The
  chat template leaves out the system message: the rules are in the weights.

## Measured before it was handed out

{tasks} held-out tasks per memory, temperature 1, compact prompts.

| gate | reading | asked for | |
|---|---|---|---|
{gates}

| memory | {heads} | second episode ends like the first |
|---|{rules}---|
{table}

## Limits

{limits}
"""

GIVEN = """\
---
library_name: {library}
pipeline_tag: text-generation
tags: [lamer-graph, reinforcement-learning, warm-start]
---
# A warm start of `{policy}` for `{env}`

{what}, fitted to scripted play in `{prompt_style}` prompts. It answers in the form that is asked for, plays weakly,
heeds what its memory warns of, and reflects truly sometimes: a starting point for reinforcement learning.

## How it was made

    {command}

{minutes:.1f} minutes, {fitting:.1f} of them the fit in {precision}; {threads} torch threads, Python {python},
{versions}.

- Data: {rows:,} rows of scripted play on the training split, generated from the seed; no other model or person wrote
  any of it. Seven in ten come from trials of up to three episodes; the others are drills under a made-up memory.{left}
- Teacher: plays well in some of its episodes and carelessly in the others, never against its memory. Of its reflections
  some are true, some vague and some wrong, on purpose.{early}
- Fit: transformers' Trainer on answers only, one pass, batches of {batch}, learning rate {rate:g} with cosine decay.

## Measured before it was handed out

{tasks} held-out tasks per memory, temperature 1, {prompt_style} prompts.

| gate | reading | asked for | |
|---|---|---|---|
{gates}

| memory | {heads} | second episode ends like the first |
|---|{rules}---|
{table}
"""

BOARD = {
    "teacher": "- Teacher: plays well in some of its episodes and at random in the others, never against its memory. "
    "Of its reflections\n  about 42 % are true, 28 % vague and 30 % wrong, on purpose.",
    "pieces": "coordinates above all",
    "limits": "It knows this one board size and the compact prompt style (`lamer.json`), and no English. Settings of "
    "other sizes are\nread byte by byte and played badly.",
}
WORDS = {
    "teacher": "- Teacher: sensible in some of its episodes and careless in the others, never against its memory. Of "
    "its reflections\n  about half are true, a quarter vague and a quarter wrong, on purpose.",
    "pieces": "names and phrases",
}
TEXTS = {
    "alfworld": WORDS
    | {
        "limits": "It knows the names of drawn households and the compact prompt style (`lamer.json`), and no English. "
        "Other names, as in\nofficial games, are read byte by byte and played badly."
    },
    "webshop": WORDS
    | {
        "limits": "It knows the products and words of this one generated shop, ids included, and the compact prompt "
        "style (`lamer.json`);\nits held-out tasks are other wishes for the same products. Other catalogues are read "
        "byte by byte and played badly."
    },
}
"""What cards say of particular environments; the others are boards."""


def model_card(report: Mapping[str, Any]) -> str:
    """Markdown from `WarmupReport.to_json()`."""
    return _given_card(report) if "given" in report else _tiny_card(report)


def _tiny_card(report: Mapping[str, Any]) -> str:
    return CARD.format(
        method=_method(report),
        **{key: report[key] for key in ("env", "seed", "parameters", "vocabulary", "rows")},
        **TEXTS.get(report["env"].partition(":")[0], BOARD),
        **_made(report),
        **_readings(report),
        learnt="answers and, more lightly, on the prompts before them" if report["fit"]["reading"] else "answers only",
    )


def _given_card(report: Mapping[str, Any]) -> str:
    given, fit = report["given"], report["fit"]
    adapter = given["weights"] == "adapter"
    size = f"{report['parameters']:,} parameters"
    command = ["lamer-graph warmup", f"--policy {given['policy']}", f"--env {report['env']}"]
    command += [f"--prompt-style {given['prompt_style']}", f"--seed {report['seed']}", f"--rows {given['written']}"]
    command += [f"--lora-rank {fit['rank']}"] if adapter else ["--full"]
    command += [_method(report).strip()] if "early" in report else []
    return GIVEN.format(
        **{key: report[key] for key in ("env", "rows")},
        **{key: given[key] for key in ("policy", "prompt_style", "precision")},
        **_made(report),
        **_readings(report),
        library="peft" if adapter else "transformers",
        what=f"An adapter of rank {fit['rank']} ({size})" if adapter else f"All weights ({size})",
        command=" ".join([*command, "--out DIR"]),
        fitting=given["fit_seconds"] / 60,
        left=f" {given['left_out']:,} were too long." if given["left_out"] else "",
        batch=fit["batch"],
        rate=fit["learning_rate"],
    )


EARLY = {
    "iwm": "{world:,} rows, which were learnt first, ask what will be seen after an\n  action, the teacher's or one of "
    "up to {branches} others that were tried in its place (implicit world modelling)",
    "sr": "in {reflection:,} rows the answer first says why the teacher's action\n  is better than others that were "
    "tried in its place. Explained by: {explainer}; of {asked:,} explanations those are\n  kept that are true of what "
    "was seen (self-reflection)",
}
"""What cards say of methods that try other actions than the teacher's."""


def _early(report: Mapping[str, Any]) -> str:
    told = report.get("early")
    if told is None:
        return ""
    return f"\n- Early experience (arXiv 2510.08558): {EARLY[told['method']].format(**told)}."


def _method(report: Mapping[str, Any]) -> str:
    """The options of the command that say so."""
    told = report.get("early")
    return "" if told is None else f" --method {told['method']} --branches {told['branches']}"


def _made(report: Mapping[str, Any]) -> dict[str, Any]:
    """By what, and in which time."""
    return {
        "early": _early(report),
        "minutes": report["seconds"] / 60,
        "threads": report["threads"],
        "python": report["python"],
        "versions": ", ".join(f"{name} {number}" for name, number in report["versions"].items()),
    }


def _readings(report: Mapping[str, Any]) -> dict[str, Any]:
    """The tables."""
    reading = report["reading"]
    episodes = len(next(iter(reading["pass_at"].values())))
    return {
        "tasks": report["tasks"],
        "gates": "\n".join(
            f"| {gate['name']} | {gate['value']:.3f} | {gate['low']:g} to {gate['high']:g} | "
            f"{'passed' if gate['passed'] else 'missed'} |"
            for gate in report["gates"]
        ),
        "heads": " | ".join(f"pass@{k}" for k in range(1, episodes + 1)),
        "rules": "---|" * episodes,
        "table": "\n".join(
            f"| {contents} | "
            + " | ".join(f"{e['value']:.3f} [{e['low']:.3f}, {e['high']:.3f}]" for e in row)
            + f" | {reading['same_end'][contents]:.3f} |"
            for contents, row in reading["pass_at"].items()
        ),
    }
