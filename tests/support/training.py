"""Trials for trainer tests, and the loss they are checked against: no padding, one call at a time, no TRL.

`python training.py MODEL N OUT` is one process of a distributed run: it writes the first step's gradients into OUT.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import sys
from pathlib import Path

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from lamer_trainers.learning.batch import read_batch
from lamer_trainers.learning.config import LamerConfig
from lamer_trainers.learning.samples import Limits
from lamer_trainers.learning.trainer import LamerTrainer

EPSILON = 0.2


class Trials:
    """A source that gives the same trials at every step, or those of a list of batches in turn."""

    def __init__(self, *batches):
        self.batches = batches
        self.asked = []

    def next_batch(self, step):
        self.asked.append(step)
        return self.batches[step % len(self.batches)]


def load(folder, lora=False):
    """The model in float32 (with adapters that already do something) and its tokenizer; the same at every call."""
    return load_model(folder, lora), AutoTokenizer.from_pretrained(folder)


def load_model(folder, lora=False):
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    if lora:
        from peft import get_peft_model

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    return model


def a_call(rng, vocabulary, version):
    prompt = [rng.randrange(3, vocabulary) for _ in range(rng.randint(2, 40))]
    answer = [rng.randrange(3, vocabulary) for _ in range(rng.randint(1, 12))]
    return {
        "messages": [],
        "prompt_token_ids": prompt,
        "token_ids": answer,
        "logprobs": [-1.0] * len(answer),
        "policy_version": version,
        "finish_reason": "stop",
        "seed": 1,
        "dropped": 0,
        "seconds": 0.0,
    }


def branching(rng, vocabulary, depth):
    """Draws prompts that begin alike: every piece of `depth` pieces is followed by one of at most three others."""
    pieces = {}

    def prompt():
        path, tokens = (), []
        for _ in range(depth):
            path = (*path, rng.randrange(3))
            if path not in pieces:
                pieces[path] = [rng.randrange(3, vocabulary) for _ in range(rng.randint(1, 12))]
            tokens += pieces[path]
        return tokens

    return prompt


def make_trials(
    calls, *, seed=0, vocabulary=320, model=None, noise=0.3, version="policy-v0000", different=None, depth=None
):
    """Trials of 2 episodes with `calls` trainable calls in all; logprobs are the model's, with noise.

    Of their tokens at most `different` are different, where it is given; with `depth` prompts branch so often.
    """
    rng = random.Random(seed)
    prompt = None if depth is None else branching(rng, vocabulary, depth)
    trials, left = [], calls
    while left:
        number = len(trials)
        lengths = [1] if left < 4 else [rng.randint(1, min(3, left - 2)), 1]
        if left - sum(lengths) - (len(lengths) - 1) < 0:
            lengths = [left]
        episodes = []
        for length in lengths:
            turns = [
                {
                    "observation": rng.choice("xyz"),
                    "action": "(1, 1)",
                    "reward": rng.choice([-1.0, -0.1, 0.5, 2.0, 10.0]),
                    "valid": rng.random() < 0.8,
                    "text": "",
                    "call": a_call(rng, vocabulary, version),
                }
                for _ in range(length)
            ]
            reward = sum(turn["reward"] for turn in turns)
            episodes.append({"turns": turns, "success": False, "reward": reward, "truncated": True})
        reflections = [
            {"episode": n, "text": "", "valid": True, "call": a_call(rng, vocabulary, version)}
            for n in range(len(lengths) - 1)
        ]
        left -= sum(lengths) + len(reflections)
        task = f"minesweeper:4x4-3/{number % 3}"
        trials.append(
            {
                "schema_version": 1,
                "trial_id": f"{task}#{number}",
                "task": {
                    "id": task,
                    "env": "minesweeper:4x4-3",
                    "seed": number % 3,
                    "instance": None,
                    "split": "train",
                },
                "trial": number,
                "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 64, "seed": 0},
                "episodes": episodes,
                "reflections": reflections,
                "success": False,
                "error": None,
            }
        )
    every = list(every_call(trials))
    for call in every if prompt else ():
        call["prompt_token_ids"] = prompt()
    for call, like in zip(every, itertools.cycle(every[:different]), strict=False):
        call.update({name: like[name] for name in ("prompt_token_ids", "token_ids", "logprobs")})
    if model is not None:
        for call in every:
            with torch.no_grad():
                own = token_logprobs(model, call["prompt_token_ids"], call["token_ids"])[0]
            call["logprobs"] = [value + rng.uniform(-noise, noise) for value in own.tolist()]
    return trials


def prefixes(samples):
    """How many different beginnings the samples have, which are the tokens that a model must compute."""
    wholes = [(*sample.prompt_token_ids, *sample.token_ids) for sample in samples]
    return len({whole[:end] for whole in wholes for end in range(1, len(whole))})


@contextlib.contextmanager
def computing(model):
    """A list of how many tokens each pass of a model computed that was gone back over."""
    sizes = []

    def count(_, __, given):
        sizes.extend([given["input_ids"].numel()] if torch.is_grad_enabled() else [])

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield sizes
    finally:
        handle.remove()


def every_call(trials):
    for trial in trials:
        for episode in trial["episodes"]:
            yield from (turn["call"] for turn in episode["turns"])
        yield from (made["call"] for made in trial["reflections"])


def token_logprobs(model, prompt, answer, temperature=1.0):
    """Logprobs and entropies (T,) of one answer; no padding, no mask."""
    ids = torch.tensor([[*prompt, *answer]])
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits[0, len(prompt) - 1 :].float() / temperature
    every = logits.log_softmax(-1)
    return every.gather(-1, torch.tensor(answer)[:, None])[:, 0], -(every.exp() * every).sum(-1)


def loss_by_hand(model, samples, advantages, *, entropy=0.0, beta=0.0, reference=None, cap=None, tokens=None):
    """The token-mean clipped loss; with `cap`, old logprobs are the model's own, and tokens weighted by importance."""
    total, count = 0.0, tokens or sum(len(sample.token_ids) for sample in samples)
    for sample, advantage in zip(samples, advantages, strict=True):
        new, entropies = token_logprobs(model, sample.prompt_token_ids, sample.token_ids)
        logged = torch.tensor(sample.logprobs)
        old, weight = logged, 1.0
        if cap is not None:
            old = new.detach()
            weight = (old - logged).exp().clamp(max=cap)
        ratio = (new - old).exp()
        gain = torch.minimum(ratio * advantage * weight, ratio.clamp(1 - EPSILON, 1 + EPSILON) * advantage * weight)
        loss = -gain - entropy * entropies
        if beta:
            with torch.no_grad():
                other = token_logprobs(reference, sample.prompt_token_ids, sample.token_ids)[0]
            loss = loss + beta * ((other - new).exp() - (other - new) - 1) * ratio  # as in arXiv 2512.02556
        total = total + loss.sum() / count
    return total


def gradient_of(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


def relative_error(a, b):
    return float((a - b).norm() / b.norm())


class KeepGradients(TrainerCallback):
    """Keeps a copy of the gradient of every optimiser step, before it is used."""

    def __init__(self):
        self.gradients = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.gradients.append(gradient_of(model))


def config(folder, **options):
    defaults = {
        "output_dir": str(folder),
        "use_cpu": True,
        "max_grad_norm": 0.0,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "disable_tqdm": True,
        "old_logprobs": "logged",
        "micro_batch_tokens": 300,
        "max_logprob_gap": None,  # `make_trials` adds noise, so that ratios differ from 1
    }
    return LamerConfig(**{**defaults, **options})


def batch_of(trials, args):
    return read_batch(trials, args, Limits(), 0)


def train(folder, model, tokenizer, source, *, callbacks=(), resume=None, **options):
    """A trainer that has trained, and the gradients of its steps."""
    kept = KeepGradients()
    trainer = LamerTrainer(
        model, source, config(folder, **options), processing_class=tokenizer, callbacks=[kept, *callbacks]
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer, kept.gradients


def main(folder, calls, out):
    for kind in ("full", "lora"):
        model, tokenizer = load(folder, kind == "lora")
        source = Trials(make_trials(calls, model=model, different=23, depth=3))
        _, gradients = train(out / "run", model, tokenizer, source, entropy_coef=0.01)
        if torch.distributed.get_rank() == 0:
            torch.save(gradients[0], out / f"{kind}.pt")
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads are joined at exit, which sometimes takes for ever


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
