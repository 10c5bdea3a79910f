"""The official TypeScript SDK: each case is a small program in `typescript/` that prints the received values."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.npm import install
from tests.support.fakes.server import Exchange, Running
from tests.support.server_process import Proxy
from tests.support.waiting import wait_for
from tests.support.wires import KINDS, Upstream, standing

VERSION, ZOD = "1.10.0", "zod@4.6.7"
CASES = Path(__file__).parent / "typescript"
TIMEOUT_SECONDS = 120


@pytest.fixture(scope="session")
def sdk() -> Path:
    return install("@anthropic-ai/sdk", VERSION, ZOD) / "@anthropic-ai" / "sdk"


@pytest.fixture(scope="module", params=KINDS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with standing(request.param, tmp_path_factory.mktemp(request.param)) as upstream:
        yield upstream
        assert "Traceback" not in upstream.proxy.log


@pytest.fixture
def wire(shared: Upstream) -> Iterator[Upstream]:
    """Yield the upstream as one test sees it; every request that it causes is one that the real provider takes."""
    seen = Upstream(shared.kind, shared.running, shared.proxy)
    yield seen
    assert seen.breaches() == []


def run_case(name: str, sdk: Path, proxy: Proxy, **more: str) -> dict[str, Any]:
    done = subprocess.run(
        ["node", str(CASES / f"{name}.mjs")],
        env={"PATH": os.environ["PATH"], "SDK": str(sdk), "BASE_URL": proxy.url} | more,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def test_create(sdk: Path, wire: Upstream) -> None:
    seen = run_case("create", sdk, wire.proxy)
    assert (seen["text"], seen["model"], seen["stop"]) == ("good day ☀", "claude-sonnet-5-5", "end_turn")
    assert seen["id"].startswith("msg_")
    assert seen["request"].startswith("req_")
    assert seen["usage"]["output_tokens"] > 0


def test_stream(sdk: Path, wire: Upstream) -> None:
    seen = run_case("stream", sdk, wire.proxy)
    assert seen["joined"] == seen["text"] == " ".join(str(number) for number in range(1, 41))
    assert seen["pieces"] > 3
    assert seen["stop"] == "end_turn"
    kinds = [kind for kind in seen["kinds"] if kind != "ping"]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_events_of_the_helper(sdk: Path, wire: Upstream) -> None:
    answer = run_case("events", sdk, wire.proxy)
    seen, blocks = answer["seen"], answer["blocks"]
    assert [seen[name] for name in ("connect", "message", "finalMessage", "end")] == [1, 1, 1, 1]
    assert seen["contentBlock"] == len(blocks)
    assert blocks[-2:] == ["tool_use", "tool_use"]
    assert answer["inputs"] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert seen["inputJson"] >= 2
    assert ("thinking" in blocks) == bool(wire.kind.thoughts)


def test_tools(sdk: Path, wire: Upstream) -> None:
    seen = run_case("tools", sdk, wire.proxy)
    assert seen["stop"] == "tool_use"
    assert seen["inputs"] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert seen["text"] == "Oslo: snow; Rome: sun"


def test_the_tool_runner(sdk: Path, wire: Upstream) -> None:
    """It asks for a conversation that the server keeps, and resends all of it when the answer is that none is kept."""
    seen = run_case("runner", sdk, wire.proxy)
    assert seen["sums"] == [[3, 4], [7, 5]] * 2
    assert seen["texts"] == ["The sum is 12."] * 2
    assert len(wire.exchanges) == 6


def test_answers_and_tools_in_the_shape_of_a_type(sdk: Path, wire: Upstream) -> None:
    seen = run_case("shapes", sdk, wire.proxy)
    assert seen["whole"] == seen["streamed"]
    assert set(seen["whole"]) == {"name", "inhabitants", "rivers"}
    assert (seen["steps"], seen["sum"]) == (["tool_use", "tool_use", "end_turn"], "The sum is 12.")


def test_raw_responses_time_limits_and_retries(sdk: Path, wire: Upstream) -> None:
    seen = run_case("raw", sdk, wire.proxy, PIECES=str(wire.kind.first_block))
    assert (seen["text"], seen["slow"]) == ("1 2 3 4 5", "timed out")
    assert seen["again"].startswith("1 2 3 4 5")
    assert seen["request"] == seen["header"]
    assert seen["request"].startswith("req_")
    left = [exchange for exchange in wire.exchanges if "[fault:stall" in json.dumps(exchange.body)]
    assert_left(left[0])


def test_errors_become_their_classes(sdk: Path, proxy: Proxy) -> None:
    expected = {
        "unauthorized": ("AuthenticationError", 401, "authentication_error"),
        "forbidden": ("PermissionDeniedError", 403, "permission_error"),
        "missing": ("BadRequestError", 400, "invalid_request_error"),  # the model is a setting's, not the client's
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


def test_counting_and_listing(sdk: Path, wire: Upstream) -> None:
    seen = run_case("listing", sdk, wire.proxy)
    assert seen["counted"] > 5
    assert seen["paged"] == seen["whole"]
    assert seen["one"] == seen["whole"][-1]
    assert wire.exchanges == []


def test_a_client_that_aborts_ends_the_call_to_the_provider(sdk: Path, proxy: Proxy, openai: Running) -> None:
    assert run_case("abort", sdk, proxy) == {"kind": "aborted"}
    assert_left(openai.journal.exchanges[0])


def assert_left(exchange: Exchange) -> None:
    """Hold that the provider's own caller has gone."""
    assert wait_for(lambda: exchange.outcome, lambda outcome: outcome != "open") == "cancelled"
