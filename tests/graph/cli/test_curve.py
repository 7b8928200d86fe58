"""`lamer-graph curve`: one page of finished runs, the same for people, spreadsheets and machines."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from command_line import Cli
from fake_server import FakeServer


def test_a_curve_says_the_same_everywhere_and_plays_nothing(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    for name, episodes in (("short", 2), ("long", 6)):
        command = ("eval", "--base-url", server.url, "--tasks", 6, "--episodes", episodes, "--out", name)
        assert cli(*command).code == 0
    calls = server.calls
    document = cli("curve", "long", "brief=short", "--trained", 2, "--out", "c", "--json").document
    assert server.calls == calls
    assert [one["name"] for one in document["curves"]] == ["long", "brief"]
    assert [len(one["pass_at"]) for one in document["curves"]] == [6, 2]
    assert len(document["curves"][1]["differences"]) == 2
    saved = json.loads((tmp_path / "c/curve.json").read_text())
    assert saved == {key: value for key, value in document.items() if key not in ("run", "files")}
    with (tmp_path / "c/curve.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["name"], line["k"]) for line in lines] == [
        *(("long", str(k)) for k in range(1, 7)),
        ("brief", "1"),
        ("brief", "2"),
    ]
    assert [float(line["value"]) for line in lines[:6]] == [one["value"] for one in document["curves"][0]["pass_at"]]
    text = (tmp_path / "c/curve.md").read_text()
    assert f"| pass@1 | {document['curves'][0]['pass_at'][0]['value']:.3f} (" in text
    assert "| pass@6 | " in text
    assert (tmp_path / "c/curve.png").read_bytes().startswith(b"\x89PNG")
    assert "| minus long | p |" in text
    shown = cli("curve", "long", "short", "--out", "d").out
    assert shown.splitlines()[2].split("┃")[1:5] == [" attempts ", "      long ", "     short ", "  minus long "]
    assert re.search(r"│ +\.[0-9]{3}-(\.[0-9]{3}|1\.000) │", shown)  # below its value, whole
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "pass@6" in shown
    assert "Reflections true:" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        (("a/run", "b/run"), "'b/run' needs a name of its own: write NAME=b/run"),
        (("=a/run",), "'=a/run' needs a name of its own"),
        (("nowhere",), "nowhere/run.json is not a readable run description"),
        (("nowhere", "--trained", "0"), "--trained"),
        (("x=nowhere", "--reference", "y"), "the reference 'y' is not among"),
    ],
)
def test_runs_that_cannot_stand_beside_each_other_are_one_line(
    cli: Cli, tmp_path: Path, runs: tuple[str, ...], says: str
) -> None:
    outcome = cli("curve", *runs, "--out", "c")
    assert outcome.code == 2
    assert says in outcome.error_line
    assert not (tmp_path / "c").exists()
