"""The official TypeScript SDK: each case is a small program in `typescript/` that prints what it saw."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.npm import install
from tests.fakes.skeleton import Running
from tests.process import Proxy

VERSION = "1.10.0"
CASES = Path(__file__).parent / "typescript"
TIMEOUT_SECONDS = 120


@pytest.fixture(scope="session")
def sdk() -> Path:
    return install("@anthropic-ai/sdk", VERSION) / "@anthropic-ai" / "sdk"


def run_case(name: str, sdk: Path, proxy: Proxy) -> dict[str, Any]:
    done = subprocess.run(
        ["node", str(CASES / f"{name}.mjs")],
        env={"PATH": os.environ["PATH"], "SDK": str(sdk), "BASE_URL": proxy.url},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def test_create(sdk: Path, proxy: Proxy) -> None:
    seen = run_case("create", sdk, proxy)
    assert (seen["text"], seen["model"], seen["stop"]) == ("good day ☀", "claude-sonnet-5-5", "end_turn")
    assert seen["id"].startswith("msg_")
    assert seen["request"].startswith("req_")
    assert seen["usage"]["output_tokens"] > 0


def test_stream(sdk: Path, proxy: Proxy) -> None:
    seen = run_case("stream", sdk, proxy)
    assert seen["joined"] == seen["text"] == " ".join(str(number) for number in range(1, 41))
    assert seen["pieces"] > 20
    assert seen["stop"] == "end_turn"
    kinds = [kind for kind in seen["kinds"] if kind != "ping"]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_tools(sdk: Path, proxy: Proxy) -> None:
    seen = run_case("tools", sdk, proxy)
    assert seen["stop"] == "tool_use"
    assert seen["inputs"] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert seen["text"] == "Oslo: snow; Rome: sun"


def test_the_tool_runner(sdk: Path, proxy: Proxy) -> None:
    seen = run_case("runner", sdk, proxy)
    assert seen["sums"] == [[3, 4], [7, 5]] * 2
    assert seen["texts"] == ["The sum is 12."] * 2


def test_errors_become_their_classes(sdk: Path, proxy: Proxy) -> None:
    expected = {
        "unauthorized": ("AuthenticationError", 401, "authentication_error"),
        "forbidden": ("PermissionDeniedError", 403, "permission_error"),
        "missing": ("NotFoundError", 404, "not_found_error"),
        "rate after=30": ("RateLimitError", 429, "rate_limit_error"),
        "server": ("InternalServerError", 500, "api_error"),
        "overloaded": ("OverloadedError", 529, "overloaded_error"),
        "overflow": ("BadRequestError", 400, "invalid_request_error"),
    }
    answer = run_case("errors", sdk, proxy)
    seen = answer["seen"]
    for fault, (kind, status, name) in expected.items():
        for stream in ("false", "true"):
            error = seen[f"{fault} {stream}"]
            assert (error["kind"], error["status"], error["type"]) == (kind, status, name)
            assert error["request"].startswith("req_")
    assert seen["no max_tokens"]["kind"] == "BadRequestError"
    assert seen["cut"]["type"] == "api_error"
    assert answer["came"] == "1 2 3 4"


def test_counting_and_listing(sdk: Path, proxy: Proxy) -> None:
    seen = run_case("listing", sdk, proxy)
    assert seen["counted"] > 5
    assert seen["paged"] == seen["whole"]
    assert seen["one"] == "claude-openai/gpt-4.1"


def test_a_client_that_aborts_ends_the_call_to_the_provider(sdk: Path, proxy: Proxy, openai: Running) -> None:
    assert run_case("abort", sdk, proxy) == {"kind": "aborted"}
    deadline = time.monotonic() + 20
    while openai.journal.exchanges[0].outcome == "open" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert openai.journal.exchanges[0].outcome == "cancelled"
