"""Four servers on one PostgreSQL send all events to a SIEM whose endpoints were away, by real HTTP."""

import base64
import hmac
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.gateway.settings import Settings
from tests.support.ledger import ADMIN, DATABASE_VARIABLE, list_server_settings
from tests.support.server_process import Proxy, hold_port, running_proxy
from tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(DATABASE_VARIABLE not in os.environ, reason="engine: PostgreSQL")

SECRET = b"a secret of the company, 32 bytes"
HOUR = 3_600_000_000
CARD = "4111 1111 1111 1111"
TABLES = """
[siem.main]
url = "http://127.0.0.1:{webhook}/hook"
secret = {{ env = "SIEM_SECRET" }}

[siem.logs]
type = "otlp"
url = "http://127.0.0.1:{collector}/v1/logs"

[[inspectors]]
name = "cards"
type = "patterns"
detect = ["card-numbers"]
"""


class Endpoint:
    """A webhook or a collector on this machine, with what it has received."""

    def __init__(self) -> None:
        self.requests: list[tuple[Mapping[str, str], bytes]] = []
        self.refuses = ""
        """It answers 400 to each request with this text. "": it accepts all."""

    @contextmanager
    def listening(self, port: int) -> Iterator[None]:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                is_refused = bool(endpoint.refuses) and endpoint.refuses.encode() in body
                if not is_refused:
                    endpoint.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(400 if is_refused else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        endpoint = self
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()

    def list_events(self) -> list[Any]:
        """Return all events, in the order of their arrival."""
        events = []
        for _, body in [*self.requests]:
            document = json.loads(body)
            if "data" in document:
                events += document["data"]["events"]
                continue
            for record in document["resourceLogs"][0]["scopeLogs"][0]["logRecords"]:
                events.append(json.loads(record["body"]["stringValue"]))
        return events

    def list_ids(self, kind: str) -> list[int]:
        return [int(event["id"].rpartition("-")[2]) for event in self.list_events() if event["type"] == kind]


def is_signed(headers: Mapping[str, str], body: bytes) -> bool:
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = base64.b64encode(hmac.digest(SECRET, signed, "sha256")).decode()
    return headers["webhook-signature"] == f"v1,{digest}"


def create_key(proxy: Proxy, name: str) -> str:
    response = proxy.client(headers={"x-api-key": ADMIN}).post("/admin/keys", json={"name": name})
    assert response.status_code == 200, response.text
    return str(response.json()["key"])


def has_problem(proxy: Proxy) -> bool:
    return (
        'anthropic_proxy_conditions{check="siem"} 1.0'
        in proxy.client(headers={"x-api-key": ADMIN}).get("/metrics").text
    )


def send_card(proxy: Proxy, key: str) -> str:
    """Send a text that the inspector redacts, and return the id of the request."""
    body = {"model": "demo/demo", "max_tokens": 50, "messages": [{"role": "user", "content": f"My card: {CARD}"}]}
    response = proxy.client(headers={"x-api-key": key}).post("/v1/messages", json=body)
    assert response.status_code == 200, response.text
    return str(response.headers["request-id"])


def pass_an_hour(database: Settings) -> None:
    """Let what waits be due, as after an hour, or a day for parked events."""
    with closing(open_for_writing(database)) as connection, connection.transaction():
        connection.execute(f"UPDATE event_cursors SET next_at = 0, failing_since = failing_since - {HOUR}")
        connection.execute("UPDATE parked_events SET next_at = 0")


def list_audit_ids(database: Settings) -> list[int]:
    with closing(open_for_writing(database)) as connection:
        return [int(entry_id) for (entry_id,) in connection.query("SELECT id FROM audit_log ORDER BY id")]


def is_ordered(ids: Sequence[int]) -> bool:
    """Return True if each event arrived first behind all earlier ones."""
    first = list(dict.fromkeys(ids))
    return first == sorted(first)


def test_four_servers_lose_no_event_of_an_hour_without_the_endpoints(database: Settings, tmp_path: Path) -> None:
    main, logs = Endpoint(), Endpoint()
    settings = list_server_settings(database) | {
        "SIEM_SECRET": f"whsec_{base64.b64encode(SECRET).decode()}",
        "LOG_LEVEL": "warning",
    }
    with ExitStack() as stack:
        webhook, collector = (stack.enter_context(hold_port()) for _ in range(2))
        (tmp_path / "anthropic-proxy.toml").write_text(TABLES.format(webhook=webhook, collector=collector), "utf-8")
        servers = [stack.enter_context(running_proxy(tmp_path, settings)) for _ in range(4)]
        # the webhook refuses connections, and the collector accepts them without an answer
        silent = socket.create_server(("127.0.0.1", collector))

        def use(number: int) -> list[str]:
            server = servers[number % 4]
            key = create_key(server, f"laptop {number}")
            return [send_card(server, key) for _ in range(2)]

        with silent, ThreadPoolExecutor(8) as threads:
            requests = {request for sent in threads.map(use, range(24)) for request in sent}
            wait_for(lambda: any("[siem.main], " in server.log for server in servers))
            silent.accept()  # an unanswered request
            pass_an_hour(database)
            wait_for(lambda: servers[3].client().get("/readyz").json()["checks"], lambda found: "siem" in found)
            assert has_problem(servers[3])
            requests |= {request for sent in threads.map(use, range(24, 32)) for request in sent}
        assert main.requests == logs.requests == []
        stack.enter_context(main.listening(webhook))
        stack.enter_context(logs.listening(collector))
        audit = list_audit_ids(database)
        assert len(audit) >= 32

        def is_complete(endpoint: Endpoint) -> bool:
            pass_an_hour(database)
            events = endpoint.list_events()
            return {*audit} <= {*endpoint.list_ids("audit")} and requests <= {one.get("request") for one in events}

        for endpoint in (main, logs):
            wait_for(lambda endpoint=endpoint: is_complete(endpoint))
            assert is_ordered(endpoint.list_ids("audit"))
            assert is_ordered(endpoint.list_ids("verdict"))
            assert {*endpoint.list_ids("audit")} == {*audit}
            verdicts = [one for one in endpoint.list_events() if one["type"] == "verdict"]
            assert {one["request"] for one in verdicts} == requests
            assert {one["inspections"][0]["decision"] for one in verdicts} == {"redacted"}
        assert all(is_signed(*request) for request in main.requests)
        assert CARD not in str(main.requests) + str(logs.requests)

        # one event that the webhook rejects holds up neither the others nor the collector
        main.refuses = '"odd laptop"'
        for name in ("odd laptop", "even laptop"):
            create_key(servers[1], name)
        odd, even = list_audit_ids(database)[-2:]
        wait_for(lambda: even in main.list_ids("audit") and {odd, even} <= {*logs.list_ids("audit")})
        assert odd not in main.list_ids("audit")
        wait_for(lambda: any(f"rejected the event audit-{odd}: status 400." in server.log for server in servers))
        main.refuses = ""
        pass_an_hour(database)
        wait_for(lambda: odd in main.list_ids("audit"))
        wait_for(lambda: not has_problem(servers[0]))
