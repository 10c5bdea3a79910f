"""Stand-ins of clouds with Claude: Amazon Bedrock (InvokeModel, and its Messages API), Vertex AI, Microsoft Foundry,
and Anthropic's own API at AWS and Google Cloud.

Each checks the credential (a signature is computed again by botocore), the path, the version and the betas as the real
one does, and then the request itself like Anthropic's own server. A signature of thinking from one of them is valid in
all others.
"""

import base64
import datetime
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote

from aiohttp import web
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

from tests.support.fakes.anthropic.models import MODELS, find_model
from tests.support.fakes.anthropic.reading import count, read_conversation
from tests.support.fakes.anthropic.replies import cut_reply, events_of, frame, message_of, new_id, usage_of
from tests.support.fakes.anthropic.rules import check_body
from tests.support.fakes.anthropic.server import Anthropic
from tests.support.fakes.model_scripts import decide
from tests.support.fakes.server import ContractViolation, Exchange, RequestLog, new_application

Kind = Literal["bedrock", "mantle", "vertex", "foundry", "claude_aws", "claude_google"]
WORKSPACE = "wrkspc_01"
REGION, PROJECT, LOCATION = "us-east-1", "fake-project", "eu"
BEDROCK_MODEL, OLDER_MODEL = "us.anthropic.claude-sonnet-5-5", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
VERTEX_MODEL, FOUNDRY_MODEL, MANTLE_MODEL = "claude-sonnet-5-5", "claude-sonnet-5-5", "anthropic.claude-sonnet-5-5"
BETAS: dict[Kind, tuple[str, ...]] = {
    "bedrock": ("context-management-2025-06-27", "interleaved-thinking-2025-05-14", "tool-search-tool-2025-10-19"),
    "mantle": ("claude-code-20250219", "context-management-2025-06-27", "interleaved-thinking-2025-05-14"),
    "vertex": ("context-management-2025-06-27", "interleaved-thinking-2025-05-14", "per-turn-control-2026-07-01"),
    "foundry": ("context-management-2025-06-27", "effort-2025-11-24", "interleaved-thinking-2025-05-14"),
    "claude_aws": ("context-management-2025-06-27", "effort-2025-11-24", "web-fetch-2025-09-10"),
    "claude_google": ("context-management-2025-06-27", "effort-2025-11-24", "web-fetch-2025-09-10"),
}
CLAUDE_CODE_BETAS: dict[Kind, tuple[str, ...]] = {
    "bedrock": ("effort-2025-11-24", "mid-conversation-tool-changes-2026-07-01", "tool-search-tool-2025-10-19"),
    "vertex": ("per-turn-control-2026-07-01", "tool-search-tool-2025-10-19"),
    "foundry": ("advanced-tool-use-2025-11-20", "effort-2025-11-24", "per-turn-control-2026-07-01"),
}
"""Betas of Claude Code that the clouds accept besides those in `BETAS`."""
_NEW_VERSION = "2026-10-21"
_SERVER_TOOLS: dict[Kind, re.Pattern[str]] = {
    "bedrock": re.compile(r"(?:web_search|web_fetch|code_execution|advisor)_\d+|mcp_toolset"),
    "mantle": re.compile(r"(?:web_search|web_fetch|code_execution|advisor)_\d+|mcp_toolset"),
    "vertex": re.compile(r"web_search_(?!20250305)\d+|(?:web_fetch|code_execution|advisor)_\d+|mcp_toolset"),
    "foundry": re.compile(r"advisor_\d+"),
    "claude_aws": re.compile(r"(?!)"),
    "claude_google": re.compile(r"(?!)"),
}
"""Types of the tools that a cloud does not run (platform.claude.com, "Web search tool"; code.claude.com, "Feature
availability"; manaflow-ai/subrouter pull request 237)."""
_SERVER_BLOCKS: dict[Kind, re.Pattern[str]] = {
    "bedrock": re.compile(r"(?:\w+_)?(?:web_search|web_fetch|code_execution|mcp)(?:_tool_(?:use|result))?"),
    "mantle": re.compile(r"(?:\w+_)?(?:web_search|web_fetch|code_execution|mcp)(?:_tool_(?:use|result))?"),
    "vertex": re.compile(r"(?:\w+_)?(?:web_fetch|code_execution|mcp)(?:_tool_(?:use|result))?"),
    "foundry": re.compile(r"(?!)"),
    "claude_aws": re.compile(r"(?!)"),
    "claude_google": re.compile(r"(?!)"),
}
"""Names and types of blocks of such tools."""
_BODY_VERSIONS = {"bedrock": "bedrock-2023-05-31", "vertex": "vertex-2023-10-16"}
_PATHS = {
    "bedrock": re.compile(r"/model/([^/]+)/invoke(-with-response-stream)?"),
    "vertex": re.compile(
        rf"/v1/projects/{PROJECT}/locations/(?:{LOCATION}|us-east5)/publishers/anthropic/models/([^/:]+):(stream)?[rR]awPredict"
    ),
}
_ROOTS = {
    "claude_aws": "/v1",
    "claude_google": f"/v1/projects/{PROJECT}/locations/global/workspaces/{WORKSPACE}/invoke/v1",
}
_SIGNATURE = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, "
    r"SignedHeaders=([^,]+), Signature=(\w{64})"
)


@dataclass
class Cloud:
    """What one stand-in accepts. Tests change it while it serves."""

    kind: Kind
    keys: set[str] = field(default_factory=set)
    """API keys, and access tokens of Google and Microsoft."""
    aws_keys: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    """Access key → its secret, and its session token."""
    betas: tuple[str, ...] = ()
    rejected_fields: tuple[str, ...] = ()
    """Fields of the body that this model does not have."""
    find_problem: Callable[[dict[str, Any]], str] = lambda body: ""
    """Function that returns the error text for a body. "": it is accepted."""
    region: str = REGION
    names_betas: bool = True
    """False: the error for a beta does not name it, as always at Amazon Bedrock."""
    names_one_beta: bool = False
    """True: an error names only the first beta that is not accepted."""
    required_beta: str = ""
    """Beta without which each prompt is too long. "": none."""
    overloaded_without: str = ""
    """Beta without which each request fails with status 503. "": none."""
    wrap_error: Callable[[str], dict[str, Any]] | None = None
    """Function that returns the error of a gateway for the error text of the cloud."""


class _Refusal(Exception):
    def __init__(self, status: int, body: dict[str, Any], **headers: str) -> None:
        super().__init__(body)
        self.status, self.body, self.headers = status, body, headers


class _StandIn(Anthropic):
    def __init__(self, cloud: Cloud) -> None:
        super().__init__(())
        self.cloud = cloud

    async def answer(self, request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        body = json.loads(raw)
        exchange = journal.open(request, body)
        self.raw[exchange.number] = raw
        try:
            self._authenticate(request, raw)
            canonical, betas, counting, streams = self._read(request, body, exchange)
            self._check(canonical, betas, exchange, counting=counting)
        except _Refusal as refusal:
            exchange.status = refusal.status
            journal.close(exchange, "refused")
            answer = refusal.body
            if self.cloud.wrap_error is not None:
                answer = self.cloud.wrap_error(answer.get("error", answer)["message"])
            return web.json_response(answer, status=refusal.status, headers=refusal.headers)
        exchange.status = 200
        journal.close(exchange, "answered")
        if counting:
            return web.json_response({"input_tokens": count(canonical["messages"])})
        generated = cut_reply(decide(read_conversation(canonical)), canonical, self.chance)
        usage = usage_of(generated, count(canonical["messages"]), 0, 0)
        head = {"model": "claude", "id": new_id("msg_", self.chance), "type": "message", "role": "assistant"}
        if not streams:
            return web.json_response(message_of(generated, head, usage))
        binary = self.cloud.kind == "bedrock"
        kind = "application/vnd.amazon.eventstream" if binary else "text/event-stream"
        response = web.StreamResponse(headers={"content-type": kind})
        await response.prepare(request)
        for event in events_of(generated, head, usage):
            await response.write(encode_chunk(event) if binary else frame(event))
        await response.write_eof()
        return response

    def _authenticate(self, request: web.Request, raw: bytes) -> None:
        cloud, given = self.cloud, request.headers.get("authorization", "")
        if cloud.kind == "claude_aws" and request.headers.get("anthropic-workspace-id") != WORKSPACE:
            raise _Refusal(401, {"type": "error", "error": {"type": "authentication_error", "message": "no workspace"}})
        if given.startswith("AWS4") and cloud.kind in ("bedrock", "mantle", "claude_aws"):
            check_signature(cloud, request, raw, given)
            return
        key = given.removeprefix("Bearer ")
        if cloud.kind == "foundry" and not given:
            key = request.headers.get("x-api-key", "")
        if key in cloud.keys:
            return
        if cloud.kind in ("bedrock", "mantle"):
            raise _aws(403, "UnrecognizedClientException", "Authentication failed: the API Key is not valid.")
        if cloud.kind == "vertex":
            text = "Request had invalid authentication credentials."
            raise _Refusal(401, {"error": {"code": 401, "message": text, "status": "UNAUTHENTICATED"}})
        if cloud.kind in _ROOTS:
            error = {"type": "authentication_error", "message": "invalid credentials"}
            raise _Refusal(401, {"type": "error", "error": error})
        raise _Refusal(401, {"error": {"code": "401", "message": "Access denied due to invalid subscription key."}})

    def _read(
        self, request: web.Request, body: dict[str, Any], exchange: Exchange
    ) -> tuple[dict[str, Any], list[str], bool, bool]:
        """Return the request as Anthropic's own server would get it, its betas, and whether it counts or streams."""
        cloud, path = self.cloud, path_of(request).partition("?")[0]
        header = request.headers.get("anthropic-beta", "")
        betas = header.split(",") if header else []
        canonical = dict(body)
        counting = path.endswith(("/count_tokens", "/count-tokens:rawPredict"))
        if cloud.kind in _PATHS:
            found = _PATHS[cloud.kind].fullmatch(path)
            if found is None:
                raise _Refusal(404, {"message": f"no such path: {path}"})
            self._require("anthropic-version" not in request.headers, "the version is in the body", exchange)
            streams = found[2] is not None
            if not counting:
                self._require("model" not in body, "model: Extra inputs are not permitted", exchange)
                canonical["model"] = unquote(found[1])
            version = canonical.pop("anthropic_version", "")
            versions = [_BODY_VERSIONS[cloud.kind]]
            if "4-5" not in str(canonical.get("model")) or cloud.kind == "vertex":
                versions.append(_NEW_VERSION)
            self._require(version in versions, f"anthropic_version: {version!r} is not supported", exchange)
            if cloud.kind == "bedrock":
                self._require("stream" not in body, "stream: Extra inputs are not permitted", exchange)
                betas = canonical.pop("anthropic_beta", [])
                canonical["stream"] = streams
            else:
                self._require(streams == bool(body.get("stream")), "stream does not agree with the path", exchange)
        else:
            root = _ROOTS.get(cloud.kind, "/anthropic/v1")
            if path not in (f"{root}/messages", f"{root}/messages/count_tokens"):
                raise _Refusal(404, {"message": f"no such path: {path}"})
            version = request.headers.get("anthropic-version", "")
            self._require(version in ("2023-06-01", _NEW_VERSION), f"anthropic-version: {version!r}", exchange)
            streams = bool(body.get("stream"))
        unknown = [beta for beta in betas if beta not in cloud.betas]
        if unknown and (cloud.kind == "bedrock" or not cloud.names_betas):
            raise _Refusal(400, {"message": "invalid beta flag"})
        if unknown:
            unknown = unknown[:1] if cloud.names_one_beta else unknown
            text = f"Unexpected value(s) `{'`, `'.join(unknown)}` for the `anthropic-beta` header."
            raise _Refusal(400, {"type": "error", "error": {"type": "invalid_request_error", "message": text}})
        if cloud.overloaded_without and cloud.overloaded_without not in betas:
            raise _Refusal(503, {"message": "Too many requests, please wait."})
        if cloud.required_beta and cloud.required_beta not in betas:
            raise _Refusal(400, {"message": "prompt is too long: 450000 tokens > 200000 maximum"})
        return canonical, betas, counting, streams

    def _require(self, holds: bool, problem: str, exchange: Exchange) -> None:
        if not holds:
            exchange.breaches.append(ContractViolation("cloud", problem))
            raise _Refusal(400, {"message": problem})

    def _check(self, body: dict[str, Any], betas: list[str], exchange: Exchange, *, counting: bool) -> None:
        name = str(body.get("model", "")).rpartition("anthropic.")[2].removesuffix("-v1:0").replace("@", "-")
        model = find_model(name)
        if model is None:
            raise _Refusal(404, {"message": f"model: {body.get('model')}"})
        if problem := self.cloud.find_problem(body):
            raise _Refusal(400, {"message": problem}, **{"x-amzn-errortype": "ValidationException"})
        for name in self.cloud.rejected_fields:
            outer, _, inner = name.partition(".")
            if outer in body and not inner:
                raise _Refusal(400, {"message": f"{outer}: Extra inputs are not permitted"})
            for position, tool in enumerate(body.get("tools", ()) if inner else ()):
                if inner in tool:
                    raise _Refusal(400, {"message": f"tools.{position}.custom.{inner}: Extra inputs are not permitted"})
        for position, tool in enumerate(body.get("tools", ())):
            if _SERVER_TOOLS[self.cloud.kind].fullmatch(tool.get("type", "custom")):
                text = f"tools.{position}: Input tag '{tool['type']}' found using 'type' does not match any of the "
                raise _Refusal(400, {"message": f"{text}expected tags: 'bash_20250124', 'custom'"})
        for place, message in enumerate(body["messages"]):
            for number, block in enumerate(message["content"] if isinstance(message["content"], list) else ()):
                if self.cloud.kind not in ("foundry", *_ROOTS) and '{"type": "url"' in json.dumps(block):
                    raise _Refusal(
                        400, {"message": f"messages.{place}.content.{number}: URL sources are not supported"}
                    )
                name = block["name"] if block["type"] == "server_tool_use" else block["type"]
                cited = "web_search_result_location" in json.dumps(block.get("citations"))
                refused = _SERVER_BLOCKS[self.cloud.kind]
                if refused.fullmatch(name) or (cited and refused.fullmatch("web_search")):
                    where = f"messages.{place}.content.{number}: Input tag '{block['type']}' found using 'type' does "
                    raise _Refusal(400, {"message": f"{where}not match any of the expected tags: 'text', 'tool_use'"})
        breaches = list(check_body_of(body, betas, counting=counting))
        exchange.breaches += breaches
        if breaches:
            raise _Refusal(400, {"message": breaches[0].message})


def check_body_of(body: dict[str, Any], betas: list[str], *, counting: bool) -> Iterator[ContractViolation]:
    model = MODELS["claude-sonnet-5-5"]
    yield from check_body({**body, "model": "claude-sonnet-5-5"}, model, ",".join(betas), counting=counting)


def check_signature(cloud: Cloud, request: web.Request, raw: bytes, authorization: str) -> None:
    """Compute the signature of the request again, by botocore."""
    found = _SIGNATURE.fullmatch(authorization)
    if found is None:
        raise _aws(403, "IncompleteSignatureException", "Authorization header is not complete.")
    access_key, day, region, service, names, signature = found.groups()
    if access_key not in cloud.aws_keys:
        raise _aws(403, "ExpiredTokenException", "The security token included in the request is expired")
    secret, token = cloud.aws_keys[access_key]
    if request.headers.get("x-amz-security-token") != token:
        raise _aws(403, "UnrecognizedClientException", "The security token included in the request is invalid.")
    signed = names.split(";")
    needed = {"content-type", "host", "x-amz-date", *(["x-amz-security-token"] if token else [])}
    has_messages = cloud.kind == "mantle" and not request.headers["host"].startswith("bedrock-runtime.")
    expected_service = "bedrock-mantle" if has_messages else "bedrock"
    if cloud.kind == "claude_aws":
        expected_service = "aws-external-anthropic"
    if not needed <= set(signed) or (region, service) != (cloud.region, expected_service):
        raise _aws(403, "InvalidSignatureException", f"Credential has the scope {region}/{service}")
    url = f"http://{request.headers['host']}{path_of(request)}"
    headers = {name: request.headers[name] for name in signed}
    again = AWSRequest(method=request.method, url=url, headers=headers, data=raw)
    again.context["timestamp"] = request.headers["x-amz-date"]
    now = datetime.datetime.now(datetime.UTC)
    sent_at = datetime.datetime.strptime(again.context["timestamp"], "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
    signer = SigV4Auth(ReadOnlyCredentials(access_key, secret, token), service, region)
    expected = signer.signature(signer.string_to_sign(again, signer.canonical_request(again)), again)
    is_recent = abs(now - sent_at) < datetime.timedelta(minutes=5) and sent_at.strftime("%Y%m%d") == day
    if expected != signature or not is_recent:
        raise _aws(403, "InvalidSignatureException", "The request signature we calculated does not match.")


def path_of(request: web.Request) -> str:
    """Return path and query as sent, also of a request to an HTTP proxy, which names the host before them."""
    return request.raw_path.removeprefix(f"http://{request.headers['host']}")


def _aws(status: int, kind: str, message: str) -> _Refusal:
    return _Refusal(status, {"message": message}, **{"x-amzn-errortype": kind})


def encode_chunk(event: dict[str, Any]) -> bytes:
    inner = json.dumps(event, ensure_ascii=False).encode()
    payload = json.dumps({"bytes": base64.b64encode(inner).decode(), "p": "abc"}).encode()
    headers = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
    return encode_message(headers, payload)


def encode_message(headers: dict[str, str], payload: bytes) -> bytes:
    """Return one message of an event stream of Amazon."""
    encoded = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack("!II", 16 + len(encoded) + len(payload), len(encoded))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + encoded + payload
    return message + struct.pack("!I", zlib.crc32(message))


def new_cloud(cloud: Cloud) -> web.Application:
    cloud.betas = (*(cloud.betas or BETAS[cloud.kind]), "token-counting-2024-11-01")
    return new_application(_StandIn(cloud).answer, RequestLog())
