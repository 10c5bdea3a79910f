"""The server requires a key, serves virtual keys below /v1/ only, and sends the state of their limits."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from anthropic_proxy.app import App
from anthropic_proxy.console.keys.administration import KeyAdministration
from anthropic_proxy.console.keys.limits import Scope, build_key_scope, build_team_scope
from anthropic_proxy.console.keys.queries import list_keys, list_teams, read_used_budgets, sum_budget_uses
from anthropic_proxy.console.keys.virtual_keys import VirtualKey
from anthropic_proxy.console.ledger.database import open_for_reading, open_for_writing
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.queries import sum_usage
from anthropic_proxy.console.ledger.retention import Retention
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.plugin_packages import open_plugins
from anthropic_proxy.gateway.settings import Settings, load_settings
from anthropic_proxy.gateway.settings.key_rules import Budget, Period, Rules, decode_budget
from anthropic_proxy.plugins import Client, Cost, Receipt
from tests.support.command_line import run_command
from tests.support.ledger import NOON, new_receipt, reading, running_ledger, store
from tests.support.secret_canaries import find_leaks
from tests.support.virtual_keys import admit, change_key, change_team, create_key, running_app, send, store_key
from tests.support.waiting import wait_for_async

DAY = 86_400
ASKED = {"model": "demo/demo", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
OTHERS = {"PROXY_API_KEY": "pk-0123456789", "ADMIN_API_KEY": "admin-0123456789"}


def find_tokens(receipt: Receipt) -> Cost:
    return Cost(receipt.input_tokens, None, "list")


async def test_administrators_let_the_proxy_forget_what_refusals_have_shown(tmp_path: Path) -> None:
    path = "/api/refusals?model=demo/demo"
    key = store_key(tmp_path, Rules())
    async with running_app(tmp_path, MONITOR_API_KEY="monitor-0123456789", **OTHERS) as app:
        for secret in (*OTHERS.values(), key, "monitor-0123456789"):
            reply = await send(app, "DELETE", path, x_api_key=secret)
            expected = (
                (200, "Nothing was known about refusals of demo/demo.") if secret in OTHERS.values() else (403, "")
            )
            assert (reply.status, reply.json.get("text", "")) == expected
        assert (await send(app, "GET", path, x_api_key=OTHERS["ADMIN_API_KEY"])).status == 405
        missing = await send(app, "DELETE", "/api/refusals", x_api_key=OTHERS["ADMIN_API_KEY"])
        assert (missing.status, missing.json["error"]["message"]) == (
            400,
            "model: the query names no model. Example: /api/refusals?model=openai/gpt-4.1",
        )


async def test_each_kind_of_key_has_its_paths(tmp_path: Path) -> None:
    key = store_key(tmp_path, Rules(requests_per_minute=2))
    async with running_app(tmp_path, **OTHERS) as app:
        assert (await send(app, "GET", "/v1/models", authorization=f"Bearer {key}")).status == 200
        replied = await send(app, "POST", "/v1/messages", ASKED, x_api_key=key)
        assert (replied.status, replied.headers["anthropic-ratelimit-requests-remaining"]) == (200, "1")
        streamed = await send(app, "POST", "/v1/messages", {**ASKED, "stream": True}, x_api_key=key)
        assert (streamed.status, streamed.headers["anthropic-ratelimit-requests-remaining"]) == (200, "0")
        limited = await send(app, "POST", "/v1/messages", ASKED, x_api_key=key)
        assert (limited.status, limited.json["error"]["type"]) == (429, "rate_limit_error")
        assert 55 <= int(limited.headers["retry-after"]) <= 61
        assert limited.headers["anthropic-ratelimit-requests-limit"] == "2"
        assert (await send(app, "POST", "/v1/messages", ASKED, x_api_key=OTHERS["PROXY_API_KEY"])).status == 200
        for reader, names in ((key, {"ci"}), (OTHERS["PROXY_API_KEY"], {"ci", "key 1"})):
            recent = await send(app, "GET", "/api/requests/recent", x_api_key=reader)
            finished = [one["receipt"] for one in recent.json["finished"] if one["is_exchange"]]
            assert {one["client"]["name"] for one in finished} == names, recent.json
            for name in ("route_reason", "base_url", "limit_headers", "attempts"):
                assert any(one[name] for one in finished) == (reader != key), name
        denied = await send(app, "GET", "/api/requests/live", x_api_key=key)
        assert denied.status == 403
        denied = await send(app, "GET", "/api/usage", x_api_key=key)
        assert (denied.status, denied.message) == (
            403,
            "The key 'ci' is for the API below /v1/, not for '/api/usage'. Ask an administrator of the proxy for "
            "access.",
        )
        admin = await send(app, "POST", "/v1/messages", ASKED, x_api_key=OTHERS["ADMIN_API_KEY"])
        assert (admin.status, admin.message) == (
            403,
            "ADMIN_API_KEY is for the administration, not for the Messages API. Create a key for requests:  "
            "anthropic-proxy keys create LABEL",
        )
        missing = await send(app, "POST", "/v1/messages", ASKED)
        assert (missing.status, missing.message) == (
            401,
            "This proxy requires a key: send yours as the API key (ANTHROPIC_API_KEY) or as Authorization: Bearer "
            "(ANTHROPIC_AUTH_TOKEN). Ask an administrator of the proxy for a key.",
        )
        assert (await send(app, "GET", "/metrics", x_api_key=OTHERS["ADMIN_API_KEY"])).status == 200
    settings = Settings(data_directory=tmp_path / "anthropic-proxy")
    with reading(settings) as engine, engine.connect() as connection:
        sums = {group.name: group.sums.requests for group in sum_usage(connection, RequestSelection(), "key")}
    assert sums == {"ci": 3, "key 1": 1, "local": 2}
    stored = (tmp_path / "anthropic-proxy/ledger.sqlite3").read_bytes()
    assert find_leaks(stored, [key, key[6:46], *OTHERS.values()]) == []


async def test_the_status_line_shows_no_requests_of_an_earlier_owner(tmp_path: Path) -> None:
    admin = {"x_api_key": OTHERS["ADMIN_API_KEY"]}
    async with running_app(tmp_path, **OTHERS) as app:
        created = (await send(app, "POST", "/admin/keys", {"name": "ci", "owner": "ann"}, **admin)).json
        keys = [created["key"]]

        async def find_sessions(key: str) -> list[str]:
            recent = await send(app, "GET", "/api/requests/recent", x_api_key=key)
            return [one["receipt"]["session"] for one in recent.json["finished"] if one["is_exchange"]]

        async def ask(key: str, session: str) -> None:
            sent = {"x_api_key": key, "x_claude_code_session_id": session}
            assert (await send(app, "POST", "/v1/messages", ASKED, **sent)).status == 200

        await ask(keys[0], "ann's")
        assert (await send(app, "POST", f"/admin/keys/{created['id']}", {"owner": "bob"}, **admin)).status == 200
        assert await find_sessions(keys[0]) == []
        await ask(keys[0], "with the old text")
        path = f"/admin/keys/{created['id']}/rotate"
        keys.append((await send(app, "POST", path, {"overlap_seconds": 60}, **admin)).json["key"])
        await ask(keys[1], "bob's")
        assert [await find_sessions(key) for key in keys] == [["with the old text"], ["bob's"]]


async def test_budgets_have_the_use_of_the_ledger_after_a_restart(tmp_path: Path) -> None:
    """A budget begins when it is set, follows a renamed key, and that of a team has the use of all its keys."""
    admin = {"x_api_key": OTHERS["ADMIN_API_KEY"]}
    total = Budget(1_000_000, "tokens", "total")
    key = store_key(tmp_path, Rules())

    async def use(key: str) -> int:
        reply = await send(app, "POST", "/v1/messages", ASKED, x_api_key=key)
        assert reply.status == 200
        return int(reply.json["usage"]["input_tokens"] + reply.json["usage"]["output_tokens"])

    async def find_used() -> dict[str, int]:
        listed = (await send(app, "GET", "/admin/keys", **admin)).json["data"]
        keys = [(await send(app, "GET", f"/admin/keys/{each['id']}", **admin)).json for each in listed]
        return {each["name"]: each["spending"][0]["used"] for each in keys if each["spending"]}

    async with running_app(tmp_path, **OTHERS) as app:
        await use(key)
        connection = open_for_writing(Settings(data_directory=tmp_path / "anthropic-proxy"))
        administration = KeyAdministration(connection, "test")
        change_key(administration, "ci", budgets=(total,), team="web")
        change_team(administration, "web", {"budgets": (total,)})
        _, other = create_key(
            administration, VirtualKey(id="", label="other", team="web", rules=Rules(budgets=(total,)))
        )
        connection.close()
        await send(app, "POST", "/admin/keys", {"name": "unused"}, **admin)  # reads the keys again
        amounts = [await use(key), await use(other), await use(other)]
        assert await find_used() == {"ci": amounts[0], "other": sum(amounts[1:])}
        renamed = await send(app, "POST", "/admin/keys/ci", {"name": "renamed"}, **admin)
        assert renamed.status == 200, renamed.body
    async with running_app(tmp_path, **OTHERS) as app:
        expected = {"renamed": amounts[0], "other": sum(amounts[1:])}
        await wait_for_async(find_used, lambda used: used == expected)
        expected = {"renamed": amounts[0] + await use(key), "other": expected["other"] + await use(other)}
        assert await find_used() == expected
    team = Scope("team", "web", "team/web", Rules())
    with closing(open_for_reading(Settings(data_directory=tmp_path / "anthropic-proxy"))) as connection:
        assert sum_budget_uses(connection, Settings(), [(team, total)], time.time()) == [sum(expected.values())]


async def leave_before_the_first_byte(app: App, provider: "SilentServer", key: str, **fields: Any) -> None:
    body = msgspec.json.encode({**ASKED, "model": "openai/own", **fields})
    messages = [{"type": "http.request", "body": body}]
    called = provider.calls

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await wait_for_async(provider.count_calls, lambda count: count > called)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    headers = [(b"host", b"127.0.0.1"), (b"x-api-key", key.encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/messages", "query_string": b"", "client": ("127.0.0.1", 1)}
    await app({**scope, "headers": headers}, receive, send)


class SilentServer:
    """A provider that reads requests and never answers."""

    def __init__(self) -> None:
        self.calls = 0

    async def count_calls(self) -> int:
        return self.calls

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.calls += 1
        await reader.read()
        writer.close()


class UnfinishedServer(SilentServer):
    """A provider whose connections are never complete: it reads the beginning of TLS, and does not answer."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.calls += 1
        await reader.read()
        writer.close()


async def test_a_request_that_never_reached_a_server_costs_nothing(tmp_path: Path) -> None:
    admin = {"x_api_key": OTHERS["ADMIN_API_KEY"]}
    (tmp_path / "anthropic-proxy.toml").write_text('[prices."openai/own"]\ninput = 1000\noutput = 4000\n', "utf-8")
    key = store_key(tmp_path, Rules(budgets=(Budget(50, "usd", "total"), Budget(10**6, "tokens", "day"))))
    provider = UnfinishedServer()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    address = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"

    async def read_usage() -> Any:
        return (await send(app, "GET", "/api/usage?by=key", **admin)).json["total"]

    async with running_app(tmp_path, **{**OTHERS, "OPENAI_API_KEY": "k", "OPENAI_BASE_URL": address}) as app:
        for stream in (True, False):
            await leave_before_the_first_byte(
                app, provider, key, stream=stream, messages=[{"role": "user", "content": "word " * 1_000}]
            )
        total = await wait_for_async(read_usage, lambda found: found["requests"] == 2)
        assert (total["cancelled"], total["input_tokens"], total["cost"]) == (2, 0, 0)
        listed = (await send(app, "GET", "/admin/keys", **admin)).json["data"]
        spending = (await send(app, "GET", f"/admin/keys/{listed[0]['id']}", **admin)).json["spending"]
        assert [each["used"] for each in spending] == [0, 0]
    server.close()


async def test_a_request_cancelled_before_its_first_byte_costs_its_estimated_input_everywhere(tmp_path: Path) -> None:
    admin, words = {"x_api_key": OTHERS["ADMIN_API_KEY"]}, "word " * 1_000
    (tmp_path / "anthropic-proxy.toml").write_text('[prices."openai/own"]\ninput = 1000\noutput = 4000\n', "utf-8")
    key = store_key(tmp_path, Rules(budgets=(Budget(50, "usd", "total"), Budget(10**6, "tokens", "day"))))
    provider = SilentServer()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    settings = {**OTHERS, "OPENAI_API_KEY": "k", "OPENAI_BASE_URL": address}

    async def read_spending() -> list[float]:
        listed = (await send(app, "GET", "/admin/keys", **admin)).json["data"]
        spending = (await send(app, "GET", f"/admin/keys/{listed[0]['id']}", **admin)).json["spending"]
        return [each["used"] for each in spending]

    async def read_usage() -> Any:
        return (await send(app, "GET", "/api/usage?by=key", **admin)).json["total"]

    async with running_app(tmp_path, **settings) as app:
        for stream in (True, False):
            await leave_before_the_first_byte(
                app, provider, key, stream=stream, messages=[{"role": "user", "content": words}]
            )
        total = await wait_for_async(read_usage, lambda found: found["requests"] == 2)
        assert 1_800 < total["input_tokens"] < 2_600
        assert (total["cancelled"], total["output_tokens"]) == (2, 0)
        assert total["cost"] == pytest.approx(total["input_tokens"] / 1_000)
        spent = [pytest.approx(total["cost"]), total["input_tokens"]]
        await wait_for_async(read_spending, spent.__eq__)
        (row, _) = (await send(app, "GET", "/api/requests", **admin)).json["requests"]
        assert (row["outcome"], row["input_tokens"]) == ("cancelled", total["input_tokens"] / 2)
    explained = run_command("explain", row["id"], directory=tmp_path, settings={"XDG_DATA_HOME": str(tmp_path)})
    assert f"{row['input_tokens']:,} in, 0 out, partly estimated\n" in explained.stdout
    connection = open_for_reading(Settings(data_directory=tmp_path / "anthropic-proxy"))
    (stored,) = list_keys(connection)
    used = [each.used for each in read_used_budgets(connection, Settings(), build_key_scope(stored), time.time())]
    connection.close()
    assert used == [total["input_tokens"] * 1_000_000, total["input_tokens"]]
    async with running_app(tmp_path, **settings) as app:
        await wait_for_async(read_spending, spent.__eq__)
    server.close()


async def test_a_budget_that_is_removed_and_set_again_begins_anew_everywhere(tmp_path: Path) -> None:
    admin, data = {"x_api_key": OTHERS["ADMIN_API_KEY"]}, Settings(data_directory=tmp_path / "anthropic-proxy")
    budget = {"amount": 1_000_000, "unit": "tokens", "models": "", "soft": False}
    budgets = [{**budget, "period": period} for period in ("day", "total")]
    key = store_key(tmp_path, Rules())

    async def change(budgets: Sequence[Any]) -> None:
        for path in ("/admin/keys/ci", "/admin/teams/web"):
            body = {"budgets": budgets} | ({"team": "web"} if path.endswith("ci") else {})
            changed = await send(app, "POST", path, body, **admin)
            assert (changed.status, changed.json["budgets"]) == (200, budgets)

    async def use() -> int:
        reply = await send(app, "POST", "/v1/messages", ASKED, x_api_key=key)
        assert reply.status == 200
        return int(reply.json["usage"]["input_tokens"] + reply.json["usage"]["output_tokens"])

    async def read_used(path: str) -> list[int]:
        found = await send(app, "GET", path, **admin)
        described = found.json["data"][0] if path == "/admin/teams" else found.json
        return [each["used"] for each in described["spending"]]

    async def require_used(amount: int) -> None:
        for path in ("/admin/keys/ci", "/admin/teams"):
            await wait_for_async(partial(read_used, path), lambda used: used == [amount, amount])
        with closing(open_for_reading(data)) as connection:
            scopes = [*map(build_key_scope, list_keys(connection)), *map(build_team_scope, list_teams(connection))]
            found = [[one.used for one in read_used_budgets(connection, data, scope, time.time())] for scope in scopes]
        assert found == [[amount, amount]] * 2

    async with running_app(tmp_path, **OTHERS) as app:
        await change(budgets)
        await use()
        await change([])
        await use()
        await change(budgets)
        await require_used(0)
        amount = await use()
        await change([{**one, "amount": 2_000_000} for one in budgets])
    async with running_app(tmp_path, **OTHERS) as app:
        await require_used(amount)
        amount += await use()
        for path in ("/admin/keys/ci", "/admin/teams"):
            await wait_for_async(partial(read_used, path), lambda used: used == [amount, amount])


async def test_the_use_of_a_budget_begins_to_the_second_also_days_later(database: Settings) -> None:
    settings = database
    connection, set_at, now = open_for_writing(settings), NOON + 1_200, NOON + 50 * 3_600
    budget = Budget(1_000_000, "tokens", "total")
    key = VirtualKey(id="", label="ci", rules=Rules(budgets=(budget,)))
    created, _ = create_key(KeyAdministration(connection, "test", lambda: set_at), key)
    connection.close()
    times = (set_at - 60, set_at + 60, set_at + 3_600, now - 1)
    client = Client(name="ci", role="member", key_id=created.id)
    with running_ledger(settings) as ledger:
        await ledger.record(
            *(
                new_receipt(number, client=client, started_at=at, input_tokens=10**number, output_tokens=0)
                for number, at in enumerate(times)
            )
        )
        ledger.wait_written(len(times))
    with closing(open_for_reading(settings)) as connection:
        (stored,), scope = created.rules.budgets, build_key_scope(created)
        assert sum_budget_uses(connection, Settings(), [(scope, stored)], now) == [10 + 100 + 1_000]
        for models, used in {"groq/*": 1_110, "SMALL": 1_110, "*/s?all": 1_110, "openai/*": 0, "gpt-*": 0}.items():
            one = structs.replace(stored, models=models)
            assert sum_budget_uses(connection, Settings(), [(scope, one)], now) == [used], models


@pytest.mark.parametrize("place", ["key", "team", "person"])
async def test_a_budget_that_is_set_within_an_hour_keeps_its_use_when_the_requests_are_deleted(
    database: Settings, place: str
) -> None:
    """It is removed, set again, and gets another amount later."""
    texts = ("1USD/total", "1000000tokens/month", "1000000tokens/total for groq/* soft", "9USD/total for openai/*")
    budgets = tuple(map(decode_budget, texts))
    first_at, set_at, changed_at = NOON, NOON + 1_200, NOON + 1_300
    settings = structs.replace(database, ledger_days=1)
    label = "ci@example.com"
    with closing(open_for_writing(settings)) as connection, running_ledger(settings, cost=find_tokens) as ledger:

        def change(at: float, budgets: Sequence[Budget]) -> tuple[Budget, ...]:
            administration = KeyAdministration(connection, "test", lambda: at, settings=settings)
            if place == "team":
                return change_team(administration, "t", {"budgets": budgets}).rules.budgets
            if place == "person":
                return admit(connection, label, clock=lambda: at, budgets=budgets).rules.budgets
            return change_key(administration, label, budgets=budgets).rules.budgets

        key = admit(connection, label, clock=lambda: first_at)
        change(first_at, budgets)
        client = Client(name=label, key_id=key.id, team="t")
        for number, at in enumerate((NOON + 60, set_at - 1, set_at + 1, set_at + 1_800, set_at + 3_600)):
            await ledger.record(
                new_receipt(number, client=client, started_at=at, input_tokens=10**number, output_tokens=0)
            )
        await ledger.record(
            *(new_receipt(5 + days, client=Client("b"), started_at=NOON + days * DAY) for days in range(4))
        )
        ledger.wait_written(9)
        change(set_at, ())
        change(set_at, budgets)
        stored = change(changed_at, [structs.replace(one, amount=2 * one.amount) for one in budgets])
        scope = Scope(*(("team", "t", "team/t") if place == "team" else ("key", label, f"key/{key.id}")), Rules())
        chosen = [(scope, one) for one in stored]
        before = sum_budget_uses(connection, settings, chosen, NOON + 3 * DAY)
        Retention(settings, clock=lambda: NOON + 3 * DAY).delete_expired(connection)
        assert connection.query("SELECT count(*) FROM requests WHERE key_label != 'b'") == [(0,)]
        assert sum_budget_uses(connection, settings, chosen, NOON + 3 * DAY) == before == [11_100, 11_100, 11_100, 0]


@pytest.mark.parametrize(("period", "used"), [("day", 11), ("month", 111), ("total", 1_111)])
async def test_a_budget_has_the_use_of_a_server_whose_clock_is_ahead(
    database: Settings, period: Period, used: int
) -> None:
    """Up to the end of the period by the clock of the budget."""
    times = (NOON - 60, NOON + 600, NOON + 13 * 3_600, NOON + 40 * 86_400)
    await store(
        database,
        *(
            new_receipt(number, client=Client("ci"), started_at=at, input_tokens=10**number, output_tokens=0)
            for number, at in enumerate(times)
        ),
    )
    budget = Budget(1_000_000, "tokens", period)
    scope = Scope("key", "ci", "key/ci", Rules(budgets=(budget,)))
    with closing(open_for_reading(database)) as connection:
        assert sum_budget_uses(connection, Settings(), [(scope, budget)], NOON) == [used]


def test_a_database_is_required(tmp_path: Path) -> None:
    settings = load_settings({"VIRTUAL_KEYS": "true", "DATABASE_URL": "off"}, PROVIDERS, env_file=None)
    with pytest.raises(ConfigurationError) as raised:
        list(open_plugins(settings))
    assert raised.value.message == (
        "VIRTUAL_KEYS is true, but DATABASE_URL is off: virtual keys are stored in that database. Unset DATABASE_URL, "
        "or set it to a database, or set VIRTUAL_KEYS=false."
    )
