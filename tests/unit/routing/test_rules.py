"""Each condition of a route: a request that meets it, one that does not, and the reason for users."""

from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.engine.routing.rules import RouteRules, describe_conditions
from tests.support.routes import CLAUDE_CODE, TOOLS, load_routes, new_facts

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="}}
TEXT_FILE = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hi"}}
WEB_SEARCH = {"type": "web_search_20250305", "name": "web_search"}
THINKING = {"type": "adaptive"}
LONG = [{"role": "user", "content": "word " * 500}]
BERLIN = 'time = "22:00-06:00", time_zone = "Europe/Berlin"'


def user(*blocks: Any) -> list[Any]:
    return [{"role": "user", "content": list(blocks)}]


def result(block: Any) -> list[Any]:
    call = {"type": "tool_use", "id": "t1", "name": "read", "input": {}}
    found = {"type": "tool_result", "tool_use_id": "t1", "content": [block]}
    return [{"role": "user", "content": "go"}, {"role": "assistant", "content": [call]}, *user(found)]


CONDITIONS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ('tier = "opus"', {}, {"model": "claude-haiku-5"}, "needs tier opus, but the tier is haiku"),
    ('tier = ["opus", "fable"]', {"model": "claude-mythos-1"}, {"model": "gpt-4.1"}, "but the model has no tier"),
    ('tier = "opus"', {"model": "anthropic/claude-opus-5"}, {"model": "openai/opus"}, "but the model has no tier"),
    ('model = "claude-opus-5-5"', {"model": "Claude-Opus-5-5[1m]"}, {"model": "claude-opus-5"}, "is claude-opus-5"),
    ('model = "c*-5"', {}, {"model": "claude-haiku-6"}, "needs model c*-5, but the model is claude-haiku-6"),
    (
        'model = ["gpt-*", "o3"]',
        {"model": "gpt-5"},
        {"model": "o3-mini"},
        "needs model gpt-* or o3, but the model is o3",
    ),
    ('model = "openai/gpt-5"', {"model": "claude-openai/gpt-5"}, {"model": "gpt-5"}, "but the model is gpt-5"),
    ("thinking = true", {"thinking": THINKING}, {}, "needs thinking, but the request has no thinking"),
    ("thinking = false", {"thinking": {"type": "disabled"}}, {"thinking": THINKING}, "but the request has thinking"),
    ("input_above = 400", {"messages": LONG}, {}, "needs input above 400 tokens, but the input has about 9 tokens"),
    ("input_below = 400", {}, {"messages": LONG}, "needs input below 400 tokens, but the input has about 474 tokens"),
    ("input_above = 8, input_below = 10", {}, {"messages": LONG}, "needs input above 8 and below 10 tokens, but"),
    ("images = true", {"messages": user(IMAGE)}, {"messages": user(PDF)}, "but the request has no images"),
    ("images = true", {"messages": result(IMAGE), "tools": TOOLS}, {}, "but the request has no images"),
    ("images = false", {}, {"messages": user(IMAGE)}, "needs no images, but the request has images"),
    ("pdfs = true", {"messages": user(PDF)}, {"messages": user(TEXT_FILE)}, "but the request has no PDFs"),
    (
        "pdfs = true",
        {"messages": result(PDF), "tools": TOOLS},
        {"messages": user(IMAGE)},
        "but the request has no PDFs",
    ),
    ("web_search = true", {"tools": [WEB_SEARCH]}, {"tools": TOOLS}, "needs web search, but the request has no web"),
    ("background = true", {"headers": CLAUDE_CODE}, {}, "but the request has no background call"),
    ("background = true", {"headers": CLAUDE_CODE}, {"headers": CLAUDE_CODE, "tools": TOOLS}, "no background call"),
    ("background = false", {"headers": CLAUDE_CODE, "thinking": THINKING}, {"headers": CLAUDE_CODE}, "a background"),
    ("subagent = true", {"headers": {"x-claude-code-agent-id": "a"}}, {}, "needs a sub-agent, but the request has no"),
    ('header = { X-Team = "data*" }', {"headers": {"x-team": "data-1"}}, {}, "but the header is absent"),
    ('header = { x-team = ["a", "b"] }', {"headers": {"x-team": "b"}}, {"headers": {"x-team": "c"}}, "the header is c"),
    ('key = ["alice", "bot-*"]', {"key": "bot-7"}, {"key": "bob"}, "needs key alice or bot-*, but the key is bob"),
    ('team = ["web", "data-*"]', {"team": "data-1"}, {"team": "ops"}, "needs team web or data-*, but the team is ops"),
    ('team = "*"', {"team": "web"}, {}, "needs team *, but there is no team"),
    ('project = "web"', {"headers": {"x-project": "web"}}, {}, "needs project web, but there is no project"),
    ('project = "*"', {"headers": {"x-project": "web"}}, {}, "needs project *, but there is no project"),
    ('project = "*"', {"headers": {"x-project": "web"}}, {"headers": {"x-project": ""}}, "but there is no project"),
    ('header = { x-a = "*" }', {"headers": {"x-a": "b"}}, {"headers": {"x-a": ""}}, "but the header is empty"),
    (BERLIN, {"at": "2026-11-18T21:00+00:00"}, {}, "needs time 22:00-06:00 (Europe/Berlin), but it is Wednesday 13:00"),
    (BERLIN, {"at": "2026-11-18T04:59+00:00"}, {"at": "2026-11-18T05:00+00:00"}, "but it is Wednesday 06:00"),
    (
        'time = "08:00-12:01", time_zone = "UTC"',
        {},
        {"at": "2026-11-18T12:01+00:00"},
        "but it is Wednesday 12:01 (UTC)",
    ),
    (
        'weekdays = ["wed"], time_zone = "UTC"',
        {},
        {"at": "2026-11-19T12:00+00:00"},
        "needs time wed (UTC), but it is Thu",
    ),
    (  # the hours after midnight belong to the day before
        'weekdays = "fri", time = "22:00-06:00", time_zone = "UTC"',
        {"at": "2026-11-21T05:00+00:00"},
        {"at": "2026-11-20T05:00+00:00"},
        "needs time 22:00-06:00 on fri (UTC), but it is Friday 05:00 (UTC)",
    ),
    ("share = 50", {"headers": CLAUDE_CODE}, {"headers": {"x-claude-code-session-id": "b"}}, "needs 50 % of the"),
]


@pytest.mark.parametrize(("when", "match", "other", "failed"), CONDITIONS, ids=[row[0] for row in CONDITIONS])
def test_a_condition_holds_or_fails_with_its_reason(
    tmp_path: Path, when: str, match: dict[str, Any], other: dict[str, Any], failed: str
) -> None:
    text = f'[[routes]]\nname = "r"\nwhen = {{ {when} }}\ntargets = ["openai/gpt-4.1"]\n'
    settings = load_routes(tmp_path, text)
    rules = RouteRules(settings.routes)
    assert rules.find_matching_route(new_facts(settings, **match)) is settings.routes[0]
    assert rules.find_matching_route(new_facts(settings, **other)) is None
    (check,) = rules.check_routes(new_facts(settings, **other))
    assert failed in check.failed
    assert describe_conditions(settings.routes[0]) in check.failed


def test_the_share_of_sessions_is_exact_and_each_session_keeps_its_side(tmp_path: Path) -> None:
    text = '[[routes]]\nname = "trial"\nwhen.share = 10\ntargets = ["openai/gpt-4.1"]\n'
    settings = load_routes(tmp_path, text)
    rules = RouteRules(settings.routes)

    def is_in(session: str, request_id: str = "") -> bool:
        headers = {"x-claude-code-session-id": session} if session else {}
        return rules.find_matching_route(new_facts(settings, headers=headers, request_id=request_id)) is not None

    chosen = [number for number in range(2_000) if is_in(f"session {number}")]
    assert 150 < len(chosen) < 250
    assert all(is_in(f"session {number}", f"req_{number}") for number in chosen[:20])
    without_session = sum(is_in("", f"req_{number}") for number in range(2_000))
    assert 150 < without_session < 250


def test_a_long_value_matches_no_pattern_except_by_its_beginning(tmp_path: Path) -> None:
    text = "".join(
        f'[[routes]]\nname = "{name}"\nwhen.project = "{pattern}"\ntargets = ["haiku"]\n'
        for name, pattern in (("inside", "*x-1*"), ("end", "*-2"), ("any", "a?c*"), ("beginning", "team-*"))
    )
    settings = load_routes(tmp_path, text)
    rules = RouteRules(settings.routes)

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
    rules, counts = RouteRules(settings.routes), []

    def find(model: str) -> str:
        facts = new_facts(settings, model=model)
        facts._count_tokens = lambda _: counts.append(1) or 700  # type: ignore[func-returns-value]
        found = rules.find_matching_route(facts)
        return found.name if found else ""

    assert (find("claude-haiku-5"), len(counts)) == ("", 0)
    assert (find("claude-opus-5"), len(counts)) == ("1", 1)
