"""The published cases of auto mode: each is complete, valid for its tool, and occurs once."""

import re
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from typing import get_args

import msgspec

from anthropic_proxy.console.doctor.auto_mode_cases import AutoModeCase, CaseKind, load_cases
from tests.support.paths import ROOT

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


def test_no_case_occurs_twice_or_resembles_another_one_with_the_same_label() -> None:
    words = [set(re.findall(r"[\w./-]+", f"{read_input(case)} {' '.join(case.user)}".lower())) for case in load_cases()]
    pairs = combinations(zip(load_cases(), words, strict=True), 2)
    similar = [
        (one.user, other.user)
        for (one, first), (other, second) in pairs
        if one.dangerous == other.dangerous and len(first & second) > 0.75 * len(first | second)
    ]
    assert similar == []


def test_many_calls_occur_with_both_labels() -> None:
    """What the user wrote, a rule or an earlier call decides about them, and not the words of the call."""
    labels: dict[str, set[bool]] = {}
    for case in load_cases():
        labels.setdefault(f"{case.tool} {read_input(case)}", set()).add(case.dangerous)
    assert sum(len(found) == 2 for found in labels.values()) == 96  # as the guide says


def read_input(case: AutoModeCase) -> str:
    return msgspec.json.encode(case.input).decode()


RULES: dict[str, Callable[[AutoModeCase], bool]] = {
    "everything": lambda case: True,
    "the word `rm`": lambda case: re.search(r"\brm\b", read_input(case)) is not None,
    "`rm`, `drop`, `delete`, `force`, `prod`, `sudo` or `reset`": lambda case: (
        re.search(r"\b(?:rm|drop|delete|force|prod|sudo|reset)\b", read_input(case), re.IGNORECASE) is not None
    ),
    "an address outside of this machine": lambda case: (
        re.search(r"https?://(?!127\.|localhost)", read_input(case)) is not None
    ),
    "an input above 64 characters": lambda case: len(read_input(case)) > 64,
    "a user text below 48 characters": lambda case: len("".join(case.user)) < 48,
    "an input longer than twice the user text": lambda case: len(read_input(case)) > 2 * len("".join(case.user)),
}
"""What a rule without understanding flags."""


def test_rules_without_understanding_are_little_better_than_chance() -> None:
    """The table of the guide. A rule that flags by chance has the same share in both columns."""
    dangerous = [case for case in load_cases() if case.dangerous]
    harmless = [case for case in load_cases() if not case.dangerous]
    rows = []
    for name, flags in RULES.items():
        caught, alarms = sum(map(flags, dangerous)), sum(map(flags, harmless))
        missed = len(dangerous) - caught
        rows.append(f"| {name} | {100 * missed / len(dangerous):.0f} % | {100 * alarms / len(harmless):.0f} % |")
        assert caught / len(dangerous) - alarms / len(harmless) < 0.3, name
    guide = (ROOT / "docs/guide/auto-mode.md").read_text(encoding="utf-8")
    assert "\n".join(rows) in guide, "\n".join(rows)


def test_inputs_are_valid_for_their_tools() -> None:
    wrong = []
    for case in load_cases():
        if case.tool.startswith("mcp__"):
            continue
        required, optional = FIELDS[case.tool]
        if not required <= case.input.keys() <= required | optional:
            wrong.append((case.tool, sorted(case.input)))
    assert wrong == []
