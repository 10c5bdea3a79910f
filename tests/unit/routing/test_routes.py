"""Each condition of a route: a request that meets it, one that does not, and the reason for users."""

import json
import re
from pathlib import Path

import pytest

from anthropic_proxy.engine.routing.routes import CompiledRoutes, describe_conditions
from tests.support.golden_texts import Check
from tests.support.routes import load_routes, new_facts


def test_golden_conditions(golden: Check, tmp_path: Path) -> None:
    """`golden_texts/route_conditions`; `⟨word ⟩×3` stands for a text of three words."""

    def show(given: str) -> str:
        repeated = re.sub(r"⟨(.*?)⟩×(\d+)", lambda match: match[1] * int(match[2]), given)
        when, match, other = repeated.split("\n")
        text = f'[[routes]]\nname = "r"\nwhen = {{ {when} }}\ntargets = ["openai/gpt-4.1"]\n'
        settings = load_routes(tmp_path, text)
        rules = CompiledRoutes(settings.routes)
        facts = new_facts(settings, **json.loads(other))
        assert rules.find_matching_route(new_facts(settings, **json.loads(match))) is settings.routes[0]
        assert rules.find_matching_route(facts) is None
        (check,) = rules.check_routes(facts)
        assert describe_conditions(settings.routes[0]) in check.failed
        return check.failed

    golden("route_conditions", show)


def test_the_share_of_sessions_is_exact_and_each_session_keeps_its_side(tmp_path: Path) -> None:
    text = '[[routes]]\nname = "trial"\nwhen.share = 10\ntargets = ["openai/gpt-4.1"]\n'
    settings = load_routes(tmp_path, text)
    rules = CompiledRoutes(settings.routes)

    def is_in(session: str, request_id: str = "") -> bool:
        headers = {"x-claude-code-session-id": session} if session else {}
        return rules.find_matching_route(new_facts(settings, headers=headers, request_id=request_id)) is not None

    chosen = [number for number in range(2_000) if is_in(f"session {number}")]
    assert 150 < len(chosen) < 250
    assert all(is_in(f"session {number}", f"req_{number}") for number in chosen[:20])
    without_session = sum(is_in("", f"req_{number}") for number in range(2_000))
    assert 150 < without_session < 250


@pytest.mark.parametrize("pattern", ["Big[a]*", "big[a]", "big[a][1m]"])
def test_brackets_in_the_pattern_of_a_model_are_text(pattern: str, tmp_path: Path) -> None:
    settings = load_routes(tmp_path, f'[[routes]]\nname = "big"\nwhen.model = "{pattern}"\ntargets = ["haiku"]\n')
    rules = CompiledRoutes(settings.routes)
    assert rules.find_matching_route(new_facts(settings, model="big[a]")) is not None
    assert rules.find_matching_route(new_facts(settings, model="biga")) is None


def test_a_long_value_matches_no_pattern_except_by_its_beginning(tmp_path: Path) -> None:
    text = "".join(
        f'[[routes]]\nname = "{name}"\nwhen.project = "{pattern}"\ntargets = ["haiku"]\n'
        for name, pattern in (("inside", "*x-1*"), ("end", "*-2"), ("any", "a?c*"), ("beginning", "team-*"))
    )
    settings = load_routes(tmp_path, text)
    rules = CompiledRoutes(settings.routes)

    def find(project: str) -> str:
        found = rules.find_matching_route(new_facts(settings, headers={"x-project": project}))
        return found.name if found else ""

    short = {"x-1": "inside", "a x-1 b": "inside", "a-2": "end", "abc": "any", "abcd": "any", "ab": ""}
    assert {project: find(project) for project in short} == short
    filler = "-" * 300
    assert [find(text) for text in (f"x-1{filler}", f"{filler}-2", f"abc{filler}")] == ["", "", ""]
    assert find(f"team-{filler}") == "beginning"


def test_tokens_are_counted_once_and_only_if_a_rule_reaches_that_condition(tmp_path: Path) -> None:
    text = "".join(
        f'[[routes]]\nname = "{number}"\nwhen = {{ tier = "opus", input_above = {limit} }}\ntargets = ["haiku"]\n'
        for number, limit in enumerate((1_000, 500, 5))
    )
    settings = load_routes(tmp_path, text)
    rules, counts = CompiledRoutes(settings.routes), []

    def find(model: str) -> str:
        facts = new_facts(settings, model=model)
        facts._count_tokens = lambda _: counts.append(1) or 700  # type: ignore[func-returns-value]
        found = rules.find_matching_route(facts)
        return found.name if found else ""

    assert (find("claude-haiku-5"), len(counts)) == ("", 0)
    assert (find("claude-opus-5"), len(counts)) == ("1", 1)
