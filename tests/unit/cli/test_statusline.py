"""The line that `statusline` prints for the input of Claude Code and the replies of the proxy."""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from anthropic_proxy.cli.statusline import TIMEOUT_SECONDS, build_line
from anthropic_proxy.console.dashboard.conversation import find_cache_breaks
from anthropic_proxy.console.ledger.costs import ModelCosts
from anthropic_proxy.console.ledger.records import RowBuilder
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.plugins import Client, Cost, PrefixChange, Receipt
from tests.support.command_line import run_command
from tests.support.golden_texts import Check
from tests.support.server_process import running_forked_proxy

SESSION = {
    "session_id": "s1",
    "model": {"id": "claude-opus-5-5[1m]", "display_name": "Opus 5.5"},
    "context_window": {"total_input_tokens": 25_000, "context_window_size": 100_000},
}
LONG = "vllm/Qwen/Qwen3-Coder-30B-A3B-Instruct"
SUMS = {"cost": 0.42, "unknown_cost_requests": 0, "input_tokens": 20, "cache_read_tokens": 80, "cache_write_tokens": 0}


def request(**fields: Any) -> dict[str, Any]:
    receipt = {"session": "s1", "requested_model": "claude-opus-5-5", "prefix": "openai", "model": "gpt-4.1", **fields}
    return {"is_exchange": True, "receipt": receipt}


LAST = request(input_tokens=1_000, cache_read_tokens=8_000, output_tokens=1_000, failed_attempts=["openai 529"])
REPLIES: dict[str, Any] = {
    "/api/requests/recent": {
        "finished": [request(), LAST, request(agent="a1"), request(session="s2", model="other")],
        "sums": ["/api/usage", "/api/budget"],
    },
    "/api/usage?by=session&since=today": {"total": {"cost": 1.87, "unknown_cost_requests": 0}},
    "/api/usage?by=session&since=7d": {"groups": [{"name": "s2", "cost": 9}, {"name": "s1", **SUMS}]},
}


def line_for(replies: Mapping[str, Any], session: Any = None) -> str:
    return build_line(json.dumps(SESSION if session is None else session), replies.get)


def read_changes(value: Any) -> Any:
    """Return replies in which `{"request": fields}` stands for a finished request with these fields."""
    if isinstance(value, dict):
        if "request" in value:
            return request(**value["request"])
        return {name: read_changes(inner) for name, inner in value.items()}
    return [read_changes(inner) for inner in value] if isinstance(value, list) else value


def test_golden_lines(golden: Check) -> None:
    """`golden_texts/status_line`: replies of the proxy that differ from REPLIES, and the line."""
    golden("status_line", lambda given: line_for({**REPLIES, **read_changes(json.loads(given))}))


@pytest.mark.parametrize(
    ("receipts", "broken"),
    [
        ([{"cache_write_tokens": 1_024}, {"input_tokens": 1_100}], ""),
        ([{"cache_write_tokens": 1_025}, {"input_tokens": 1_100}], "! cache not read: 1,025 tokens"),
        (
            [{"cache_write_tokens": 9_000}, {"outcome": "error"}, {"input_tokens": 9_500}],
            "! cache not read: 9,000 tokens",
        ),
        ([{"cache_write_tokens": 9_000}, {"input_tokens": 900, "outcome": "error"}], ""),
        ([{"input_tokens": 9_000, "prefix_change": PrefixChange("tools", "tool 3 (Web)", 0.9)}], ""),
    ],
)
def test_a_cache_that_was_not_read_is_shown_as_on_the_dashboard(
    receipts: Sequence[Mapping[str, Any]], broken: str
) -> None:
    finished = [
        Receipt(
            **{"request_id": str(number), "client": Client(name="local"), "started_at": number, "session": "s1"}
            | {"requested_model": "claude-opus-5-5", "model": "gpt-4.1", "outcome": "end_turn", **fields}
        )
        for number, fields in enumerate(receipts)
    ]
    recent = [{"is_exchange": True, "receipt": msgspec.to_builtins(one)} for one in finished]
    line = line_for({"/api/requests/recent": {"finished": recent}})
    assert line.partition(" · ! ")[2] == broken.removeprefix("! ")
    rows = [RowBuilder([]).build(one, Cost(None, None, "")) for one in finished]
    breaks = list(find_cache_breaks(rows, ModelCosts(load_settings({}, PROVIDERS, env_file=None))).values())
    assert [f"! {one.cause}: {one.tokens:,} tokens" for one in breaks] == ([broken] if broken else [])


@pytest.mark.parametrize("text", ["", "{bad", "[]", "7", "[" * 100_000, '{"model":7}', '{"model":{"id":"\\ud800"}}'])
def test_an_input_that_is_none_of_claude_code_gives_a_line(text: str) -> None:
    assert build_line(text, REPLIES.get) == "no model yet · today $1.87"


def test_a_rejected_key_is_no_missing_proxy() -> None:
    assert line_for({"/health": {"status": "ok"}}) == "Opus 5.5 · 25 % of 100 k · no data for this key"


def test_a_huge_number_gives_a_line() -> None:
    session = {**SESSION, "context_window": {"total_input_tokens": 10**4_000, "context_window_size": 1}}
    assert line_for({}, session) == "Opus 5.5 · 100000000000000000 % of 1 · no proxy responds"


def test_the_window_of_the_model_comes_before_that_of_claude_code() -> None:
    assert build_line(json.dumps(SESSION), REPLIES.get, 1_047_576) == (
        "openai/gpt-4.1 · <1 % of 1.0 M · session $0.42 · today $1.87 · 80 % cached · ↻ openai 529"
    )


@pytest.mark.parametrize(
    ("limiting", "windows", "share"),
    [
        ("own/long", {}, "8 % of 128 k, the limit of own/long"),
        ("own/long", {"openai/gpt-4.1": 1_047_576}, "8 % of 128 k, the limit of own/long"),
        ("own/long", {"openai/gpt-4.1": 64_000}, "16 % of 64.0 k"),
        ("openai/gpt-4.1", {}, "8 % of 128 k"),
        ("openai/gpt-4.1", {"openai/gpt-4.1": 1_047_576}, "8 % of 128 k"),
    ],
)
def test_a_window_of_another_model_is_explained(limiting: str, windows: dict[str, int], share: str) -> None:
    replies = {"/api/requests/recent": {"finished": [LAST], "windows": windows}}
    line = build_line(json.dumps(SESSION), replies.get, 128_000, limiting)
    assert line == f"openai/gpt-4.1 · {share} · ↻ openai 529"


def test_without_a_reply_of_the_proxy_no_other_model_is_named() -> None:
    line = build_line(json.dumps(SESSION), {}.get, 1_000_000, "own/long")
    assert line == "Opus 5.5 · 2 % of 1.0 M · no proxy responds"


@pytest.mark.parametrize("limiting", ["", "own/long"])
def test_windows_that_read_the_same_have_no_mark(limiting: str) -> None:
    replies = {"/api/requests/recent": {"finished": [LAST], "windows": {"openai/gpt-4.1": 1_048_576}}}
    line = build_line(json.dumps(SESSION), replies.get, 1_000_000, limiting)
    assert line == "openai/gpt-4.1 · 1 % of 1.0 M · ↻ openai 529"


@pytest.mark.parametrize(
    ("windows", "share"), [({}, "8 % of 128 k (assumed)"), ({"openai/gpt-4.1": 64_000}, "16 % of 64.0 k")]
)
def test_a_window_that_nobody_states_is_assumed(windows: dict[str, int], share: str) -> None:
    replies = {"/api/requests/recent": {"finished": [LAST], "windows": windows}}
    line = build_line(json.dumps(SESSION), replies.get, 128_000, is_assumed=True)
    assert line == f"openai/gpt-4.1 · {share} · ↻ openai 529"


def test_a_larger_window_of_a_changed_setting_is_named() -> None:
    replies = {"/api/requests/recent": {"finished": [LAST], "windows": {"openai/gpt-4.1": 1_047_576}}}
    shown = build_line(json.dumps(SESSION), replies.get, 272_000)
    assert shown == "openai/gpt-4.1 · 4 % of 272 k (the model has 1.0 M) · ↻ openai 529"
    short = build_line(json.dumps(SESSION), replies.get, 272_000, columns=62)
    assert short == "openai/gpt-4.1 · 4 % of 272 k · ↻ openai 529"
    chosen = build_line(json.dumps(SESSION), replies.get, 272_000, is_fixed=True)
    assert chosen == "openai/gpt-4.1 · 4 % of 272 k · ↻ openai 529"


def test_the_model_of_the_limit_is_left_out_before_costs_are_cut() -> None:
    last = request(session="s-1", prefix="openai", model="gpt-4.1", input_tokens=25_600)
    recent = {"finished": [last], "windows": {"openai/gpt-4.1": 1_047_576}}
    replies = {**REPLIES, "/api/requests/recent": recent}
    wide, narrow = (build_line(json.dumps(SESSION), replies.get, 65_536, "homelab/coder", each) for each in (0, 76))
    assert ", the limit of homelab/coder · " in wide
    assert narrow == wide.replace(", the limit of homelab/coder", "")


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (0, f"{LONG} · 10 % of 100 k · session $0.42 · today $1.87 · 80 % cached"),
        (100, f"{LONG} · 10 % of 100 k · session $0.42 · today $1.87 · 80 % cached"),
        (95, f"{LONG} · 10 % of 100 k · session $0.42 · today $1.87"),
        (76, f"{LONG} · 10 % of 100 k · session $0.42"),
        (64, "…/Qwen3-Coder-30B-A3B-Instruct · 10 % of 100 k · session $0.42"),
        (50, "…/Qwen3-Coder-30B… · 10 % of 100 k · session $0.42"),
        (40, "…/Qwen3-Coder-30B-A3B-I… · 10 % of 100 k"),
    ],
)
def test_other_parts_are_left_out_before_the_name_of_the_model_is_shortened(columns: int, line: str) -> None:
    last = request(prefix="vllm", model="Qwen/Qwen3-Coder-30B-A3B-Instruct", input_tokens=10_000)
    recent = {"finished": [last]}
    assert line == build_line(json.dumps(SESSION), {**REPLIES, "/api/requests/recent": recent}.get, 0, "", columns)


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        (0, "session $0.42 · today $0.42 · 80 % cached"),
        (74, "session $0.42 · today $0.42 · 80 % cached"),
        (73, "session $0.42 · 80 % cached"),
        (58, "session $0.42"),
    ],
)
def test_the_costs_of_today_that_are_those_of_the_session_are_left_out_first(columns: int, parts: str) -> None:
    today = {"total": {"cost": 0.42, "unknown_cost_requests": 0}}
    recent = {"finished": [request(input_tokens=10_000)]}
    replies = {**REPLIES, "/api/requests/recent": recent, "/api/usage?by=session&since=today": today}
    line = build_line(json.dumps(SESSION), replies.get, 0, "", columns)
    assert line == f"openai/gpt-4.1 · 10 % of 100 k · {parts}"


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (0, "openai/gpt-4.1 · 10 % of 100 k · session $0.42 · today $1.87 · 80 % cached · {problem}"),
        (100, "openai/gpt-4.1 · 10 % of 100 k · session $0.42 · {problem}"),
        (76, "…/gpt-4.1 · 10 % of 100 k · session $0.42 · ! message 5 (user) changed: 9,0…"),
        (60, "…/gpt-4.1 · 10 % of 100 k · ! message 5 (user) changed: 9,0…"),
        (48, "…/gpt-4.1 · 10 % of 100 k · ! message 5 (user) …"),
    ],
)
def test_a_problem_is_readable_in_a_narrow_terminal(columns: int, line: str) -> None:
    last = request(input_tokens=10_000, prefix_change={"part": "message 5 (user)", "tokens": 9_000})
    replies = {**REPLIES, "/api/requests/recent": {"finished": [last]}}
    shown = build_line(json.dumps(SESSION), replies.get, 0, "", columns)
    assert shown == line.format(problem="! message 5 (user) changed: 9,000 tokens")
    assert not columns or len(shown) <= columns


def test_costs_are_left_out_where_they_do_not_fit() -> None:
    last = request(input_tokens=10_000)
    replies = {**REPLIES, "/api/requests/recent": {"finished": [last]}}
    lines = [build_line(json.dumps(SESSION), replies.get, 0, "", columns) for columns in (60, 40)]
    assert lines == ["openai/gpt-4.1 · 10 % of 100 k · session $0.42 · today $1.87", "openai/gpt-4.1 · 10 % of 100 k"]


def test_a_chinese_character_has_two_columns() -> None:
    last = request(prefix="qwen", model="通义千问编程助手大模型", input_tokens=10_000)
    line = build_line(json.dumps(SESSION), {"/api/requests/recent": {"finished": [last]}}.get, 0, "", 32)
    assert line == "…/通义千问编程… · 10 % of 100 k"


def test_the_demo_says_how_to_choose_a_provider() -> None:
    session = {**SESSION, "model": {"id": "claude-opus-5-5", "display_name": "demo/demo"}}
    assert line_for({}, session).startswith("demo/demo · choose a provider: anthropic-proxy init · ")


def test_a_proxy_that_does_not_reply_is_not_awaited_longer_than_the_limit() -> None:
    released = threading.Event()
    started = time.monotonic()
    line = build_line(json.dumps(SESSION), lambda path: released.wait())
    elapsed = time.monotonic() - started
    released.set()
    assert line == "Opus 5.5 · 25 % of 100 k · no proxy responds"
    assert elapsed >= TIMEOUT_SECONDS


def test_the_command_asks_the_proxy_of_claude_code_and_needs_none(closed_port: str, tmp_path: Path) -> None:
    text = json.dumps(SESSION)
    with running_forked_proxy(tmp_path, {}) as proxy:
        settings = {"ANTHROPIC_BASE_URL": proxy.url, "ANTHROPIC_AUTH_TOKEN": "local", "PORT": closed_port}
        settings["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] = "128000"
        ended = run_command("statusline", directory=tmp_path, settings=settings, stdin=text)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.startswith("Opus 5.5 · 20 % of 128 k")
    for address in ("", "http://127.0.0.1:" + closed_port, "https://127.0.0.1:" + closed_port, "http://[", "ftp://x"):
        settings = {"ANTHROPIC_BASE_URL": address, "PORT": closed_port}
        ended = run_command("statusline", directory=tmp_path, settings=settings, stdin=text)
        assert (ended.returncode, ended.stdout, ended.stderr) == (
            0,
            "Opus 5.5 · 25 % of 100 k · no proxy responds\n",
            "",
        )


def test_without_a_session_its_cost_is_not_that_of_requests_without_one() -> None:
    replies = {"/api/usage?by=session&since=7d": {"groups": [{"name": "", "cost": 0, **SUMS}]}}
    assert line_for(replies, session={}) == "no model yet"


@pytest.mark.parametrize("cost", [10**400, -1, 1e300])
def test_a_cost_that_is_no_amount_is_unknown(cost: float) -> None:
    sums = {"total": {"cost": cost, "input_tokens": 5, "unknown_cost_requests": 0}}
    replies = {**REPLIES, "/api/usage?by=session&since=today": sums}
    assert line_for(replies) == line_for(
        {**REPLIES, "/api/usage?by=session&since=today": {"total": {**sums["total"], "cost": None}}}
    )


@pytest.mark.parametrize(
    ("own", "text"),
    [
        (
            {
                "extra_usage": {"is_enabled": True, "monthly_limit": 500, "used_credits": 120, "utilization": 24},
                "limits": [
                    {"group": "weekly", "percent": 10, "severity": "normal", "is_active": False},
                    {"group": "daily", "percent": 24, "severity": "normal", "is_active": True, "resets_at": None},
                ],
            },
            "today $1.20 of $5.00",
        ),
        ({"extra_usage": {"monthly_limit": None, "daily": {"used_credits": 42}}, "limits": []}, "today $0.42"),
    ],
)
def test_a_team_key_shows_its_own_spend_and_budget(own: Mapping[str, Any], text: str) -> None:
    served = {"sums": ["/api/oauth/usage"]}
    replies = {**REPLIES, "/api/requests/recent": {**REPLIES["/api/requests/recent"], **served}}
    line = line_for({**replies, "/api/oauth/usage": own})
    assert (text in line, "session" in line) == (True, False), line


def test_of_a_key_s_own_budget_and_that_of_the_proxy_only_the_most_used_one_is_shown() -> None:
    served = {"sums": ["/api/budget", "/api/oauth/usage"]}
    proxy = {"period": "day", "unit": "usd", "used": 900, "amount": 1000, "severity": "warning", "is_used_up": False}
    limit = {"group": "daily", "percent": 95, "severity": "warning", "is_active": True, "resets_at": None}
    line = line_for(
        {
            **REPLIES,
            "/api/requests/recent": {**REPLIES["/api/requests/recent"], **served},
            "/api/budget": {"budgets": [proxy]},
            "/api/oauth/usage": {"extra_usage": {"monthly_limit": 500, "used_credits": 475}, "limits": [limit]},
        }
    )
    assert "today $4.75 of $5.00" in line
    assert line.count("budget today") == 1, line
    assert line.endswith("! budget today: 95 % used")
