"""Commands `usage`, `explain --last` and `logs` on a ledger that a real server has written, and the routes of it."""

import csv
import io
import json
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from anthropic_proxy.console.ledger.periods import FORMS
from anthropic_proxy.gateway.prices.price_list import find_price_package_version
from anthropic_proxy.gateway.settings import Settings
from tests.support.command_line import run_command
from tests.support.fakes import openai_chat
from tests.support.fakes.server import Running, serving_strictly
from tests.support.ledger import new_receipt, running_ledger
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import wait_for

PRICES = """
[[routes]]
name = "free"
when = { model = "demo/*" }
targets = ["demo/demo"]

[prices."openai/gpt-4.1*"]
input = 2
output = 8

[prices."anthropic/claude-haiku-4-5"]
input = 1
output = 5
"""
FORMULA = "=HYPERLINK(1)"
TOTALS = ("requests", "errors", "input_tokens", "output_tokens")


RETURNED_RESULTS: Any = [
    {"role": "user", "content": [{"type": "text", "text": "go"}]},
    {"role": "assistant", "content": [{"type": "tool_use", "id": f"c{n}", "name": "n", "input": {}} for n in range(2)]},
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "c0", "content": "no such file", "is_error": True},
            {"type": "tool_result", "tool_use_id": "c1", "content": "done"},
        ],
    },
]
"""Messages that return the results of two tools, of which one has failed."""


class Stored(Struct):
    """A ledger with requests, and the settings of the server that has stored them."""

    folder: Path
    settings: dict[str, str]
    replies: list[Any]
    """Usage of each successful reply, as the client received it."""

    def run(self, *words: str) -> "Any":
        return run_command(*words, directory=self.folder, settings=self.settings)

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)


def ask(proxy: Proxy, model: str, text: str = "Say exactly: hello", *, messages: Any = (), **headers: str) -> Any:
    asked = [*messages, {"role": "user", "content": text}]
    body = {"model": model, "max_tokens": 20, "top_k": 3, "messages": asked}
    reply = proxy.client().post("/v1/messages", json=body, headers=headers)
    return reply.json().get("usage")


def count_rows(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "ledger.sqlite3")) as database:
        try:
            return int(database.execute("SELECT count(*) FROM requests").fetchone()[0])
        except sqlite3.OperationalError:  # the tables do not exist yet
            return 0


@pytest.fixture(scope="module")
def upstream() -> Iterator[Running]:
    with serving_strictly(openai_chat.new_openai()) as running:
        yield running


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, upstream: Running, closed_port: str) -> Stored:
    folder = tmp_path_factory.mktemp("ledger")
    (folder / "anthropic-proxy.toml").write_text(PRICES, encoding="utf-8")
    settings = {
        "OPENAI_API_KEY": openai_chat.KEY,
        "OPENAI_BASE_URL": f"{upstream.url}/v1",
        "SERVE_DEMO": "true",
        "DATABASE_URL": f"sqlite:///{folder / 'ledger.sqlite3'}",
        "PORT": closed_port,
    }
    with running_proxy(folder, settings) as proxy:
        replies = [
            ask(proxy, "claude-haiku-4-5", **{"x-project": "one", "x-claude-code-session-id": "session-1"}),
            ask(proxy, "claude-haiku-4-5", **{"x-project": "one", "x-claude-code-session-id": "session-1"}),
            ask(proxy, "demo/demo", messages=RETURNED_RESULTS, **{"x-project": FORMULA}),
        ]
        ask(proxy, "claude-haiku-4-5", "Say exactly: x [fault:forbidden]")
        wait_for(lambda: count_rows(folder) == len(replies) + 1)
        assert proxy.stop() == 0
    return Stored(folder, settings, replies)


def test_sums_and_costs_are_those_that_the_client_received(stored: Stored) -> None:
    found = stored.json("usage", "--by", "model")
    tokens = {name: sum(reply[name] for reply in stored.replies) for name in ("input_tokens", "output_tokens")}
    assert {name: found["total"][name] for name in TOTALS} == {"requests": 4, "errors": 1, **tokens}
    model, demo = found["groups"]
    assert (model["name"], model["requests"], model["errors"], demo["name"]) == (
        "openai/gpt-4.1-mini",
        3,
        1,
        "demo/demo",
    )
    counts = ("tool_results", "tool_errors", "malformed_replies")
    assert [[group[name] for name in counts] for group in (model, demo)] == [[0, 0, 0], [2, 1, 0]]
    paid = stored.replies[:2]
    cost = sum(reply["input_tokens"] * 2 + reply["output_tokens"] * 8 for reply in paid) / 1_000_000
    requested = sum(reply["input_tokens"] + reply["output_tokens"] * 5 for reply in paid) / 1_000_000
    assert (model["cost"], model["requested_cost"]) == (pytest.approx(cost), pytest.approx(requested))
    assert (demo["cost"], demo["unknown_cost_requests"], demo["unknown_requested_cost_requests"]) == (0, 0, 0)


def list_days(stored: Stored) -> set[str]:
    """Return the local days of the stored requests. An hour belongs to the day of its end."""
    with closing(sqlite3.connect(stored.folder / "ledger.sqlite3")) as database:
        hours = database.execute("SELECT DISTINCT started_at / 3600000000 FROM requests").fetchall()
    return {date.fromtimestamp(hour * 3600 + 3599).isoformat() for (hour,) in hours}


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("provider", ["openai", "demo"]),
        ("project", ["one", FORMULA, ""]),
        ("session", ["session-1", ""]),
        ("key", ["local"]),
        ("route", ["", "free"]),
        ("day", None),
    ],
)
def test_each_grouping_has_the_same_total(stored: Stored, by: str, names: list[str] | None) -> None:
    found = stored.json("usage", "--by", by)
    assert sorted(group["name"] for group in found["groups"]) == sorted(list_days(stored) if names is None else names)
    assert found["total"] == stored.json("usage")["total"]


def test_a_pipe_gets_tabs_and_csv_runs_no_formula(stored: Stored) -> None:
    head, *rows = stored.run("usage", "--by", "project").stdout.splitlines()
    assert head.split("\t")[:4] == ["project", "requests", "succeeded", "errors"]
    assert {row.split("\t")[0] for row in rows} == {"one", FORMULA, ""}
    exported = list(csv.DictReader(io.StringIO(stored.run("usage", "--by", "project", "--csv").stdout)))
    assert {row["project"] for row in exported} == {"one", f"'{FORMULA}", ""}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--since", "5x"), f'--since is "5x". {FORMS}.'),
        (
            ("--since", "1h", "--until", "2h"),
            f'--until is "2h", which is not after --since 1h. {FORMS}.',
        ),
        (("--json", "--csv"), "--json and --csv exclude each other. Use one of them."),
        (("--month", "2026-10", "--until", "1d"), "--month excludes --since and --until. Use one of them."),
        (("--month", "2199-01"), '--month is "2199-01". Use this month or an earlier one, such as 2026-11.'),
        (("--month", "October"), '--month is "October". Use this month or an earlier one, such as 2026-11.'),
    ],
)
def test_wrong_options_are_named(stored: Stored, words: tuple[str, ...], message: str) -> None:
    ended = stored.run("usage", *words)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"✕ {message}\n")


def test_a_ledger_without_requests_is_empty_and_one_that_is_off_is_reported(stored: Stored, tmp_path: Path) -> None:
    empty = {"DATABASE_URL": f"sqlite:///{tmp_path / 'none.sqlite3'}"}
    ended = run_command("usage", "--json", directory=tmp_path, settings=empty)
    assert (json.loads(ended.stdout)["total"]["requests"], ended.returncode) == (0, 0)
    ended = run_command("usage", directory=tmp_path, settings={"DATABASE_URL": "off"})
    message = "Nothing is stored, because DATABASE_URL is off. Unset DATABASE_URL, or set it to a database."
    assert (ended.returncode, ended.stderr) == (2, f"✕ {message}\n")
    (tmp_path / "broken.sqlite3").write_bytes(b"no database " * 100)
    broken = {"DATABASE_URL": f"sqlite:///{tmp_path / 'broken.sqlite3'}"}
    ended = run_command("usage", directory=tmp_path, settings=broken)
    assert (ended.returncode, ended.stderr) == (
        2,
        f"✕ The ledger {tmp_path / 'broken.sqlite3'} cannot be read: file is not a database. "
        "Move the file to another directory: the proxy then creates a new database.\n",
    )


def test_the_last_request_is_explained(stored: Stored) -> None:
    ended = stored.run("explain", "--last")
    lines = ended.stdout.splitlines()
    assert (ended.returncode, ended.stderr) == (1, "")
    assert lines[0] == "  claude-haiku-4-5 → openai/gpt-4.1-mini"
    assert re.fullmatch(r"    request    req_\w+, \d+ \w+ \d{4}, \d\d:\d\d:\d\d \S+", lines[1])
    assert lines[2].startswith("    rule       haiku is SMALL_MODEL (default of openai)")
    assert lines[3] == "    attempt 1  openai/gpt-4.1-mini: status 403, error"
    assert lines[4].startswith("    error      permission_error, 424 for the client: openai: Country")
    assert lines[5] == (
        "    remedy     Run the proxy in a country that the provider serves, or choose another provider."
    )


def test_a_request_is_explained_by_its_id(stored: Stored) -> None:
    with closing(sqlite3.connect(stored.folder / "ledger.sqlite3")) as database:
        ((request_id,),) = database.execute("SELECT id FROM requests ORDER BY started_at LIMIT 1")
    ended = stored.run("explain", request_id)
    assert ended.returncode == 0
    assert "    project    one\n" in ended.stdout
    assert "\n    session    one session-1\n" in ended.stdout, "the name in usage --by session"
    assert "  ✕ top_k" in ended.stdout
    found = stored.json("explain", request_id)
    assert (found["id"], found["notes"][0]["field"]) == (request_id, "top_k")
    ended = stored.run("explain", "req_none")
    assert (ended.returncode, ended.stderr) == (
        2,
        "✕ The ledger has no request req_none. It stores requests for 90 days (LEDGER_DAYS). "
        "List the last ones:  anthropic-proxy logs --no-follow\n",
    )


def test_a_failed_attempt_is_explained_with_the_reason_of_the_provider(tmp_path: Path, upstream: Running) -> None:
    settings = {"OPENAI_API_KEY": openai_chat.KEY, "OPENAI_BASE_URL": f"{upstream.url}/v1", "SERVE_DEMO": "true"}
    settings |= {"FALLBACK_HAIKU": "demo/demo", "DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}"}
    with running_proxy(tmp_path, settings) as proxy:
        ask(proxy, "claude-haiku-4-5", "Say exactly: x [fault:forbidden]")
        settings["PORT"] = proxy.url.rpartition(":")[2]
    ended = run_command("explain", directory=tmp_path, settings=settings)  # the stopped proxy has stored the request
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [line for line in ended.stdout.splitlines() if line.startswith(("    rule ", "    attempt "))] == [
        "    rule       haiku is SMALL_MODEL (default of openai); fallback: FALLBACK_HAIKU, environment",
        "    attempt 1  openai 403, followed by the fallback; openai: Country, region, or territory not supported",
        "    attempt 2  demo/demo: status 200, max_tokens",
    ]


def test_a_request_is_explained_by_its_number_from_the_end(stored: Stored) -> None:
    last, second, *_, fourth = (stored.json("explain", str(number)) for number in (1, 2, 3, 4))
    assert last == stored.json("explain")
    assert [one["requested_model"] for one in (last, second, fourth)] == [
        *("claude-haiku-4-5", "demo/demo", "claude-haiku-4-5")
    ]
    assert fourth["started_at"] < second["started_at"] < last["started_at"]
    ended = stored.run("explain", "5")
    assert (ended.returncode, ended.stderr) == (
        2,
        "✕ The ledger has no request 5. It stores requests for 90 days (LEDGER_DAYS). "
        "List the last ones:  anthropic-proxy logs --no-follow\n",
    )


def test_logs_come_from_the_ledger_if_no_proxy_runs_or_has_too_few(stored: Stored) -> None:
    ended = stored.run("logs", "-n", "3")
    assert len(ended.stdout.splitlines()) >= 6
    port = stored.settings["PORT"]
    assert ended.stderr == f"  From saved records: no `serve` is running on port {port}.\n"
    (failed,) = map(json.loads, stored.run("logs", "--errors", "--json").stdout.splitlines())
    assert (failed["status"], failed["requested_model"]) == (424, "claude-haiku-4-5")
    with running_proxy(stored.folder, stored.settings) as proxy:
        ask(proxy, "demo/demo")
        settings = {**stored.settings, "PORT": proxy.url.rpartition(":")[2]}
        words = ("logs", "--no-follow", "-n", "3", "--json")
        printed = run_command(*words, directory=stored.folder, settings=settings).stdout.splitlines()
    models = [json.loads(line)["requested_model"] for line in printed]
    assert models == ["demo/demo", "claude-haiku-4-5", "demo/demo"]


def test_logs_of_a_period_are_complete(stored: Stored) -> None:
    port = stored.settings["PORT"]
    times = [json.loads(line)["started_at"] for line in stored.run("logs", "-n", "100", "--json").stdout.splitlines()]
    recent = stored.run("logs", "--since", "24h", "--json").stdout.splitlines()
    assert [json.loads(line)["started_at"] for line in recent] == times
    assert len(stored.run("logs", "--since", "today", "-n", "1", "--json").stdout.splitlines()) == 1
    ended = stored.run("logs", "--since", "2099-01-01")
    assert (ended.returncode, ended.stdout) == (0, "")
    assert ended.stderr == f"  No record is saved since 2099-01-01, and no `serve` is running on port {port}.\n"
    ended = stored.run("logs", "--since", "soon")
    assert (ended.returncode, ended.stderr) == (2, f'✕ --since is "soon". {FORMS}.\n')
    with running_proxy(stored.folder, stored.settings) as proxy:
        settings = {**stored.settings, "PORT": proxy.url.rpartition(":")[2]}
        words = ("logs", "--no-follow", "--since", "1h", "--json")
        printed = run_command(*words, directory=stored.folder, settings=settings).stdout.splitlines()
        assert [json.loads(line)["started_at"] for line in printed] == times
        words = ("logs", "--no-follow", "--since", "2099-01-01", "--json")
        assert run_command(*words, directory=stored.folder, settings=settings).stdout == ""


def test_programs_read_the_ledger_from_the_running_proxy(stored: Stored) -> None:
    with running_proxy(stored.folder, {**stored.settings, "PROXY_API_KEY": "pk-0123456789"}) as proxy:
        client = proxy.client()
        assert client.get("/api/requests").status_code == 401
        client.headers["x-api-key"] = "pk-0123456789"
        usage = client.get("/api/usage", params={"by": "project"}).json()
        assert {group["name"] for group in usage["groups"]} == {"one", FORMULA, ""}
        first = client.get("/api/requests", params={"limit": "1", "facets": "true"}).json()
        (row,) = first["requests"]
        assert {"value": "one", "requests": 2} in first["facets"]["project"]
        older = client.get("/api/requests", params={"before": first["before"]}).json()
        assert row["id"] not in {each["id"] for each in older["requests"]}
        assert older["before"] is None
        assert client.get(f"/api/requests/{row['id']}").json() == row
        failed = client.get("/api/requests", params={"outcome": "error"}).json()["requests"]
        assert [each["status"] for each in failed] == [424]
        assert f"'{FORMULA}" in client.get("/api/requests", params={"format": "csv"}).text
        unknown = client.get("/api/requests/req_none")
        assert (unknown.status_code, unknown.json()["error"]["message"]) == (
            404,
            "The ledger has no request 'req_none'.",
        )
        wrong = client.get("/api/usage", params={"by": "colour"})
        assert wrong.json()["error"]["message"] == (
            "by is 'colour'. Use day, hour, provider, model, requested, project, session, kind, agent, prompt, "
            "verdict, key, owner, team, cost-center, route."
        )
        number = "0" * 5_000 + "1000000000"
        long = client.get("/api/requests", params={"limit": number})
        message = f"limit is {number!r}. Use a whole number from 1 to 1,000."
        assert (long.status_code, long.json()["error"]["message"]) == (400, message)
        assert client.get("/api/usage", params={"until": "9999-12-31"}).status_code == 400
        document = client.get("/api/openapi.json").json()
        assert set(document["paths"]) == {*("/api/usage", "/api/requests", "/api/requests/{id}", "/api/session-models")}
        assert set(row) == set(document["components"]["schemas"]["Request"]["properties"])
        assert set(usage["total"]) == set(document["components"]["schemas"]["Sums"]["properties"])


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            "gpt-4.1",
            f"unknown: {find_price_package_version()}, no price of tier scale. "
            "Set it in anthropic-proxy.toml, [prices]",
        ),
        ("no-such-model", "unknown: no price for openai/no-such-model. Set it in anthropic-proxy.toml, [prices]"),
    ],
)
def test_the_reason_of_an_unknown_cost_is_explained(tmp_path: Path, model: str, text: str) -> None:
    settings = Settings(data_directory=tmp_path)
    asked = new_receipt(
        1,
        provider="openai",
        prefix="openai",
        model=model,
        requested_model="unknown",
        service_tier="scale",
        tool_count=13,
    )
    with running_ledger(settings, cost=None) as ledger:
        ledger.queue.record(asked)
        ledger.wait_written(1)
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    ended = run_command("explain", "--last", directory=tmp_path, settings={"DATABASE_URL": url})
    lines = ended.stdout.splitlines()
    assert [line for line in lines if "unknown:" in line] == [f"    cost       {text}"]
    assert lines[-1] == "    tools      13"


@pytest.mark.skipif(sys.platform == "win32", reason="platform: another error for a long file name")
def test_a_ledger_in_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / ("x" * 1_000) / "ledger.sqlite3"  # stat fails, as in the home directory of another user
    ended = run_command("usage", directory=tmp_path, settings={"DATABASE_URL": f"sqlite:///{file}"})
    message = f"✕ The ledger {file} cannot be read: file name too long. Set DATABASE_URL to another database.\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", message)
