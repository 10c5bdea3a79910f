"""Each query of deploy/, run by a real Prometheus that scrapes a real server with traffic of each kind."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.support.fakes.openai_chat.server import KEY, new_openai
from tests.support.fakes.server import serving
from tests.support.paths import ROOT
from tests.support.process_checks import MESSAGES, ask
from tests.support.promql import ALERTS, alert_queries, dashboard_queries
from tests.support.redis import find_redis, running_redis
from tests.support.server_process import Proxy, hold_port, running_proxy
from tests.support.waiting import WAIT_SECONDS, wait_for

BINARIES = Path(os.environ.get("PROMETHEUS_BINARIES", "/usr/bin"))
"""Folder of `prometheus` and `promtool`. `python3 scripts/ci.py prometheus` sets it."""
WITHOUT_SAMPLES = {
    *("budget_used_ratio", "conditions", "inspections_total", "plain_forms_total", "telemetry_dropped_total"),
    *("telemetry_requests_total", "tool_call_checks_total"),
}
"""Metrics without samples in a server without problems, budgets, auto mode, inspectors, telemetry and refused parts."""
OF_REDIS = {"redis_up", "redis_pending_settlements"}
"""Metrics without samples if there is no Redis. `python3 scripts/ci.py prometheus` installs it where it can."""
CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: ["{alerts}"]
scrape_configs:
  - job_name: anthropic-proxy
    static_configs: [{{targets: ["{target}"]}}]
"""

METRIC = re.compile(r"\banthropic_proxy_(\w+)")

Query = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with serving(new_openai()) as openai, ExitStack() as stack:
        settings = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{openai.url}/v1", "PREFERRED_PROVIDER": "openai"}
        folder = tmp_path_factory.mktemp("proxy")
        settings["DATABASE_URL"] = f"sqlite:///{folder}/ledger.sqlite3"
        if find_redis() is not None:
            settings["REDIS_URL"] = stack.enter_context(running_redis()).url
        with running_proxy(folder, settings) as running:
            yield running


@pytest.fixture(scope="module")
def api(proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Return a client of a Prometheus that has scraped the server several times during traffic."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = CONFIG.format(alerts=ALERTS, target=proxy.url.removeprefix("http://"))
    (folder / "prometheus.yml").write_text(config)
    with hold_port() as port, (folder / "log").open("wb") as log:
        words = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        address = f"127.0.0.1:{port}"
        process = subprocess.Popen(
            [BINARIES / "prometheus", *words, f"--web.listen-address={address}"],
            cwd=folder,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
        try:
            with httpx.Client(base_url=f"http://{address}/api/v1", timeout=WAIT_SECONDS, trust_env=False) as client:
                scrape_with_traffic(client, proxy)
                yield client
        finally:
            process.terminate()
            try:
                process.wait(timeout=WAIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=WAIT_SECONDS)


def scrape_with_traffic(client: httpx.Client, proxy: Proxy) -> None:
    """Send requests of each kind until Prometheus has five scrapes."""
    sender = proxy.client()

    def send_until_scraped() -> bool:
        for text in ("Say exactly: hello", "Hi [fault:server]", f"Hi {time.time_ns()} [fault:overloaded times=1]"):
            for stream in (False, True):
                sender.post(MESSAGES, json=ask(text, stream=stream, top_k=40))
        session = {"user_id": json.dumps({"session_id": "s"})}
        sender.post(MESSAGES, json=ask("A long text. " * 1000, system=f"It is {time.time_ns()}.", metadata=session))
        sender.get("/nowhere")
        try:
            return values(client, "count_over_time(anthropic_proxy_rejected_requests_total[1m]) >= 5") != []
        except httpx.TransportError:
            return False

    wait_for(send_until_scraped)


def values(client: httpx.Client, query: str) -> list[dict[str, Any]]:
    """Return the result of a query now."""
    answer = client.get("/query", params={"query": query}).json()
    assert answer["status"] == "success", f"{query}: {answer}"
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def test_each_query_of_the_dashboard_returns_data(api: httpx.Client) -> None:
    queries = [*dashboard_queries()]
    assert len(queries) > 30
    unused = WITHOUT_SAMPLES if find_redis() is not None else WITHOUT_SAMPLES | OF_REDIS
    empty = [query for _, query in queries if not values(api, query)]
    assert empty == [query for _, query in queries if unused & {*METRIC.findall(query)}]
    now = time.time()
    for _, query in queries:
        window = {"query": query, "start": now - 30, "end": now, "step": 5}
        assert api.get("/query_range", params=window).json()["status"] == "success"


def test_the_error_ratio_and_the_tokens_are_those_of_the_server(api: httpx.Client, proxy: Proxy) -> None:
    queries = dict(dashboard_queries())
    (ratio,) = values(api, queries["Error ratio"])
    assert 0 < float(ratio["value"][1]) < 1
    kinds = {row["metric"]["kind"] for row in values(api, queries["Tokens by kind"])}
    assert kinds == {"input", "output", "cache_read", "cache_write"}


def test_each_alert_rule_is_loaded_and_evaluated(api: httpx.Client) -> None:
    def rules() -> list[dict[str, Any]]:
        groups = api.get("/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    wait_for(rules, lambda found: all(rule["health"] == "ok" for rule in found))
    assert len(rules()) == len(alert_queries())


def test_each_alert_fires_for_its_cause() -> None:
    words = [BINARIES / "promtool", "test", "rules", ROOT / "tests/prometheus/alerts_test.yml"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("words", [("config", "prometheus.yml"), ("rules", "alerts.yml")])
def test_the_example_files_are_valid(words: tuple[str, str]) -> None:
    kind, name = words
    command = [BINARIES / "promtool", "check", kind, ROOT / "deploy/prometheus" / name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
