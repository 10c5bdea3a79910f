"""Routes of the ledger: their threads, and the text of their parameters."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from anthropic_proxy.console.ledger.plugin import open_plugin
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client, Cost, RouteRequest, RouteResponse
from anthropic_proxy.secrets import Secret
from tests.support.ledger import new_receipt, store
from tests.support.waiting import WAIT_SECONDS


async def test_routes_have_threads_of_their_own() -> None:
    loop, released = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    blocked = loop.run_in_executor(None, released.wait, 60)
    plugin = open_plugin(Settings())
    route = next(route for route in plugin.routes if route.path == "/api/usage")
    try:
        response = await asyncio.wait_for(route.respond(RouteRequest(path="/api/usage")), WAIT_SECONDS)
    finally:
        released.set()
        await blocked
        assert plugin.stop is not None
        await plugin.stop()
    assert response.status == 503  # there is no database


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/api/usage", "since"),
        ("/api/requests", "search"),
        ("/api/requests", "project"),
        ("/api/requests", "before"),
        ("/api/requests/{id}", "id"),
    ],
)
async def test_a_null_character_is_rejected(path: str, name: str) -> None:
    plugin = open_plugin(Settings())
    route = next(route for route in plugin.routes if route.path == path)
    value = "1.\0" if name == "before" else "\0"
    fields = {"path_parameters": {name: value}} if name == "id" else {"query": {name: [value]}}
    try:
        with pytest.raises(InvalidRequest) as raised:
            await route.respond(RouteRequest(path=path, **fields))
    finally:
        assert plugin.stop is not None
        await plugin.stop()
    assert raised.value.message == f"{name}: the value contains a character that no text has."


async def test_the_bill_of_a_team_has_the_sums_of_each_person_and_kind(tmp_path: Path) -> None:
    settings, now = Settings(data_directory=tmp_path), time.time()
    teams = (("Ann", "web"), ("Bob", "ops"))
    people = {name: Client(name=name, owner=name, team=team, cost_center=f"4{team}") for name, team in teams}
    kinds = (("Ann", "main"), ("Ann", "auto_mode_check"), ("Ann", "main"), ("Bob", "main"))
    receipts = [
        new_receipt(number, client=people[name], kind=kind, started_at=now) for number, (name, kind) in enumerate(kinds)
    ]
    await store(settings, *receipts, cost=Cost(1_000_000_000, None, "test"))
    plugin = open_plugin(settings)
    usage = next(route for route in plugin.routes if route.path == "/api/usage")

    async def ask(**query: str) -> RouteResponse:
        return await usage.respond(RouteRequest(path="/api/usage", query={name: [one] for name, one in query.items()}))

    try:
        bill = json.loads((await ask(by="owner", split="kind", team="web")).body)
        table = bytes((await ask(by="owner", split="kind", team="web", format="csv")).body).decode().splitlines()
        centers = json.loads((await ask(by="cost-center")).body)
        with pytest.raises(InvalidRequest) as raised:
            await ask(split="day")
    finally:
        assert plugin.stop is not None
        await plugin.stop()
    assert [(row["name"], row["part"], row["requests"], row["cost"]) for row in bill["groups"]] == [
        ("Ann", "main", 2, 2),
        ("Ann", "auto_mode_check", 1, 1),
    ]
    assert [(row["name"], row["requests"], row["cost"]) for row in centers["groups"]] == [
        ("4web", 3, 3),
        ("4ops", 1, 1),
    ]
    assert (bill["by"], bill["split"], bill["total"]["cost"], bill["forecast"]) == ("owner", "kind", 3, None)
    assert [line.split(",")[:3] for line in table] == [
        ["owner", "kind", "requests"],
        ["Ann", "main", "2"],
        ["Ann", "auto_mode_check", "1"],
    ]
    assert raised.value.message == (
        "split is 'day'. Use provider, model, requested, project, kind, agent, verdict, key, owner, team, cost-center, "
        "route."
    )


async def test_usage_leaves_out_a_request_that_named_no_model(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path)
    query = {"method": "GET", "path": "/v1/models/gpt-nope", "requested_model": "", "provider": "", "model": ""}
    await store(settings, new_receipt(1, started_at=time.time(), **query, outcome="error", status=404))
    plugin = open_plugin(settings)
    try:
        bodies = {
            route.path: json.loads((await route.respond(RouteRequest(path=route.path))).body)
            for route in plugin.routes
            if route.path in ("/api/usage", "/api/requests")
        }
    finally:
        assert plugin.stop is not None
        await plugin.stop()
    assert bodies["/api/usage"]["groups"] == []
    assert [row["path"] for row in bodies["/api/requests"]["requests"]] == ["/v1/models/gpt-nope"]


@pytest.mark.parametrize(
    ("path", "found"), [("/api/usage", {"groups": []}), ("/api/requests", {"requests": [], "before": None})]
)
async def test_before_the_first_request_every_list_is_empty(
    path: str, found: dict[str, object], tmp_path: Path
) -> None:
    plugin = open_plugin(Settings(database_url=Secret(f"sqlite:///{tmp_path}/ledger.sqlite3")))
    route = next(route for route in plugin.routes if route.path == path)
    try:
        response = await route.respond(RouteRequest(path=path))
    finally:
        assert plugin.stop is not None
        await plugin.stop()
    assert response.status == 200
    assert json.loads(response.body).items() >= found.items()
