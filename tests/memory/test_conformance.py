"""The conformance suite catches backends that break a promise."""

import re
import subprocess
import sys

import pytest

import broken_backends
from places import SUPPORT

BROKEN = SUPPORT / "broken_backends.py"

# Of each broken backend, one test that must be among those that fail.
CAUGHT_BY = {
    "Appends": "test_writing_a_record_again_leaves_one",
    "KeepsPlace": "test_an_upsert_counts_as_newest",
    "Strips": "test_text_comes_back_verbatim",
    "Cuts": "test_text_comes_back_verbatim",
    "Normalises": "test_text_comes_back_verbatim",
    "Replaces": "test_every_field_is_any_text",
    "Escapes": "test_hostile_namespaces_never_mix",
    "Joins": "test_lookalike_namespaces_are_apart",
    "Prefixes": "test_a_namespace_does_not_include_those_below_it",
    "LimitsFirst": "test_limit_counts_after_the_filter",
    "FiltersAny": "test_filters_are_equalities_that_all_hold",
    "IgnoresMetadata": "test_filters_are_equalities_that_all_hold",
    "OldestFirst": "test_newest_come_first",
    "Unlimited": "test_limit_keeps_the_newest",
    "Racy": "test_concurrent_threads_lose_nothing",
    "AsyncRacy": "test_concurrent_tasks_lose_nothing",
    "AsyncForgetsFilter": "test_async_forms_agree_with_sync_ones",
    "DeletesAll": "test_deleted_keys_are_gone_and_others_stay",
    "DeletesByKeyEverywhere": "test_a_key_is_deleted_in_its_namespace_only",
    "StaysOpen": "test_a_closed_backend_says_so",
    "ClosesOnce": "test_closing_twice_is_fine",
    "SharesMetadata": "test_later_changes_to_the_callers_metadata_do_not_reach_the_store",
    "StringMetadata": "test_a_record_comes_back_equal",
    "ScoresOutOfRange": "test_a_query_answers_with_this_namespaces_records",
    "MetadataWins": "test_a_record_field_wins_over_a_metadata_key_of_its_name",
    "AlwaysScores": "test_without_a_query_there_is_no_score",
    "NeedsNamespace": "test_deleting_what_is_not_there_is_fine",
    "NeedsRecords": "test_putting_nothing_changes_nothing",
    "GlobalKeys": "test_the_same_key_lives_in_each_namespace",
    "Buries": "test_a_deleted_namespace_is_empty_and_usable",
    "Forgets": "test_records_outlive_the_backend",
    "ForgetsNotes": "test_a_trial_that_ends_twice_is_counted_once",
    "ReplacesMetadata": "test_a_note_is_merged_into_a_records_metadata",
    "NotesForAll": "test_a_note_is_merged_into_a_records_metadata",
}


@pytest.fixture(scope="module")
def failures() -> set[tuple[str, str]]:
    """(backend, test) of everything that failed when the suite ran on the broken backends."""
    command = [sys.executable, "-m", "pytest", str(BROKEN), "-q", "--tb=no", "-rf", "-p", "no:cacheprovider"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 1, done.stdout + done.stderr
    return set(re.findall(r"^(?:FAILED|ERROR) \S+::Test(\w+)::(\w+)", done.stdout, re.MULTILINE))


def test_every_broken_backend_is_listed():
    assert set(CAUGHT_BY) == {kind.__name__ for kind in broken_backends.BROKEN}


@pytest.mark.parametrize("name", CAUGHT_BY)
def test_a_broken_backend_is_caught(failures, name):
    assert CAUGHT_BY[name] in {test for backend, test in failures if backend == name}
