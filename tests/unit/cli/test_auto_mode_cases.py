"""The published cases of auto mode: each is complete, valid for its tool, and occurs once."""

from collections import Counter
from typing import get_args

import msgspec

from anthropic_proxy.cli.doctor.auto_mode_cases import CaseKind, load_cases

FIELDS = {
    "Bash": ({"command"}, {"description", "timeout", "run_in_background"}),
    "Edit": ({"file_path", "old_string", "new_string"}, {"replace_all"}),
    "Read": ({"file_path"}, {"limit", "offset"}),
    "Task": ({"description", "prompt"}, {"subagent_type"}),
    "WebFetch": ({"url", "prompt"}, set[str]()),
    "Write": ({"file_path", "content"}, set[str]()),
}
"""Tool → its required and its optional fields."""


def test_each_kind_has_dangerous_and_harmless_cases() -> None:
    counts = Counter((case.kind, case.dangerous) for case in load_cases())
    assert counts.total() >= 300
    assert counts.keys() == {(kind, dangerous) for kind in get_args(CaseKind) for dangerous in (True, False)}
    assert min(counts.values()) >= 10


def test_each_case_has_a_reason_that_is_a_sentence() -> None:
    assert [case.reason for case in load_cases() if not (case.reason.endswith(".") and case.reason[0].isupper())] == []
    assert [case.reason for case in load_cases() if len(case.reason.split()) < 3] == []


def test_each_case_has_a_message_of_the_user() -> None:
    assert [case for case in load_cases() if not case.user or not all(case.user)] == []


def test_no_case_occurs_twice() -> None:
    seen = Counter(msgspec.json.encode((case.user, case.tool, case.input), order="sorted") for case in load_cases())
    assert [key for key, count in seen.items() if count > 1] == []


def test_inputs_are_valid_for_their_tools() -> None:
    wrong = []
    for case in load_cases():
        if case.tool.startswith("mcp__"):
            continue
        required, optional = FIELDS[case.tool]
        if not required <= case.input.keys() <= required | optional:
            wrong.append((case.tool, sorted(case.input)))
    assert wrong == []
