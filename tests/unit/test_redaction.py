"""Keys in texts of any form: no text for a client or a reader of the log contains a key that was used."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest

from anthropic_proxy.engine.exchange import forwarding
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.errors import UpstreamRefused, UpstreamUnreachable
from anthropic_proxy.secrets import new_redactor, redact_error, redact_json_value, redact_key_patterns, redact_secrets
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request

KEYS = [
    *("my-local-secret-token-9", 'quote"and\\slash-key-77', "sk-half/known+prefix==0123"),
    *("abc:sk-0123456789abcdef:0123456789", "key%41:colon@at#hash?x=1&y", "k3y!", "x" * 300 + "0123456789abcdef"),
]
SECRETS = {"quote": lambda key: quote(key, safe=""), "json": lambda key: json.dumps(key)[1:-1], "plain": str}

WORDS = {"role": "assistant", "content": "well"}
TEXT = b"data: " + json.dumps({"choices": [{"index": 0, "delta": WORDS, "finish_reason": None}]}).encode() + b"\n\n"


def error_frame(text: str) -> bytes:
    return b"data: " + json.dumps({"error": {"message": text, "code": "invalid_api_key"}}).encode() + b"\n\n"


PLACES: dict[str, Callable[[str], FakeResponse]] = {
    "error": lambda key: FakeResponse(401, json.dumps({"error": {"message": f"Wrong key: {key}. Get one."}}).encode()),
    "twice": lambda key: FakeResponse(400, json.dumps({"error": {"message": f"({key}) {key}{key}"}}).encode()),
    "header": lambda key: FakeResponse(
        401, json.dumps({"error": {"message": f"Authorization: Bearer {key}"}}).encode()
    ),
    "address": lambda key: FakeResponse(
        400, json.dumps({"error": {"message": f"at /v1?key={quote(key, safe='')}"}}).encode()
    ),
    "cut": lambda key: FakeResponse(400, json.dumps({"error": {"message": "x" * 1_970 + key * 2}}).encode()),
    "page": lambda key: FakeResponse(500, f"<html>{key}</html>".encode()),
    "page that is cut": lambda key: FakeResponse(500, b"<html>" + b"y" * 180 + key.encode()),
    "first of a stream": lambda key: FakeResponse(200, error_frame(f"Wrong key: {key}")),
    "in a stream": lambda key: FakeResponse(200, TEXT, error_frame(f"Wrong key: {key}")),
    "on the way": lambda key: FakeResponse(200, UpstreamUnreachable(f"bad header {key}")),
    "later on the way": lambda key: FakeResponse(200, TEXT, UpstreamUnreachable(f"bad header {key}")),
}


def leaks(key: str, *texts: str) -> list[str]:
    """Return the fragments of a key in these texts: twelve characters in a row, in any spelling of the key."""
    size = min(len(key), 12)
    spelled = {spell(key) for spell in SECRETS.values()}
    pieces = {one[at : at + size] for one in spelled for at in range(len(one) - size + 1)}
    escaped = {json.dumps(piece)[1:-1] for piece in pieces}
    return [piece for piece in pieces | escaped if any(piece in text for text in texts)]


def seen(proxy: ProxyHarness, sink: RecordingSink) -> list[str]:
    receipt = proxy.receipts[-1]
    error = sink.error
    messages = (
        [] if error is None else [error.message, *getattr(error, "__notes__", ()), str(getattr(error, "body", ""))]
    )
    return [
        *messages,
        sink.stream.decode(),
        proxy.log.getvalue(),
        receipt.error,
        receipt.upstream_excerpt,
        str(receipt.notes),
    ]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("key", KEYS, ids=range(len(KEYS)))
async def test_no_text_contains_the_key(key: str, place: str) -> None:
    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        assert credential.value == f"Bearer {key}"
        return PLACES[place](key)

    proxy = ProxyHarness(upstream, OPENAI_API_KEY=key, BIG_MODEL="openai/gpt-4.1")
    sink = await proxy.post(stream=True)
    assert sink.error is not None or b"event: error" in sink.stream
    assert leaks(key, *seen(proxy, sink)) == []


@pytest.mark.parametrize("place", PLACES)
async def test_nor_is_the_secret_of_a_server_that_the_provider_calls_for_the_client(place: str) -> None:
    token = "token-of-the-client-0123456789"
    sent: list[bytes] = []

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        sent.append(request.body)
        return PLACES[place](token)

    proxy = ProxyHarness(upstream, OPENAI_API_KEY="k3y!", BIG_MODEL="openai/gpt-5.5", OPENAI_WIRE="responses")
    server = {"type": "url", "name": "docs", "url": "https://mcp.example.com/", "authorization_token": token}
    sink = await proxy.post(
        stream=True, mcp_servers=[server], tools=[{"type": "mcp_toolset", "mcp_server_name": "docs"}]
    )
    assert json.loads(sent[0])["tools"][0]["authorization"] == token
    assert sink.error is not None or b"event: error" in sink.stream
    assert leaks(token, *seen(proxy, sink)) == []


@pytest.mark.parametrize("digits", ["04x", "04X"])
@pytest.mark.parametrize("slash", ["/", r"\/"])
def test_a_secret_with_letters_outside_ascii_is_masked_where_json_escapes_them(digits: str, slash: str) -> None:
    secret = "pass/ü-wörd-€-1234"
    escaped = "".join(letter if letter.isascii() else f"\\u{ord(letter):{digits}}" for letter in secret)
    text = escaped.replace("/", slash)
    assert redact_secrets(f"wrong: {text}.", [secret]) == "wrong: …1234."


BINARY = "~~~???>>>~~~???>>>~"
"""A key whose base64 has `+` and `/`."""


@pytest.mark.parametrize("alphabet", ["+/", "-_"])
@pytest.mark.parametrize("after", ["", "\n", "~~", ":x~"])
@pytest.mark.parametrize("before", ["", "~", "a:", "user:", "~~~~~"])
@pytest.mark.parametrize("key", [KEYS[0], KEYS[2], BINARY])
def test_a_key_is_masked_in_base64_wherever_it_stands(key: str, before: str, after: str, alphabet: str) -> None:
    """What remains are the characters that depend on the text around the key."""
    text = b64encode(f"{before}{key}{after}".encode(), altchars=alphabet.encode()).decode()
    first, end = -(-len(before) * 8 // 6), (len(before) + len(key)) * 8 // 6
    shown = f"{text[:first]}{redact_secrets(key, [key])}{text[end:]}"
    assert redact_secrets(f"Basic {text}.", [key]) == f"Basic {shown}."


@pytest.mark.parametrize("streams", ["not", "first", "later"])
@pytest.mark.parametrize("key", KEYS, ids=range(len(KEYS)))
async def test_nor_where_bytes_pass_as_they_come(key: str, streams: str) -> None:
    body = json.dumps({"type": "error", "error": {"type": "invalid_request_error", "message": f"no: {key}."}}).encode()
    start = {"type": "message_start", "message": {"id": "m", "type": "message", "role": "assistant", "content": []}}
    begun = b"event: message_start\ndata: " + json.dumps(start).encode() + b"\n\n"
    failed = b"event: error\ndata: " + body + b"\n\n"
    answers = {"not": (400, body), "first": (200, failed), "later": (200, begun, failed)}

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        return FakeResponse(*answers[streams])

    proxy = ProxyHarness(upstream, ANTHROPIC_API_KEY=key, PREFERRED_PROVIDER="anthropic")
    sink = await proxy.post(stream=True)
    assert sink.error is not None or b"event: error" in sink.stream
    assert leaks(key, *seen(proxy, sink)) == []
    if streams == "not":
        assert json.loads(sink.error.body or b"")["error"]["type"] == "invalid_request_error"  # type: ignore[union-attr]


@pytest.mark.parametrize("key", KEYS, ids=range(len(KEYS)))
def test_people_read_no_remedy_of_administrators_also_if_a_key_is_in_it(key: str) -> None:
    error = UpstreamRefused("groq: nothing is served", status=404)
    error.add_advice(". Try ", f"GROQ_BASE_URL=https://gateway.example.org/{key}/v1")
    redact_error(error, [key])
    assert leaks(key, error.message, error.remedy, error.describe_to_people("")) == []
    assert error.describe_to_people("") == "groq: nothing is served. Ask an administrator of the proxy for help."


async def test_nor_where_tokens_are_counted() -> None:
    key = KEYS[0]

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        return FakeResponse(401, json.dumps({"error": {"message": f"Wrong key: {key}"}}).encode())

    proxy = ProxyHarness(upstream, ANTHROPIC_API_KEY=key, PREFERRED_PROVIDER="anthropic")
    body = json.dumps({"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": "Hi"}]}).encode()
    inbound = new_client_request(body)
    await forwarding.count_tokens(proxy.services, inbound, RecordingSink().wait_disconnected)
    assert "because" in proxy.log.getvalue()
    assert leaks(key, proxy.log.getvalue()) == []


@pytest.mark.parametrize("key", ["ollama", "EMPTY", "none", "x"])
async def test_a_word_where_a_key_must_stand_is_no_secret(key: str) -> None:
    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        return FakeResponse(400, json.dumps({"error": {"message": f"ollama has none such: {key}"}}).encode())

    sink = await ProxyHarness(upstream, OPENAI_API_KEY=key, BIG_MODEL="openai/gpt-4.1").post()
    assert sink.error.message == f"openai: ollama has none such: {key}"


async def test_the_end_of_a_long_key_identifies_it() -> None:
    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        return FakeResponse(403, json.dumps({"error": {"message": "no such key: my-local-secret-token-9."}}).encode())

    sink = await ProxyHarness(upstream, OPENAI_API_KEY="my-local-secret-token-9", BIG_MODEL="openai/gpt-4.1").post()
    assert sink.error.message == "openai: no such key: …en-9."


def test_a_long_text_stays_as_it_is_besides_the_keys() -> None:
    text = "a task-list of 12 words, a risk-free text without keys; " * 10_000
    known = "a-key-of-the-proxy-0123456789"
    assert redact_key_patterns(text) == text
    quoted = text + known[3:20] + text
    assert redact_secrets(quoted, [known]) == f"{text}…6789{text}"


class Listed(tuple[str, ...]):
    """Secrets that count how often they are read."""

    __slots__ = ()
    reads = 0

    def __iter__(self) -> Iterator[str]:
        Listed.reads += 1
        return super().__iter__()


def test_a_text_that_is_shown_again_and_again_is_masked_once() -> None:
    redact = new_redactor(Listed(["sk-one-0123456789abcdef"]))
    shown = [redact_json_value({"error": ["for sk-one-0123456789abcdef"] * 3}, redact) for _ in range(4)]
    assert shown == [{"error": ["for …cdef"] * 3}] * 4
    assert Listed.reads == 1
