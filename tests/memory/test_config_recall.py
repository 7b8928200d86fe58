"""Memory configurations refuse what makes no sense; recall picks the right records in the right order."""

import asyncio
from importlib.metadata import EntryPoint, EntryPoints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.store.memory import InMemoryStore

from lamer_memory import (
    CUT_MARK,
    InContextMemory,
    MemoryBackend,
    MemoryBackendError,
    MemoryConfig,
    MemoryConfigError,
    aown_records,
    asimilar_records,
    backend_names,
    config,
    cut,
    kinds,
    make_record,
    open_backend,
    own_records,
    record_key,
    select_similar,
    similar_records,
    trial_namespace,
)

CONTENTS = ["none", "trajectory", "reflection", "both"]


@pytest.mark.parametrize("contents", CONTENTS)
def test_each_contents_is_a_configuration(contents):
    made = MemoryConfig.of(contents)
    assert (made.contents, made.scope, made.backend) == (contents, "trial", "in-context")
    assert MemoryConfig.of(made) is made


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"contents": "reflections"}, "did you mean 'reflection'"),
        ({"contents": None}, "none, trajectory, reflection, both"),
        ({"scope": "task"}, "did you mean 'tasks'"),
        ({"k": 0}, "k must be a whole number of at least 1"),
        ({"k": True}, "k must be"),
        ({"k": 2.0}, "k must be"),
        ({"max_chars": 15}, "at least 16"),
        ({"backend": InContextMemory}, "a name or a MemoryBackend"),
        ({"backend": ""}, "a name or a MemoryBackend"),
        ({"contents": "none", "scope": "tasks"}, "'none' and scope 'tasks' exclude each other"),
        ({"outcomes": "success", "scope": "tasks"}, "outcomes must be one of any, solved, failed, balanced"),
        ({"outcomes": "solved"}, "outcomes 'solved' and scope 'trial' exclude each other"),
    ],
)
def test_a_senseless_configuration_is_refused_by_name(fields, message):
    with pytest.raises(MemoryConfigError, match=message):
        MemoryConfig(**fields)


def test_equal_settings_have_equal_json_however_the_backend_is_given():
    assert MemoryConfig(backend=InContextMemory()).to_json() == MemoryConfig(backend="in-context").to_json()
    assert MemoryConfig("both", scope="tasks", k=5, max_chars=99).to_json() == {
        "contents": "both",
        "backend": "in-context",
        "scope": "tasks",
        "k": 5,
        "max_chars": 99,
    }
    assert MemoryConfig("both", scope="tasks", outcomes="failed").to_json()["outcomes"] == "failed"


def test_a_backend_object_is_opened_as_itself_and_a_name_anew():
    memory = InContextMemory()
    assert MemoryConfig(backend=memory).open() is memory
    assert MemoryConfig().open() is not MemoryConfig().open()


def test_an_unknown_backend_names_the_nearest():
    with pytest.raises(MemoryConfigError, match=r"unknown memory backend 'in_contxt'; did you mean 'in-context'\?"):
        open_backend("in_contxt")


def test_an_option_that_the_backend_lacks_is_refused():
    with pytest.raises(MemoryConfigError, match=r"'in-context'.*'path'"):
        open_backend("in-context", path="x")


class Remote(InContextMemory):
    """A third party's backend, with an option."""

    def __init__(self, url: str):
        super().__init__()
        self.url = url


def test_a_plug_in_backend_is_found_by_its_entry_point(monkeypatch):
    points = [
        EntryPoint("remote", f"{__name__}:Remote", "lamer_graph.memory"),
        EntryPoint("text", "string:ascii_letters", "lamer_graph.memory"),
        EntryPoint("gone", "no_such_package:Backend", "lamer_graph.memory"),
    ]
    monkeypatch.setattr(config, "entry_points", lambda **select: EntryPoints(points).select(**select))
    opened = open_backend("remote", url="http://localhost:1")
    assert (type(opened), opened.url) == (Remote, "http://localhost:1")
    assert backend_names() == ["chroma", "gone", "in-context", "remote", "store", "text"]
    assert MemoryConfig(backend=opened).to_json()["backend"] == f"{__name__}:Remote"
    with pytest.raises(MemoryConfigError, match="url"):
        open_backend("remote")
    with pytest.raises(MemoryConfigError, match="subclass of MemoryBackend"):
        open_backend("text")
    with pytest.raises(MemoryBackendError, match="no_such_package"):
        open_backend("gone")


@pytest.mark.parametrize("name", ["in-context", "chroma", "store"])
def test_a_backend_that_was_opened_is_logged_under_the_name_that_opens_it(name):
    opened = open_backend(name, **({"store": InMemoryStore()} if name == "store" else {}))
    assert MemoryConfig(backend=opened).to_json() == MemoryConfig(backend=name).to_json()
    opened.close()


@pytest.mark.parametrize("address", ["http://host:port", "http://host:99999", "http://[::1", "http://me:secret@host:1"])
def test_an_address_that_no_chroma_server_can_have_is_refused_at_once(address):
    with pytest.raises(MemoryBackendError, match="a Chroma server is like http://localhost:8000") as caught:
        open_backend(f"chroma:{address}")
    assert "secret" not in str(caught.value)


def test_contents_says_which_kinds_are_kept():
    assert [kinds(contents) for contents in CONTENTS] == [
        (),
        ("trajectory",),
        ("reflection",),
        ("trajectory", "reflection"),
    ]


def test_a_trial_has_its_own_namespace_unless_tasks_share_one():
    assert trial_namespace(MemoryConfig.of("both"), ("run",), "t1") == ("run", "t1")
    assert trial_namespace(MemoryConfig("both", scope="tasks"), ("run",), "t1") == ("run",)


def filled(settings: MemoryConfig, trials: list[str], episodes: int) -> MemoryBackend:
    memory = InContextMemory()
    for trial in trials:
        namespace = trial_namespace(settings, ("run",), trial)
        for episode in reversed(range(episodes)):  # written in the wrong order: recall must not depend on it
            for kind in ("reflection", "trajectory"):
                text = f"{trial} {episode} {kind}"
                memory.put(namespace, [make_record(trial, f"task of {trial}", episode, kind, text, False)])
    return memory


@pytest.mark.parametrize("scope", ["trial", "tasks"])
@pytest.mark.parametrize("contents", CONTENTS[1:])
def test_own_records_are_earlier_episodes_in_order(contents, scope):
    settings = MemoryConfig(contents, scope=scope)
    memory = filled(settings, ["t", "t/1", "u"], episodes=4)
    namespace = trial_namespace(settings, ("run",), "t")
    expected = [f"t {episode} {kind}" for episode in range(3) for kind in kinds(contents)]
    found = own_records(settings, memory, namespace, "t", 3)
    assert [record.text for record in found] == expected
    assert asyncio.run(aown_records(settings, memory, namespace, "t", 3)) == found
    assert own_records(settings, memory, namespace, "t", 0) == []


def test_nothing_is_recalled_with_contents_none():
    memory = filled(MemoryConfig(), ["t"], episodes=2)
    assert own_records(MemoryConfig.of("none"), memory, ("run", "t"), "t", 2) == []


def test_similar_records_are_k_of_other_trials():
    settings = MemoryConfig("reflection", scope="tasks", k=2)
    memory = filled(settings, ["a", "b", "t"], episodes=2)  # the newest are the trial's own
    found = similar_records(settings, memory, ("run",), "t", "query", episode=2)
    assert [record.text for record in found] == ["b 0 reflection", "b 1 reflection"]
    assert asyncio.run(asimilar_records(settings, memory, ("run",), "t", "query", episode=2)) == found
    assert similar_records(MemoryConfig(), memory, ("run",), "t", "query", episode=2) == []


def told_apart(k: int, outcomes: str, rows: list[tuple[bool, bool]]) -> list[int]:
    """The places of the records that are shown, written down as the words say it: `rows` are (success, ours)."""
    others = [(place, success) for place, (success, ours) in enumerate(rows) if not ours]
    solved = [place for place, success in others if success]
    failed = [place for place, success in others if not success]
    if outcomes == "balanced":
        larger_half, smaller_half = (k + 1) // 2, k // 2
        while larger_half + smaller_half > 0 and len(solved) < larger_half:
            larger_half, smaller_half = larger_half - 1, smaller_half + 1
        while len(failed) < smaller_half:
            larger_half, smaller_half = larger_half + 1, smaller_half - 1
        return sorted(solved[:larger_half] + failed[:smaller_half])
    return {"any": [place for place, _ in others], "solved": solved, "failed": failed}[outcomes][:k]


@given(
    st.integers(1, 6),
    st.sampled_from(["any", "solved", "failed", "balanced"]),
    st.lists(st.tuples(st.booleans(), st.booleans()), max_size=12),
)
def test_outcomes_choose_among_other_tasks_records_and_keep_their_order(k, outcomes, rows):
    settings = MemoryConfig("reflection", scope="tasks", k=k, outcomes=outcomes)
    records = [
        make_record(f"t{place}", "mine" if ours else f"task {place}", 0, "reflection", str(place), success)
        for place, (success, ours) in enumerate(rows)
    ]
    shown = [int(record.text) for record in select_similar(records, settings, "me", "mine")]
    assert shown == told_apart(k, outcomes, rows)


@given(
    st.integers(1, 4),
    st.sampled_from(["any", "solved", "failed", "balanced"]),
    st.lists(st.booleans(), min_size=1, max_size=40),
)
def test_what_a_store_is_asked_for_suffices_for_the_choice(k, outcomes, successes):
    """However many of the other outcome are newer: a store without vectors answers the newest first."""
    settings = MemoryConfig("reflection", scope="tasks", k=k, outcomes=outcomes)
    memory = InContextMemory()
    records = [
        make_record(f"t{place}", f"task {place}", 0, "reflection", str(place), success)
        for place, success in enumerate(successes)
    ]
    memory.put(("run",), records)
    found = similar_records(settings, memory, ("run",), "me", "query", task_id="mine")
    assert found == asyncio.run(asimilar_records(settings, memory, ("run",), "me", "query", task_id="mine"))
    newest_first = records[::-1]
    if outcomes == "balanced":  # unranked answers of two searches: successes come first
        newest_first = sorted(newest_first, key=lambda record: not record.success)
    assert found == select_similar(newest_first, settings, "me", "mine")


def test_a_long_text_is_cut_with_a_visible_mark():
    settings = MemoryConfig(max_chars=20)
    memory = InContextMemory()
    record = make_record("t", "task", 0, "reflection", "x" * 21, False, {"note": 1})
    memory.put(("run", "t"), [record])
    (found,) = own_records(settings, memory, ("run", "t"), "t", 1)
    assert found.text == "x" * (20 - len(CUT_MARK)) + CUT_MARK
    assert (found.key, found.metadata) == (record.key, {"note": 1, "trial_id": "t"})


@given(st.text(), st.integers(16, 60))
def test_a_cut_text_never_exceeds_its_bound_and_a_short_one_is_untouched(text, bound):
    short = cut(text, bound)
    assert len(short) <= bound
    assert short == text if len(text) <= bound else short.endswith(CUT_MARK)


def test_a_record_is_keyed_by_trial_episode_and_kind_alone():
    one = make_record("t", "task", 2, "reflection", "a", False, {"x": 1})
    two = make_record("t", "other", 2, "reflection", "b", True)
    assert one.key == two.key == record_key("t", 2, "reflection")
