"""What an adapter was trained on, and what a log was sampled by: short descriptions of models, and checks of them.

What must stay true: an adapter is never put on another base than its own. `base_fingerprint` says the same for the same
model wherever it lies and however it is sharded; `check_adapter` refuses what was recorded for another base, and what
has no record but other shapes. Only headers and samples of the weights are read, with the standard library alone.

A log's sampler is described from memory instead (`sampler_fingerprint`), so it is what really played, adapters and
training included, and in terms that saving a model in another version of transformers does not change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lamer_graph.errors import ConfigError

BASE_FILE = "lamer_base.json"
"""Beside an adapter's weights: the fingerprint of its base."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"
SAMPLE = 4096
"""Bytes of every tensor that are hashed: another training run changes them all."""
MOST_HEADER = 100_000_000
_SHAPE = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_VOLATILE = ("transformers_version", "_name_or_path", "use_cache")
_PREFIX = "base_model.model."


class _Tensor(NamedTuple):
    file: Path
    start: int
    size: int
    shape: list[int]
    dtype: str


def base_fingerprint(folder: str | Path) -> dict[str, str]:
    """Hashes of a model folder's `config`, `tokenizer` and `weights`. Raises ConfigError for a folder that is none."""
    folder = Path(folder)
    config = _json(folder / "config.json")
    kept = {key: value for key, value in config.items() if key not in _VOLATILE}
    tokenizer = _json(folder / "tokenizer.json") if (folder / "tokenizer.json").exists() else {}
    added = sorted((token.get("id", -1), token.get("content", "")) for token in tokenizer.get("added_tokens", ()))
    return {
        "config": _hash(kept),
        "tokenizer": _hash([tokenizer.get("model"), added]),
        "weights": weights_of(folder),
    }


def weights_of(folder: Path) -> str:
    """A hash of a folder's weights, a model's or an adapter's. Raises ConfigError."""
    weights = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(tensors_of(folder).items()):
        weights.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        with tensor.file.open("rb") as file:
            file.seek(tensor.start)
            weights.update(file.read(min(tensor.size, SAMPLE)))
    return weights.hexdigest()


def sampler_fingerprint(policy: Any) -> dict[str, Any] | None:
    """`model_kind` and a hash of the `weights` of a policy in this process; None for one that has no model here."""
    model: Any = getattr(policy, "model", None)  # a served policy's is a name
    tokenizer: Any = getattr(policy, "tokenizer", None)
    if not (hasattr(model, "named_parameters") and hasattr(tokenizer, "get_vocab")):
        return None
    weights = hashlib.blake2b(digest_size=8)
    for name, parameter in sorted(model.named_parameters(), key=lambda named: named[0]):
        weights.update(f"{name} {list(parameter.shape)}".encode())
        weights.update(parameter.detach().reshape(-1)[: SAMPLE // 4].float().cpu().numpy().tobytes())
    return {**model_kind(model.config, tokenizer), "weights": weights.hexdigest()}


def model_kind(config: Any, tokenizer: Any) -> dict[str, Any]:
    """What all versions of a model share: the numbers of its (transformers) `config`, a hash of its `tokenizer`."""
    text = config.get_text_config()
    shape = {key: value for key in _SHAPE if (value := getattr(text, key, None)) is not None}
    return {"config": shape, "tokenizer": _hash(tokenizer.get_vocab())}


def record_base(adapter: str | Path, base: str | Path) -> None:
    """Note beside the adapter which base it belongs to. Raises ConfigError and OSError."""
    (Path(adapter) / BASE_FILE).write_text(json.dumps(base_fingerprint(base)) + "\n")


def other_base(folder: Path, base: Path, fingerprint: Mapping[str, str] | None = None) -> str | None:
    """What of `base` is not as `record_base` noted it in `folder`, None if all is or nothing was. Raises ConfigError.

    `fingerprint` is the base's where it is known already: a large tokenizer takes a second to read.
    """
    if not (folder / BASE_FILE).is_file():
        return None
    noted, now = _json(folder / BASE_FILE), fingerprint or base_fingerprint(base)
    return next((part for part, value in now.items() if noted.get(part) != value), None)


def check_adapter(adapter: str | Path, base: str | Path, fingerprint: Mapping[str, str] | None = None) -> None:
    """Raises ConfigError if the PEFT folder `adapter` belongs to another model than the folder `base`.

    `fingerprint` as in `other_base`.
    """
    adapter, base = Path(adapter), Path(base)
    part = other_base(adapter, base, fingerprint)
    if part is not None:
        raise ConfigError(
            f"adapter {adapter} was trained on a base with another {part} than {base}; serve it on its own base"
        )
    if (adapter / BASE_FILE).is_file():
        return
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        return  # PEFT's older pickle format cannot be looked into safely; the server will judge
    tensors = tensors_of(base)
    for name, tensor in _header(adapter / ADAPTER_WEIGHTS).items():
        module, _, side = name.removeprefix(_PREFIX).partition(".lora_")
        if side not in ("A.weight", "B.weight"):
            continue
        weight = tensors.get(f"{module}.weight")
        if weight is None:
            raise ConfigError(f"adapter {adapter} changes {module}, which {base} does not have: it is of another base")
        ours, theirs = (tensor.shape[1], weight.shape[1]) if side == "A.weight" else (tensor.shape[0], weight.shape[0])
        if ours != theirs:
            raise ConfigError(
                f"adapter {adapter} has width {ours} at {module} where {base} has {theirs}: it is of another base"
            )


def tensors_of(folder: Path) -> dict[str, _Tensor]:
    """Every tensor of a model folder, from the headers of its safetensors files."""
    found: dict[str, _Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= _header(path)
    return found


def _header(path: Path) -> dict[str, _Tensor]:
    """The header of a safetensors file: 8 bytes of length, then JSON (the format's own description)."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MOST_HEADER:
                raise ValueError("its header is too long")
            header: Mapping[str, Any] = json.loads(file.read(length))
        return {
            name: _Tensor(
                path,
                8 + length + int(entry["data_offsets"][0]),
                int(entry["data_offsets"][1]) - int(entry["data_offsets"][0]),
                [int(size) for size in entry["shape"]],
                str(entry["dtype"]),
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ConfigError(f"{path} is not a safetensors file ({error})") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path} ({error})") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds no JSON object")
    return value


def _hash(value: object) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()
