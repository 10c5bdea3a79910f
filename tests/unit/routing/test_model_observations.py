"""Token counts that the proxy learns for a model, and requests that exceed its window, as a client sees them."""

import json
import re
from base64 import b64encode
from typing import Any

import pytest

from anthropic_proxy.engine.exchange.forwarding import count_tokens
from anthropic_proxy.engine.messages.loaded_tools import DeferredToolPlaces
from anthropic_proxy.engine.messages.models import decode_request
from anthropic_proxy.engine.messages.preparation import prepare
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.providers.model_observations import MAX_SIGNATURES, ModelObservations
from anthropic_proxy.engine.routing.model_listing import list_models
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.stores.memory import MemoryStore
from tests.support.decoding import new_limits
from tests.support.fake_upstream import KEYS, FakeUpstream, error, frame, reply
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.messages import exactly

LONG = "The quick brown fox jumps over the lazy dog. " * 600
TOO_LONG = LONG * 50


async def counted(proxy: ProxyHarness, text: str) -> int:
    body = {"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": text}]}
    inbound = new_client_request(json.dumps(body).encode())
    return int(
        json.loads((await count_tokens(proxy.services, inbound, RecordingSink().wait_disconnected)).body)[
            "input_tokens"
        ]
    )


def answer_with_usage(tokens: int) -> FakeResponse:
    usage = b"data: " + json.dumps({"choices": [], "usage": {"prompt_tokens": tokens, "completion_tokens": 1}}).encode()
    return FakeResponse(200, frame({"content": "well"}), frame({}, "stop"), usage + b"\n\n", b"data: [DONE]\n\n")


async def ask_and_learn(proxy: ProxyHarness, times: int = 1) -> list[dict[str, Any]]:
    keepers = [await proxy.post(LONG, stream=True) for _ in range(times)]
    starts = [sink.stream.split(b"data: ", 2)[1].partition(b"\n")[0] for sink in keepers]
    return [json.loads(start)["message"]["usage"] for start in starts]


async def test_a_model_that_counts_more_than_we_do_is_estimated_higher_from_then_on() -> None:
    proxy = ProxyHarness(FakeUpstream(lambda self, body: reply(False)), **KEYS)
    before = await counted(proxy, LONG)
    proxy = ProxyHarness(FakeUpstream(lambda self, body: answer_with_usage(round(before * 1.3))), **KEYS)
    first, second = await ask_and_learn(proxy, 2)
    assert first["input_tokens"] == before
    assert second["input_tokens"] == pytest.approx(before * 1.3, rel=0.01)
    assert await counted(proxy, LONG) == pytest.approx(before * 1.3, rel=0.01)


async def test_one_odd_reply_moves_the_estimate_only_a_little_and_never_out_of_reason() -> None:
    before = await counted(ProxyHarness(FakeUpstream(lambda self, body: reply(False)), **KEYS), LONG)
    proxy = ProxyHarness(
        FakeUpstream(lambda self, body: answer_with_usage(before if len(self.requests) < 3 else before * 50)), **KEYS
    )
    await ask_and_learn(proxy, 3)
    assert await counted(proxy, LONG) == pytest.approx(before * 1.15, rel=0.01)
    await ask_and_learn(proxy, 30)
    assert await counted(proxy, LONG) == pytest.approx(before * 1.6, rel=0.01)


PICTURES = [{"type": "image", "source": {"type": "url", "url": "https://x.test"}}] * 40
BASE64 = b64encode(bytes(place * place % 251 for place in range(15_000))).decode()


@pytest.mark.parametrize(
    ("content", "is_learned"),
    [
        (LONG, True),
        (LONG + BASE64[:10_000], True),
        ("数据是一切的基础。" * 1_000, True),
        ("Die Vertragsparteien haben alle Bestimmungen des Datenschutzes einzuhalten. " * 200, True),
        ("Пусть всегда будет солнце. " * 400, True),
        (BASE64, False),
        (BASE64.encode().hex(), False),
        ([*PICTURES, {"type": "text", "text": LONG}], False),
        ([*PICTURES[:1], {"type": "text", "text": LONG * 2}], True),
    ],
)
async def test_only_requests_of_usual_text_correct_the_estimates_of_others(content: Any, is_learned: bool) -> None:
    proxy = ProxyHarness(FakeUpstream(lambda self, body: answer_with_usage(10**6)), **KEYS)
    before = await counted(proxy, LONG)
    for _ in range(8):
        assert (await proxy.post(messages=[{"role": "user", "content": content}], stream=True)).error is None
    assert (await counted(proxy, LONG) > before) == is_learned


@pytest.mark.parametrize("text", ["text", "", "nan", "1e400", "-1", "[" * 100_000])
async def test_a_damaged_observation_in_the_store_counts_as_missing(text: str) -> None:
    store = MemoryStore()
    observations = ModelObservations(store)
    await store.put("scale:key_a: openai/m", text, 60.0)
    assert observations.find_token_scale("openai", "m", "key_a").factor == 1.0
    observations.record_token_count("openai", "m", "key_a", 100_000, 110_000)
    assert observations.find_token_scale("openai", "m", "key_a").factor == 1.1


async def test_small_requests_teach_nothing() -> None:
    before = await counted(ProxyHarness(FakeUpstream(lambda self, body: reply(False)), **KEYS), LONG)
    proxy = ProxyHarness(FakeUpstream(lambda self, body: answer_with_usage(400)), **KEYS)
    await proxy.post("hello", stream=True)
    assert await counted(proxy, LONG) == before


@pytest.mark.parametrize("stream", [True, False])
async def test_what_cannot_fit_is_refused_unsent_in_the_words_that_make_clients_compact(stream: bool) -> None:
    upstream = FakeUpstream(lambda self, body: reply(stream))
    settings = {"OPENAI_API_KEY": KEYS["OPENAI_API_KEY"], "BIG_MODEL": "gpt-4o", "CHECK_WINDOW": "true"}
    sink = await ProxyHarness(upstream, **settings).post(TOO_LONG, stream=stream)
    assert (sink.error.status, sink.error.error_type) == (400, "invalid_request_error")
    assert sink.error.message.startswith("prompt is too long: ")
    assert sink.error.message.endswith(" tokens > 128000 maximum")
    assert upstream.requests == []
    assert (await ProxyHarness(upstream, **settings).post(LONG, stream=stream)).error is None
    assert (
        await ProxyHarness(upstream, **settings | {"CHECK_WINDOW": "false"}).post(TOO_LONG, stream=stream)
    ).error is None


async def test_what_does_not_fit_one_model_goes_to_the_next_that_it_fits() -> None:
    upstream = FakeUpstream(lambda self, body: reply(False))
    settings = {"BIG_MODEL": "gpt-4o", "CHECK_WINDOW": "true", "FALLBACK_SONNET": "openai/gpt-4.1"}
    proxy = ProxyHarness(upstream, **KEYS, **settings)
    assert (await proxy.post(TOO_LONG)).error is None
    assert proxy.receipts[0].model == "gpt-4.1"


async def test_a_model_that_is_too_small_does_not_replace_a_failed_one() -> None:
    """Its refusal would let the client shorten a conversation that it only has to repeat."""
    called = []

    def answer(_: FakeUpstream, body: dict[str, Any]) -> FakeResponse:
        called.append(body["model"])
        return error(503, "the server is on fire")

    proxy = ProxyHarness(FakeUpstream(answer), **KEYS, BIG_MODEL="gpt-4.1", FALLBACK_SONNET="openai/gpt-4o")
    sink = await proxy.post(TOO_LONG)
    assert (sink.error.status, sink.error.message) == (503, "openai: the server is on fire")
    assert {*called} == {"gpt-4.1"}
    await proxy.post()
    assert called[-1] == "gpt-4o"


@pytest.mark.parametrize(
    ("counted_input", "limits", "message"),
    [
        (120_000, [1_024], ""),
        (127_500, [1_024, 436], ""),
        (129_000, [1_024], "prompt is too long: 129000 tokens > 128000 maximum"),
    ],
)
async def test_an_estimate_that_is_too_high_leaves_room_for_a_reply(
    counted_input: int, limits: list[int], message: str
) -> None:
    sent = []

    def answer(_: FakeUpstream, body: dict[str, Any]) -> FakeResponse:
        sent.append(body["max_completion_tokens"])
        asked = counted_input + sent[-1]
        if asked <= 128_000:
            return reply(False)
        return error(
            400,
            f"This model's maximum context length is 128000 tokens. However, you requested {asked} tokens "
            f"({counted_input} in the messages, {sent[-1]} in the completion).",
        )

    settings = {"OPENAI_API_KEY": KEYS["OPENAI_API_KEY"], "BIG_MODEL": "gpt-4o", "OPENAI_WIRE": "chat"}
    proxy = ProxyHarness(FakeUpstream(answer), **settings)
    text = LONG[:45] * round(127_990 / await counted(proxy, LONG) * 600)
    assert await counted(proxy, text) > 127_936  # nothing is left
    sink = await proxy.post(text, max_tokens=8_000)
    assert sent == limits
    assert (sink.error.message if sink.error else "") == message


def found_by_the_proxy(tools: int) -> list[dict[str, Any]]:
    long: dict[str, Any] = {"description": LONG, "input_schema": {"type": "object"}, "defer_loading": True}
    return [
        {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
        *({"name": f"tool_{place}", **long} for place in range(tools)),
    ]


@pytest.mark.parametrize("checked", ["true", "false"])
async def test_tools_that_are_not_sent_do_not_count(checked: str) -> None:
    limits = []

    def answer(_: FakeUpstream, body: dict[str, Any]) -> FakeResponse:
        limits.append(body["max_completion_tokens"])
        return reply(True)

    upstream = FakeUpstream(answer)
    settings = {"OPENAI_API_KEY": KEYS["OPENAI_API_KEY"], "BIG_MODEL": "gpt-4o", "CHECK_WINDOW": checked}
    sink = await ProxyHarness(upstream, **settings).post(stream=True, max_tokens=4_000, tools=found_by_the_proxy(40))
    assert sink.error is None
    assert limits == [4_000]
    start = json.loads(sink.stream.split(b"data: ", 2)[1].partition(b"\n")[0])
    assert start["message"]["usage"]["input_tokens"] < 400


LIMITS = [("gpt-5.1", 272_000), ("gpt-6-sol", 922_000), ("gpt-4.1", 1_047_576)]


@pytest.mark.parametrize(("model", "max_input"), LIMITS)
async def test_input_over_the_limit_of_a_model_is_refused_although_its_window_is_larger(
    model: str, max_input: int
) -> None:
    """A window of 400 000 can limit input to 272 000 tokens: the remainder is reserved for the reply."""
    upstream = FakeUpstream(lambda self, body: reply(True))
    proxy = ProxyHarness(
        upstream, OPENAI_API_KEY=KEYS["OPENAI_API_KEY"], BIG_MODEL=model, CHECK_WINDOW="true", OPENAI_WIRE="chat"
    )
    each = await counted(proxy, LONG) / len(LONG) * 1.03
    fitting, beyond = (LONG[:45] * round(max_input * share / each / 45) for share in (0.95, 1.05))
    assert (await proxy.post(fitting, stream=True, max_tokens=9)).error is None
    refused = await proxy.post(beyond, stream=True, max_tokens=9)
    assert re.fullmatch(rf"prompt is too long: \d+ tokens > {max_input} maximum", refused.error.message)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(("tokens", "refused"), [(97, False), (98, True)])
@pytest.mark.parametrize(("window", "max_input"), [(100, None), (400, 100)])
def test_one_token_decides(tokens: int, refused: bool, window: int, max_input: int | None) -> None:
    """97 and 3 % are 100, 98 are 101."""
    request = decode_request(
        b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"' + b"a" * 300 + b'"}]}'
    )
    limits = new_limits(context_window=window, max_input=max_input, reject_overflow=True)
    if not refused:
        assert prepare(request, limits, lambda _: tokens).request.max_tokens == 1
        return
    with pytest.raises(InvalidRequest, match=exactly("prompt is too long: 101 tokens > 100 maximum")):
        prepare(request, limits, lambda _: tokens)


async def test_what_was_learned_of_a_model_decides_whether_an_input_fits() -> None:
    """Also for text with many tokens per byte: 108 KB with 1.6 times their estimated tokens."""
    dense = "A.1," * 27_000
    before = await counted(ProxyHarness(FakeUpstream(lambda self, body: reply(False)), **KEYS), dense)
    assert before * 1.03 < 128_000 < before * 1.6
    upstream = FakeUpstream(lambda self, body: answer_with_usage(127_900))
    proxy = ProxyHarness(upstream, OPENAI_API_KEY=KEYS["OPENAI_API_KEY"], BIG_MODEL="gpt-4o", CHECK_WINDOW="true")
    assert (await proxy.post(dense, stream=True, max_tokens=9)).error is None
    refused = await proxy.post(dense, stream=True, max_tokens=9)
    assert refused.error.message.startswith("prompt is too long: ")


async def test_pictures_by_address_are_counted_however_few_bytes_they_have() -> None:
    picture = {"type": "image", "source": {"type": "url", "url": "https://x.test"}}
    upstream = FakeUpstream(lambda self, body: reply(True))
    proxy = ProxyHarness(upstream, OPENAI_API_KEY=KEYS["OPENAI_API_KEY"], BIG_MODEL="gpt-4o", CHECK_WINDOW="true")
    sink = await proxy.post(messages=[{"role": "user", "content": [picture] * 90}], stream=True, max_tokens=9)
    assert sink.error.message.startswith("prompt is too long: ")
    assert upstream.requests == []


@pytest.mark.parametrize(("model", "max_input"), LIMITS)
def test_models_are_listed_with_their_maximum_input(model: str, max_input: int) -> None:
    settings = ProxyHarness(FakeUpstream(lambda self, body: reply(False)), **KEYS, BIG_MODEL=model).services.settings
    listed = list_models(settings, Catalog())
    assert next(entry for entry in listed if entry.id.startswith("claude-sonnet")).max_input_tokens == max_input


def test_the_tools_in_the_list_of_a_conversation_take_little_memory_whatever_their_names() -> None:
    store = MemoryStore()
    written: dict[str, str] = {}
    store.publish_to(lambda key, value, _: written.update({key: value}))
    observations = ModelObservations(store)
    messages = decode_request(b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"hi"}]}').messages
    names = [f"{number}" * 20_000 for number in range(1_000)]
    for places in (DeferredToolPlaces(listed=names), DeferredToolPlaces(placed=dict.fromkeys(names, 1))):
        observations.store_tool_places("long", messages, observations.find_tool_places("long", messages), places)
    assert sum(len(key) + len(value) for key, value in written.items()) < 10_000


def test_places_of_tools_that_an_instance_of_another_version_has_stored_are_ignored() -> None:
    store = MemoryStore()
    written: dict[str, str] = {}
    store.publish_to(lambda key, value, _: written.update({key: value}))
    observations = ModelObservations(store)
    messages = decode_request(b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"hi"}]}').messages
    observations.store_tool_places("c", messages, None, DeferredToolPlaces(listed=["Read"]))
    ((key, value),) = written.items()
    assert observations.find_tool_places("c", messages) is not None
    listed, placed, _, second = value.split("|")
    for other in (f"{listed}|{placed}|{second}", f"{value}|new", f"{listed}|{placed}|many|{second}", "text"):
        store.write_from_peer(key, other, 60)
        assert observations.find_tool_places("c", messages) is None


def test_the_refused_thinking_of_one_client_does_not_replace_that_of_another() -> None:
    observations = ModelObservations(MemoryStore())
    digests = [number.to_bytes(4, "big") for number in range(2 * MAX_SIGNATURES)]
    observations.remember_refused_thinking([b"own"], "key_b")
    for start in (0, MAX_SIGNATURES):
        observations.remember_refused_thinking(digests[start : start + MAX_SIGNATURES], "key_a")
    assert list(observations.list_refused_thinking("key_b")) == [b"own"]
    assert list(observations.list_refused_thinking("key_a")) == digests[MAX_SIGNATURES + 1 :]


def test_what_a_model_requires_is_known_for_its_client_and_server_alone() -> None:
    observations = ModelObservations(MemoryStore())
    observations.store_adaptation("a x.example", "m", "drop top_p", "key_1")
    others = [("a x.example", "n", "key_1"), ("a x.example", "m", "key_2"), ("a y.example", "m", "key_1")]
    assert observations.find_adaptations("a x.example", "m", "key_1") == ("drop top_p",)
    assert [observations.find_adaptations(*other) for other in others] == [()] * 3


def test_missing_checks_are_counted_for_each_client_server_and_model() -> None:
    observations = ModelObservations(MemoryStore())

    def record(upstream: str, model: str, client: str, *, answered: bool = False) -> int:
        return observations.record_checks(upstream, model, client, answered=answered)

    assert [record("a x.example", "m", "key_1") for _ in range(2)] == [1, 2]
    assert [record("a x.example", "m", "key_2"), record("a x.example", "n", "key_1")] == [1, 1]
    assert record("b y.example", "m", "key_1") == 1
    assert record("a x.example", "m", "key_1") == 3
    assert [record("a x.example", "m", "key_2", answered=each) for each in (True, False)] == [0, 0]
