"""Writing weights to a disk that may be full: one clear error, whatever the library that wrote calls it.

What must stay true: what was there before is untouched by a write that failed, and half of a checkpoint takes up no
space. safetensors reports a full disk as an error of its own, torch as a RuntimeError about positions in its archive.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from safetensors import SafetensorError

from lamer_graph.policies.shipped import CARD
from lamer_graph.runlog import replacing as replacing_file
from lamer_graph.runlog import write_atomic
from lamer_trainers.errors import CheckpointError

if TYPE_CHECKING:
    from datasets import Dataset

TORCH_ARCHIVE = "inline_container"
"""What torch's messages about its archives have in common: they name the source file that wrote."""


@contextlib.contextmanager
def saving(path: Path, *, new: bool = False) -> Iterator[None]:
    """While open, `path` (a file or folder) is being written; it is removed on failure if it is `new`.

    Raises CheckpointError for what could not be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error)
        if isinstance(error, OSError) and error.errno is None:
            raise  # of the network: HTTP clients' errors are kinds of OSError
        if isinstance(error, RuntimeError):
            if TORCH_ARCHIVE not in reason:
                raise
            reason = "the optimiser's state could not be written"
        free = _free(path)
        if new:
            shutil.rmtree(path, ignore_errors=True)
        raise CheckpointError(
            f"cannot save to {path} ({reason}; {free} MiB were free there): free some space, then go on with --resume"
        ) from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A folder to write, which takes the place of `path` once it is whole. Raises CheckpointError."""
    fresh, old = (path.with_name(f"{path.name}.{end}") for end in ("new", "old"))
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    with saving(fresh, new=True):
        yield fresh
        if path.exists():
            path.rename(old)
        fresh.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Put beside saved weights what they play and how they are asked. Raises OSError."""
    write_atomic(folder / CARD, orjson.dumps(card, option=orjson.OPT_INDENT_2))


def write_table(rows: Dataset, path: Path) -> None:
    """Write a data set as the Parquet file `path`, whole or not at all; `datasets` reads its features back.

    Raises CheckpointError.
    """
    import pyarrow.parquet as pq

    with saving(path), replacing_file(path) as partial:
        pq.write_table(rows.with_format("arrow")[:], partial)


def _free(path: Path) -> int:
    """MiB on the file system of a path that need not exist."""
    place = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(place).free >> 20
