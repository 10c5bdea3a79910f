"""The golden requests through both translations: every difference has its reason, and every reason its difference."""

import json
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.differential.comparing import Difference, compare
from tests.differential.explanations import REASONS, Reason
from tests.differential.litellm_reference import COMPARED_WITH, name_theirs, translate, why_not
from tests.differential.reading import read
from tests.support.golden_runner import find_cases, read_request
from tests.support.paths import GOLDEN, ROOT

DOCS = ROOT / "docs/contributing/differential.md"
WIRES = ("openai_chat", "gemini", "ollama")


def scenarios() -> Iterator[tuple[str, Path]]:
    """Yield wire and folder of every scenario with a request that no earlier one had."""
    seen = set()
    for wire in WIRES:
        for folder in find_cases(wire):
            expected_file = folder / "expected_upstream_request.json"
            if not expected_file.exists():
                continue
            key = (read_request(folder), expected_file.read_bytes())
            if key not in seen:
                seen.add(key)
                yield wire, folder


@cache
def differences(wire: str, folder: Path) -> tuple[Difference, ...]:
    """Return the parts of LiteLLM's request that differ from the expected request of the scenario."""
    facts = tomllib.loads((folder / "case.toml").read_text(encoding="utf-8"))
    address = facts.get("settings", {}).get("OPENAI_BASE_URL", "")
    model = f"{name_theirs(wire, facts['provider'], address)}/{facts['model']}"
    request = json.loads(read_request(folder))
    ours = json.loads((folder / "expected_upstream_request.json").read_bytes())["body"]
    theirs = translate(request, model)
    if isinstance(theirs, str):
        return (Difference("all", theirs, "sent"),)
    return tuple(compare(read(wire, theirs), read(wire, ours)))


def find_reason(wire: str, difference: Difference) -> Reason | None:
    return next((reason for reason in REASONS if reason.explains(wire, difference)), None)


def rows() -> list[str]:
    """Return the table as `docs/contributing/differential.md` has it."""
    return [f"| {reason.title} | {reason.litellm} | {reason.we} | {reason.why} |" for reason in REASONS]


def compared() -> list[tuple[str, Path]]:
    """Return wire and folder of every scenario; without LiteLLM one pair, so that one skip is reported."""
    return [("every wire", GOLDEN)] if why_not() else list(scenarios())


needs_the_version = pytest.mark.skipif(bool(why_not()), reason=f"engine: {why_not()}")


@needs_the_version
@pytest.mark.parametrize(
    ("wire", "folder"), compared(), ids=lambda value: value if isinstance(value, str) else value.name
)
def test_every_difference_is_explained(wire: str, folder: Path) -> None:
    unexplained = [one for one in differences(wire, folder) if find_reason(wire, one) is None]
    assert unexplained == []


@needs_the_version
def test_every_reason_explains_something() -> None:
    counts = Counter(
        reason.title
        for wire, folder in scenarios()
        for one in differences(wire, folder)
        if (reason := find_reason(wire, one)) is not None
    )
    for reason in REASONS:
        print(f"{counts[reason.title]:4}  {reason.title}")
    assert [reason.title for reason in REASONS if not counts[reason.title]] == []


def test_the_documentation_has_every_reason_and_the_version() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("| ")][2:] == rows()
    assert f"LiteLLM {COMPARED_WITH}" in text
