"""`GET /api/oauth/usage`, and the headers of replies with the use of budgets."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.console.gateway_protocol.usage import PATH, encode_budgets, encode_costs, find_starts
from anthropic_proxy.console.keys.budget_states import BudgetState, build_usage_headers, choose_state
from anthropic_proxy.console.keys.limits import Scope
from anthropic_proxy.console.keys.virtual_keys import find_period_end
from anthropic_proxy.engine.exchange.client_side import CollectingSink
from anthropic_proxy.gateway.settings.key_rules import Rules, decode_budget
from anthropic_proxy.plugins import Client, Receipt
from tests.support.golden_texts import Check
from tests.support.ledger import NOON
from tests.support.virtual_keys import running_app, send, store_key

PROBE = {"model": "demo/demo", "max_tokens": 1, "messages": [{"role": "user", "content": "quota"}]}
CLIENT = {"user_agent": "claude-cli/2.1.332 (external, cli)"}
START = "anthropic-ratelimit-unified-"


def state(kind: str, budget: str, used: int) -> BudgetState:
    decoded = decode_budget(budget)
    end = find_period_end(decoded.period, datetime.fromtimestamp(NOON, UTC))
    return BudgetState(Scope(kind, "x", "x", Rules()), decoded, used, None if end is None else int(end.timestamp()))


def test_headers_of_a_budget(golden: Check) -> None:
    def show(case: str) -> str:
        kind, budget, used = case.split(" ")
        headers = build_usage_headers(state(kind, budget, int(used)))
        assert all(name.startswith(START) for name in headers)
        return ", ".join(f"{name.removeprefix(START)}: {value}" for name, value in headers.items())

    golden("budget_headers", show)


def test_a_person_is_told_about_the_budget_that_matters() -> None:
    half, most = state("key", "1USD/day", 500_000_000), state("team", "1USD/month", 800_000_000)
    day, month = state("key", "1USD/day", 1_000_000_000), state("team", "1USD/month", 1_000_000_000)
    total = state("key", "1USD/total", 1_000_000_000)
    assert choose_state([]) is None
    assert choose_state([half, most]) is most
    assert choose_state([day, most]) is day
    assert choose_state([day, month]) is month
    assert choose_state([day, total, month]) is total


def test_budgets_in_the_form_of_claude_code() -> None:
    states = [state("key", "0.17USD/day", 178_500_000), state("team", "50USD/month", 40_000_000_000)]
    assert encode_budgets(states) == {
        "extra_usage": {
            "is_enabled": True,
            "monthly_limit": 17,
            "used_credits": 17,
            "utilization": 105,
            "currency": "USD",
        },
        "limits": [
            {
                "kind": "spend",
                "group": "daily",
                "percent": 105,
                "resets_at": "2026-11-22T00:00:00.000Z",
                "severity": "critical",
                "is_active": True,
            },
            {
                "kind": "spend",
                "group": "monthly",
                "percent": 80,
                "resets_at": "2026-12-01T00:00:00.000Z",
                "severity": "warning",
                "is_active": False,
            },
        ],
    }
    assert encode_budgets([state("key", "1USD/total", 0)])["limits"][0]["resets_at"] is None


def test_costs_without_a_budget() -> None:
    assert find_starts(NOON) == {
        name: datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()
        for name, day in (("daily", "2026-11-21"), ("weekly", "2026-11-16"), ("monthly", "2026-11-01"))
    }
    assert encode_costs({"daily": 10_000_000, "weekly": 29_999_999, "monthly": 2_000_000_000}) == {
        "extra_usage": {
            "is_enabled": True,
            "monthly_limit": None,
            "used_credits": 200,
            "utilization": None,
            "currency": "USD",
            "daily": {"limit": None, "used_credits": 1, "utilization": None},
            "weekly": {"limit": None, "used_credits": 2, "utilization": None},
        },
        "limits": [],
    }


async def test_a_key_reads_its_usage(tmp_path: Path) -> None:
    key = store_key(tmp_path, Rules())
    async with running_app(tmp_path) as app:
        reply = await send(app, "GET", PATH, authorization=f"Bearer {key}")
    assert (reply.status, reply.json, reply.headers["cache-control"]) == (
        200,
        json.loads(json.dumps(encode_costs(dict.fromkeys(("daily", "weekly", "monthly"), 0)))),
        "no-store",
    )


async def test_the_query_for_limits_is_answered_without_a_call(tmp_path: Path) -> None:
    rules = Rules(budgets=(decode_budget("2000tokens/day"),), requests_per_minute=1, concurrency=1)
    key = store_key(tmp_path, rules)
    async with running_app(tmp_path) as app:
        for body in (PROBE, {**PROBE, "stream": True}, PROBE):
            reply = await send(app, "POST", "/v1/messages", body, x_api_key=key, **CLIENT)
            assert reply.status == 200, reply.body
            assert reply.headers[f"{START}status"] == "allowed"
            assert reply.headers[f"{START}overage-utilization"] == "0"
            assert "anthropic-ratelimit-requests-limit" not in reply.headers
        sent = await send(app, "POST", "/v1/messages", PROBE, x_api_key=key, user_agent="curl/8")
        assert (sent.status, sent.headers["anthropic-ratelimit-requests-remaining"]) == (200, "0")
        recent = await send(app, "GET", "/api/requests/recent", x_api_key=key)
    exchanges = [one["receipt"] for one in recent.json["finished"] if one["is_exchange"]]
    assert [one["provider"] for one in exchanges] == ["", "", "", "demo"]
    assert sum(one.get("input_tokens", 0) + one.get("output_tokens", 0) for one in exchanges[:3]) == 0


async def test_a_used_up_budget_refuses_in_the_words_for_developers(tmp_path: Path) -> None:
    key = store_key(tmp_path, Rules(budgets=(decode_budget("60tokens/day"),)))
    asked = {"model": "demo/demo", "max_tokens": 50, "messages": [{"role": "user", "content": "word " * 40}]}
    async with running_app(tmp_path, LIMIT_CONTACT="https://go.example.org/limits") as app:
        while (reply := await send(app, "POST", "/v1/messages", asked, x_api_key=key)).status == 200:
            pass
        end = find_period_end("day", datetime.now(UTC))
        assert end is not None
        assert (reply.status, reply.json["error"]) == (
            429,
            {
                "type": "billing_error",
                "message": f"The key 'ci' has used up its budget of 60 tokens per day · resets {end:%b} {end.day} · "
                "Ask for more: https://go.example.org/limits",
            },
        )
        found = {name: value for name, value in reply.headers.items() if name.startswith(START)}
        share = float(found.pop(f"{START}overage-utilization"))
        assert share >= 1
        assert found == {
            f"{START}status": "rejected",
            f"{START}reset": str(int(end.timestamp())),
            f"{START}overage-reset": str(int(end.timestamp())),
            f"{START}overage-surpassed-threshold": "1",
            f"{START}overage-period": "daily",
            f"{START}overage-disabled-reason": "org_spend_cap_reached",
        }
        assert reply.headers["x-should-retry"] == "false"
        probe = await send(app, "POST", "/v1/messages", PROBE, x_api_key=key, **CLIENT)
        assert (probe.status, probe.message) == (429, reply.message)
        assert probe.headers[f"{START}status"] == "rejected"


@pytest.mark.parametrize("role", ["member", "team admin"])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_limits_of_a_provider_never_reach_a_virtual_key(is_stream: bool, role: Any) -> None:
    theirs = {"anthropic-ratelimit-requests-remaining": "3", f"{START}status": "allowed", f"{START}reset": "9"}
    own = {"anthropic-ratelimit-requests-limit": "7", f"{START}status": "allowed", f"{START}overage-status": "allowed"}

    async def relay(client: Client, limits: dict[str, str], status: int = 200) -> dict[str, str]:
        sink = CollectingSink(Receipt(request_id="req_1", client=client, started_at=NOON, limit_headers=limits))
        given = {**theirs, "anthropic-organization-id": "org"}
        await sink.send_relayed_bytes(b"{}", given, is_stream=is_stream, is_last=True, status=status)
        return {name: value for name, value in sink.headers.items() if name.startswith("anthropic-")}

    member, organization = Client(role=role), {"anthropic-organization-id": "org"}
    assert await relay(Client(), {}) == {**theirs, **organization}
    assert await relay(member, {}) == organization
    assert await relay(member, own) == {**organization, **own}
    # with an error of the provider, Claude Code would show the state of the budget in its place
    assert await relay(member, own, status=429) == {**organization, "anthropic-ratelimit-requests-limit": "7"}
    refused = {f"{START}status": "rejected", f"{START}overage-period": "daily"}
    assert await relay(member, refused, status=429) == {**organization, **refused}
