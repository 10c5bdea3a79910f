"""Costs by team, owner and cost center: the command, `/api/usage`, CSV, the page Costs and `/metrics` agree."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.command_line import run_command
from tests.support.server_process import running_proxy
from tests.support.waiting import wait_for

ADMIN = "admin-key-of-this-proxy-1"
PRICES = '[prices."demo/*"]\ninput = 1000\noutput = 4000\n'


def administer(client: httpx.Client, path: str, **body: Any) -> Any:
    response = client.post(f"/admin/{path}", json=body, headers={"x-api-key": ADMIN})
    assert response.status_code == 200, response.text
    return response.json()


def ask(client: httpx.Client, key: str) -> None:
    body = {"model": "demo/demo", "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}
    assert client.post("/v1/messages", json=body, headers={"x-api-key": key}).status_code == 200


@pytest.mark.parametrize("by", ["team", "owner", "cost-center"])
def test_all_places_show_the_same_costs(tmp_path: Path, by: str) -> None:
    (tmp_path / "anthropic-proxy.toml").write_text(PRICES, encoding="utf-8")
    settings = {
        "VIRTUAL_KEYS": "true",
        "ADMIN_API_KEY": ADMIN,
        "SERVE_DEMO": "true",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}",
    }
    with running_proxy(tmp_path, settings) as proxy:
        client = proxy.client(headers={"x-api-key": ADMIN})
        budgets = [{"amount": 50, "unit": "usd", "period": "month"}]
        administer(client, "teams/build", budgets=budgets)
        ann = administer(client, "keys", name="ci", owner="Ann", team="build", cost_center="4711")
        bob = administer(client, "keys", name="laptop", owner="Bob", team="docs", cost_center="4712")
        for key in (ann, ann, bob):
            ask(client, key["key"])
        administer(
            client, f"keys/{bob['id']}", owner="Ann", team="build", cost_center=""
        )  # does not move what was used before
        found = wait_for(
            lambda: client.get("/api/usage", params={"by": by, "since": "1h"}).json(),
            lambda reply: reply["total"]["requests"] == 3,
        )
        costs = {one["name"]: one["cost"] for one in found["groups"]}
        first, second = {"team": ("build", "docs"), "owner": ("Ann", "Bob")}.get(by, ("4711", "4712"))
        assert set(costs) == {first, second}
        assert costs[first] == pytest.approx(2 * costs[second])
        run = json.loads(run_command("usage", "--by", by, "--json", directory=tmp_path, settings=settings).stdout)
        assert {one["name"]: one["cost"] for one in run["groups"]} == costs
        exported = run_command("usage", "--by", by, "--csv", directory=tmp_path, settings=settings).stdout
        assert {one[by]: float(one["cost"]) for one in csv.DictReader(io.StringIO(exported))} == costs
        page = client.get("/dashboard/costs", params={"by": by, "format": "json"}).json()
        assert {one[by]: one["cost"] for one in page} == costs
        if by == "team":
            teams = client.get("/admin/teams").json()["data"]
            spending = {"unit": "usd", "period": "month", "models": "", "soft": False, "amount": 50}
            spending |= {"used": costs["build"], "forecast": None}
            assert {one["name"]: one["spending"] for one in teams} == {"build": [spending]}
            measured = {
                (sample.name, sample.labels["team"], sample.labels["cost_center"]): sample.value
                for family in text_string_to_metric_families(client.get("/metrics").text)
                for sample in family.samples
                if "team" in sample.labels
            }
            assert measured == {
                ("anthropic_proxy_stored_requests_total", "build", "4711"): 2,
                ("anthropic_proxy_stored_requests_total", "docs", "4712"): 1,
                ("anthropic_proxy_cost_dollars_total", "build", "4711"): costs["build"],
                ("anthropic_proxy_cost_dollars_total", "docs", "4712"): costs["docs"],
                ("anthropic_proxy_unknown_cost_requests_total", "build", "4711"): 0,
                ("anthropic_proxy_unknown_cost_requests_total", "docs", "4712"): 0,
            }
