"""The log of a real process: it blocks no request, and its texts are those of the screens."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.support.process_checks import MESSAGES, ask
from tests.support.server_process import environment_of, hold_port, running_proxy
from tests.support.tls import NO_AUTHORITIES
from tests.support.waiting import WAIT_SECONDS, wait_for

UNHEARD = 1_500
"""Number of requests with more lines than a pipe holds (64 KB)."""


def test_a_log_that_nobody_reads_stops_no_request(settings: dict[str, str], tmp_path: Path) -> None:
    own = environment_of(tmp_path)
    with hold_port() as port:
        process = subprocess.Popen(
            [sys.executable, "-m", "anthropic_proxy", "--port", str(port)],
            cwd=tmp_path,
            env={**own, **settings},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        with (
            process,
            httpx.Client(
                base_url=f"http://127.0.0.1:{port}", timeout=WAIT_SECONDS, trust_env=False, verify=NO_AUTHORITIES
            ) as client,
        ):
            try:
                wait_for(lambda: _answers(client))
                assert {client.get("/nowhere").status_code for _ in range(UNHEARD)} == {404}
                assert client.post(MESSAGES, json=ask("Say exactly: unheard")).status_code == 200
            finally:
                process.terminate()
            assert process.wait(WAIT_SECONDS) == 0


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(("database", "why"), [("off", ""), ("sqlite:///ledger.sqlite3", " Why:  .* explain req_\\w+")])
def test_omitted_fields_are_logged_once_a_run(
    settings: dict[str, str], tmp_path: Path, database: str, why: str
) -> None:
    with running_proxy(tmp_path, {**settings, "DATABASE_URL": database}) as other:
        client = other.client()
        for _ in range(3):
            client.post(MESSAGES, json=ask("Say exactly: x", top_k=40))
        wait_for(lambda: other.log.count("POST /v1/messages 200") == 3)
        assert len(re.findall(rf"Left out for openai/gpt-4\.1: top_k\.{why}\n", other.log)) == 1


def test_a_level_and_colours_are_chosen_by_settings(settings: dict[str, str], tmp_path: Path) -> None:
    with running_proxy(tmp_path, {**settings, "LOG_LEVEL": "warning", "FORCE_COLOR": "1"}) as other:
        client = other.client()
        client.post(MESSAGES, json=ask("Say exactly: x"))
        client.get("/nowhere")
        wait_for(lambda: "/nowhere" in other.log)
        (line,) = other.log.splitlines()
        assert "\x1b[33m404\x1b[0m" in line


def test_json_is_an_object_a_line_from_the_first_to_the_last(settings: dict[str, str], tmp_path: Path) -> None:
    keys = "sk-first-0123456789aaaa, sk-second-0123456789bbbb"
    with running_proxy(tmp_path, {**settings, "LOG_FORMAT": "json", "GROQ_API_KEY": keys}) as other:
        other.client().get("/v1/models")
        wait_for(lambda: "/v1/models" in other.log)
        lines = [json.loads(line) for line in other.log.splitlines()]
        assert all(line["level"] == "info" for line in lines)
        assert not [line for line in lines if "\n" in line.get("message", "")]
        assert all(datetime.fromisoformat(line["time"]).tzinfo is UTC for line in lines)
        (start,) = [line for line in lines if line.get("event") == "start"]
        assert start["address"] == other.url
        assert start["mapping"][0]["tier"] == "haiku"
        assert any("…aaaa" in text and "…bbbb" in text for text in start["ready"])
