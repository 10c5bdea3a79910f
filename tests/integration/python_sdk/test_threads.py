"""Conversations that a server would keep: none is kept here, and the SDK gets an error on which it resends."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2 as httpx
import pytest
from anthropic import beta_tool

from tests.support.sdk import MODEL, Upstream, open_sdk, text_of, user_messages
from tests.support.server_process import Proxy
from tests.support.wires import Upstream as WireUpstream


@beta_tool
def add(a: int, b: int) -> str:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return str(a + b)


class Wire:
    """Bodies that the SDK posted, and the status of each answer."""

    def __init__(self) -> None:
        self.posted: list[dict[str, Any]] = []
        self.answered: list[int] = []

    def keep_request(self, request: httpx.Request) -> None:
        self.posted.append(json.loads(request.content))

    def keep_answer(self, response: httpx.Response) -> None:
        self.answered.append(response.status_code)


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def client(proxy: Proxy, wire: Wire) -> Iterator[anthropic.Anthropic]:
    hooks: Any = {"request": [wire.keep_request], "response": [wire.keep_answer]}
    http = anthropic.DefaultHttpxClient(event_hooks=hooks)
    with anthropic.Anthropic(base_url=proxy.url, api_key="x", max_retries=0, http_client=http) as client:
        yield client


@pytest.mark.parametrize("stream", [False, True])
def test_the_tool_runner_resends_the_whole_history(
    client: anthropic.Anthropic, wire: Wire, upstream: Upstream, stream: bool
) -> None:
    runner: Any = client.beta.messages.tool_runner(
        model=MODEL, max_tokens=200, tools=[add], messages=user_messages("Add 3, 4 and 5"), stream=stream
    )
    assert text_of(runner.until_done()) == "The sum is 12."
    assert wire.answered == [400, 200, 200, 200]
    assert ["thread" in body for body in wire.posted] == [True, False, False, False]
    assert [len(body["messages"]) for body in wire.posted] == [1, 1, 3, 5]
    assert [len(exchange.body["messages"]) for exchange in upstream.exchanges] == [1, 3, 5]


@pytest.mark.parametrize("stream", [False, True])
def test_the_tool_runner_resends_and_compacts_the_whole_history_at_another_server_with_the_messages_api(
    other_server: WireUpstream, stream: bool
) -> None:
    with open_sdk(base_url=other_server.proxy.url, api_key="the-clients-own", max_retries=0) as client:
        runner: Any = client.beta.messages.tool_runner(
            model=MODEL,
            max_tokens=2_000,
            tools=[add],
            messages=user_messages("Add 3, 4 and 5"),
            stream=stream,
            betas=["compact-2026-09-04"],
        )
        reasons = []
        for reply in runner:
            message = reply.get_final_message() if stream else reply
            reasons.append(message.stop_reason)
            if len(reasons) == 1:
                runner.compact_before_next_turn()
    assert reasons[:2] == ["tool_use", "compaction"]
    assert not any("thread" in body or "compaction" in body for body in other_server.bodies)
    assert [len(conversation.turns) for conversation in other_server.conversations][:2] == [1, 3]


def test_a_thread_goes_on_without_the_server(client: anthropic.Anthropic, wire: Wire) -> None:
    thread = client.beta.messages.thread(
        model=MODEL, max_tokens=200, unsupported_request_behavior="continue_unthreaded"
    )
    thread.send(*user_messages("I keep bees"))
    reply = thread.send(*user_messages("What did I say first"))
    assert text_of(reply) == "You began with: I keep bees"
    assert [len(body["messages"]) for body in wire.posted] == [1, 1, 3]


def test_a_thread_that_must_be_kept_is_refused_in_its_own_words(
    client: anthropic.Anthropic, upstream: Upstream
) -> None:
    thread = client.beta.messages.thread(model=MODEL, max_tokens=200)
    with pytest.raises(anthropic.BadRequestError) as caught:
        thread.send(*user_messages("I keep bees"))
    message = "thread: this proxy stores no conversations; send the complete history in messages"
    assert caught.value.body["error"]["message"] == message  # type: ignore[index]
    assert type(caught.value).__name__ == "ThreadUnsupportedRequestError"
    assert caught.value.body["error"]["details"]["error_code"] == "thread_unsupported_request"  # type: ignore[index]
    assert upstream.exchanges == []
