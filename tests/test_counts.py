"""What the proxy learns of a model's tokens, and requests that do not fit: seen by a client that counts and sends."""

import json
from typing import Any

import pytest

from anthropic_proxy.exchange.forward import count_tokens
from anthropic_proxy.exchange.house import Inbound
from anthropic_proxy.hooks import Client
from tests.house import Answer, Town
from tests.test_attempts import KEYS, Street, frame, reply

LONG = "The quick brown fox jumps over the lazy dog. " * 600
TOO_LONG = LONG * 50


async def counted(town: Town, text: str) -> int:
    body = {"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": text}]}
    inbound = Inbound(request_id="req_test", client=Client(), headers={}, body=json.dumps(body).encode())
    return int(json.loads((await count_tokens(town.house, inbound)).body)["input_tokens"])


def answer_with_usage(tokens: int) -> Answer:
    usage = b"data: " + json.dumps({"choices": [], "usage": {"prompt_tokens": tokens, "completion_tokens": 1}}).encode()
    return Answer(200, frame({"content": "well"}), frame({}, "stop"), usage + b"\n\n", b"data: [DONE]\n\n")


async def ask_and_learn(town: Town, times: int = 1) -> list[dict[str, Any]]:
    keepers = [await town.ask(LONG, stream=True) for _ in range(times)]
    starts = [keeper.stream.split(b"data: ", 2)[1].partition(b"\n")[0] for keeper in keepers]
    return [json.loads(start)["message"]["usage"] for start in starts]


async def test_a_model_that_counts_more_than_we_do_is_estimated_higher_from_then_on() -> None:
    town = Town(Street(lambda self, body: reply(False)), **KEYS)
    before = await counted(town, LONG)
    town = Town(Street(lambda self, body: answer_with_usage(round(before * 1.3))), **KEYS)
    first, second = await ask_and_learn(town, 2)
    assert first["input_tokens"] == before
    assert second["input_tokens"] == pytest.approx(before * 1.3, rel=0.01)
    assert await counted(town, LONG) == pytest.approx(before * 1.3, rel=0.01)


async def test_one_odd_reply_moves_the_estimate_only_a_little_and_never_out_of_reason() -> None:
    before = await counted(Town(Street(lambda self, body: reply(False)), **KEYS), LONG)
    town = Town(Street(lambda self, body: answer_with_usage(before if len(self.asked) < 3 else before * 50)), **KEYS)
    await ask_and_learn(town, 3)
    assert await counted(town, LONG) == pytest.approx(before * 1.15, rel=0.01)
    await ask_and_learn(town, 30)
    assert await counted(town, LONG) == pytest.approx(before * 1.6, rel=0.01)


async def test_small_requests_teach_nothing() -> None:
    before = await counted(Town(Street(lambda self, body: reply(False)), **KEYS), LONG)
    town = Town(Street(lambda self, body: answer_with_usage(400)), **KEYS)
    await town.ask("hello", stream=True)
    assert await counted(town, LONG) == before


@pytest.mark.parametrize("stream", [True, False])
async def test_what_cannot_fit_is_refused_unsent_in_the_words_that_make_clients_compact(stream: bool) -> None:
    street = Street(lambda self, body: reply(stream))
    settings = {"OPENAI_API_KEY": KEYS["OPENAI_API_KEY"], "BIG_MODEL": "gpt-4o", "CHECK_WINDOW": "true"}
    keeper = await Town(street, **settings).ask(TOO_LONG, stream=stream)
    assert keeper.error is not None
    assert (keeper.error.status, keeper.error.kind) == (400, "invalid_request_error")
    assert keeper.error.message.startswith("prompt is too long: ")
    assert keeper.error.message.endswith(" tokens > 128000 maximum")
    assert street.asked == []
    assert (await Town(street, **settings).ask(LONG, stream=stream)).error is None
    assert (await Town(street, **settings | {"CHECK_WINDOW": "false"}).ask(TOO_LONG, stream=stream)).error is None


async def test_what_does_not_fit_one_model_goes_to_the_next_that_it_fits() -> None:
    street = Street(lambda self, body: reply(False))
    settings = {"BIG_MODEL": "gpt-4o", "CHECK_WINDOW": "true", "FALLBACK_SONNET": "openai/gpt-4.1"}
    town = Town(street, **KEYS, **settings)
    assert (await town.ask(TOO_LONG)).error is None
    assert town.receipts[0].model == "gpt-4.1"
