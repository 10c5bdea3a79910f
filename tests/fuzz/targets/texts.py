"""Other texts that are read: frames, the content of returned signatures, settings, pages and search results."""

import asyncio
import gzip
import os
import tempfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec

from anthropic_proxy.engine.messages.call_states import CallState, HiddenThought, decode_state_id, encode_state_id
from anthropic_proxy.engine.messages.models.tools import STATE_ID_PREFIX
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.upstream.html_to_markdown import convert_html
from anthropic_proxy.engine.upstream.http.connection import Decompressor
from anthropic_proxy.engine.upstream.web_fetch import (
    HTML_MEDIA_TYPES,
    decode_text,
    detect_media_type,
    is_text_media_type,
)
from anthropic_proxy.engine.upstream.web_search import SearxngClient
from anthropic_proxy.engine.wires.bound_requests import BoundRequest
from anthropic_proxy.engine.wires.framing import NDJSONReader, SSEReader
from anthropic_proxy.engine.wires.thinking import ReasoningState, decode_signature, encode_signature
from anthropic_proxy.errors import ConfigurationError, UpstreamProtocolError, WebSearchFailed
from anthropic_proxy.gateway.settings import load_settings
from tests.fuzz.targets.scenarios import MAX_SEED_BYTES, WIRES, playable, scenario_of
from tests.fuzz.targets.target import Target, cuts_of, expect, expect_bounded, split_headline
from tests.support.bound_requests import CLIENT
from tests.support.harness import FakeResponse
from tests.support.paths import ROOT

TAGS = ("oc", "or", "gm", "ol", "ka")
ENCODINGS = ("identity", "gzip", "deflate")
MIN_SECRET_LENGTH = 12
"""Characters from which on a value is looked for: a shorter one may stand in a message by chance."""


def _check_framing(reader: type[SSEReader] | type[NDJSONReader], data: bytes) -> None:
    """However the network cuts a body, its frames are the same; a frame that outgrows the limit is refused."""
    whole = _frames(reader(), [data])
    expect(_frames(reader(), cuts_of(data)) == whole, "cut elsewhere, the frames are others")
    expect(sum(map(len, whole)) <= len(data) + len(whole), "more came out than went in")
    limit = max(1, len(data) // 8)
    try:
        _frames(reader(limit), cuts_of(data))
    except UpstreamProtocolError:
        return


def _frames(reader: SSEReader | NDJSONReader, pieces: list[bytes]) -> list[bytes]:
    frames = [frame for piece in pieces for frame in reader.feed(piece)]
    return frames + reader.finish()


def _bodies(framing: str) -> Iterator[bytes]:
    for wire in WIRES:
        for name in playable(wire):
            scenario = scenario_of(wire, name)
            if (
                scenario.upstream
                and framing == scenario.target.wire.framing
                and len(scenario.upstream) < MAX_SEED_BYTES
            ):
                yield scenario.upstream


def _check_carry(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for tag in TAGS:
        for signature in (text, f"px1.{tag}.{text}"):
            carried = decode_signature(tag, signature)
            if carried is not None:
                again = encode_signature(tag, carried)
                expect(decode_signature(tag, again) == carried, "a carry does not come back")
    for call_id in (text, STATE_ID_PREFIX + text):
        state = decode_state_id(call_id)
        if state is not None:
            expect_bounded(sum(len(thought.state) + len(thought.text) for thought in state.thoughts), len(call_id), 8)
            expect(decode_state_id(encode_state_id(state)) == state, "a state does not come back")
            for thought in state.thoughts:
                decode_signature(thought.tag, thought.build_block().signature)


def _carries() -> Iterator[bytes]:
    for tag in TAGS:
        for carry in (
            ReasoningState(),
            ReasoningState(replay=1),
            ReasoningState(model="m-1", item_id="rs_1", encrypted="gAAA" * 40),
            ReasoningState(call_signature="CsIB" * 30, call_index=3),
        ):
            signature = encode_signature(tag, carry)
            yield signature.encode()
            yield signature.rpartition(".")[2].encode()
            content = msgspec.json.encode(carry).decode()
            yield encode_state_id(CallState("call_1", [HiddenThought(1, tag, content, "Hm.")])).encode()


def _check_settings(data: bytes) -> None:
    """Check that a file of settings is read, or refused with a text that repeats no key; likewise as an environment."""
    _env_file().write_bytes(data)
    text = data.decode("utf-8", "replace")
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and "\0" not in line)
    environ = {name: value for name, _, value in pairs if name}
    secrets = [value for name, value in environ.items() if name.endswith("_KEY") and _is_telling(value, text)]
    for given, file in (({}, str(_env_file())), (environ, None)):
        try:
            settings = load_settings(given, PROVIDERS, env_file=file)
        except ConfigurationError as rejection:
            message = rejection.message
        else:
            message = repr(settings) + " ".join(settings.warnings)
        expect(not any(secret in message for secret in secrets), f"a key is told: {message}")
        expect_bounded(len(message), len(data))


def _is_telling(value: str, text: str) -> bool:
    """Return whether finding a value means that it was disclosed: it stands once, as a key does."""
    return len(value) >= MIN_SECRET_LENGTH and value.isascii() and value.isalnum() and text.count(value) == 1


@cache
def _env_file() -> Path:
    directory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="fuzz-", dir=directory)) / ".env"


def _settings_seeds() -> Iterator[bytes]:
    example = (ROOT / ".env.example").read_text()
    yield example.encode()
    lines = [line.lstrip("# ") for line in example.splitlines() if "=" in line]
    for start in range(0, len(lines), 6):
        yield "\n".join(lines[start : start + 6]).encode()
    yield b"OPENAI_API_KEY=sk-abcdefghijklmnop # mine\nBIG_MODEL=\"openai/gpt-5\"\nexport PORT=8082\nHOST='::1'\n"
    yield b"PREFERRED_PROVIDER=openai\nOPENAI_BASE_URL=http://localhost:1/v1\nFALLBACK_SONNET=gemini/a, ollama/b\n"
    yield b"LOG_LEVEL=debug\nUPSTREAM_TIMEOUT=1e3\nSTOP_TIMEOUT=5\nALLOWED_HOSTS=a.b,c\nPROXY_API_KEY=k1,k2\n"


def _check_page(data: bytes) -> None:
    words, body = split_headline(data)
    encoding = words[0] if words[0] in ENCODINGS else ENCODINGS[0]
    media_type = words[1] if len(words) > 1 else "text/html"
    charset = words[2] if len(words) > 2 else ""
    try:
        inflated = _inflate(encoding, cuts_of(body))
    except zlib.error:
        return
    kind = detect_media_type(media_type, inflated)
    if not is_text_media_type(kind):
        return
    text = decode_text(inflated, charset, is_html=kind in HTML_MEDIA_TYPES)
    if kind in HTML_MEDIA_TYPES:
        reading = convert_html(text, "https://example.com/a/b?c=d")
        (reading.title + reading.markdown).encode()
        expect_bounded(len(reading.markdown), len(inflated))


def _inflate(encoding: str, pieces: list[bytes]) -> bytes:
    inflater, body = Decompressor(encoding), b""
    for piece in pieces:
        for some in inflater.decompress(piece):
            body += some
            if len(body) > 1 << 20:
                return body
    return body


_HTML = b"""<!doctype html><html><head><meta charset="utf-8"><title>A &amp; B</title><style>p{}</style></head><body>
<nav><a href="/">home</a></nav><main><h1>One</h1><p>Text <b>bold</b> <a href="../x?q=1#f">link</a> <img src="a.png"
alt="pic"></p><ul><li>one<ul><li>two</li></ul></li></ul><ol><li>3</li></ol><pre><code>a = 1
b</code></pre><table><tr><th>h</th><td>1</td></tr><tr><td colspan=2>2</td></tr></table><blockquote>q<br>r</blockquote>
<script>alert(1)</script><div hidden>no</div></main></body></html>"""


def _page_seeds() -> Iterator[bytes]:
    for head, body in (
        (b"identity text/html", _HTML),
        (b"identity text/html utf-16", _HTML.decode().encode("utf-16")),
        (b"gzip text/html", gzip.compress(_HTML, mtime=0)),
        (b"deflate text/html", zlib.compress(_HTML)),
        (b"identity application/json", b'{"a": [1, 2]}'),
        (b"identity text/plain shift_jis", "text ä".encode()),
        (b"identity application/octet-stream", b"%PDF-1.7\n"),
        (b"identity image/png", b"\x89PNG\r\n\x1a\n"),
    ):
        yield head + b"\n" + body


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def _check_search(data: bytes) -> None:
    async def send(bound: BoundRequest) -> FakeResponse:
        return FakeResponse(200, *cuts_of(data))

    service = SearxngClient(send, "http://search.example")
    try:
        found = _loop().run_until_complete(
            service.search(CLIENT, "words", allowed_domains=["example.com", "b.de/x"][: len(data) % 3])
        )
    except WebSearchFailed:
        return
    expect(len(found) <= 10, f"{len(found)} results")
    expect_bounded(sum(len(page.url) + len(page.title) + len(page.snippet) for page in found), len(data))


def _search_seeds() -> Iterator[bytes]:
    result = (
        b'{"url": "https://example.com/a", "title": "T", "content": "c", "publishedDate": "2026-11-01T00:00:00",'
        b' "engine": "x", "score": 1.5, "parsed_url": ["https", "example.com"]}'
    )
    yield b'{"query": "words", "results": [%b, %b], "unresponsive_engines": []}' % (result, result)
    yield b'{"query": "words", "results": [], "unresponsive_engines": [["bing", "timeout"]]}'


TARGETS = [
    Target("sse", lambda data: _check_framing(SSEReader, data), lambda: _bodies("sse")),
    Target("ndjson", lambda data: _check_framing(NDJSONReader, data), lambda: _bodies("ndjson")),
    Target("carry", _check_carry, _carries),
    Target("settings", _check_settings, _settings_seeds),
    Target("page", _check_page, _page_seeds, [f"{e} text/html".encode() for e in ENCODINGS]),
    Target("search", _check_search, _search_seeds),
]
