"""Rows and tokenizer of the `teacher` that a module here tests."""

from __future__ import annotations

from typing import Any

import pytest

from lamer_trainers.warmstart.teachers import Row, Teacher, rows
from lamer_trainers.warmstart.tiny import build_tokenizer


@pytest.fixture(scope="module")
def taught(teacher: Teacher) -> list[Row]:
    return rows(teacher, 600, seed=3)


@pytest.fixture(scope="module")
def tokenizer(teacher: Teacher) -> Any:
    return build_tokenizer(teacher.pieces())
