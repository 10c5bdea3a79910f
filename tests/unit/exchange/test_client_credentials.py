"""A client's own key reaches a provider only if the provider accepts it, the settings have none, and the proxy no key
of its own.
"""

import asyncio
import itertools
import json

import pytest

from anthropic_proxy.engine.exchange.forwarding import count_tokens
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.plugins import Client
from tests.support.harness import FakeResponse, ProxyHarness, new_client_request

OWN = "sk-ant-of-the-client-0123456789"
KEY = "sk-ant-of-the-settings-0123456789"
HEADERS = {"x-api-key": {"x-api-key": OWN}, "authorization": {"authorization": f"Bearer {OWN}"}}


@pytest.mark.parametrize("path", ["messages", "count_tokens"])
@pytest.mark.parametrize("header", HEADERS)
async def test_the_client_s_key_is_sent_only_where_nothing_else_is_set(header: str, path: str) -> None:
    received: list[str] = []

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        sent = dict(request.headers) | {credential.header: credential.value} if credential else dict(request.headers)
        received.append(json.dumps({name.lower(): value for name, value in sent.items()}))
        return FakeResponse(400, b'{"type":"error","error":{"type":"invalid_request_error","message":"no"}}')

    reached = set()
    for is_set, is_guarded, model in itertools.product([True, False], [True, False], ["anthropic/m", "openai/m"]):
        settings = {"OPENAI_API_KEY": KEY, "MODEL_SONNET": model, "PREFERRED_PROVIDER": "anthropic"}
        settings |= {"ANTHROPIC_API_KEY": KEY} if is_set else {}
        settings |= {"PROXY_API_KEY": "the-key-of-the-proxy-0123456789"} if is_guarded else {}
        proxy = ProxyHarness(upstream, **settings)
        if path == "messages":
            await proxy.post(headers=HEADERS[header])
        else:
            body = {"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": "hi"}]}
            client = Client(credential_forwardable=not is_guarded)
            arrived = new_client_request(json.dumps(body).encode(), HEADERS[header], client=client)
            await count_tokens(proxy.services, arrived, asyncio.Event().wait)
        reached |= {(is_set, is_guarded, model) for text in received if OWN in text}
        received.clear()
    assert reached == {(False, False, "anthropic/m")}
