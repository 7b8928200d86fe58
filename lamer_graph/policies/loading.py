"""Models and tokenizers from folders in Hugging Face format, for this process.

What must stay true: what is wrong with a folder is a ConfigError that names it, before its weights are read; no code
from it is run.
"""

from __future__ import annotations

import contextlib
import logging
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lamer_graph.errors import ConfigError
from lamer_graph.policies.rendering import Renderer
from lamer_graph.policies.room import check_room, weight_bytes
from lamer_graph.policies.runnable import attention_for, check_config
from lamer_graph.policies.shipped import taught_folding, taught_template
from lamer_graph.policies.vocabulary import check_vocabulary


def check_folder(folder: Path, *, plays: bool = True) -> None:
    """Raises ConfigError if `folder` holds no model, or one of another tokenizer, or (`plays`) none that this process
    samples; its weights are not read."""
    if not (folder / "config.json").is_file():
        raise ConfigError(f"no model at {folder}: give a folder in Hugging Face format (config.json is missing)")
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"cannot read {folder}/config.json: {' '.join(str(error).split())[:300]}") from error
    check_vocabulary(folder)
    if plays:
        check_config(config)


def runs_here(folder: Path) -> bool:
    """Whether the folder's model can be sampled in this process. Raises ConfigError if it holds none."""
    check_folder(folder, plays=False)
    try:
        check_folder(folder)
    except ConfigError:
        return False
    return True


def multiplies_bfloat16() -> bool:
    """Whether this machine's CPU multiplies matrices of bfloat16 by itself (AMX, AVX-512 BF16, or Arm's)."""
    x86 = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return bool(x86 or (platform.machine() in ("arm64", "aarch64") and torch.ops.mkldnn._is_mkldnn_bf16_supported()))


SLOW_HERE = (
    "this CPU has no arithmetic of 16 bits (AMX, AVX-512 BF16): %s takes half the memory but several times as long"
)


def load_model(folder: Path, device: str | None, dtype: str | None) -> Any:
    """The folder's causal model. Raises ConfigError."""
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = getattr(torch, dtype or ("float32" if place.startswith("cpu") else "bfloat16"), None)
    if not isinstance(kind, torch.dtype):
        raise ConfigError(f"dtype '{dtype}' is not one of float32, bfloat16, float16")
    if place.startswith("cpu") and kind is not torch.float32 and not multiplies_bfloat16():
        logging.getLogger(__name__).warning(SLOW_HERE, dtype)
    needs, instead = weight_bytes(folder, kind.itemsize), "name a smaller model, or serve it elsewhere (--base-url)"
    for each in dict.fromkeys(("cpu", place)):  # a device's weights come by way of the machine's memory
        check_room(f"{folder} in {str(kind).removeprefix('torch.')}", needs, each, instead)
    try:
        with no_bar():
            attention = attention_for(AutoConfig.from_pretrained(folder))
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, attn_implementation=attention)
        return model.to(place)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(f"cannot load {folder} on {place}: {' '.join(str(error).split())[:300]}") from error


@contextlib.contextmanager
def no_bar() -> Iterator[None]:
    """Without transformers' progress bars: a tiny model loads and saves at once, and stderr is the application's."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer. Raises ConfigError."""
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"cannot load the tokenizer of {folder}: {' '.join(str(error).split())[:300]}") from error


def renderer_of(folder: str | Path, template_args: Mapping[str, Any] | None = None) -> Renderer:
    """What renders for the policy in `folder`, as its card says where `template_args` is None. Raises ConfigError."""
    place = Path(folder)
    given = taught_template(place) if template_args is None else template_args
    return Renderer(load_tokenizer(place), given, fold_system=taught_folding(place), name=str(folder))


def origin_of(tokenizer: Any) -> Path | None:
    """The folder that a tokenizer was loaded from, if it was from one."""
    name = getattr(tokenizer, "name_or_path", None)
    return Path(name) if name and Path(name).is_dir() else None


def merged(model: Any, folder: Path) -> Any:
    """The model with a PEFT adapter merged into its weights."""
    if not (folder / "adapter_config.json").is_file():
        raise ConfigError(f"no adapter at {folder}: adapter_config.json is missing")
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, folder).merge_and_unload()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ConfigError(f"adapter {folder} does not fit: {' '.join(str(error).split())[:300]}") from error
