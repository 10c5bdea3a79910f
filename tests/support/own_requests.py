"""A proxy with two servers, `inhouse` and `cloud`, with virtual keys and routes, that shows where each text goes."""

import asyncio
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

from msgspec import Struct, structs

from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.exchange.forwarding import count_tokens, list_models
from anthropic_proxy.engine.exchange.image_describing import INSTRUCTIONS as DESCRIBING
from anthropic_proxy.engine.exchange.safeguards.prompt import INSTRUCTIONS
from anthropic_proxy.engine.messages.summary import write_instruction
from anthropic_proxy.engine.upstream.contract import FetchedPage
from anthropic_proxy.engine.upstream.web_search import BraveClient, ExaClient, SearxngClient, TavilyClient
from anthropic_proxy.engine.wires.bound_requests import WEB, BoundRequest, ClientOrigin, ServerName
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.gateway.settings import CONFIG_FILE
from anthropic_proxy.gateway.settings.key_rules import Rules
from anthropic_proxy.plugins import Client
from tests.support.harness import STALL, FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.tool_loop import call, calls, reply, text
from tests.support.virtual_keys import Keys

SERVERS = """
[providers.inhouse]
base_url = "http://inhouse.test/v1"
dialect = { accepts_image_urls = false, count_paths = ["/count"] }

[providers.inhouse.models]
"qwen3" = {}
"guard" = {}
"blind" = { accepts_images = false }

[providers.cloud]
base_url = "http://cloud.test/v1"
dialect = { count_paths = ["/count"] }

[providers.cloud.models]
"big" = {}
"small" = {}
"judge" = {}

[providers.claude]
base_url = "http://claude.test"
wire = "messages"

[providers.claude.models]
"claude-opus-5-5" = {}
"claude-judge" = {}
"""
SECRET = "walrus"
"""What the user writes in each request."""
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
FETCH = {"type": "web_fetch_20250910", "name": "web_fetch"}
PAGE_URL, IMAGE_URL = "http://page.test/a", "http://page.test/a.png"
DANGER = "rm -rf /srv/data"
SUMMARY_FRAME = write_instruction().partition("\n")[0]
TOOLS = [{"name": "Bash", "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}}}]
SHOP = "/home/ada/shop"
CONTEXT = {
    "live_cwd": SHOP,
    "trusted_directories": {"primary": {"path": SHOP, "resolved": [SHOP]}, "additional": []},
}
SAFEGUARDS = [{"type": "dangerous_tool_use", "classifier_context": CONTEXT}]
CLASSIFIER: Mapping[str, Any] = {"stop_sequences": ["</block>"]}
"""Fields of a question of Claude Code's own classifier."""
PRICES = """
[prices."inhouse/*"]
input = 1.0
output = 1.0

[prices."cloud/*"]
input = 1.0
output = 1.0
"""


_NUMBERS = itertools.count(1)
_CLAUDE = ("claude", "anthropic")
"""Servers with the Messages API."""


class Sent(Struct, frozen=True):
    """A request that left the proxy."""

    host: str
    model: str
    purpose: str
    """`message`, `check`, `description`, `compaction`, `count` or the path of another one."""
    body: Any
    headers: Mapping[str, str]


class GatedResponse(FakeResponse):
    def __init__(self, response: FakeResponse, gate: asyncio.Event) -> None:
        super().__init__(response.status, headers=response.headers)
        self._response = response
        self._gate = gate

    async def read(self) -> bytes:
        if len(self._response.chunks) <= 1:
            await self._gate.wait()
        return await self._response.read()


class World:
    """`text`: the rest of the configuration file."""

    def __init__(self, folder: Path, keys: Keys, text: str = "", **settings: str) -> None:
        (folder / CONFIG_FILE).write_text(SERVERS + text, encoding="utf-8")
        usual = {"BIG_MODEL": "cloud/big", "SMALL_MODEL": "cloud/small", "PREFERRED_PROVIDER": "cloud"}
        self.proxy = ProxyHarness(self._answer, env_file=str(folder / ".env"), **{**usual, **settings})
        self.proxy.services = structs.replace(self.proxy.services, policies=(keys.policy,))
        self.sent: list[Sent] = []
        self.gate: asyncio.Event | None = None
        """The last piece of each reply to a message waits for it. None: it comes at once."""
        self.has_sent = asyncio.Event()
        self.is_checker_silent = False
        self.verdict = {"rule": "Task", "verdict": "not_flagged", "explanation": ""}
        self.calls = [call("Bash", command=DANGER)]
        """Tool calls of the model, in its first reply."""
        self._keys = keys

    def add_search(self, service: ServerName) -> None:
        """Let the proxy search by the real client of a service."""
        clients = {"searxng": SearxngClient, "brave": BraveClient, "tavily": TavilyClient, "exa": ExaClient}
        client = clients[service](self.proxy.services.http, f"http://{service}.test")
        self.proxy.services = structs.replace(self.proxy.services, web_search=client)

    def add_fetch(self) -> None:
        """Let the proxy fetch pages and files."""

        async def fetch(origin: ClientOrigin, url: str, **_: object) -> FetchedPage:
            request = UpstreamRequest(path="/", body=b"", method="GET")
            await self.proxy.services.http(BoundRequest(origin, url, request, server=WEB))
            if url.endswith(".png"):
                return FetchedPage(url=url, media_type="image/png", body=b"\x89PNG")
            return FetchedPage(url=url, media_type="text/plain", text="A page.")

        self.proxy.services = structs.replace(self.proxy.services, web_fetch=fetch)

    @property
    def places(self) -> list[tuple[str, str]]:
        """Purpose and model of each request that left, with the name of the server."""
        return [(one.purpose, f"{one.host}/{one.model}") for one in self.sent]

    def hosts_of(self, words: str = SECRET) -> set[str]:
        """Return the servers that got a text."""
        return {one.host for one in self.sent if words in json.dumps(one.body)}

    async def new_client(self, **rules: Any) -> Client:
        """Create a key, and return its client."""
        key = await self._keys.create(f"ci {next(_NUMBERS)}", rules=Rules(**rules))
        client = await self._keys.policy.identify({"x-api-key": key})
        assert client is not None
        return client

    async def post(
        self, client: Client | None = None, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> RecordingSink:
        """Send a message with a tool, for which auto mode is on."""
        body = {
            "model": "claude-opus-5-5",
            "max_tokens": 1_000,
            "messages": [{"role": "user", "content": SECRET}],
            "tools": TOOLS,
            "safeguards": SAFEGUARDS,
            **fields,
        }
        sink = RecordingSink()
        incoming = new_client_request(json.dumps(body).encode(), headers, client=client, request_id="req_parent")
        sink.receipt = incoming.receipt
        await Exchange(self.proxy.services, incoming, sink).run()
        return sink

    async def count(self, client: Client, headers: Mapping[str, str] | None = None, **fields: Any) -> int:
        body = {"model": "claude-opus-5-5", "messages": [{"role": "user", "content": SECRET}], **fields}
        incoming = new_client_request(json.dumps(body).encode(), headers, client=client)
        found = await count_tokens(self.proxy.services, incoming, RecordingSink().wait_disconnected)
        tokens: int = json.loads(found.body)["input_tokens"]
        return tokens

    async def list_models(self, client: Client) -> bytes | None:
        """Return the list of the provider. None: the client gets that of the proxy."""
        incoming = new_client_request(b"", client=client, path="/v1/models")
        found = await list_models(self.proxy.services, incoming, RecordingSink().wait_disconnected)
        return None if found is None else found.body

    def _answer(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        host = (urlsplit(base_url).hostname or "").removeprefix("api.").partition(".")[0]
        body = json.loads(request.body or b"{}")
        messages = body.get("messages", [])
        first = (messages or [{}])[0].get("content")
        is_check = INSTRUCTIONS in (first, *(part["text"] for part in body.get("system", ())))
        is_description = first == DESCRIBING
        is_summary = bool(messages) and SUMMARY_FRAME in json.dumps(messages[-1])
        kinds = {"check": is_check, "description": is_description, "compaction": is_summary}
        is_message = request.path.endswith(("/completions", "/v1/messages"))
        purpose = next((name for name, is_kind in kinds.items() if is_kind), "message" if is_message else request.path)
        if host in (*get_args(ServerName), "page"):
            purpose = host
        self.sent.append(Sent(host, body.get("model", ""), purpose, body or request.path, dict(request.headers)))
        self.has_sent.set()
        if is_check:
            if self.is_checker_silent:
                return FakeResponse(200, STALL)
            return self._say(host, json.dumps(self.verdict))
        if is_description:
            return self._say(host, "A red square.")
        if is_summary:
            return FakeResponse(200, *reply(text("<summary>A walrus.</summary>")))
        if purpose == host:
            return FakeResponse(200, b'{"results": [], "web": {"results": []}}')
        if purpose.endswith("/count"):
            return FakeResponse(200, b'{"input_tokens": 12}')
        if purpose.startswith("/v1/"):
            return FakeResponse(200, b'{"data": [], "id": "msgbatch_1"}')
        response = self._reply(host, body)
        if (gate := self.gate) is not None:
            return GatedResponse(response, gate)
        return response

    def _say(self, host: str, words: str) -> FakeResponse:
        return _claude_message({"type": "text", "text": words}) if host in _CLAUDE else _message(words)

    def _reply(self, host: str, body: Any) -> FakeResponse:
        made, self.calls = self.calls, []
        if host in _CLAUDE:
            block = {"type": "tool_use", "id": "call_0", "name": "Bash", "input": {"command": DANGER}}
            return _claude_message(block) if made else self._say(host, "Done.")
        if body.get("stream"):
            return FakeResponse(200, *(calls(*made) if made else reply(text("Done."))))
        if not made:
            return _message("Done.")
        listed = [{**one, "type": "function"} for each in made for one in each["tool_calls"]]
        return _message(None, tool_calls=listed, finish="tool_calls")


def _message(words: str | None, finish: str = "stop", **fields: Any) -> FakeResponse:
    message = {"role": "assistant", "content": words, **fields}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    body = {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}
    return FakeResponse(200, json.dumps(body).encode())


def _claude_message(block: dict[str, Any]) -> FakeResponse:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-5-5", "content": [block]}
    usage = {"input_tokens": 100, "output_tokens": 10}
    stop = "tool_use" if block["type"] == "tool_use" else "end_turn"
    return FakeResponse(200, json.dumps({**message, "stop_reason": stop, "usage": usage}).encode())


def verdicts_of(sink: RecordingSink) -> Any:
    """Return the verdicts that the client gets: id of a call → its outcome."""
    assert sink.error is None, sink.error
    body = json.loads(sink.stream) if sink.stream else sink.body
    (result,) = body["safeguard_results"]
    return {name: found["outcome"] for name, found in result["status"]["tool_uses"].items()}
