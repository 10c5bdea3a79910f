"""Workers of another server: start-up messages are reported once, and each request is logged once."""

from pathlib import Path

import pytest

from tests.support.server_process import running_proxy
from tests.support.waiting import wait_for

COMMAND = ("-m", "uvicorn", "app.main:app", "--port", "{port}", "--workers", "3", "--timeout-worker-healthcheck", "60")


@pytest.mark.parametrize("access_log", [False, True])
def test_the_summary_comes_once_and_requests_are_logged_once(
    settings: dict[str, str], tmp_path: Path, access_log: bool
) -> None:
    command = (*COMMAND, "--access-log") if access_log else COMMAND
    with running_proxy(tmp_path, settings, command) as proxy, proxy.client() as client:
        wait_for(lambda: proxy.log.count("Application startup complete") == 3 and "ready: openai" in proxy.log)
        assert client.get("/v1/models").status_code == 200
        wait_for(lambda: proxy.log.count("GET /v1/models") > access_log)  # each of the two lines has its own writer
        assert proxy.log.count("ready: openai") == 1
        assert proxy.log.count('"GET /v1/models HTTP/1.1" 200') == int(access_log)
        assert proxy.log.count("GET /v1/models") == 1 + access_log
