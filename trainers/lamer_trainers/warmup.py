"""draft"""
from __future__ import annotations
import os, time, json, random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY","1")
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer
from lamer_trainers.teachers import Row, Teacher, rows
from lamer_trainers.tiny import build_model, build_tokenizer

IGNORE=-100

def tokenised(tokenizer, data: Sequence[Row]) -> Dataset:
    prompts = tokenizer.apply_chat_template([r.messages for r in data], add_generation_prompt=True, tokenize=False)
    pids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    aids = tokenizer([r.answer for r in data], add_special_tokens=False)["input_ids"]
    ids, lens, forb = [], [], []
    for r, p, a in zip(data, pids, aids):
        a = a + [tokenizer.eos_token_id]
        ids.append(p + a); lens.append(len(a))
        forb.append(partings(tokenizer, a, r.forbidden))
    return Dataset.from_dict({"input_ids": ids, "answer": lens, "forbidden": forb, "length":[len(i) for i in ids]})

_cache={}
def partings(tokenizer, answer, forbidden):
    found=set()
    for f in forbidden:
        t=_cache.get(f)
        if t is None:
            t=_cache[f]=tokenizer(f"<action>{f}", add_special_tokens=False)["input_ids"]
        for k,(x,y) in enumerate(zip(t,answer)):
            if x!=y: found.add((k,x)); break
    return sorted(found)

class Collator:
    def __init__(self, pad, vocab): self.pad, self.vocab = pad, vocab
    def __call__(self, batch):
        width = max(len(r["input_ids"]) for r in batch); keep = max(r["answer"] for r in batch)
        ids = torch.full((len(batch), width), self.pad); mask = torch.zeros_like(ids)
        labels = torch.full((len(batch), keep), IGNORE)
        forb = torch.zeros((len(batch), keep, self.vocab), dtype=torch.bool)
        for i, r in enumerate(batch):
            n, a = len(r["input_ids"]), r["answer"]
            ids[i, width-n:] = torch.tensor(r["input_ids"]); mask[i, width-n:] = 1
            labels[i, keep-a:] = ids[i, width-a:]
            if r["forbidden"]:
                at = torch.tensor(r["forbidden"])
                forb[i, keep - a + at[:,0], at[:,1]] = True
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, "forbidden": forb}

class WarmupTrainer(SFTTrainer):
    weight = 1.0
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["labels"]; keep = labels.shape[1]
        pos = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        out = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], position_ids=pos, use_cache=False, logits_to_keep=keep + 1)
        logp = out.logits[:, :-1].float().log_softmax(-1)
        mask = labels != IGNORE
        nll = -logp.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        ce = (nll * mask).sum() / mask.sum()
        pf = (logp.exp() * inputs["forbidden"]).sum(-1)
        has = inputs["forbidden"].any(-1)
        ul = -(torch.log1p(-pf.clamp(max=1-1e-4)) * has).sum() / len(labels)
        self._metrics["train"]["ce_row"].append(((nll*mask).sum()/len(labels)).item()); self._metrics["train"]["pf"].append((pf.sum()/has.sum().clamp(min=1)).item())
        return ((nll * mask).sum() / len(labels)) / 2 + self.weight * ul

def fit(teacher, out, seed=0, count=60000, batch=64, lr=2e-3, weight=1.0, epochs=1, model=None, tok=None):
    pieces = teacher.pieces()
    tok = tok or build_tokenizer(pieces); model = model or build_model(tok, pieces, seed=seed)
    t=time.time(); data = rows(teacher, count, seed); ds = tokenised(tok, data); print("data", time.time()-t, flush=True)
    args = SFTConfig(output_dir=str(out)+"/tmp", per_device_train_batch_size=batch, learning_rate=lr, lr_scheduler_type="cosine", warmup_steps=50, num_train_epochs=epochs, bf16=False, gradient_checkpointing=False, use_cpu=True, report_to="none", save_strategy="no", logging_steps=50, disable_tqdm=True, remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True}, seed=seed, data_seed=seed, weight_decay=0.01, max_length=None, train_sampling_strategy="group_by_length", length_column_name="length", logging_nan_inf_filter=False, dataloader_drop_last=True, adam_beta2=0.98)
    tr = WarmupTrainer(model=model, args=args, train_dataset=ds, processing_class=tok, data_collator=Collator(tok.pad_token_id, len(tok)))
    tr.weight = weight
    t=time.time(); tr.train(); print("train", time.time()-t, flush=True)
    model.save_pretrained(out); tok.save_pretrained(out)
    return model, tok
