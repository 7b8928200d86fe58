"""An application that is killed anywhere goes on at its last finished step, under every checkpointer."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from agents import CODE, QUESTION, agent_of, graded
from lamer_graph import with_retries
from places import SUPPORT

CONFIG: Any = {"configurable": {"thread_id": "t"}}
CALLS = 7
"""Three in either attempt and one for the reflection."""


def play(database: Path, fatal: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SUPPORT / "kill_app.py"), str(database), str(fatal)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> str:
    done = play(tmp_path_factory.mktemp("whole") / "checkpoints.sqlite", 0)
    assert done.returncode == 0, done.stderr
    assert done.stderr.split()[-1] == str(CALLS)
    return done.stdout


# The reflection, and the third call of attempt two.
@pytest.mark.parametrize("fatal", [4, 7])
def test_a_killed_application_repeats_one_call_and_loses_no_token(
    fatal: int, uninterrupted: str, tmp_path: Path
) -> None:
    database = tmp_path / "checkpoints.sqlite"
    killed = play(database, fatal)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = play(database, 0)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == uninterrupted
    assert resumed.stderr.split()[-1] == str(CALLS - fatal + 1)


def app_with(saver: Any) -> Any:
    agent, _ = agent_of()
    # Text that PostgreSQL's JSONB refuses, where it is nobody's but ours to escape.
    return with_retries(
        agent, grade=graded, reflect=lambda *_: f"NUL \0 and half a pair \ud83d. The code word is {CODE}.",
        inject=lambda messages, lessons: [*messages, *[("user", f"> The code word is {CODE}") for _ in lessons]],
        checkpointer=saver,
    )  # fmt: skip


def check_result(result: Any) -> None:
    assert result["success"]
    assert result["reflections"] == [f"NUL \\x00 and half a pair \\ud83d. The code word is {CODE}."]


def test_sqlite_and_postgres_checkpointers(tmp_path: Path, postgres_uri: str) -> None:
    with SqliteSaver.from_conn_string(str(tmp_path / "c.sqlite")) as saver:
        check_result(app_with(saver).invoke(QUESTION, CONFIG, durability="sync"))
    with PostgresSaver.from_conn_string(postgres_uri) as saver:
        saver.setup()
        check_result(app_with(saver).invoke(QUESTION, CONFIG, durability="sync"))


async def test_async_sqlite_and_postgres_checkpointers(tmp_path: Path, postgres_uri: str) -> None:
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "c.sqlite")) as saver:
        check_result(await app_with(saver).ainvoke(QUESTION, CONFIG, durability="sync"))
    async with AsyncPostgresSaver.from_conn_string(postgres_uri) as saver:
        await saver.setup()
        check_result(await app_with(saver).ainvoke(QUESTION, {"configurable": {"thread_id": "u"}}, durability="sync"))
