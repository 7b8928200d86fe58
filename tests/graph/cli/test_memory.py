"""`lamer-graph memory` looks after a store from the command line."""

import json

import pytest

from lamer_memory import hygiene, make_record
from lamer_memory.chroma.memory import ChromaMemory
from read_only import read_only

LESSON = "Open the corners first; the numbers beside them say which of the closed cells hide a mine, so count them all."


@pytest.fixture
def store(tmp_path):
    place = tmp_path / "memory"
    memory = ChromaMemory(place)
    rows = [(LESSON, False), (LESSON, True), (LESSON.lower(), False), ("\x1b[31mpush [bold]the box", False)]
    memory.put(
        ("lamer", "t"),
        [make_record(f"t{i}", f"task {i}", 0, "reflection", text, won) for i, (text, won) in enumerate(rows)],
    )
    memory.put(("other",), [make_record("o", "task", 0, "trajectory", "box", False)])
    memory.close()
    return place


def test_stats_and_search(cli, store):
    document = cli("memory", "stats", store, "--json").document
    assert document["records"] == 5
    assert [(one["namespace"], one["records"], one["successes"]) for one in document["namespaces"]] == [
        (["lamer", "t"], 4, 1),
        (["other"], 1, 0),
    ]
    shown = cli("memory", "stats", store)
    assert shown.code == 0
    assert "lamer/t" in shown.out
    assert all(name in shown.out for name in ("records", "reflect.", "traject.", "solved", "tasks", "chars"))
    document = cli("memory", "search", store, "push the box", "--limit", 1, "--namespace", "lamer", "--json").document
    (found,) = document["found"]
    assert found["record"]["key"] == "t3/0/reflection"
    shown = cli("memory", "search", store, "push the box")
    assert "push [bold]the box" in shown.out
    assert "\x1b" not in shown.out


def test_a_store_on_a_read_only_disk_is_looked_into(cli, store):
    with read_only(store):
        assert cli("memory", "stats", store, "--json").document["records"] == 5
        assert len(cli("memory", "search", store, "push the box", "--json").document["found"]) == 5
        assert cli("memory", "export", store).code == 0
        assert cli("memory", "prune", store, "--dry-run", "--json").document["forgotten"] == 2
        refused = cli("memory", "prune", store)
    assert refused.code != 0
    assert "Read-only file system" in refused.err or "Permission denied" in refused.err


def test_two_runs_are_given_one_directory(cli, tmp_path, monkeypatch):
    for name in ("one", "two"):
        run = ("collect", "--env", "minesweeper:4x4-3", "--tasks", 1, "--seed", 1, "--out", name)
        assert cli(*run, "--backend", "chroma", "--memory-url", "./both", "--scope", "tasks").code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # a directory means the same from anywhere
    names = [one["namespace"] for one in cli("memory", "stats", "../both", "--json").document["namespaces"]]
    assert len(names) == 2
    filled = ("eval", "--env", "minesweeper:4x4-3", "--tasks", 1, "--backend", "chroma", "--scope", "tasks")
    document = cli(*filled, "--store", "../one", "--out", "three", "--json").document
    assert document["pass_at"], document


def test_of_a_runs_folder_the_runs_own_memory_is_meant(cli, tmp_path, monkeypatch):
    for name, where in (("one", ()), ("two", ("--memory-url", str(tmp_path / "shared")))):
        run = ("collect", "--env", "minesweeper:4x4-3", "--tasks", 1, "--out", tmp_path / name, *where)
        assert cli(*run, "--backend", "chroma", "--scope", "tasks").code == 0
        other = cli("memory", "stats", tmp_path / ("shared" if where else "one/memory"), "--json").document
        found = cli("memory", "stats", tmp_path / name, "--json").document
        assert found["records"] == other["records"] > 0
    assert cli("collect", "--env", "minesweeper:4x4-3", "--tasks", 1, "--out", tmp_path / "none").code == 0
    refused = cli("memory", "stats", tmp_path / "none")
    assert refused.code == 2
    assert "its memory was in-context" in refused.err


def test_an_export_that_fails_leaves_the_one_before(cli, store, tmp_path, monkeypatch):
    assert cli("memory", "export", store, "--out", "all.jsonl").code == 0
    before = (tmp_path / "all.jsonl").read_bytes()

    def full(backend, names, file):
        file.write("half a li")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hygiene, "export_records", full)
    failed = cli("memory", "export", store, "--out", "all.jsonl")
    assert failed.code == 1
    assert "No space left" in failed.error_line
    assert (tmp_path / "all.jsonl").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"all.jsonl", "memory"}


def test_export_and_import(cli, store, tmp_path):
    assert cli("memory", "export", store, "--out", "all.jsonl", "--json").document["records"] == 5
    lines = (tmp_path / "all.jsonl").read_text()
    assert cli("memory", "export", store).out == lines
    assert cli("memory", "import", "copy", "all.jsonl", "--json").document["records"] == 5
    assert cli("memory", "export", "copy").out == lines
    assert cli("memory", "import", "copy", "all.jsonl", "--namespace", "x/y").code == 0
    names = [one["namespace"] for one in cli("memory", "stats", "copy", "--json").document["namespaces"]]
    assert names == [["lamer", "t"], ["other"], ["x", "y", "lamer", "t"], ["x", "y", "other"]]


def test_prune(cli, store):
    arguments = ("memory", "prune", store, "--max-records", 1, "--namespace", "lamer", "--json")
    planned = cli(*arguments, "--dry-run").document
    assert (planned["forgotten"], planned["dry_run"]) == (3, True)
    done = cli(*arguments).document
    assert done["namespaces"] == planned["namespaces"]
    assert done["namespaces"][0] == {
        "namespace": ["lamer", "t"],
        "duplicates": 1,
        "near_duplicates": 1,
        "evicted": 1,
        "kept": 1,
    }
    left = [json.loads(line) for line in cli("memory", "export", store).out.splitlines()]
    assert [one["record"]["key"] for one in left] == ["t1/0/reflection", "o/0/trajectory"]


def test_another_embedder_is_refused_until_reindex(cli, store):
    refused = cli("memory", "stats", store, "--embedder", "hashing:64")
    assert refused.code == 2
    assert f"lamer-graph memory reindex {store} --embedder NAME" in refused.error_line
    assert cli("memory", "reindex", store, "--embedder", "hashing:64", "--json").document["records"] == 5
    assert cli("memory", "stats", store, "--embedder", "hashing:64", "--json").document["records"] == 5
    assert cli("memory", "stats", store, "--json").document["records"] == 5  # with what filled it


def test_a_store_without_vectors_is_read_and_says_that_it_does_not_rank(cli, tmp_path):
    memory = ChromaMemory(tmp_path / "store", embedder=None)
    memory.put(("a",), [make_record("t", "t", 0, "reflection", "mine at (1, 2)", False)])
    memory.close()
    assert "the newest, not the nearest" in cli("memory", "search", tmp_path / "store", "mine").out
    assert cli("memory", "reindex", tmp_path / "store", "--json").document["records"] == 1
    assert "not the nearest" not in cli("memory", "search", tmp_path / "store", "mine").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("stats", "nothing"), "holds no memory"),
        (("stats", "http://127.0.0.1:1"), "no Chroma server answers at http://127.0.0.1:1"),
        (("reindex", "nothing"), "holds no memory"),
        (("stats", "STORE", "--embedder", "hashin"), "did you mean 'hashing'"),
        (("import", "new", "gone.jsonl"), "gone.jsonl: No such file"),
        (("export", "STORE", "--out", "no/such/folder"), "No such file"),
        (("prune", "STORE", "--max-records", "-1"), "max-records"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(cli, store, tmp_path, arguments, message):
    outcome = cli("memory", *(str(store) if part == "STORE" else part for part in arguments))
    assert outcome.code == 2
    assert message in outcome.error_line
    assert not (tmp_path / "nothing").exists()
    assert not (tmp_path / "new").exists()


def test_a_malformed_import_names_the_line(cli, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"schema": 1}\n')
    outcome = cli("memory", "import", "new", "bad.jsonl")
    assert outcome.code == 1
    assert "bad.jsonl: line 1: must be an object" in outcome.error_line


def test_a_store_in_use_is_refused(cli, store):
    import subprocess
    import sys

    code = "import sys; from lamer_memory import ChromaMemory as C; C(sys.argv[1]); print('open', flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", code, store], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"open\n"
        outcome = cli("memory", "stats", store)
        assert outcome.code == 2
        assert "chroma run" in outcome.error_line
    finally:
        holder.kill()
        holder.wait()


# -- values -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def valued(store):
    """The store, where it is known what three of its records are worth."""
    from lamer_memory.utility import Value

    memory = ChromaMemory(store)
    for name, shown, held in (("t0", [0.9] * 30, [0.1] * 30), ("t1", [0.0] * 30, [0.5] * 30), ("t3", [0.2], [])):
        worth = Value().with_outcomes(shown, held)
        memory.annotate(("lamer", "t"), {f"{name}/0/reflection": worth.to_metadata()})
    memory.close()
    return store


def test_top_says_what_records_are_worth_and_which_of_them_were_compared(cli, valued):
    found = cli("memory", "top", valued, "--json").document["found"]
    assert [one["record"]["key"] for one in found] == ["t0/0/reflection", "t3/0/reflection", "t1/0/reflection"]
    assert [round(one["value"]["mean"], 3) for one in found] == [0.8, 0.2, -0.5]
    assert [one["value"]["harms"] for one in found] == [False, False, True]
    expected = [one["value"]["expected"] for one in found]
    assert expected == sorted(expected, reverse=True)
    assert expected[1] < 0.2, "of one trial little is concluded"
    assert [one["value"]["controlled"] for one in found] == [True, False, True]
    worst = cli("memory", "top", valued, "--worst", "--limit", 1, "--json").document["found"]
    assert [one["record"]["key"] for one in worst] == ["t1/0/reflection"]
    shown = cli("memory", "top", valued)
    assert shown.code == 0
    assert "+0.800 ±" in shown.out
    assert "held back from nobody" in shown.out
    assert "harms: t1" in shown.out
    assert "\x1b" not in shown.out


def test_top_of_a_store_that_nobody_measured_says_how_to(cli, store):
    shown = cli("memory", "top", store)
    assert shown.code == 0
    assert "no values here" in shown.out


def test_stats_count_what_was_measured_and_what_harms(cli, valued):
    (mine, _) = cli("memory", "stats", valued, "--json").document["namespaces"]
    assert (mine["valued"], mine["harmful"]) == (3, 1)


def test_values_are_exported_and_come_back(cli, valued, tmp_path):
    assert cli("memory", "export", valued, "--out", tmp_path / "m.jsonl").code == 0
    assert cli("memory", "import", tmp_path / "other", tmp_path / "m.jsonl").code == 0
    one, other = (cli("memory", "top", place, "--json").document["found"] for place in (valued, tmp_path / "other"))
    assert one == other


def test_what_harms_is_pruned_first(cli, valued):
    assert cli("memory", "prune", valued, "--namespace", "lamer", "--near", 0, "--max-records", 2).code == 0
    kept = cli("memory", "top", valued, "--json").document["found"]
    assert "t1/0/reflection" not in [one["record"]["key"] for one in kept]


def test_what_was_measured_to_help_is_pruned_last_and_stays_of_two_equal_texts(cli, store):
    from lamer_memory.utility import Value

    memory = ChromaMemory(store)
    helps = Value().with_outcomes([0.9] * 30, [0.1] * 30).to_metadata()
    memory.annotate(("lamer", "t"), {"t2/0/reflection": helps})  # a failed one, and nearly t1, which was won
    memory.close()
    assert cli("memory", "prune", store, "--namespace", "lamer", "--max-records", 1).code == 0
    (found,) = cli("memory", "top", store, "--json").document["found"]
    assert found["record"]["key"] == "t2/0/reflection"


def test_a_training_runs_memories_are_named_by_their_updates(cli, tmp_path):
    (tmp_path / "run" / "collected" / "update-00003").mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text("{}")
    refused = cli("memory", "top", tmp_path / "run")
    assert refused.code == 2
    assert "name one, such as" in refused.error_line
    assert "update-00003" in refused.error_line
