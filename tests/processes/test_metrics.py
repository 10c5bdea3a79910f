"""`GET /metrics` of a running server: its permitted readers, its content, and that it holds over all workers."""

from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.support.fakes.server import Running
from tests.support.platform_marks import HIDDEN_POSIX
from tests.support.process_checks import MESSAGES, METRICS, ask, error_of, total
from tests.support.server_process import running_proxy


def test_a_server_counts_what_it_serves(openai: Running, settings: dict[str, str], tmp_path: Path) -> None:
    with running_proxy(tmp_path, settings) as proxy:
        client = proxy.client()
        for stream in (False, True, True):
            assert client.post(MESSAGES, json=ask("Say exactly: counted", stream=stream)).status_code == 200
        assert client.post(MESSAGES, json={"model": "claude-haiku-4-5"}).status_code == 400
        client.get("/v1/models")
        page = client.get(METRICS)
        assert page.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert total(page, "anthropic_proxy_requests_total") == 4
        assert total(page, "anthropic_proxy_requests_total", stream="true", status="200", outcome="end_turn") == 2
        assert total(page, "anthropic_proxy_requests_total", provider="none", status="400") == 1
        assert total(page, "anthropic_proxy_tokens_total", kind="output", provider="openai") > 0
        assert total(page, "anthropic_proxy_time_to_first_token_seconds_count") == 3
        assert total(page, "anthropic_proxy_request_duration_seconds_bucket", le="+Inf") == 4
        assert total(page, "anthropic_proxy_requests_in_flight") == 0
        assert total(page, "anthropic_proxy_workers") == 1
        if not HIDDEN_POSIX:
            assert total(page, "process_resident_memory_bytes") > 2**20
            assert total(page, "process_open_fds") > 3
        asked = {"accept": "application/openmetrics-text; version=1.0.0,text/plain;version=0.0.4;q=0.3"}
        other = client.get(METRICS, headers=asked)
        assert other.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert len(list(read_openmetrics(other.text))) == len(list(text_string_to_metric_families(page.text)))


def test_who_may_ask_may_read_it(settings: dict[str, str], tmp_path: Path) -> None:
    own = "own-0123456789abcdef"
    with running_proxy(tmp_path, {**settings, "PROXY_API_KEY": own}) as proxy:
        client = proxy.client()
        assert error_of(client.get(METRICS))[:2] == (401, "authentication_error")
        assert client.get(METRICS, headers={"authorization": f"Bearer {own}"}).status_code == 200
        client.headers["x-api-key"] = own
        head = client.head(METRICS)
        assert (head.status_code, head.content) == (200, b"")
        refused = client.post(METRICS, json={})
        assert error_of(refused)[:2] == (405, "invalid_request_error")
        assert refused.headers["allow"] == "GET, HEAD"


def test_a_monitor_key_reads_metrics_and_the_ledger_only(settings: dict[str, str], tmp_path: Path) -> None:
    own, monitor = "own-0123456789abcdef", "monitor-0123456789abcdef"
    database = {"DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}"}
    with running_proxy(tmp_path, {**settings, **database, "PROXY_API_KEY": own, "MONITOR_API_KEY": monitor}) as proxy:
        client = proxy.client()
        client.headers["x-api-key"] = monitor
        for path in (METRICS, "/api/openapi.json", "/api/requests/recent"):
            assert client.get(path).status_code == 200, path
        refused = [client.post(MESSAGES, json=ask("Hello")), client.get("/v1/models"), client.get("/admin/keys")]
        refused += [client.get("/dashboard"), client.post("/dashboard/login", data={"key": monitor})]
        for answer in refused:
            assert error_of(answer) == (
                403,
                "permission_error",
                "A key of MONITOR_API_KEY reads /metrics and /api/ with GET, nothing else.",
            )
        del client.headers["x-api-key"]
        signed_in = client.post("/dashboard/login", data={"key": monitor})
        assert "set-cookie" not in signed_in.headers
        proxy.stop()
        assert monitor not in proxy.log


def test_a_scrape_is_logged_at_debug_level_only(settings: dict[str, str], tmp_path: Path) -> None:
    for level, lines in (("info", 0), ("debug", 1)):
        with running_proxy(tmp_path, {**settings, "LOG_LEVEL": level}) as proxy:
            assert proxy.client().get(METRICS).status_code == 200
            proxy.stop()
            assert proxy.log.count(f"GET {METRICS} 200") == lines
