"""`BUDGET`: the limit of a person without virtual keys. It is shown before it is reached, refused, and renewed."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.support.command_line import run_command
from tests.support.server_process import SERVE, running_proxy
from tests.support.waiting import wait_for

PRICES = '[prices."demo/*"]\ninput = 1000\noutput = 4000\n'
BODY = {"model": "demo/demo", "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}


def start_settings(directory: Path, **settings: str) -> dict[str, str]:
    (directory / "anthropic-proxy.toml").write_text(PRICES, encoding="utf-8")
    return {"SERVE_DEMO": "true", "DATABASE_URL": f"sqlite:///{directory / 'ledger.sqlite3'}", **settings}


def wait_for_use(client: httpx.Client) -> Any:
    (budget,) = wait_for(lambda: client.get("/api/budget").json()["budgets"], lambda budgets: budgets[0]["used"] > 0)
    return budget


def test_a_used_up_budget_refuses_requests_until_midnight_of_this_machine(tmp_path: Path) -> None:
    settings = start_settings(tmp_path, BUDGET="0.02USD/day", TZ="America/New_York")
    with running_proxy(tmp_path, settings) as proxy:
        client = proxy.client()
        replies = [client.post("/v1/messages", json=BODY) for _ in range(2)]
        assert [reply.status_code for reply in replies] == [200, 429]
        budget = wait_for_use(client)
        usage = wait_for(
            lambda: client.get("/api/usage", params={"since": "today"}).json()["total"], lambda total: total["cost"] > 0
        )
        assert budget["used"] == pytest.approx(usage["cost"])
        assert (budget["amount"], budget["unit"], budget["period"]) == (0.02, "usd", "day")
        # the offset of New York is 4 or 5 hours
        end = datetime.fromisoformat(budget["resets_at"])
        assert end.hour in (4, 5)
        error = replies[1].json()["error"]
        assert error["type"] == "billing_error"
        assert error["message"] == (
            f"This proxy has used up its budget of $0.02 per day · resets {end:%b} {end.day}, 00:00 · "
            "Another budget:  BUDGET=AMOUNT/day"
        )
        assert replies[1].headers["anthropic-ratelimit-unified-status"] == "rejected"
        text = json.dumps({"session_id": "s", "model": {"id": "demo", "display_name": "demo"}})
        environment = {**settings, "ANTHROPIC_BASE_URL": proxy.url}
        line = wait_for(  # on a busy machine, some lines have no sums
            lambda: run_command("statusline", directory=tmp_path, settings=environment, stdin=text).stdout,
            lambda line: "today $0.21 of $0.020" in line,
        )
        shown = end.astimezone()  # the command runs in the zone of the tests
        assert line.endswith(f" · ✕ budget today: used up until {shown.day} {shown:%b, %H:%M}\n")
        # the database of the first start has no tables yet
        assert "The use of budgets was not read" not in proxy.log


def test_the_use_before_a_restart_counts(tmp_path: Path) -> None:
    settings = start_settings(tmp_path, BUDGET="0.02USD/week")
    for expected in (200, 429):
        with running_proxy(tmp_path, settings) as proxy:
            assert proxy.client().post("/v1/messages", json=BODY).status_code == expected


def test_proxies_with_the_same_ledger_count_together(tmp_path: Path) -> None:
    settings = start_settings(tmp_path, BUDGET="0.5USD/total")
    workers = (*SERVE, "--workers", "2")
    with running_proxy(tmp_path, settings, workers) as first, running_proxy(tmp_path, settings) as second:
        clients = first.client(), second.client()
        spent = 0.0
        for number in range(3):  # each costs $0.21, and the last one is admitted with any remainder
            assert clients[number % 2].post("/v1/messages", json=BODY).status_code == 200
            spent = wait_for_equal_use(clients, beyond=spent)
        assert spent == pytest.approx(0.63)
        for client in clients:
            refusal = client.post("/v1/messages", json=BODY)
            assert refusal.status_code == 429
            assert refusal.json()["error"]["message"] == (
                "This proxy has used up its budget of $0.50 in total · it is not renewed · "
                "Another budget:  BUDGET=AMOUNT/total"
            )


def wait_for_equal_use(clients: Sequence[httpx.Client], beyond: float) -> float:
    """Wait until all servers and the ledger state the same used amount, and one of more than `beyond`. Return it."""

    def read() -> set[float]:
        used = [client.get("/api/budget").json()["budgets"][0]["used"] for client in clients]
        total = clients[0].get("/api/usage", params={"since": "30d"}).json()["total"]["cost"]
        return {round(amount, 9) for amount in (*used, total)}

    (used,) = wait_for(read, lambda found: len(found) == 1 and min(found) > beyond)
    return used


def test_a_model_without_a_price_is_served_and_counts_as_free(tmp_path: Path) -> None:
    settings = start_settings(tmp_path, BUDGET="0.02USD/day")
    (tmp_path / "anthropic-proxy.toml").unlink()
    with running_proxy(tmp_path, settings) as proxy:
        client = proxy.client()
        for _ in range(2):
            assert client.post("/v1/messages", json=BODY).status_code == 200


def test_a_soft_budget_refuses_nothing(tmp_path: Path) -> None:
    settings = start_settings(tmp_path, BUDGET="0.001USD/day soft, 100USD/month")
    with running_proxy(tmp_path, settings) as proxy:
        client = proxy.client()
        assert [client.post("/v1/messages", json=BODY).status_code for _ in range(3)] == [200, 200, 200]
        budgets = wait_for(lambda: client.get("/api/budget").json()["budgets"], lambda found: found[0]["used"] > 0.001)
        assert [(budget["period"], budget["soft"]) for budget in budgets] == [("day", True), ("month", False)]


def test_without_a_ledger_the_start_names_the_reason(tmp_path: Path) -> None:
    settings = start_settings(tmp_path, BUDGET="5USD/day", DATABASE_URL="off")
    run = run_command("serve", directory=tmp_path, settings=settings)
    assert run.returncode != 0
    reason = "BUDGET is set, but DATABASE_URL is off: what was used is counted in that database."
    assert reason in run.stderr + run.stdout


def test_all_keys_of_a_company_share_its_budget(tmp_path: Path) -> None:
    admin = "admin-key-of-this-proxy-1"
    settings = start_settings(tmp_path, BUDGET="0.05USD/week", VIRTUAL_KEYS="true", ADMIN_API_KEY=admin)
    with running_proxy(tmp_path, settings) as proxy:
        client = proxy.client(headers={"x-api-key": admin})
        keys = [client.post("/admin/keys", json={"name": name}).json()["key"] for name in ("a", "b", "c", "d")]
        replies = [client.post("/v1/messages", json=BODY, headers={"x-api-key": key}) for key in keys]
        statuses = [reply.status_code for reply in replies]
        assert statuses[0] == 200
        assert statuses[-1] == 429
        budget = wait_for_use(client)
        usage = wait_for(
            lambda: client.get("/api/usage", params={"since": "1h"}).json()["total"],
            lambda total: total["requests"] == 4,
        )
        assert budget["used"] == pytest.approx(usage["cost"])
        monday = datetime.fromisoformat(budget["resets_at"])
        assert (monday.weekday(), monday.hour) == (0, 0)
        assert monday - datetime.now(monday.tzinfo) <= timedelta(days=7)
        assert replies[-1].headers["anthropic-ratelimit-unified-overage-period"] == "weekly"
        # the status line of a key asks only for its own use: it may not read the others
        readers = {key: proxy.client(headers={"x-api-key": key}) for key in (admin, keys[0])}
        recent = {key: reader.get("/api/requests/recent").json()["sums"] for key, reader in readers.items()}
        assert recent == {admin: ["/api/usage", "/api/budget"], keys[0]: ["/api/oauth/usage"]}
