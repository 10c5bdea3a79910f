"""The bill of described pictures: what the provider counts, the ledger, `usage` and the budget agree."""

import json
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.support.command_line import run_command
from tests.support.picture_servers import INPUT, OUTPUT, PictureServer
from tests.support.pictures import paint, show
from tests.support.server_process import running_proxy
from tests.support.waiting import wait_for

ADMIN = "admin-key-of-this-proxy-1"
SCREENSHOTS = 30


def administer(client: httpx.Client, path: str, **body: Any) -> Any:
    response = client.post(f"/admin/{path}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def settings_of(folder: Path) -> dict[str, str]:
    return {
        "VIRTUAL_KEYS": "true",
        "ADMIN_API_KEY": ADMIN,
        "DATABASE_URL": f"sqlite:///{folder / 'ledger.sqlite3'}",
        "PREFERRED_PROVIDER": "own",
        "BIG_MODEL": "own/text",
        "SMALL_MODEL": "own/text",
    }


def ask(client: httpx.Client, key: str, messages: list[Any], max_tokens: int = 50) -> httpx.Response:
    body = {"model": "claude-sonnet-5-5", "max_tokens": max_tokens, "messages": messages}
    return client.post("/v1/messages", json=body, headers={"x-api-key": key})


def test_30_screenshots_of_a_session_are_30_rows_of_each_bill(tmp_path: Path) -> None:
    server = PictureServer()
    settings = settings_of(tmp_path)
    with server.serving() as text:
        (tmp_path / "anthropic-proxy.toml").write_text(text, encoding="utf-8")
        with running_proxy(tmp_path, settings) as proxy:
            client = proxy.client(headers={"x-api-key": ADMIN})
            administer(client, "teams/build", budgets=[{"amount": 50, "unit": "usd", "period": "month"}])
            key = administer(client, "keys", name="ci", owner="Ann", team="build")["key"]
            messages: list[Any] = []
            for number in range(SCREENSHOTS):
                messages.append({"role": "user", "content": [show(paint((number, 0, 0)))]})
                response = ask(client, key, messages)
                assert response.status_code == 200, response.text
                messages.append({"role": "assistant", "content": "A square."})
            assert (server.count("eyes"), server.count("text")) == (SCREENSHOTS, SCREENSHOTS)
            found = wait_for(
                lambda: client.get("/api/usage", params={"by": "kind", "since": "1h"}).json(),
                lambda reply: reply["total"]["requests"] == 2 * SCREENSHOTS,
            )
            described = SCREENSHOTS * (3 * INPUT + 7 * OUTPUT) / 1_000_000
            answered = SCREENSHOTS * (2 * INPUT + 5 * OUTPUT) / 1_000_000
            rows = {one["name"]: one for one in found["groups"]}
            assert {*rows} == {"image_description", ""}
            assert rows["image_description"]["input_tokens"] == SCREENSHOTS * INPUT
            assert rows["image_description"]["output_tokens"] == SCREENSHOTS * OUTPUT
            assert rows["image_description"]["cost"] == pytest.approx(described)
            assert rows[""]["cost"] == pytest.approx(answered)
            run = json.loads(
                run_command("usage", "--by", "kind", "--json", directory=tmp_path, settings=settings).stdout
            )
            assert {one["name"]: one["cost"] for one in run["groups"]} == {
                name: one["cost"] for name, one in rows.items()
            }
            (team,) = [one for one in client.get("/admin/teams").json()["data"] if one["name"] == "build"]
            assert team["spending"][0]["used"] == pytest.approx(described + answered)
            explained = run_command(
                "explain", response.headers["request-id"], directory=tmp_path, settings=settings
            ).stdout
            assert "the model does not see: own/eyes describes the picture" in explained


def test_a_request_whose_budget_has_no_room_for_a_description_is_served_without_it(tmp_path: Path) -> None:
    server = PictureServer()
    with server.serving() as text:
        (tmp_path / "anthropic-proxy.toml").write_text(text, encoding="utf-8")
        with running_proxy(tmp_path, settings_of(tmp_path)) as proxy:
            client = proxy.client(headers={"x-api-key": ADMIN})
            budgets = [{"amount": 8_000, "unit": "tokens", "period": "day"}]
            key = administer(client, "keys", name="ci", owner="Ann", budgets=budgets)["key"]
            response = ask(client, key, [{"role": "user", "content": [show(paint("red"))]}], max_tokens=7_000)
            assert response.status_code == 200, response.text
            (body,) = server.bodies["text"]
            reason = "a limit or budget leaves no room for its description"
            assert f"[image omitted: {reason}. Say so if it is needed.]" in json.dumps(body)
            assert server.count("eyes") == 0
