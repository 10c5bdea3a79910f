"""Claude at the clouds: what they get is what the official SDK's own client of the cloud sends, and what differs."""

import asyncio
import base64
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import anthropic
import httpx2
import pytest
from msgspec import structs

from anthropic_proxy.engine.engine import Engine, build_engine
from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.exchange.forwarding import count_tokens
from anthropic_proxy.engine.exchange.in_process import send_request
from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.providers.model_observations import MAX_ADAPTATIONS
from anthropic_proxy.engine.upstream.contract import FetchedPage
from anthropic_proxy.engine.wires import anthropic as anthropic_wire
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.errors import WebFetchFailed
from tests.support.fakes.anthropic.server import STAND_IN, new_anthropic
from tests.support.fakes.clouds import (
    BEDROCK_MODEL,
    FOUNDRY_MODEL,
    LOCATION,
    MANTLE_MODEL,
    OLDER_MODEL,
    PROJECT,
    REGION,
    VERTEX_MODEL,
    Cloud,
    Kind,
    encode_chunk,
    encode_message,
    new_cloud,
)
from tests.support.fakes.server import Exchange as Sent
from tests.support.fakes.server import Running, serving
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, load_variables, new_client_request
from tests.support.http_server import Server
from tests.support.http_server import serving as http_serving
from tests.support.sdk import text_of

KEY = "the-key-of-the-cloud"
MODELS: dict[Kind, str] = {
    "bedrock": f"bedrock/{BEDROCK_MODEL}",
    "mantle": f"bedrock/{MANTLE_MODEL}",
    "vertex": f"vertex_ai/{VERTEX_MODEL}",
    "foundry": f"foundry/{FOUNDRY_MODEL}",
}
KINDS: list[Kind] = ["bedrock", "mantle", "vertex", "foundry"]
CALL: dict[str, Any] = {
    "max_tokens": 900,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [{"role": "user", "content": "Say exactly: hello"}],
    "tools": [
        {"name": "get_time", "eager_input_streaming": True, "input_schema": {"type": "object", "properties": {}}}
    ],
    "thinking": {"type": "adaptive"},
}
BETAS = ["interleaved-thinking-2025-05-14"]


class Tokens:
    """Tokens of a cloud that never end."""

    rejection_statuses = (401,)

    async def acquire_token(self, *, max_seconds: float | None = None) -> tuple[Credential, str | None]:
        return Credential("authorization", f"Bearer {KEY}", "a test"), None

    def invalidate_token(self, credential: Credential) -> bool:
        return False


@contextmanager
def cloud_of(kind: Kind, **accepted: Any) -> Iterator[tuple[Cloud, Running]]:
    cloud = Cloud(kind, keys={KEY}, **accepted)
    with serving(new_cloud(cloud)) as running:
        yield cloud, running


def settings_of(kind: Kind, url: str) -> dict[str, str]:
    return {
        "bedrock": {"BEDROCK_BASE_URL": url, "AWS_REGION": REGION, "AWS_BEARER_TOKEN_BEDROCK": KEY},
        "mantle": {"BEDROCK_BASE_URL": f"{url}/anthropic", "AWS_REGION": REGION, "AWS_BEARER_TOKEN_BEDROCK": KEY},
        "vertex": {"VERTEX_BASE_URL": url, "VERTEX_PROJECT": PROJECT, "VERTEX_LOCATION": LOCATION},
        "foundry": {"FOUNDRY_BASE_URL": f"{url}/anthropic", "ANTHROPIC_FOUNDRY_API_KEY": KEY},
    }[kind]


def engine_of(variables: Mapping[str, str]) -> Engine:
    options = load_variables({**variables, "PREFERRED_PROVIDER": "anthropic"})
    return build_engine(options, credentials=Credentials(options, {"google": Tokens()}))


class _EngineTransport(httpx2.AsyncBaseTransport):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        reply = await send_request(self._engine, await request.aread(), dict(request.headers))
        return httpx2.Response(reply.status, headers=dict(reply.headers), content=reply.body)


def sdk_of(engine: Engine) -> anthropic.AsyncAnthropic:
    client = httpx2.AsyncClient(transport=_EngineTransport(engine))
    return anthropic.AsyncAnthropic(api_key="-", http_client=client, max_retries=0)


def reference_of(kind: Kind, url: str) -> Any:
    """The official SDK's own client of the cloud."""
    options: dict[str, Any] = {"max_retries": 0}
    if kind == "bedrock":
        return anthropic.AnthropicBedrock(api_key=KEY, aws_region=REGION, base_url=url, **options)
    if kind == "mantle":
        return anthropic.AnthropicBedrockMantle(api_key=KEY, aws_region=REGION, base_url=f"{url}/anthropic", **options)
    if kind == "vertex":
        return anthropic.AnthropicVertex(
            region=LOCATION, project_id=PROJECT, access_token=KEY, base_url=f"{url}/v1", **options
        )
    return anthropic.AnthropicFoundry(api_key=KEY, base_url=f"{url}/anthropic", **options)


def find_echo(body: dict[str, Any]) -> str:
    """Return an error that quotes the type of a block which is no text."""
    kinds = [block["type"] for block in body["messages"][0]["content"]]
    return "" if kinds == ["text"] else f"messages.0.content.0: Input tag '{kinds[0]}' {TAG}"


SAME_HEADERS = ("anthropic-version", "anthropic-beta", "authorization", "content-type", "x-api-key")
OTHER_HEADERS = {"accept", "accept-encoding", "content-length", "host", "user-agent"}
"""Headers that every HTTP request has."""


def compare(ours: Sent, theirs: Sent) -> None:
    assert (ours.method, ours.path) == (theirs.method, theirs.path)
    assert ours.body == theirs.body
    assert {name: ours.headers.get(name) for name in SAME_HEADERS} == {
        name: theirs.headers.get(name) for name in SAME_HEADERS
    }
    assert set(ours.headers) - OTHER_HEADERS <= set(theirs.headers)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("betas", [[], BETAS])
@pytest.mark.parametrize("kind", KINDS)
async def test_the_cloud_gets_the_request_of_the_official_client(kind: Kind, betas: list[str], stream: bool) -> None:
    model = MODELS[kind].partition("/")[2]
    with cloud_of(kind) as (_, running):
        engine = engine_of(settings_of(kind, running.url))
        ours, theirs = sdk_of(engine), reference_of(kind, running.url)
        call = {**CALL, **({"betas": betas} if betas else {})}
        if stream:
            with theirs.beta.messages.stream(model=model, **call) as events:
                expected = events.get_final_message()
            async with ours.beta.messages.stream(model=MODELS[kind], **call) as our_events:
                found = await our_events.get_final_message()
        else:
            expected = theirs.beta.messages.create(model=model, **call)
            found = await ours.beta.messages.create(model=MODELS[kind], **call)
        await engine.close()
        reference, sent = running.journal.exchanges
        assert running.journal.violations() == []
    compare(sent, reference)
    assert text_of(found) == text_of(expected) == "hello"
    assert found.usage == expected.usage
    assert [block.type for block in found.content] == ["thinking", "text"]


async def count_of(engine: Engine, model: str) -> int:
    incoming = new_client_request(
        json.dumps({"model": model, "messages": CALL["messages"]}).encode(),
        {"anthropic-version": "2026-10-21", "anthropic-beta": "token-counting-2024-11-01"},
        path="/v1/messages/count_tokens",
    )

    async def never_disconnected() -> None:
        await asyncio.Event().wait()

    reply = await count_tokens(engine, incoming, never_disconnected)
    return int(json.loads(reply.body)["input_tokens"])


@pytest.mark.parametrize("kind", ["vertex", "mantle", "foundry"])
async def test_tokens_are_counted_by_the_cloud(kind: Kind) -> None:
    model = MODELS[kind].partition("/")[2]
    with cloud_of(kind) as (_, running):
        engine = engine_of(settings_of(kind, running.url))
        client = reference_of(kind, running.url)
        expected = client.beta.messages.count_tokens(model=model, messages=CALL["messages"])
        found = await count_of(engine, MODELS[kind])
        await engine.close()
        reference, sent = running.journal.exchanges
        assert running.journal.violations() == []
    compare(sent, reference)
    assert found == expected.input_tokens


async def test_bedrock_counts_no_tokens_so_the_proxy_does() -> None:
    with cloud_of("bedrock") as (_, running):
        engine = engine_of(settings_of("bedrock", running.url))
        assert await count_of(engine, MODELS["bedrock"]) > 0
        await engine.close()
        assert running.journal.exchanges == []


# What a client of Anthropic sends, and a cloud does not have

CLAUDE_CODE_BETAS = (
    "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,per-turn-control-2026-07-01,"
    "thinking-token-count-2026-05-13,advanced-tool-use-2025-11-20"
)


async def ask(engine: Engine, model: str, *, version: str = "2023-06-01", betas: str = "", **fields: Any) -> Any:
    headers = {"anthropic-version": version, "content-type": "application/json", "x-app": "cli"}
    body = json.dumps({"model": model, **CALL, **fields}).encode()
    reply = await send_request(engine, body, headers | ({"anthropic-beta": betas} if betas else {}))
    return reply, json.loads(b"".join([piece async for piece in reply.body]))


async def calls_for(engine: Engine, running: Running, **fields: Any) -> list[int]:
    """Return the statuses of the calls to Foundry for a request that succeeds."""
    before = len(running.journal.exchanges)
    reply, message = await ask(engine, MODELS["foundry"], **fields)
    assert reply.status == 200, message
    return [exchange.status for exchange in running.journal.exchanges[before:]]


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        ("bedrock", "interleaved-thinking-2025-05-14,context-management-2025-06-27,tool-search-tool-2025-10-19"),
        (
            "vertex",
            "interleaved-thinking-2025-05-14,context-management-2025-06-27,per-turn-control-2026-07-01,"
            "tool-search-tool-2025-10-19",
        ),
        (
            "foundry",
            "interleaved-thinking-2025-05-14,context-management-2025-06-27,per-turn-control-2026-07-01,"
            "advanced-tool-use-2025-11-20",
        ),
    ],
)
async def test_betas_and_fields_that_a_cloud_does_not_have_are_left_out_and_noted(kind: Kind, kept: str) -> None:
    with cloud_of(kind, betas=tuple(kept.split(","))) as (_, running):
        engine = engine_of(settings_of(kind, running.url))
        reply, message = await ask(
            engine, MODELS[kind], betas=CLAUDE_CODE_BETAS, speed="fast", metadata={"user_id": "user_1_account_2"}
        )
        await engine.close()
        (sent,) = running.journal.exchanges
        assert running.journal.violations() == []
    assert reply.status == 200, message
    assert sent.headers["anthropic-beta"] == kept
    assert sent.body.get("anthropic_beta") == (kept.split(",") if kind == "bedrock" else None)
    assert not {"speed", "metadata"} & set(sent.body)
    assert "x-app" not in sent.headers
    assert reply.headers["x-proxy-fidelity"] == "best-effort; approximated=1; emulated=0; dropped=1"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_text_with_half_of_a_surrogate_pair_changes_nothing_else(kind: Kind) -> None:
    with cloud_of(kind, betas=("context-management-2025-06-27",)) as (_, running):
        engine = engine_of(settings_of(kind, running.url))
        messages = [{"role": "user", "content": "cut \ud83d"}]
        betas = "files-api-2024-01-01,context-management-2025-06-27"
        reply, message = await ask(engine, MODELS[kind], messages=messages, metadata={"user_id": "u"}, betas=betas)
        await engine.close()
        (sent,) = running.journal.exchanges
        assert running.journal.violations() == []
    assert reply.status == 200, message
    assert sent.body["messages"] == messages
    assert "metadata" not in sent.body
    assert sent.headers["anthropic-beta"] == "context-management-2025-06-27"


@pytest.mark.parametrize(
    ("kind", "model", "requested", "sent_version"),
    [
        ("bedrock", BEDROCK_MODEL, "2023-06-01", "bedrock-2023-05-31"),
        ("bedrock", BEDROCK_MODEL, "2026-10-21", "2026-10-21"),
        ("bedrock", OLDER_MODEL, "2026-10-21", "bedrock-2023-05-31"),
        ("vertex", VERTEX_MODEL, "2023-06-01", "vertex-2023-10-16"),
        ("vertex", "claude-sonnet-4-5@20250929", "2026-10-21", "2026-10-21"),
    ],
)
async def test_the_api_version_is_the_client_s_in_the_cloud_s_own_words(
    kind: Kind, model: str, requested: str, sent_version: str
) -> None:
    prefix = MODELS[kind].partition("/")[0]
    with cloud_of(kind) as (_, running):
        engine = engine_of(settings_of(kind, running.url))
        reply, message = await ask(engine, f"{prefix}/{model}", version=requested)
        await engine.close()
        (sent,) = running.journal.exchanges
    assert reply.status == 200, message
    assert sent.body["anthropic_version"] == sent_version
    assert "anthropic-version" not in sent.headers


def betas_sent(running: Running) -> list[str | None]:
    return [exchange.headers.get("anthropic-beta") for exchange in running.journal.exchanges]


@pytest.mark.parametrize("kind", ["mantle", "vertex", "foundry"])
async def test_a_beta_that_a_cloud_rejects_by_name_is_not_sent_again(kind: Kind) -> None:
    with cloud_of(kind, betas=("context-management-2025-06-27",)) as (_, running):
        engine = engine_of(settings_of(kind, running.url))
        betas = "interleaved-thinking-2025-05-14,context-management-2025-06-27"
        for _ in range(2):
            reply, message = await ask(engine, MODELS[kind], betas=betas)
            assert reply.status == 200, message
        await engine.close()
        assert betas_sent(running) == [betas, "context-management-2025-06-27", "context-management-2025-06-27"]


NEW_BETAS = ("brighter-answers-2027-01-15", "shorter-answers-2027-02-01")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_beta_that_is_newer_than_the_list_is_tried_once(kind: Kind) -> None:
    accepted = (*BETAS, NEW_BETAS[0])
    with cloud_of(kind, betas=accepted) as (_, running):
        engine = engine_of(settings_of(kind, running.url))
        for _ in range(8):
            reply, message = await ask(engine, MODELS[kind], betas=",".join((*BETAS, *NEW_BETAS)))
            assert reply.status == 200, message
        reply, message = await ask(engine, MODELS[kind], betas="older-answers-2026-01-15,next-2027-month")
        assert reply.status == 200, message
        await engine.close()
        sent = betas_sent(running)
        refusals = sum(exchange.status == 400 for exchange in running.journal.exchanges)
    assert sent[0] == ",".join((*BETAS, *NEW_BETAS))
    assert sent[-2:] == [",".join(accepted), None]
    assert refusals <= (3 if kind == "bedrock" else 1)


LONG = "context-1m-2025-08-07"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("accepted", [(), NEW_BETAS[:1], NEW_BETAS[1:]])
async def test_a_refused_beta_that_is_newer_than_the_list_takes_no_other_beta(
    kind: Kind, accepted: tuple[str, ...]
) -> None:
    listed = (*BETAS, LONG)
    with cloud_of(kind, betas=(*listed, *accepted), required_beta=LONG) as (_, running):
        engine = engine_of(settings_of(kind, running.url))
        for _ in range(8):
            reply, message = await ask(engine, MODELS[kind], betas=",".join((*listed, *NEW_BETAS)))
            assert reply.status == 200, message
        await engine.close()
        sent = betas_sent(running)
        refusals = sum(exchange.status == 400 for exchange in running.journal.exchanges)
    assert [{*listed} - {*(betas or "").split(",")} for betas in sent] == [set()] * len(sent)
    assert sent[-1] == ",".join((*listed, *accepted))
    assert refusals <= (3 if kind == "bedrock" else 1)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_refused_newer_beta_is_remembered_if_the_repetition_fails_for_another_reason(kind: Kind) -> None:
    with cloud_of(kind, betas=tuple(BETAS), required_beta=LONG) as (cloud, running):
        engine = engine_of(settings_of(kind, running.url))
        for _ in range(2):
            reply, message = await ask(engine, MODELS[kind], betas=",".join((*BETAS, NEW_BETAS[0])))
            assert reply.status == 400
            assert "prompt is too long" in message["error"]["message"]
        cloud.required_beta = ""
        reply, message = await ask(engine, MODELS[kind], betas=",".join((*BETAS, NEW_BETAS[0])))
        assert reply.status == 200, message
        await engine.close()
    assert betas_sent(running) == [",".join((*BETAS, NEW_BETAS[0])), *[BETAS[0]] * 3]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_temporary_failure_of_the_repetition_shows_nothing_about_a_beta(kind: Kind) -> None:
    given = ",".join((*BETAS, NEW_BETAS[0]))
    with cloud_of(kind, betas=tuple(BETAS), overloaded_without=NEW_BETAS[0]) as (cloud, running):
        engine = engine_of(settings_of(kind, running.url))
        engine = structs.replace(engine, sleep=lambda seconds: asyncio.sleep(0))
        reply, _ = await ask(engine, MODELS[kind], betas=given)
        assert reply.status in (503, 529)
        cloud.betas = (*BETAS, NEW_BETAS[0])
        reply, message = await ask(engine, MODELS[kind], betas=given)
        assert reply.status == 200, message
        await engine.close()
    assert betas_sent(running)[-1] == given


async def test_a_beta_that_bedrock_rejects_takes_none_that_the_client_needs() -> None:
    """Halves without the needed beta fail for another reason, which shows that Bedrock accepts them."""
    given = [*SEARCHED[:6], NEW_BETAS[0]]
    for refused, needed in itertools.pairwise([*given, given[0]]):
        accepted = tuple(beta for beta in given if beta != refused)
        with cloud_of("bedrock", betas=accepted, required_beta=needed) as (_, running):
            engine = engine_of(settings_of("bedrock", running.url))
            replies = [(await ask(engine, MODELS["bedrock"], betas=",".join(given)))[0] for _ in range(8)]
            await engine.close()
        assert replies[-1].status == 200
        assert betas_sent(running)[-1] == ",".join(accepted)


THINKING, CONTEXT, EFFORT, SEARCH = (
    "interleaved-thinking-2025-05-14",
    "context-management-2025-06-27",
    "effort-2025-11-24",
    "tool-search-tool-2025-10-19",
)


SEARCHED = [
    *("computer-use-2024-10-22", "computer-use-2025-01-24", "computer-use-2025-11-24", "context-1m-2025-08-07"),
    *("context-management-2025-06-27", "interleaved-thinking-2025-05-14", "compact-2026-01-12", "effort-2025-11-24"),
    *("output-128k-2025-02-19", "tool-examples-2025-10-29", "tool-search-tool-2025-10-19"),
    "token-efficient-tools-2025-02-19",
]


async def send_until_steady(
    engine: Engine, running: Running, betas: str, *, most_calls: int = 2, **fields: Any
) -> tuple[str | None, int]:
    """Send requests until nothing changes. Return the betas of the last one, and how many requests were refused.

    The client sees no refusal, and none of its requests needs more than `most_calls`.
    """
    log, found = running.journal.exchanges, list[tuple[str | None, int]]()
    begin = len(log)
    while len(found) < 4 or len({*found[-4:]}) > 1:
        before = len(log)
        reply, message = await ask(engine, MODELS["bedrock"], betas=betas, **fields)
        assert reply.status == 200, message
        assert len(log) - before <= most_calls
        refusals = sum(exchange.status == 400 for exchange in log[begin:])
        found.append((log[-1].headers.get("anthropic-beta"), refusals))
        assert len(found) < 40
    return found[-1]


@pytest.mark.parametrize("count", [1, 4, 8, pytest.param(12, marks=pytest.mark.merge)])
async def test_each_beta_that_bedrock_rejects_without_a_name_is_found_and_no_other_is_lost(count: int) -> None:
    given = SEARCHED[:count]
    assert len({*given}) == count
    with cloud_of("bedrock") as (cloud, running):
        for refused in (*itertools.combinations(given, 1), *itertools.combinations(given, 2)):
            cloud.betas = tuple(beta for beta in given if beta not in refused)
            engine = engine_of(settings_of("bedrock", running.url))
            sent, refusals = await send_until_steady(engine, running, ",".join(given))
            await engine.close()
            assert (sent or "").split(",") == ([*cloud.betas] or [""])
            assert refusals <= len(refused) * count.bit_length()  # 1 + log2(count) each


async def test_a_beta_that_is_new_or_that_bedrock_rejects_later_is_found_too() -> None:
    given = SEARCHED[:8]
    with cloud_of("bedrock", betas=tuple(given[1:])) as (cloud, running):
        engine = engine_of(settings_of("bedrock", running.url))
        assert await send_until_steady(engine, running, ",".join(given)) == (",".join(given[1:]), 4)
        cloud.betas = (*given[1:4], *given[5:])
        sent, _ = await send_until_steady(engine, running, ",".join(given))
        assert sent == ",".join(cloud.betas)
        added = SEARCHED[8:10]
        cloud.betas = (*cloud.betas, added[0])
        sent, _ = await send_until_steady(engine, running, ",".join([*given, *added]))
        assert sent == ",".join(cloud.betas)
        await engine.close()


async def test_a_listed_beta_that_bedrock_rejects_takes_no_newer_one() -> None:
    given = [*SEARCHED[:4], *NEW_BETAS]
    with cloud_of("bedrock") as (cloud, running):
        for refused in (*itertools.combinations(given, 1), *itertools.combinations(given, 2)):
            cloud.betas = tuple(beta for beta in given if beta not in refused)
            engine = engine_of(settings_of("bedrock", running.url))
            sent, refusals = await send_until_steady(engine, running, ",".join(given), most_calls=3)
            await engine.close()
            assert sent == ",".join(cloud.betas)
            assert refusals <= len(refused) * 4 + 1


async def test_a_newer_beta_that_bedrock_accepts_at_first_is_found_too() -> None:
    newer = [f"answers-{number}-2027-01-15" for number in range(4)]
    given = ",".join((*BETAS, *newer))
    with cloud_of("bedrock") as (cloud, running):
        engine = engine_of(settings_of("bedrock", running.url))
        for accepted in ([newer[0], newer[2]], [newer[0]]):
            cloud.betas = (*BETAS, *accepted)
            sent, _ = await send_until_steady(engine, running, given, most_calls=3)
            assert sent == ",".join(cloud.betas)
        await engine.close()


@pytest.mark.parametrize("count", [2, 5])
async def test_several_newer_betas_that_bedrock_rejects_cost_the_logarithm_of_their_number_each(count: int) -> None:
    newer = [f"answers-{number}-2027-01-15" for number in range(count)]
    with cloud_of("bedrock") as (cloud, running):
        for refused in (*itertools.combinations(newer, 1), *itertools.combinations(newer, 2), newer):
            cloud.betas = (*BETAS, *(beta for beta in newer if beta not in refused))
            engine = engine_of(settings_of("bedrock", running.url))
            sent, refusals = await send_until_steady(engine, running, ",".join((*BETAS, *newer)))
            await engine.close()
            assert sent == ",".join(cloud.betas)
            assert refusals <= len(refused) * count.bit_length()  # 1 + log2(count) each


@pytest.mark.parametrize("names_betas", [True, False])
async def test_a_gateway_gets_the_betas_of_the_client_except_those_that_it_rejects(names_betas: bool) -> None:
    """Source: code.claude.com/docs/en/llm-gateway-protocol, "Feature pass-through"."""
    variables = {"OPENAI_API_KEY": KEY, "OPENAI_WIRE": "messages"}
    fields = {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}
    with cloud_of("foundry", betas=(THINKING, CONTEXT), names_betas=names_betas) as (cloud, running):
        engine = engine_of({**variables, "OPENAI_BASE_URL": f"{running.url}/anthropic/v1"})
        reply, message = await ask(engine, f"openai/{VERTEX_MODEL}", betas=f"{THINKING},{CONTEXT}", **fields)
        assert reply.status == 200, message
        assert reply.headers["x-proxy-fidelity"] == "best-effort; approximated=0; emulated=0; dropped=0"
        cloud.betas = (THINKING,)
        replies = [
            await ask(engine, f"openai/{VERTEX_MODEL}", betas=f"{THINKING},{CONTEXT}", **fields) for _ in range(4)
        ]
        await engine.close()
        assert [reply.status for reply, _ in replies] == [200] * 4, replies
        assert replies[-1][0].headers["x-proxy-fidelity"] == "best-effort; approximated=0; emulated=1; dropped=0"
        sent = running.journal.exchanges
        assert [sent[at].headers.get("anthropic-beta") for at in (0, -1)] == [f"{THINKING},{CONTEXT}", THINKING]
        assert ["context_management" in exchange.body for exchange in (sent[0], sent[-1])] == [True, False]


def litellm_error(prefix: str, cause: str) -> dict[str, Any]:
    end = ". Received Model Group=claude-opus-5-5\nAvailable Model Group Fallbacks=None"
    return {"error": {"message": f"{prefix}{cause}{end}", "type": "None", "param": "None", "code": "400"}}


def claude_error(text: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": "invalid_request_error", "message": text}, "request_id": "req_1"}


WRAPPED: dict[str, Callable[[str], dict[str, Any]]] = {
    "LiteLLM, Vertex AI": lambda text: litellm_error("", json.dumps(claude_error(text))),
    "LiteLLM, Bedrock": lambda text: litellm_error("", json.dumps({"message": text})),
    "LiteLLM, SDK": lambda text: litellm_error(
        "litellm.BadRequestError: AnthropicException - ", json.dumps(claude_error(text), separators=(",", ":"))
    ),
    "LiteLLM, bytes": lambda text: litellm_error(
        "litellm.BadRequestError: Vertex_aiException BadRequestError - ", repr(json.dumps(claude_error(text)).encode())
    ),
    "LiteLLM, Bedrock by Converse": lambda text: litellm_error(
        "litellm.BadRequestError: BedrockException - ",
        json.dumps({"message": f"The model returned the following errors: {text}"}),
    ),
    "Portkey": lambda text: {"error": {"message": f"vertex-ai error: {text}", "type": "invalid_request_error"}},
    "OpenRouter": lambda text: {
        "error": {
            "message": "Provider returned error",
            "code": 400,
            "metadata": {"raw": json.dumps(claude_error(text)), "provider_name": "Anthropic"},
        },
        "user_id": "user_1",
    },
    "Anthropic's SDK": lambda text: {"error": {"message": f"Error code: 400 - {claude_error(text)}"}},
    "Anthropic's SDK, TypeScript": lambda text: {"error": {"message": f"400 {json.dumps(claude_error(text))}"}},
    "boto3": lambda text: {
        "error": {"message": f"An error occurred (ValidationException) when calling the InvokeModel operation: {text}"}
    },
    "details first": lambda text: litellm_error(
        "litellm.BadRequestError: AnthropicException - ",
        json.dumps({"type": "error", "error": {"details": None, **claude_error(text)["error"]}}),
    ),
    "number of the request first": lambda text: litellm_error(
        "litellm.BadRequestError: AnthropicException - ",
        json.dumps({"request_id": "1f9c-req_1", "type": "error", "error": claude_error(text)["error"]}),
    ),
}
"""Gateways → what they make of an error. Sources: anthropics/claude-code issues 12122, 21625 and 34802; OpenHands issue
11718; anomalyco/opencode issue 4282; BerriAI/litellm issue 13825 and pull request 19877; zed-industries/zed issue
35341."""


async def test_many_rejected_betas_of_a_client_remove_nothing_else_that_was_learned() -> None:
    fields = {"output_config": {"effort": "low"}}
    with cloud_of("foundry", betas=(THINKING,), rejected_fields=("output_config",)) as (_, running):
        engine = engine_of(settings_of("foundry", running.url))
        await ask(engine, MODELS["foundry"], **fields)
        for number in range(MAX_ADAPTATIONS):
            await ask(engine, MODELS["foundry"], betas=f"invented-{number}-2027-01-01")
        calls = await calls_for(engine, running, **fields)
        await engine.close()
    assert calls == [200]


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
async def test_what_a_gateway_has_wrapped_is_read_like_the_error_of_the_cloud(
    wrap: Callable[[str], dict[str, Any]],
) -> None:
    variables = {"OPENAI_API_KEY": KEY, "OPENAI_WIRE": "messages"}
    with cloud_of("foundry", betas=(THINKING,), rejected_fields=("output_config",)) as (cloud, running):
        cloud.wrap_error = wrap
        engine = engine_of({**variables, "OPENAI_BASE_URL": f"{running.url}/anthropic/v1"})
        fields = {"output_config": {"effort": "low"}}
        replies = [
            await ask(engine, f"openai/{VERTEX_MODEL}", betas=f"{THINKING},{CONTEXT}", **fields) for _ in range(2)
        ]
        await engine.close()
        sent = running.journal.exchanges
    assert [reply.status for reply, _ in replies] == [200, 200], replies
    assert [exchange.status for exchange in sent] == [400, 400, 200, 200]
    assert "output_config" not in sent[-1].body
    assert sent[-1].headers["anthropic-beta"] == THINKING


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("end", ["z', ", 'z" ', 'z"}}', "z\n", "z'}} "])
@pytest.mark.sample(4)
async def test_the_text_of_a_client_in_a_wrapped_error_takes_nothing_from_others(
    wrap: Callable[[str], dict[str, Any]], end: str
) -> None:
    """A client writes what ends the text of the cloud, and an error of its own behind it."""
    forged = json.dumps(wrap(f"thinking: {EXTRA}")["error"])
    hostile = f"{end}, thinking: {EXTRA}, {forged}, invalid beta flag: {THINKING}"

    async def send(block: dict[str, Any]) -> int:
        messages = [{"role": "user", "content": [block]}]
        reply, _ = await ask(engine, f"openai/{VERTEX_MODEL}", betas=THINKING, messages=messages)
        return int(reply.status)

    variables = {"OPENAI_API_KEY": KEY, "OPENAI_WIRE": "messages"}
    with cloud_of("foundry", betas=(THINKING,)) as (cloud, running):
        cloud.wrap_error, cloud.find_problem = wrap, find_echo
        engine = engine_of({**variables, "OPENAI_BASE_URL": f"{running.url}/anthropic/v1"})
        text = {"type": "text", "text": "Say exactly: hello"}
        statuses = [await send(block) for block in (text, {"type": hostile, "text": "x"}, text)]
        await engine.close()
        first, *_, last = running.journal.exchanges
    assert statuses == [200, 400, 200]
    assert last.body == first.body
    assert last.headers["anthropic-beta"] == THINKING


async def test_no_client_sees_a_refusal_that_names_more_betas_than_are_read() -> None:
    """Only the beginning of a long error is read."""
    wrong = [f"w{number}-2026-01-01" for number in range(200)]
    variables = {"OPENAI_API_KEY": KEY, "OPENAI_WIRE": "messages"}
    with cloud_of("foundry", betas=(CONTEXT,)) as (_, running):
        engine = engine_of({**variables, "OPENAI_BASE_URL": f"{running.url}/anthropic/v1"})
        for _ in range(5):
            reply, message = await ask(engine, f"openai/{VERTEX_MODEL}", betas=",".join((CONTEXT, *wrong)))
            assert reply.status == 200, message
        await engine.close()
    assert betas_sent(running)[-1] == CONTEXT


@pytest.mark.parametrize("count", [1, 2, 3, 7, 500])
async def test_no_client_sees_a_refusal_by_a_gateway_that_names_one_beta_at_a_time(count: int) -> None:
    variables = {"OPENAI_API_KEY": KEY, "OPENAI_WIRE": "messages"}
    wrong = [f"w{number}-2026-01-01" for number in range(count)]
    given = ",".join((THINKING, *wrong, CONTEXT))
    with cloud_of("foundry", betas=(THINKING, CONTEXT)) as (cloud, running):
        cloud.names_one_beta = True
        engine = engine_of({**variables, "OPENAI_BASE_URL": f"{running.url}/anthropic/v1"})
        refused = []
        for _ in range(4):
            begin = len(running.journal.exchanges)
            reply, message = await ask(engine, f"openai/{VERTEX_MODEL}", betas=given)
            assert reply.status == 200, message
            refused.append(sum(exchange.status == 400 for exchange in running.journal.exchanges[begin:]))
        await engine.close()
    assert refused == [min(3, max(0, count - 3 * number)) for number in range(4)]
    sent = running.journal.exchanges[-1].headers.get("anthropic-beta")
    assert sent == (f"{THINKING},{CONTEXT}" if count < 500 else None)


async def test_a_note_about_hundreds_of_betas_names_twelve() -> None:
    wrong = ",".join(f"w{number}-2026-01-01" for number in range(300))
    variables = {"OPENAI_API_KEY": KEY, "OPENAI_WIRE": "messages"}
    with cloud_of("foundry", betas=(CONTEXT,)) as (cloud, running):
        cloud.names_one_beta = True
        engine = engine_of({**variables, "OPENAI_BASE_URL": f"{running.url}/anthropic/v1"})
        body = json.dumps({"model": f"openai/{VERTEX_MODEL}", **CALL}).encode()
        incoming = new_client_request(body, {"anthropic-beta": wrong, "anthropic-version": "2023-06-01"})
        await Exchange(engine, incoming, RecordingSink()).run()
        await engine.close()
    first, second, *listed = (f"w{number}-2026-01-01" for number in range(13))
    assert incoming.receipt.adaptations == [
        *(f"betas {first}", f"betas {second}", f"betas {' '.join(listed)} and 87 more")
    ]


async def test_a_server_gets_at_most_a_hundred_betas() -> None:
    new, others = ([f"{letter}{number}-2027-01-01" for number in range(60)] for letter in "bc")
    with cloud_of("bedrock", betas=(*new, THINKING, *others)) as (_, running):
        engine = engine_of(settings_of("bedrock", running.url))
        body = json.dumps({"model": MODELS["bedrock"], **CALL, "anthropic_beta": [*new, *others]}).encode()
        incoming = new_client_request(body, {"anthropic-beta": ",".join((THINKING, *new))})
        await Exchange(engine, incoming, RecordingSink()).run()
        await engine.close()
        assert betas_sent(running) == [",".join((THINKING, *new, *others[:39]))]
    assert [(note.field, note.reason) for note in incoming.receipt.fidelity.notes] == [
        ("anthropic-beta", "the proxy reads 100 betas of the 121")
    ]


async def test_a_beta_of_one_client_takes_none_from_others() -> None:
    with cloud_of("bedrock", betas=(CONTEXT, THINKING)) as (_, running):
        engine = engine_of(settings_of("bedrock", running.url))
        for betas in (f"{THINKING},{EFFORT}", f"{THINKING},{CONTEXT}", THINKING, EFFORT, f"{THINKING},{EFFORT}"):
            reply, message = await ask(engine, MODELS["bedrock"], betas=betas)
            assert reply.status == 200, message
        reply, message = await ask(engine, f"bedrock/{OLDER_MODEL}", betas=EFFORT)
        await engine.close()
        assert betas_sent(running) == [
            *(f"{THINKING},{EFFORT}", None),
            f"{THINKING},{CONTEXT}",  # so the other one is the cause
            THINKING,
            None,
            THINKING,
            *(EFFORT, None),  # another model may have it
        ]


async def test_a_beta_that_one_cloud_rejects_is_sent_to_others() -> None:
    with cloud_of("vertex", betas=(CONTEXT,)) as (_, vertex), cloud_of("foundry") as (_, foundry):
        engine = engine_of(settings_of("vertex", vertex.url) | settings_of("foundry", foundry.url))
        for kind in ("vertex", "foundry"):
            reply, message = await ask(engine, MODELS[kind], betas=f"{THINKING},{CONTEXT}")  # type: ignore[index]
            assert reply.status == 200, message
        await engine.close()
        assert betas_sent(vertex) == [f"{THINKING},{CONTEXT}", CONTEXT]
        assert betas_sent(foundry) == [f"{THINKING},{CONTEXT}"]


async def test_the_record_of_each_request_names_the_beta_that_was_left_out() -> None:
    with cloud_of("bedrock", betas=(CONTEXT,)) as (_, running):
        engine = engine_of(settings_of("bedrock", running.url))
        found = []
        for _ in range(2):
            body = json.dumps({"model": MODELS["bedrock"], **CALL}).encode()
            incoming = new_client_request(body, {"anthropic-beta": THINKING})
            await Exchange(engine, incoming, RecordingSink()).run()
            notes = {(note.field, note.reason) for note in incoming.receipt.fidelity.notes}
            found.append((incoming.receipt.adaptations, notes))
        await engine.close()
    left_out = ("anthropic-beta", f"bedrock does not accept {THINKING}")
    assert found == [
        ([f"betas {THINKING}"], {left_out, ("anthropic-beta", f"bedrock refused it: betas {THINKING}")}),
        ([f"suspects {THINKING}"], {left_out}),
    ]


@pytest.mark.parametrize("kind", KINDS)
async def test_betas_in_the_body_are_filtered_like_those_of_the_header(kind: Kind) -> None:
    with cloud_of(kind, betas=(THINKING, CONTEXT)) as (_, running):
        engine = engine_of(settings_of(kind, running.url))
        odd = ["fast-mode-2026-02-01", CONTEXT, "a\r\nx-injected: 1", "*"]
        reply, message = await ask(engine, MODELS[kind], betas=THINKING, anthropic_beta=odd)
        assert reply.status == 200, message
        reply, message = await ask(engine, MODELS[kind], anthropic_beta="none", anthropic_version="vertex-2099-01-01")
        assert reply.status == 200, message
        await engine.close()
        first, last = running.journal.exchanges[0], running.journal.exchanges[-1]
    assert first.headers["anthropic-beta"] == f"{THINKING},{CONTEXT}"
    assert first.body.get("anthropic_beta") == ([THINKING, CONTEXT] if kind == "bedrock" else None)
    assert "x-injected" not in first.headers
    assert "anthropic_beta" not in last.body


@pytest.mark.parametrize("kind", KINDS)
async def test_a_field_that_a_cloud_rejects_is_not_sent_again(kind: Kind) -> None:
    tools = [{**CALL["tools"][0], "strict": True}, {**CALL["tools"][0], "name": "get_date"}]
    with cloud_of(kind, rejected_fields=("cache_control", "tools.strict")) as (_, running):
        engine = engine_of(settings_of(kind, running.url))
        for _ in range(2):
            reply, message = await ask(engine, MODELS[kind], cache_control={"type": "ephemeral"}, tools=tools)
            assert reply.status == 200, message
        await engine.close()
        bodies = [exchange.body for exchange in running.journal.exchanges]
    assert ["cache_control" in body for body in bodies] == [True, False, False, False]
    assert ["strict" in body["tools"][0] for body in bodies] == [True, True, False, False]


CHECK_BETA = "dangerous-tool-use-2026-09-03"
SAFEGUARDS = [{"type": "dangerous_tool_use", "classifier_context": {"v": 1, "live_cwd": "/home/ada/shop"}}]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cloud_checks_the_tool_calls_itself_with_all_that_the_client_told_it(kind: Kind) -> None:
    with cloud_of(kind, betas=(CHECK_BETA,)) as (_, running):
        engine = engine_of(settings_of(kind, running.url))
        reply, message = await ask(engine, MODELS[kind], betas=CHECK_BETA, safeguards=SAFEGUARDS)
        await engine.close()
        (sent,) = running.journal.exchanges
    assert reply.status == 200, message
    assert sent.body["safeguards"] == SAFEGUARDS
    assert sent.headers["anthropic-beta"] == CHECK_BETA


@pytest.mark.parametrize("kind", ["mantle", "vertex", "foundry"])
async def test_a_cloud_that_rejects_the_beta_of_checks_gets_neither_beta_nor_field_again(kind: Kind) -> None:
    with cloud_of(kind) as (_, running):
        engine = engine_of(settings_of(kind, running.url))
        for _ in range(2):
            reply, message = await ask(engine, MODELS[kind], betas=CHECK_BETA, safeguards=SAFEGUARDS)
            assert reply.status == 200, message
        await engine.close()
        sent = running.journal.exchanges
    assert betas_sent(running) == [CHECK_BETA, None, None]
    assert ["safeguards" in exchange.body for exchange in sent] == [True, False, False]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cloud_that_rejects_the_field_of_checks_does_not_get_it_again(kind: Kind) -> None:
    with cloud_of(kind, betas=(CHECK_BETA,), rejected_fields=("safeguards",)) as (_, running):
        engine = engine_of(settings_of(kind, running.url))
        for _ in range(2):
            reply, message = await ask(engine, MODELS[kind], betas=CHECK_BETA, safeguards=SAFEGUARDS)
            assert reply.status == 200, message
        await engine.close()
    assert ["safeguards" in exchange.body for exchange in running.journal.exchanges] == [True, False, False]


async def test_a_field_of_the_client_s_own_is_not_remembered() -> None:
    with cloud_of("foundry", rejected_fields=("mine",)) as (_, running):
        engine = engine_of(settings_of("foundry", running.url))
        for _ in range(2):
            reply, message = await ask(engine, MODELS["foundry"], mine=1)
            assert reply.status == 200, message
        await engine.close()
        assert ["mine" in exchange.body for exchange in running.journal.exchanges] == [True, False, True, False]


@pytest.mark.parametrize("field", ["messages", "max_tokens", "stream", "tools", "system"])
async def test_a_field_that_makes_the_request_what_it_is_stays_even_if_it_is_rejected(field: str) -> None:
    with cloud_of("foundry", rejected_fields=(field,)) as (_, running):
        engine = engine_of(settings_of("foundry", running.url))
        reply, message = await ask(engine, MODELS["foundry"], system="Be brief.", stream=False)
        await engine.close()
        assert reply.status == 400
        assert message["error"] == {
            "type": "invalid_request_error",
            "message": f"foundry: {field}: Extra inputs are not permitted",
        }
        assert [exchange.body.get(field) is None for exchange in running.journal.exchanges] == [False, False]


EXTRA, TAG = "Extra inputs are not permitted", "found using 'type' does not match any of the expected tags: 'text'"
SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
TITLE_FORMAT = {"type": "json_schema", "schema": SCHEMA}
ASKED = (
    "Reply with one JSON value only, without a code fence, that fits this JSON Schema:\n"
    '{"type":"object","properties":{"title":{"type":"string"}},"required":["title"]}'
)
QUESTION = {"role": "user", "content": "Say exactly: hello"}
USE = {"type": "tool_use", "id": "toolu_1", "name": "get_time", "input": {"caller": 1}}
FOUND = {
    "type": "tool_result",
    "tool_use_id": "toolu_1",
    "content": [{"type": "tool_reference", "tool_name": "get_time"}],
}
TOOL = CALL["tools"][0]
CACHED = {"type": "ephemeral"}


def turn_of(call: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    turn = [QUESTION, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    return {"messages": turn, "thinking": {"type": "between_tools"}}


def cited(**more: Any) -> dict[str, Any]:
    """Return a conversation with a citation in the reply, as a client sends it back."""
    text = {"type": "text", "media_type": "text/plain", "data": "Wet."}
    place = {"start_char_index": 0, "end_char_index": 4}
    citation = {"type": "char_location", "cited_text": "Wet.", "document_index": 0, "document_title": None, **place}
    reply = {"type": "text", "text": "wet", "citations": [citation | more]}
    asked = {"role": "user", "content": [{"type": "document", "source": text, "citations": {"enabled": True}}]}
    return {"messages": [asked, {"role": "assistant", "content": [reply]}, QUESTION]}


def schema_at(system: Any) -> dict[str, Any]:
    return {"system": system, "output_config": {"effort": "low", "format": TITLE_FORMAT}}


REFUSED_FIELDS = [
    pytest.param(
        f"output_config.format: {EXTRA}",
        schema_at("Be brief."),
        {"system": f"Be brief.\n\n{ASKED}", "output_config": {"effort": "low"}},
        id="format with a system text",  # BerriAI/litellm pull request 28312
    ),
    pytest.param(
        f"output_config.format: {EXTRA}",
        schema_at([{"type": "text", "text": "Be brief."}]),
        {
            "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": ASKED}],
            "output_config": {"effort": "low"},
        },
        id="format with system blocks",
    ),
    pytest.param(
        f"output_config.effort: {EXTRA}", {"output_config": {"effort": "low"}}, {"output_config": None}, id="effort"
    ),  # anthropics/claude-code-action issue 1005
    pytest.param(
        f"thinking.adaptive.display: {EXTRA}",
        {"thinking": {"type": "adaptive", "display": "summarized"}},
        {"thinking": {"type": "adaptive"}},
        id="display",
    ),
    pytest.param(
        f"system.1.cache_control.ephemeral.ttl: {EXTRA}",
        {
            "system": [
                {"type": "text", "text": "The scope of the ttl."},
                {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "5m"}},
                {"type": "text", "text": "Now.", "cache_control": {"ttl": "5m", "type": "ephemeral"}},
            ]
        },
        {
            "system": [
                {"type": "text", "text": "The scope of the ttl."},
                {"type": "text", "text": "Be brief.", "cache_control": CACHED},
                {"type": "text", "text": "Now.", "cache_control": CACHED},
            ]
        },
        id="ttl",
    ),
    pytest.param(
        f"messages.1.content.0.tool_use.caller: {EXTRA}",
        turn_of(USE | {"caller": {"type": "direct"}}, FOUND | {"content": "12:00"}),
        turn_of(USE, FOUND | {"content": "12:00"}),
        id="caller",
    ),
    pytest.param(
        f"messages.2.content.0.tool_result.cache_control: {EXTRA}",
        turn_of(USE | {"cache_control": CACHED}, FOUND | {"content": "12:00", "cache_control": CACHED}),
        turn_of(USE | {"cache_control": CACHED}, FOUND | {"content": "12:00"}),
        id="a field of one type of block",  # Wei-Shaw/sub2api issue 225
    ),
    pytest.param(
        f"messages.2.content.0.tool_result.content.0: Input tag 'tool_reference' {TAG}",
        turn_of(USE, FOUND),
        turn_of(USE, FOUND | {"content": [{"type": "text", "text": "Tool available: get_time"}]}),
        id="tool reference",  # anthropics/claude-code issue 25212
    ),
    pytest.param(
        f"messages.1.content.0.text.citations.0.char_location.file_id: {EXTRA}",
        cited(file_id=None),
        cited(),
        id="a field of replies in a citation",  # anthropics/anthropic-sdk-python issue 1450
    ),
    pytest.param(
        f"tools.0.custom.eager_input_streaming: {EXTRA}",
        {"tools": [TOOL | {"eager_input_streaming": True}]},
        {"tools": [{name: value for name, value in TOOL.items() if name != "eager_input_streaming"}]},
        id="a field of tools",
    ),
    pytest.param(
        "Malformed input request: #: extraneous key [output_config] is not permitted, please reformat your input and "
        "try again.",
        schema_at(None) | {"cache_control": CACHED},
        {"system": ASKED, "output_config": None, "cache_control": CACHED},
        id="Amazon's own check",  # BerriAI/litellm issue 7416
    ),
    pytest.param(
        "#/system/0/cache_control: extraneous key [ttl] is not permitted",
        {"system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]},
        {"system": [{"type": "text", "text": "a", "cache_control": CACHED}]},
        id="Amazon's own check of a field inside",
    ),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("problem", "given", "expected"), REFUSED_FIELDS)
@pytest.mark.sample(3)
async def test_a_field_inside_of_others_that_a_cloud_rejects_is_not_sent_again(
    kind: Kind, problem: str, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    with cloud_of(kind) as (cloud, running):
        cloud.find_problem = lambda body: problem if all(body.get(name) == given[name] for name in given) else ""
        engine = engine_of(settings_of(kind, running.url))
        for _ in range(2):
            reply, message = await ask(engine, MODELS[kind], **given, betas="context-management-2025-06-27")
            assert reply.status == 200, message
        await engine.close()
        bodies = [exchange.body for exchange in running.journal.exchanges]
    assert [{name: body.get(name) for name in expected} for body in bodies[1:]] == [expected, expected]
    assert reply.headers["x-proxy-fidelity"] != "best-effort; approximated=0; emulated=0; dropped=0"


@pytest.mark.parametrize("kind", ["bedrock", "vertex"])
async def test_the_proxy_makes_the_edits_of_later_requests_if_a_cloud_rejects_one(kind: Kind) -> None:
    thinking = {"type": "clear_thinking_20251015", "keep": {"type": "thinking_turns", "value": 1}}
    cleared = {"type": "clear_tool_uses_20250919"}
    problem = f"context_management.edits.0: Input tag 'clear_thinking_20251015' {TAG}"
    with cloud_of(kind) as (cloud, running):
        cloud.find_problem = lambda body: problem if "clear_thinking_20251015" in json.dumps(body) else ""
        engine = engine_of(settings_of(kind, running.url))
        given = {"context_management": {"edits": [thinking, cleared]}}
        replies = [await ask(engine, MODELS[kind], **given, betas=CONTEXT) for _ in range(2)]
        await engine.close()
        bodies = [exchange.body for exchange in running.journal.exchanges]
    assert [reply.status for reply, _ in replies] == [200, 200], replies
    assert [body.get("context_management") for body in bodies[1:]] == [{"edits": [cleared]}, None]
    fidelity = [reply.headers["x-proxy-fidelity"] for reply, _ in replies]
    assert fidelity[1] == "best-effort; approximated=0; emulated=1; dropped=0"
    assert fidelity[0] != fidelity[1]


async def test_a_list_in_a_list_is_no_field_of_the_api_and_stays() -> None:
    scoped = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "scope": "global"}}
    deep: Any = [{"role": "user", "content": [scoped]}]
    for _ in range(150):
        deep = [deep]
    bodies: list[Any] = []

    def answer(_: str, request: UpstreamRequest, __: Credential | None) -> FakeResponse:
        bodies.append(json.loads(request.body))
        return FakeResponse(400, b'{"message": "a list is no message"}')

    proxy = ProxyHarness(answer, **settings_of("bedrock", "https://bedrock.example"))
    given = [*CALL["messages"], deep]
    await proxy.post(
        model=MODELS["bedrock"], messages=given, headers={"anthropic-beta": "prompt-caching-scope-2026-01-05"}
    )
    assert [body["messages"] for body in bodies] == [given]


@pytest.mark.parametrize("kind", ["bedrock", "vertex"])
async def test_a_scope_of_the_cache_is_not_sent_without_its_beta(kind: Kind) -> None:
    scoped = {"type": "ephemeral", "scope": "global"}
    with cloud_of(kind) as (_, running):
        engine = engine_of(settings_of(kind, running.url))
        reply, message = await ask(
            engine,
            MODELS[kind],
            betas="prompt-caching-scope-2026-01-05",
            system=[{"type": "text", "text": "Be brief.", "cache_control": scoped}],
            messages=[{"role": "user", "content": [{"type": "text", "text": "Say it", "cache_control": scoped}]}],
            tools=[TOOL | {"cache_control": scoped}],
        )
        await engine.close()
        (sent,) = running.journal.exchanges
        assert running.journal.violations() == []
    assert reply.status == 200, message
    assert sent.body["system"] == [{"type": "text", "text": "Be brief.", "cache_control": CACHED}]
    assert sent.body["messages"][0]["content"] == [{"type": "text", "text": "Say it", "cache_control": CACHED}]
    assert sent.body["tools"] == [TOOL | {"cache_control": CACHED}]
    assert reply.headers["x-proxy-fidelity"] == "best-effort; approximated=4; emulated=0; dropped=0"


@pytest.mark.parametrize(
    "problem",
    [
        f"messages.0.content: {EXTRA}",
        f"tools.0.custom.input_schema.properties: {EXTRA}",
        f"tools.0.custom.name: {EXTRA}",
        "tools.0: Input tag 'custom' found using 'type' does not match any of the expected tags: 'bash_20250124'",
        f"tool_choice: {EXTRA}",
        f"output_config.format.schema: {EXTRA}",
    ],
)
async def test_what_a_cloud_rejects_and_the_request_needs_is_left_to_the_next_target(problem: str) -> None:
    fields: dict[str, Any] = {
        "tool_choice": {"type": "auto"},
        "output_config": {"format": TITLE_FORMAT},
        "tools": [TOOL | {"type": "custom"}],
    }
    with cloud_of("bedrock") as (cloud, bedrock), cloud_of("foundry") as (_, foundry):
        cloud.find_problem = lambda body: problem
        variables = settings_of("bedrock", bedrock.url) | settings_of("foundry", foundry.url)
        variables |= {"MODEL_OPUS": MODELS["bedrock"], "FALLBACK_OPUS": MODELS["foundry"]}
        engine = engine_of(variables)
        reply, message = await ask(engine, "claude-opus-5-5", **fields)
        assert reply.status == 200, message
        assert reply.headers["x-proxy-failed-attempts"] == "bedrock 400, bedrock 400"
        reply, message = await ask(engine, MODELS["bedrock"], **fields)
        assert (reply.status, message["error"]["message"]) == (400, f"bedrock: {problem}")
        await engine.close()
        assert len(bedrock.journal.exchanges) == 4  # each once more in a plainer form
        assert {name: foundry.journal.exchanges[0].body[name] for name in fields} == fields


LIMITED_SEARCH = {"type": "web_search_20250305", "name": "web_search"}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("inference_geo", {"inference_geo": "us"}),
        (
            "tool_choice.auto.disable_parallel_tool_use",
            {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        ),
        *(
            (f"tools.0.web_search_20250305.{name}", {"tools": [LIMITED_SEARCH | {name: value}]})
            for name, value in (("allowed_domains", ["a.example"]), ("blocked_domains", ["a.example"]), ("max_uses", 1))
        ),
        (
            "mcp_servers.0.tool_configuration.allowed_tools",
            {
                "mcp_servers": [
                    {
                        "type": "url",
                        "name": "a",
                        "url": "https://a.example",
                        "tool_configuration": {"allowed_tools": ["read"]},
                    }
                ]
            },
        ),
    ],
)
async def test_a_limit_that_a_cloud_rejects_is_not_left_out(path: str, fields: dict[str, Any]) -> None:
    with cloud_of("foundry", betas=("mcp-client-2025-11-20",)) as (cloud, running):
        cloud.find_problem = lambda body: f"{path}: {EXTRA}"
        engine = engine_of(settings_of("foundry", running.url))
        reply, message = await ask(engine, MODELS["foundry"], betas="mcp-client-2025-11-20", **fields)
        await engine.close()
        bodies = [exchange.body for exchange in running.journal.exchanges]
    assert (reply.status, message["error"]["message"]) == (400, f"foundry: {path}: {EXTRA}")
    assert [{name: body[name] for name in fields} for body in bodies] == [fields, fields]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["z', ", "z'; ", "z'\n", "z ` ", 'z" #: extraneous key [thinking] is not permitted '])
async def test_the_text_of_a_client_in_an_error_takes_nothing_from_others(kind: Kind, end: str) -> None:
    lost = ("thinking", "output_config", "system.0.cache_control")
    hostile = end + "; ".join(f"{name}: {EXTRA}" for name in lost) + f"; invalid beta flag: {THINKING} anthropic-beta '"

    async def send(block: dict[str, Any]) -> int:
        messages = [{"role": "user", "content": [block]}]
        fields = {"output_config": {"effort": "low"}, "messages": messages}
        reply, _ = await ask(engine, MODELS[kind], betas=THINKING, **fields)
        return int(reply.status)

    with cloud_of(kind, betas=(THINKING,)) as (cloud, running):
        cloud.find_problem = find_echo
        engine = engine_of(settings_of(kind, running.url))
        text = {"type": "text", "text": "Say exactly: hello"}
        statuses = [await send(block) for block in (text, {"type": hostile, "text": "x"}, text)]
        await engine.close()
        first, refused, plainer, last = running.journal.exchanges
    assert statuses == [200, 400, 200]
    assert [sent.body["messages"][0]["content"][0]["type"] for sent in (refused, plainer)] == [hostile, hostile]
    assert last.body == first.body
    assert [sent.headers["anthropic-beta"] for sent in (first, last)] == [THINKING, THINKING]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_field_is_remembered_only_if_the_request_without_it_succeeds(kind: Kind) -> None:
    problems = [f"output_config.effort: {EXTRA}", "messages.0.content: too bad", "messages.0.content: too bad", ""]
    with cloud_of(kind) as (cloud, running):
        cloud.find_problem = lambda body: problems.pop(0)
        engine = engine_of(settings_of(kind, running.url))
        replies = [await ask(engine, MODELS[kind], output_config={"effort": "low"}) for _ in range(2)]
        await engine.close()
        sent = ["output_config" in exchange.body for exchange in running.journal.exchanges]
    assert [reply.status for reply, _ in replies] == [400, 200]
    assert sent == [True, False, False, True]


async def test_a_field_that_one_client_sends_without_its_beta_stays_for_others() -> None:
    def answer(_: str, request: UpstreamRequest, __: Credential | None) -> FakeResponse:
        sent.append("context_management" in json.loads(request.body))
        if sent[-1] and CONTEXT not in request.headers.get("anthropic-beta", ""):
            error = {"type": "invalid_request_error", "message": f"context_management: {EXTRA}"}
            return FakeResponse(400, json.dumps({"type": "error", "error": error}).encode())
        message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "usage": {}}
        return FakeResponse(200, json.dumps(message | {"stop_reason": "end_turn"}).encode())

    sent: list[bool] = []
    proxy = ProxyHarness(answer, **settings_of("foundry", "https://foundry.example"))
    for betas in (None, {"anthropic-beta": CONTEXT}):
        await proxy.post(model=MODELS["foundry"], context_management={"edits": []}, headers=betas)
    assert sent == [True, False, True]


async def test_the_name_of_a_field_of_one_client_takes_nothing_from_others() -> None:
    hostile = f"x: {EXTRA}; system.0.cache_control: {EXTRA}; thinking"

    def find_echo(body: dict[str, Any]) -> str:
        marks = body["system"][0].get("cache_control", {})
        return next((f"system.0.cache_control.ephemeral.{name}: {EXTRA}" for name in marks if name != "type"), "")

    with cloud_of("foundry") as (cloud, running):
        cloud.find_problem = find_echo
        engine = engine_of(settings_of("foundry", running.url))
        system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", hostile: 1}}]
        replies = [
            await ask(engine, MODELS["foundry"], system=system, metadata={"user_id": "user_a_session_a"}),
            await ask(engine, MODELS["foundry"], metadata={"user_id": "user_b_session_b"}),
        ]
        await engine.close()
        _, plainer, last = running.journal.exchanges
    assert [reply.status for reply, _ in replies] == [200, 200]
    assert "cache_control" not in plainer.body["system"][0]
    assert {name: last.body[name] for name in ("system", "thinking")} == {
        name: CALL[name] for name in ("system", "thinking")
    }


def find_unknown_field(body: dict[str, Any]) -> str:
    """Return the error of a server that names each field which it does not know, as Anthropic's does."""
    edits = body.get("context_management", {})
    places = [("", body, {*CALL, "model", "stream", "context_management", "output_config"})]
    places += [("context_management.", edits, {"edits"})]
    places += [("thinking.adaptive.", body.get("thinking", {}), {"type"})]
    places += [(f"messages.{at}.", each, {"role", "content"}) for at, each in enumerate(body["messages"])]
    return next((f"{path}{key}: {EXTRA}" for path, place, known in places for key in place if key not in known), "")


CLEARED = {"edits": [{"type": "clear_tool_uses_20250919"}]}
REFUSED_BETA = f"Unexpected value(s) `{CONTEXT}` for the `anthropic-beta` header"


@pytest.mark.parametrize(
    "hostile",
    [
        {f"x error: {REFUSED_BETA}": 1},
        {f"400: {REFUSED_BETA.upper()}": 1, "x": 1},
        {REFUSED_BETA: 1},
        {f"unsupported beta {CONTEXT}": 1},
        {"context_management": {**CLEARED, f"xerror: {REFUSED_BETA}": 1}},
        {"context_management": {**CLEARED, "xerror: context_management": 1}},
        {"context_management": {**CLEARED, "xerror:\ncontext_management": 1}},
        {"context_management": {**CLEARED, "xerror:\u2003context_management": 1}},
        {"context_management": {**CLEARED, '{"error": "context_management': 1}},
        {"context_management": {**CLEARED, f"xerror: un\u017fupported beta {CONTEXT}": 1}},
        {"context_management": {**CLEARED, "a.400 error: error - thinking": 1}},
        {"thinking": {"type": "adaptive", "xerror: thinking": 1}},
        {"messages": [{**CALL["messages"][0], "xerror: thinking": 1}]},
        {"messages": [{**CALL["messages"][0], f"xerror: {REFUSED_BETA}": 1}]},
    ],
)
@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.sample(3)
async def test_a_field_named_like_an_error_takes_nothing_from_others(hostile: dict[str, Any], escaped: bool) -> None:
    variables = {"OPENAI_API_KEY": KEY, "OPENAI_WIRE": "messages"}
    fields = {"context_management": CLEARED, "output_config": {"effort": "low"}}
    # a search without words is about the first requests of conversations, and words about all requests
    begun = [{"role": "user", "content": "Good day."}, {"role": "assistant", "content": "Good day."}, *CALL["messages"]]
    with cloud_of("foundry", betas=(CONTEXT,)) as (cloud, running):
        cloud.find_problem = find_unknown_field
        engine = engine_of({**variables, "OPENAI_BASE_URL": f"{running.url}/anthropic/v1"})
        await ask(engine, f"openai/{VERTEX_MODEL}", betas=CONTEXT, **fields, messages=begun)
        text = json.dumps({"model": f"openai/{VERTEX_MODEL}", **CALL, **fields, **hostile})
        if escaped:
            text = text.replace("nexpected", r"\u006e\u0065xpected").replace("error", r"\u0065rror")
        headers = {"anthropic-version": "2023-06-01", "anthropic-beta": CONTEXT}
        reply = await send_request(engine, text.encode(), headers)
        [piece async for piece in reply.body]
        reply, message = await ask(engine, f"openai/{VERTEX_MODEL}", betas=CONTEXT, **fields, messages=begun)
        await engine.close()
        first, *_, last = running.journal.exchanges
    assert reply.status == 200, message
    assert last.body == first.body
    assert last.headers["anthropic-beta"] == CONTEXT


ROLES = {
    "user": ("text", "image", "document", "tool_result", "search_result"),
    "assistant": ("text", "tool_use", "server_tool_use", "web_search_tool_result"),
}


def find_misplaced(body: dict[str, Any]) -> str:
    """Return the error of a server that has other types of blocks for each role, and one field of one role."""
    for place, message in enumerate(body["messages"]):
        content = message["content"] if isinstance(message["content"], list) else []
        for number, block in enumerate(content):
            if block["type"] not in ROLES[message["role"]]:
                return f"messages.{place}.content.{number}: Input tag '{block['type']}' {TAG}"
            if message["role"] == "user" and "citations" in block and block["type"] == "text":
                return f"messages.{place}.content.{number}.text.citations: {EXTRA}"
    return ""


HIT = {
    "type": "search_result",
    "source": "https://a.example",
    "title": "A",
    "content": [{"type": "text", "text": "It is so."}],
    "citations": {"enabled": True},
}
CITED = {"type": "text", "text": "It is so.", "citations": []}
SEARCHES = [
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "news"}},
    {
        "type": "web_search_tool_result",
        "tool_use_id": "srvtoolu_1",
        "content": [{"type": "web_search_result", "url": "http://a.example", "title": "A", "encrypted_content": "Eq"}],
    },
    {"type": "text", "text": "It is so."},
]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (
            [{"role": "user", "content": [HIT]}],
            [QUESTION, {"role": "assistant", "content": [HIT]}, QUESTION],
        ),
        (
            [QUESTION, {"role": "assistant", "content": SEARCHES}, QUESTION],
            [{"role": "user", "content": SEARCHES}],
        ),
        (
            [QUESTION, {"role": "assistant", "content": [CITED]}, QUESTION],
            [{"role": "user", "content": [CITED]}],
        ),
    ],
    ids=["search result", "web search", "field"],
)
async def test_a_block_in_the_wrong_role_takes_this_block_from_no_other_client(
    right: list[dict[str, Any]], wrong: list[dict[str, Any]]
) -> None:
    with cloud_of("foundry") as (cloud, running):
        cloud.find_problem = find_misplaced
        engine = engine_of(settings_of("foundry", running.url))
        calls = [await calls_for(engine, running, messages=messages) for messages in (right, wrong, wrong, right)]
        await engine.close()
        first, *_, last = running.journal.exchanges
    assert calls[0] == calls[2] == calls[3] == [200]
    assert calls[1][-1] == 200
    assert last.body["messages"] == first.body["messages"] == right


async def test_invented_fields_of_messages_remove_nothing_that_was_learned() -> None:
    fields = {"output_config": {"effort": "low"}}
    with cloud_of("foundry", rejected_fields=("output_config",)) as (cloud, running):
        cloud.find_problem = find_unknown_field
        engine = engine_of(settings_of("foundry", running.url))
        await ask(engine, MODELS["foundry"], **fields)
        for number in range(70):
            reply, message = await ask(engine, MODELS["foundry"], messages=[{**QUESTION, f"x{number}": 1}])
            assert reply.status == 200, message
        calls = await calls_for(engine, running, **fields)
        await engine.close()
    assert calls == [200]


SEARCH_TOOL = {"type": "web_search_20260318", "name": "web_search"}
SERVER_TOOLS = [
    SEARCH_TOOL,
    {"type": "web_fetch_20250910", "name": "web_fetch"},
    {"type": "code_execution_20250825", "name": "code_execution"},
]
BASH = "bash_code_execution"
RAN = [
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "news"}},
    {
        "type": "web_search_tool_result",
        "tool_use_id": "srvtoolu_1",
        "content": [{"type": "web_search_result", "url": "http://a.example", "title": "A", "encrypted_content": "Eq"}],
    },
    {"type": "server_tool_use", "id": "srvtoolu_2", "name": BASH, "input": {"command": "ls"}},
    {
        "type": f"{BASH}_tool_result",
        "tool_use_id": "srvtoolu_2",
        "content": {"type": f"{BASH}_result", "stdout": "a.txt", "stderr": "", "return_code": 0, "content": []},
    },
    {
        "type": "text",
        "text": "It is so.",
        "citations": [
            {
                "type": "web_search_result_location",
                "url": "http://a.example",
                "title": "A",
                "encrypted_index": "Eo",
                "cited_text": "so",
            }
        ],
    },
]
BEFORE_TEXT, AFTER_TEXT = {"role": "user", "content": "news?"}, {"role": "user", "content": "Say exactly: hello"}


def text_block(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


AS_TEXT = [text_block(text) for text in ("[web_search: news]", "A – http://a.example", f"[{BASH}: ls]", "a.txt")]


@pytest.mark.parametrize(
    ("kind", "tools", "history"),
    [
        ("bedrock", [], [*AS_TEXT, text_block("It is so.")]),
        ("mantle", [], [*AS_TEXT, text_block("It is so.")]),
        ("vertex", [{**SEARCH_TOOL, "type": "web_search_20250305"}], [*RAN[:2], *AS_TEXT[2:], RAN[4]]),
        ("foundry", SERVER_TOOLS, RAN),
    ],
)
async def test_server_tools_that_a_cloud_does_not_run_are_removed_and_their_results_are_text(
    kind: Kind, tools: list[Any], history: list[Any]
) -> None:
    messages = [BEFORE_TEXT, {"role": "assistant", "content": RAN}, AFTER_TEXT]
    with cloud_of(kind) as (_, running):
        engine = engine_of(settings_of(kind, running.url))
        own = CALL["tools"]
        reply, message = await ask(engine, MODELS[kind], messages=messages, tools=[*SERVER_TOOLS, *own])
        await engine.close()
        (sent,) = running.journal.exchanges
        assert running.journal.violations() == []
    assert reply.status == 200, message
    assert sent.body["tools"] == [*tools, *own]
    assert sent.body["messages"] == [messages[0], {"role": "assistant", "content": history}, messages[2]]
    lost = {"bedrock": (3, 3), "mantle": (3, 3), "vertex": (3, 2), "foundry": (0, 0)}[kind]
    expected = f"best-effort; approximated={lost[0]}; emulated=0; dropped={lost[1]}"
    assert reply.headers.get("x-proxy-fidelity") == expected


async def test_only_results_of_server_tools_that_exist_become_text_with_one_note_each() -> None:
    results = [block for block in RAN if block["type"].endswith("_tool_result")]
    made_up = [block | {"type": f"a_{block['type']}"} for block in results]
    messages = [BEFORE_TEXT, {"role": "assistant", "content": [*made_up, *results, *results]}, AFTER_TEXT]
    with cloud_of("bedrock") as (_, running):
        engine = engine_of(settings_of("bedrock", running.url))
        body = json.dumps({"model": MODELS["bedrock"], **CALL, "messages": messages}).encode()
        incoming = new_client_request(body, {"anthropic-version": "2023-06-01"})
        await Exchange(engine, incoming, RecordingSink()).run()
        await engine.close()
        sent = running.journal.exchanges[0].body["messages"][1]["content"]
    assert sent == [*made_up, *AS_TEXT[1::2], *AS_TEXT[1::2]]
    notes = [note.field for note in incoming.receipt.fidelity.notes if note.reason == "sent as text"]
    assert notes == [f"messages.{BASH}_tool_result", "messages.web_search_tool_result"]


CODE = "code_execution_20250825"
FROM_CODE = [
    {"type": "server_tool_use", "id": "srvtoolu_3", "name": "code_execution", "input": {"code": "get_time()"}},
    USE | {"caller": {"type": CODE, "tool_id": "srvtoolu_3"}},
]


@pytest.mark.parametrize("kind", ["bedrock", "vertex"])
async def test_what_belongs_to_code_that_a_cloud_does_not_run_is_removed_with_it(kind: Kind) -> None:
    answer = [
        FOUND | {"content": "12:00"},
        {"type": "container_upload", "file_id": "file_1"},
        {"type": "text", "text": "Say exactly: hello"},
    ]
    turn = [QUESTION, {"role": "assistant", "content": FROM_CODE}, {"role": "user", "content": answer}]
    tools = [{"type": CODE, "name": "code_execution"}, TOOL | {"allowed_callers": [CODE]}]
    with cloud_of(kind) as (_, running):
        engine = engine_of(settings_of(kind, running.url))
        reply, message = await ask(
            engine, MODELS[kind], messages=turn, tools=tools, container="c1", thinking={"type": "between_tools"}
        )
        await engine.close()
        (sent,) = running.journal.exchanges
        assert running.journal.violations() == []
    assert reply.status == 200, message
    assert sent.body["tools"] == [TOOL]
    assert sent.body["messages"] == [
        QUESTION,
        {"role": "assistant", "content": [text_block("[code_execution]\nget_time()"), USE]},
        {"role": "user", "content": [answer[0], text_block("[unsupported block: container_upload]"), answer[2]]},
    ]
    assert reply.headers["x-proxy-fidelity"] == "best-effort; approximated=3; emulated=0; dropped=2"


PNG = b"\x89PNG\r\n\x1a\n"
IMAGE, GONE, PAGE = (f"https://files.test/{name}" for name in ("a.png", "gone.png", "page.txt"))


async def fetch_file(_origin: object, url: str, **_: Any) -> FetchedPage:
    if url == GONE:
        raise WebFetchFailed("no such file", "url_not_accessible")
    if url == PAGE:
        return FetchedPage(url=url, media_type="text/plain", body=b"hello", text="hello")
    return FetchedPage(url=url, media_type="image/png", body=PNG)


def linked(kind: str, url: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "source": {"type": "url", "url": url}, **fields}


@pytest.mark.parametrize("kind", KINDS)
async def test_files_by_url_are_fetched_for_a_cloud_that_accepts_base64_data_only(kind: Kind) -> None:
    data, mark = base64.b64encode(PNG).decode(), {"cache_control": {"type": "ephemeral"}}
    as_data = {"type": "base64", "media_type": "image/png", "data": data}
    text = {"type": "text", "media_type": "text/plain", "data": "hello"}
    call = {"type": "tool_use", "id": "toolu_1", "name": "get_time", "input": {}}
    given = [
        [linked("image", IMAGE, **mark), linked("image", GONE), linked("document", PAGE, title="T")],
        [linked("image", f"data:image/png;base64,{data}")],
    ]
    replaced = [
        [
            {"type": "image", "source": as_data, **mark},
            {"type": "text", "text": f"[image: {GONE}]"},
            {"type": "document", "source": text, "title": "T"},
        ],
        [{"type": "image", "source": as_data}],
    ]

    def messages_of(files: list[Any]) -> list[Any]:
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": files[0][:1]}
        return [
            {"role": "user", "content": files[0]},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result, *files[1], text_block("Say exactly: hello")]},
        ]

    with cloud_of(kind) as (_, running):
        engine = structs.replace(engine_of(settings_of(kind, running.url)), web_fetch=fetch_file)
        reply, message = await ask(
            engine, MODELS[kind], messages=messages_of(given), thinking={"type": "between_tools"}
        )
        await engine.close()
        (sent,) = running.journal.exchanges
        assert running.journal.violations() == []
    assert reply.status == 200, message
    assert sent.body["messages"] == messages_of(given if kind == "foundry" else replaced)
    counts = (0, 0, 0) if kind == "foundry" else (0, 2, 1)
    assert reply.headers["x-proxy-fidelity"] == (
        f"best-effort; approximated={counts[0]}; emulated={counts[1]}; dropped={counts[2]}"
    )


async def test_a_file_by_url_in_a_document_of_blocks_is_fetched_too() -> None:
    def content_of(image: dict[str, Any]) -> list[Any]:
        source = {"type": "content", "content": [text_block("before"), image]}
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "document", "source": source}]}
        return [{"type": "document", "source": source}, result]

    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(PNG).decode()}
    bodies: list[Any] = []

    def answer(_: str, request: UpstreamRequest, __: Credential | None) -> FakeResponse:
        bodies.append(json.loads(request.body))
        return FakeResponse(400, b'{"message": "no"}')

    proxy = ProxyHarness(answer, **settings_of("bedrock", "https://bedrock.example"))
    proxy.services = structs.replace(proxy.services, web_fetch=fetch_file)
    await proxy.post(
        model=MODELS["bedrock"], messages=[{"role": "user", "content": content_of(linked("image", IMAGE))}]
    )
    assert [body["messages"][0]["content"] for body in bodies] == [content_of({"type": "image", "source": source})]


async def test_a_search_that_the_request_forces_is_done_by_the_next_target() -> None:
    forced: dict[str, Any] = {"tools": [SEARCH_TOOL], "tool_choice": {"type": "tool", "name": "web_search"}}
    with cloud_of("bedrock") as (_, bedrock), cloud_of("foundry") as (_, foundry):
        variables = settings_of("bedrock", bedrock.url) | settings_of("foundry", foundry.url)
        alone = engine_of(variables)
        reply, message = await ask(alone, MODELS["bedrock"], **forced, thinking={"type": "between_tools"})
        await alone.close()
        assert (reply.status, message["error"]["message"]) == (
            400,
            "tool_choice: 'tool' forces 'web_search' (web_search_20260318), which bedrock is not known to run",
        )
        variables |= {"MODEL_OPUS": MODELS["bedrock"], "FALLBACK_OPUS": MODELS["foundry"]}
        engine = engine_of(variables)
        reply, message = await ask(engine, "claude-opus-5-5", **forced, thinking={"type": "between_tools"})
        await engine.close()
        assert reply.status == 200, message
        assert bedrock.journal.exchanges == []
        assert len(foundry.journal.exchanges) == 1


UPLOADED = {"type": "document", "source": {"type": "file", "file_id": "file_011CNha8iCJcU1wXNR6q4V8w"}}


@pytest.mark.parametrize("kind", ["bedrock", "mantle", "vertex"])
@pytest.mark.parametrize("in_result", [False, True])
async def test_a_file_that_a_cloud_cannot_read_is_left_to_the_next_target(kind: Kind, in_result: bool) -> None:
    fields: dict[str, Any] = {"messages": [{"role": "user", "content": [UPLOADED]}]}
    if in_result:
        fields["messages"] = [
            {"role": "user", "content": "Read it"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "get_time", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [UPLOADED]}]},
        ]
    with cloud_of(kind) as (_, without), cloud_of("foundry") as (_, foundry):
        variables = settings_of("foundry", foundry.url) | settings_of(kind, without.url)
        alone = engine_of(variables)
        reply, message = await ask(alone, MODELS[kind], **fields, thinking={"type": "between_tools"})
        await alone.close()
        cloud = MODELS[kind].partition("/")[0]
        assert (reply.status, message["error"]["message"]) == (
            400,
            f"messages: {cloud} cannot read 'file_011CNha8iCJcU1wXNR6q4V8w' (document), because it has no Files API. "
            "Send the file as base64 data.",
        )
        variables |= {"MODEL_OPUS": MODELS[kind], "FALLBACK_OPUS": MODELS["foundry"]}
        engine = engine_of(variables)
        reply, message = await ask(engine, "claude-opus-5-5", **fields, thinking={"type": "between_tools"})
        await engine.close()
        assert reply.status == 200, message
        assert without.journal.exchanges == []
        assert foundry.journal.exchanges[0].body["messages"] == fields["messages"]


async def test_a_choice_without_tools_is_removed_with_them() -> None:
    with cloud_of("bedrock") as (_, running):
        engine = engine_of(settings_of("bedrock", running.url))
        reply, message = await ask(engine, MODELS["bedrock"], tools=[SEARCH_TOOL], tool_choice={"type": "auto"})
        await engine.close()
        (sent,) = running.journal.exchanges
        assert running.journal.violations() == []
    assert reply.status == 200, message
    assert (sent.body["tools"], "tool_choice" in sent.body) == ([], False)


def test_anthropic_s_own_refusal_of_a_beta_or_field_stays_the_client_s_to_see() -> None:
    assert not anthropic_wire.Dialect().drops_rejected_fields


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("bedrock/us.anthropic.x/../../y", "/model/us.anthropic.x%2F..%2F..%2Fy/invoke"),
        ("vertex_ai/claude-x/../y", None),
        ("foundry/..", "/anthropic/v1/messages"),
    ],
)
async def test_a_model_stays_within_its_part_of_the_path(model: str, path: str | None) -> None:
    kind: Kind = {"bedrock": "bedrock", "vertex_ai": "vertex", "foundry": "foundry"}[model.partition("/")[0]]  # type: ignore[assignment]
    base = f"/v1/projects/{PROJECT}/locations/{LOCATION}/publishers/anthropic/models"
    with cloud_of(kind) as (_, running):
        engine = engine_of(settings_of(kind, running.url))
        reply, _ = await ask(engine, model)
        await engine.close()
        paths = [exchange.path for exchange in running.journal.exchanges]
    assert reply.status == 404
    assert paths == [path or f"{base}/claude-x%2F..%2Fy:rawPredict"]


# Failures


async def test_a_stream_of_bedrock_that_fails_ends_with_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Iterator[dict[str, Any]]:
        yield {"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant"}}
        yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        yield {"exception": "throttlingException"}

    def encode(event: dict[str, Any]) -> bytes:
        if "exception" not in event:
            return encode_chunk(event)
        headers = {":message-type": "exception", ":exception-type": event["exception"]}
        return encode_message(headers, b'{"message":"Too many tokens, please wait"}')

    monkeypatch.setattr("tests.support.fakes.clouds.events_of", failing)
    monkeypatch.setattr("tests.support.fakes.clouds.encode_chunk", encode)
    with cloud_of("bedrock") as (_, running):
        engine = engine_of(settings_of("bedrock", running.url))
        body = json.dumps({"model": MODELS["bedrock"], **CALL, "stream": True}).encode()
        reply = await send_request(engine, body, {})
        events = b"".join([piece async for piece in reply.body])
        await engine.close()
    assert b"event: message_start" in events
    assert b'"type":"rate_limit_error","message":"Too many tokens, please wait"' in events


@pytest.mark.parametrize(
    ("name", "sent", "status", "error_type"),
    [
        ("ThrottlingException", 429, 429, "rate_limit_error"),
        ("ServiceQuotaExceededException", 400, 429, "rate_limit_error"),
        ("ModelNotReadyException", 429, 429, "rate_limit_error"),
        ("ModelErrorException", 424, 500, "api_error"),
        ("ModelTimeoutException", 408, 504, "timeout_error"),
        ("ServiceUnavailableException", 503, 529, "overloaded_error"),
        ("InternalServerException", 500, 500, "api_error"),
        ("AccessDeniedException", 403, 424, "invalid_request_error"),
        ("ResourceNotFoundException", 404, 404, "not_found_error"),
        ("ValidationException", 400, 400, "invalid_request_error"),
    ],
)
@pytest.mark.parametrize("form", ["header", "body", "first event"])
async def test_an_error_of_bedrock_is_the_same_as_status_and_as_first_event(
    name: str, sent: int, status: int, error_type: str, form: str
) -> None:
    text = "Too many tokens" if name == "ThrottlingException" else "Too bad."
    field = "Message" if name == "AccessDeniedException" else "message"

    async def answer(_: Server, writer: asyncio.StreamWriter) -> None:
        lines, body, code = "", json.dumps({field: text}).encode(), sent
        if form == "header":
            lines = f"x-amzn-errortype: {name}:http://internal.amazon.com/coral/\r\n"
        elif form == "body":
            body = json.dumps({"__type": f"com.amazon.coral.service#{name}", field: text}).encode()
        else:
            headers = {":message-type": "exception", ":exception-type": name[0].lower() + name[1:]}
            lines, body, code = (
                "content-type: application/vnd.amazon.eventstream\r\n",
                encode_message(headers, body),
                200,
            )
        writer.write(f"HTTP/1.1 {code} X\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body)

    async with http_serving(answer) as (_, port):
        engine = engine_of(settings_of("bedrock", f"http://127.0.0.1:{port}"))
        engine = structs.replace(engine, sleep=lambda seconds: asyncio.sleep(0))
        reply, message = await ask(engine, MODELS["bedrock"], stream=form == "first event")
        await engine.close()
    assert (reply.status, message["error"]["type"]) == (status, error_type)
    assert message["error"]["message"] == f"bedrock: {text}"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("The provided model identifier is invalid.", 404),
        (
            "Invocation of model ID anthropic.claude-opus-4-6-v1 with on-demand throughput isn’t supported. Retry your "
            "request with the ID or ARN of an inference profile that contains this model.",
            404,
        ),
        ("The provided model doesn't support on-demand throughput.", 404),
        ("Publisher Model `claude-opus-5-5` is not servable in region us-central1.", 404),
        ("Operation not allowed", 424),
        (
            "Project `p` is not allowed to use Publisher Model `projects/p/locations/global/publishers/anthropic/"
            "models/claude-opus-5-5`",
            424,
        ),
    ],
)
async def test_a_model_that_a_cloud_does_not_serve_is_called_at_the_next_target(text: str, status: int) -> None:
    with cloud_of("bedrock") as (cloud, bedrock), cloud_of("foundry") as (_, foundry):
        cloud.find_problem = lambda body: text
        variables = settings_of("bedrock", bedrock.url) | settings_of("foundry", foundry.url)
        variables |= {"MODEL_OPUS": MODELS["bedrock"], "FALLBACK_OPUS": MODELS["foundry"]}
        engine = engine_of(variables)
        reply, message = await ask(engine, "claude-opus-5-5")
        assert reply.status == 200, message
        assert reply.headers["x-proxy-failed-attempts"] == "bedrock 400"
        reply, message = await ask(engine, MODELS["bedrock"])
        assert (reply.status, message["error"]["message"]) == (status, f"bedrock: {text}")
        await engine.close()
        assert len(foundry.journal.exchanges) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_rejected_key_is_an_error_without_the_key(kind: Kind) -> None:
    with cloud_of(kind) as (cloud, running):
        cloud.keys.clear()
        engine = engine_of(settings_of(kind, running.url))
        reply, message = await ask(engine, MODELS[kind])
        await engine.close()
    assert reply.status == 424
    assert KEY not in json.dumps(message)
    code = "no_access" if kind in ("bedrock", "mantle") else "rejected_key"
    assert (message["error"]["type"], message["error"]["details"]) == ("invalid_request_error", {"error_code": code})


@pytest.mark.parametrize(
    ("model", "variable"),
    [(MODELS["bedrock"], "AWS_REGION"), (MODELS["foundry"], "ANTHROPIC_FOUNDRY_RESOURCE")],
)
async def test_a_cloud_that_is_not_set_up_names_the_variable(model: str, variable: str) -> None:
    engine = engine_of({})
    reply, message = await ask(engine, model)
    await engine.close()
    prefix = model.partition("/")[0]
    assert (reply.status, message["error"]["message"]) == (
        401,
        f"{prefix} is not set up: {variable} is not set. Set it in .env and reload the proxy, or in the "
        "environment and start it again.",
    )


async def test_the_next_cloud_takes_over_with_all_the_thinking_of_the_session() -> None:
    """The signature of a thought is valid at Anthropic and in all clouds. The fakes verify it."""
    own = new_anthropic(KEY)
    with (
        serving(own) as first,
        cloud_of("bedrock") as (cloud, bedrock),
        cloud_of("vertex") as (_, vertex),
        cloud_of("foundry") as (_, foundry),
    ):
        variables = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_UPSTREAM_URL": first.url}
        kinds: list[Kind] = ["bedrock", "vertex", "foundry"]
        for kind, running in zip(kinds, (bedrock, vertex, foundry), strict=True):
            variables |= settings_of(kind, running.url)
        variables["MODEL_OPUS"] = "anthropic/claude-opus-5-5"
        variables["FALLBACK_OPUS"] = ",".join(MODELS[kind] for kind in kinds)
        engine = engine_of(variables)
        messages: list[Any] = [*CALL["messages"]]
        for revoke in (lambda: setattr(own[STAND_IN], "keys", ()), cloud.keys.clear, lambda: None):
            reply, message = await ask(engine, "claude-opus-5-5", betas=BETAS[0], messages=messages)
            assert reply.status == 200, message
            assert [block["type"] for block in message["content"]] == ["thinking", "text"]
            messages += [
                {"role": "assistant", "content": message["content"]},
                {"role": "user", "content": "Say exactly: again"},
            ]
            revoke()
        await engine.close()
        answered = [
            [exchange.body["messages"] for exchange in running.journal.exchanges if exchange.status == 200]
            for running in (first, bedrock, vertex, foundry)
        ]
        assert answered == [[messages[:1]], [messages[:3]], [messages[:5]], []]
        for running in (first, bedrock, vertex):
            assert running.journal.violations() == []
