"""CPU time of the proxy for signed-in developers: sign-in, managed settings, refresh, telemetry.

The identity provider and the collector run in the process of the bench, so that their time is not in the figures.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2 as httpx
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from bench.processes import Process, free_port
from bench.subjects import CHECKOUT, start_proxy
from tests.support.fakes.oidc import FakeProvider, running_provider
from tests.support.postgres import find_programs, running_postgres
from tests.support.sign_in import DEVICE_GRANT, SAME_ORIGIN, USER_AGENT, list_sign_in_settings

PEOPLE = 300
POINTS = 6
"""Data points of a metrics export: Claude Code sends 5 to 10 while a person works."""
RECORDS = 4
"""Records of an export of logs in 5 seconds of work: requests, and results of tools."""
START_SECONDS = 60.0
SETTLE_SECONDS = 3.0
"""Wait before a reading, in which the ledger's thread and the relay complete their work."""
ACTIVE_SHARE = 0.35
"""Share of the people who work at a time, as in `bench/fleet.py`. Without work, Claude Code sends no logs."""
TABLES = """
[sign_in.groups."*"]
team = "build"
budgets = ["1000USD/month"]

[managed_settings."*"]
companyAnnouncements = ["Only for work."]
"""
PER_HOUR = {
    "managed settings, unchanged": 1,
    "refresh, with the identity provider": 1,
    # one export a minute: OTEL_METRIC_EXPORT_INTERVAL
    "telemetry: metrics, forwarded": 60,
    # one export every 5 seconds in which something is logged: OTEL_LOGS_EXPORT_INTERVAL
    "telemetry: logs, forwarded": round(ACTIVE_SHARE * 720),
}
"""Operation → its number per person and hour."""


class Person:
    def __init__(self, client: httpx.Client, provider: FakeProvider, number: int) -> None:
        self.client = client
        self.provider = provider
        self.claims = {
            "sub": f"user-{number}",
            "email": f"user-{number}@example.com",
            "email_verified": True,
            "name": f"User {number}",
        }
        # each person has an address, because codes are limited by address
        self.headers = {"user-agent": USER_AGENT, "x-forwarded-for": f"10.0.{number // 250}.{number % 250 + 1}"}
        self.refresh_token = self.etag = ""

    def sign_in(self) -> None:
        self.provider.user = dict(self.claims)
        begun = self._post("/oauth/device_authorization", surface="claude_code").json()
        browser = httpx.Client(base_url=self.client.base_url, headers=self.headers, trust_env=False)
        with browser:
            _expect(browser.get(begun["verification_uri_complete"]), 200)
            form = {"user_code": begun["user_code"], "action": "confirm"}
            answer = _expect(browser.post("/device", data=form, headers=SAME_ORIGIN), 303)
            back = httpx.get(answer.headers["location"], trust_env=False)
            _expect(browser.get(back.headers["location"]), 200)
        self._store(self._post("/oauth/token", grant_type=DEVICE_GRANT, device_code=begun["device_code"]))

    def fetch_settings(self) -> None:
        self.etag = _expect(self.client.get("/managed/settings", headers=self.headers), 200).headers["etag"]

    def poll_settings(self) -> None:
        headers = {**self.headers, "if-none-match": self.etag}
        _expect(self.client.get("/managed/settings", headers=headers), 304)

    def refresh(self) -> None:
        self.provider.user = dict(self.claims)
        self._store(self._post("/oauth/token", grant_type="refresh_token", refresh_token=self.refresh_token))

    def send_metrics(self) -> None:
        self._send("/v1/metrics", METRICS)

    def send_logs(self) -> None:
        self._send("/v1/logs", LOGS)

    def _send(self, path: str, content: bytes) -> None:
        headers = {**self.headers, "content-type": "application/x-protobuf"}
        _expect(self.client.post(path, content=content, headers=headers), 200)

    def _post(self, path: str, **form: str) -> httpx.Response:
        return _expect(self.client.post(path, data=form, headers=self.headers), 200)

    def _store(self, answer: httpx.Response) -> None:
        tokens = answer.json()
        self.refresh_token = tokens.get("refresh_token", self.refresh_token)
        self.headers["authorization"] = f"Bearer {tokens['access_token']}"


OPERATIONS: Mapping[str, Callable[[Person], None]] = {
    "sign-in: code, page, identity provider, tokens": Person.sign_in,
    "managed settings, complete": Person.fetch_settings,
    "managed settings, unchanged": Person.poll_settings,
    "refresh, with the identity provider": Person.refresh,
    "telemetry: metrics, forwarded": Person.send_metrics,
    "telemetry: logs, forwarded": Person.send_logs,
}


def _expect(answer: httpx.Response, status: int) -> httpx.Response:
    if answer.status_code != status:
        raise SystemExit(f"{answer.request.method} {answer.request.url} answered {answer.status_code}: {answer.text}")
    return answer


def _make_metrics() -> bytes:
    names = {"user.id": "0" * 64, "session.id": "0" * 36, "model": "claude-sonnet-5-5", "terminal.type": "xterm"}
    attributes = [{"key": key, "value": {"stringValue": value}} for key, value in names.items()]
    point = {"attributes": attributes, "startTimeUnixNano": "1", "timeUnixNano": "2", "asDouble": 1.5}
    metrics = [
        {"name": f"claude_code.metric_{number}", "sum": {"dataPoints": [point], "isMonotonic": True}}
        for number in range(POINTS)
    ]
    scope = {"scope": {"name": "com.anthropic.claude_code", "version": "2.1.332"}, "metrics": metrics}
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "claude-code"}}]}
    sample = {"resourceMetrics": [{"resource": resource, "scopeMetrics": [scope]}]}
    return ParseDict(sample, ExportMetricsServiceRequest()).SerializeToString()


def _make_logs() -> bytes:
    names = {
        "user.id": "0" * 64,
        "session.id": "0" * 36,
        "event.name": "api_request",
        "model": "claude-sonnet-5-5",
        "prompt.id": "0" * 36,
        "duration_ms": "1234",
        "cost_usd": "0.0123",
    }
    attributes = [{"key": key, "value": {"stringValue": value}} for key, value in names.items()]
    record = {"timeUnixNano": "1", "body": {"stringValue": "claude_code.api_request"}, "attributes": attributes}
    scope = {"scope": {"name": "com.anthropic.claude_code.events"}, "logRecords": [record] * RECORDS}
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "claude-code"}}]}
    sample = {"resourceLogs": [{"resource": resource, "scopeLogs": [scope]}]}
    return ParseDict(sample, ExportLogsServiceRequest()).SerializeToString()


METRICS, LOGS = _make_metrics(), _make_logs()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    received = 0


class _Collector(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.received += self.path in ("/v1/metrics", "/v1/logs")
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None: ...


@contextmanager
def _running_collector() -> Iterator[_Server]:
    server = _Server(("127.0.0.1", 0), _Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def measure(people: int, directory: Path, *, uses_postgres: bool) -> dict[str, float]:
    """Return operation → CPU seconds of the proxy for each, and "idle" → its CPU seconds per second."""
    with ExitStack() as stack:
        database = f"sqlite:///{directory.absolute()}/ledger.sqlite3"
        if uses_postgres and (programs := find_programs()) is not None:
            database = stack.enter_context(running_postgres(programs)).url
        provider, collector = stack.enter_context(running_provider()), stack.enter_context(_running_collector())
        provider.offers_refresh = True
        port = free_port()
        provider.redirect_uri = f"http://127.0.0.1:{port}/dashboard/oidc/callback"
        settings = {name: value.format(port=port) for name, value in list_sign_in_settings(provider).items()}
        settings |= {
            "DATABASE_URL": database,
            "SERVE_DEMO": "true",
            "LOG_LEVEL": "warning",
            "ANTHROPIC_PROXY_CONFIG": str(directory),
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        }
        (directory / "anthropic-proxy.toml").write_text(TABLES)
        proxy = stack.enter_context(start_proxy(directory, port, 0, settings=settings))
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60))
        _wait(client, proxy)
        warm = Person(client, provider, people)
        for operate in OPERATIONS.values():
            operate(warm)  # loads the modules and the keys of the provider
        found = {}
        crowd = [Person(client, provider, number) for number in range(people)]
        for title, operate in OPERATIONS.items():
            time.sleep(SETTLE_SECONDS)
            before = proxy.cpu_seconds()
            for person in crowd:
                operate(person)
            time.sleep(SETTLE_SECONDS)
            found[title] = (proxy.cpu_seconds() - before) / people
        if collector.received < 2 * people:
            raise SystemExit(f"The collector received {collector.received} exports of {2 * people}.")
        before = proxy.cpu_seconds()
        time.sleep(10 * SETTLE_SECONDS)
        found["idle"] = (proxy.cpu_seconds() - before) / (10 * SETTLE_SECONDS)
        # the seconds of rest belong to no operation
        for title in OPERATIONS:
            found[title] -= found["idle"] * SETTLE_SECONDS / people
        return found


def _wait(client: httpx.Client, proxy: Process) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and proxy.alive():
        try:
            client.get("/health")
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(proxy.last_words())


def describe(found: Mapping[str, float], people: int) -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short=8", "HEAD"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout.strip()
    lines = [
        f"Measured with {people} persons, commit {commit}.",
        "",
        f"| operation | CPU, ms | per person and hour | share of one core with {people} persons |",
        "| --- | ---: | ---: | ---: |",
    ]
    total = 0.0
    for title in OPERATIONS:
        count = PER_HOUR.get(title, 0)
        share = people * count * found[title] / 3600
        total += share
        rate = str(count) if count else "once"
        lines.append(f"| {title} | {1e3 * found[title]:.2f} | {rate} | {f'{share:.2%}' if count else ''} |")
    lines.append(f"| sum | | | {total:.2%} |")
    lines.append(f"\nAn idle proxy with these persons uses {found['idle']:.2%} of one core.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=PEOPLE)
    parser.add_argument("--postgres", action="store_true", help="the ledger is in PostgreSQL instead of SQLite")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.people, Path(folder), uses_postgres=options.postgres)
    sys.stdout.write(describe(found, options.people) + "\n")


if __name__ == "__main__":
    main()
