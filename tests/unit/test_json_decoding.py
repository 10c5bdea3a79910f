"""JSON that another program wrote, at the places that decode it: nothing in it raises an unexpected exception."""

import base64
import threading
from datetime import date
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import RSAKey

from anthropic_proxy.cli.proxy_client import get_json, stream_message
from anthropic_proxy.console.dashboard.browser_sessions import BrowserSessions
from anthropic_proxy.console.identity.oidc_client import verify_id_token
from anthropic_proxy.console.identity.signed_tokens import InvalidTokenError, decode_key_set
from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import LEARNED_FILE_NAME, load_learned_models
from anthropic_proxy.engine.providers.provider_models import query_chat_models
from anthropic_proxy.engine.wires.bound_requests import BoundRequest
from anthropic_proxy.errors import UpstreamProtocolError, UpstreamUnreachable
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.secrets import Secret
from tests.support.harness import FakeResponse
from tests.support.messages import exactly

DEEP = b'{"version":' + b"[" * 100_000
BODIES = [DEEP, DEEP + b"]" * 100_000 + b"}", b'{"version":"\xff"}', b"no JSON", b"", b"9" * 5_000, b'"\\ud800"']
each_body = pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))


@each_body
def test_only_one_exception_is_raised(body: bytes) -> None:
    with pytest.raises(InvalidJson):
        decode_json(body, dict[str, int])
    with pytest.raises(InvalidJson):
        decode_json(body.decode(errors="surrogateescape"), dict[str, int])


def test_the_exception_has_the_reason() -> None:
    with pytest.raises(InvalidJson, match=exactly("it is nested too deeply")):
        decode_json(DEEP)
    with pytest.raises(InvalidJson, match=exactly("Expected `int`, got `str` - at `$[0]`")):
        decode_json(b'["a"]', list[int])


KEY = RSAKey.generate_key(2048, {"kid": "usable", "use": "sig"})
KEYS = decode_key_set({"keys": [KEY.as_dict(private=False)]})


def verify(token: str) -> None:
    verify_id_token(token, KEYS, issuer="i", client_id="c", nonce="n", access_token="", now=0.0)


@pytest.mark.parametrize("end", [b"", b"]" * 40_000 + b"}"], ids=["open", "closed"])
def test_an_id_token_with_deep_json_is_rejected(end: bytes) -> None:
    deep = b'{"version":' + b"[" * 40_000 + end  # below the limit of 131,072 characters
    header = base64.urlsafe_b64encode(deep).rstrip(b"=").decode()
    with pytest.raises(InvalidTokenError, match=exactly("it is not a signed token")):
        verify(f"{header}.e30.AA")
    # the library accepts tokens of some thousand bytes
    signed = jws.serialize_compact({"alg": "RS256", "kid": "usable"}, deep[:3_000], KEY)
    with pytest.raises(InvalidTokenError, match=exactly("its signature does not match a key of the provider")):
        verify(signed)


@each_body
async def test_a_session_in_a_damaged_store_has_ended(body: bytes) -> None:
    class Damaged(MemoryStore):
        async def get(self, key: str) -> str | None:
            return body.decode(errors="replace")

    settings = Settings(proxy_api_keys=(Secret("first-key"),))
    sessions = BrowserSessions(lambda: settings, Damaged, lambda: 0.0)
    assert await sessions.find("cookie") is None


@each_body
async def test_the_model_list_of_a_provider_is_an_error(body: bytes) -> None:
    async def send(bound: BoundRequest) -> FakeResponse:
        return FakeResponse(200, body)

    provider = next(provider for provider in PROVIDERS if provider.prefix == "openai")
    with pytest.raises(UpstreamProtocolError, match="openai answered the query for its models with something else"):
        await query_chat_models(provider, Settings(), send, None, 5.0)


@each_body
def test_a_file_that_another_program_has_changed_is_ignored(body: bytes, tmp_path: Path) -> None:
    (tmp_path / LEARNED_FILE_NAME).write_bytes(body)
    models, warnings = load_learned_models(tmp_path, date(2026, 11, 21))
    assert (models, len(warnings)) == ({}, 1)


class _Server(HTTPServer):
    body = b""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.body)

    do_POST = do_GET

    def log_message(self, *arguments: object) -> None: ...


@each_body
def test_another_program_on_the_port_of_the_proxy_is_no_proxy(body: bytes) -> None:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.body = body
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            assert get_json("127.0.0.1", server.server_port, "/health") is None
            server.body = b"data: " + body + b"\n\n"
            with pytest.raises(UpstreamUnreachable):
                list[Any](stream_message("127.0.0.1", server.server_port, b"{}", ""))
        finally:
            server.shutdown()
            thread.join()
