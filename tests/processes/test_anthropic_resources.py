"""Batches, files and skills of Anthropic behind the proxy, with the official SDK over real sockets."""

import asyncio
import io
import itertools
import json
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from aiohttp import web

from tests.support.fakes.server import JOURNAL, RequestLog, Running, serving
from tests.support.process_checks import error_of, port_of
from tests.support.sdk import open_sdk
from tests.support.secret_canaries import new_canary
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import WAIT_SECONDS, wait_for

KEY, SECRET = new_canary("sk-ant-fake-"), "sk-ant-of-the-client-0123456789"
MODELS = {"claude-opus-5-5", "claude-sonnet-5-5"}
LARGE = b"0123456789abcdef" * (1 << 18)
COUNTED = b'{"model":"anthropic/slow","messages":[{"role":"user","content":"a"}]}'
CREATED = "2026-11-23T00:00:00Z"
PREFIXES = {"batches": "msgbatch", "files": "file", "skills": "skill"}
DELETED = {"batches": "message_batch_deleted", "files": "file_deleted", "skills": "skill_deleted"}


class Resources:
    """A strict server of the three APIs, which keeps batches, files and skills in memory.

    Each of its keys belongs to a workspace of its own.
    """

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.stored: dict[str, dict[str, Any]] = {}
        """Id → its facts."""
        self.contents: dict[str, Any] = {}
        """Id → the requests of a batch, or the bytes of a file."""
        self.owners: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        self.keys: set[str] = set()
        self.waiting: list[str] = []
        """Paths of slow requests, which wait for the disconnect of their client."""
        self.left: list[str] = []
        """Those of them whose client disconnected."""
        self.closes_after_creation = False
        """True: it creates what a request asks for, and closes the connection without a response."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs))
        key = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
        self.keys.add(key)
        if key not in (KEY, SECRET):
            return refuse(401, "authentication_error", f"invalid x-api-key {key}")
        if request.headers.get("anthropic-version") not in ("2023-06-01", "2026-10-21"):
            return refuse(400, "invalid_request_error", "anthropic-version: header is required")
        kind, *rest = request.path.removeprefix("/v1/").removeprefix("messages/").split("/")
        if kind == "count_tokens" and (await request.json())["model"] != "slow":
            return web.json_response({"input_tokens": 41})
        if "slow" in rest or kind == "count_tokens":
            return await self.wait_for_disconnect(request)
        if "stalled" in rest or "stalled_error" in rest:
            return await stall(request, 200 if "stalled" in rest else 500)
        if rest and rest[0].startswith("status_"):
            return partial_response(int(rest[0].removeprefix("status_")))
        return await self.serve(request, kind, *rest)

    async def wait_for_disconnect(self, request: web.Request) -> web.StreamResponse:
        self.waiting.append(request.path)
        try:
            await asyncio.sleep(WAIT_SECONDS)
        finally:
            self.left.append(request.path)
        return web.Response()

    async def serve(self, request: web.Request, kind: str, name: str = "", part: str = "") -> web.StreamResponse:
        if not name and request.method == "POST":
            return await self.create(request, kind, f"{PREFIXES[kind]}_{next(self.numbers)}")
        if not name:
            found = [facts for id_, facts in self.stored.items() if id_.startswith(PREFIXES[kind])]
            return web.json_response({"data": found, "has_more": False, "first_id": None, "last_id": None})
        if name not in self.stored or self.owners[name] != request.headers["x-api-key"]:
            return refuse(404, "not_found_error", f"{name} is not found")
        if part == "results":
            lines = [{"custom_id": each["custom_id"], "result": build_result(each)} for each in self.contents[name]]
            body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
            return web.Response(body=body, content_type="application/x-jsonl")
        if part == "content":
            return web.Response(body=self.contents[name], content_type="text/html")
        if part == "cancel":
            if request.method != "POST" or await request.read():
                return refuse(400, "invalid_request_error", "cancel has no body")
            self.stored[name]["processing_status"] = "canceling"
        if request.method == "DELETE":
            del self.stored[name]
            return web.json_response({"id": name, "type": DELETED[kind]})
        return web.json_response(self.stored[name])

    async def create(self, request: web.Request, kind: str, name: str) -> web.StreamResponse:
        facts: dict[str, Any] = {"id": name, "created_at": CREATED, "expires_at": CREATED, "updated_at": CREATED}
        if kind == "batches":
            entries = (await request.json())["requests"]
            if unknown := [entry["params"]["model"] for entry in entries if entry["params"]["model"] not in MODELS]:
                return refuse(404, "not_found_error", f"model: {unknown[0]}")
            counts = dict.fromkeys(("canceled", "errored", "expired", "processing"), 0) | {"succeeded": len(entries)}
            url = f"http://{request.host}/v1/messages/batches/{name}/results"
            facts |= {"type": "message_batch", "processing_status": "ended", "request_counts": counts}
            facts["results_url"], self.contents[name] = url, entries
        elif kind == "files":
            upload = await (await request.multipart()).next()
            self.contents[name] = await upload.read()
            facts |= {"type": "file", "filename": upload.filename, "mime_type": "text/html", "downloadable": True}
            facts["size_bytes"] = len(self.contents[name])
        else:
            names = [part.filename async for part in await request.multipart() if part.name == "files[]"]
            facts |= {"type": "skill", "display_title": names[0], "source": "custom", "latest_version": "1"}
        self.stored[name], self.owners[name] = facts, request.headers["x-api-key"]
        if self.closes_after_creation and request.transport is not None:
            request.transport.close()
        return web.json_response(facts)

    def models(self, batch: str) -> list[str]:
        return [entry["params"]["model"] for entry in self.contents[batch]]


async def stall(request: web.Request, status: int) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers={"content-type": "application/json", "content-length": "99"})
    await response.prepare(request)
    await response.write(b'{"id":')
    await asyncio.sleep(WAIT_SECONDS)
    return response


def partial_response(status: int) -> web.Response:
    if status == 204:
        return web.Response(status=204)
    return web.Response(status=status, body=b"{}", headers={"content-range": "bytes 0-1/9"})


def refuse(status: int, kind: str, text: str) -> web.Response:
    body = {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_upstream"}
    return web.json_response(body, status=status, headers={"request-id": "req_upstream"})


def build_result(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a request, which is canceled unless its name begins with `done`."""
    if not entry["custom_id"].startswith("done"):
        return {"type": "canceled"}
    usage = {"input_tokens": 1_000, "output_tokens": 100, "service_tier": "batch"}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": entry["params"]["model"], "usage": usage}
    content = [{"type": "text", "text": "Hello"}]
    return {"type": "succeeded", "message": {**message, "content": content, "stop_reason": "end_turn"}}


@pytest.fixture(scope="module")
def resources() -> Resources:
    return Resources()


@pytest.fixture(scope="module")
def upstream(resources: Resources) -> Iterator[Running]:
    application = web.Application(client_max_size=1 << 26)
    application[JOURNAL] = RequestLog()
    application.router.add_route("*", "/{path:.*}", resources.answer)
    with serving(application) as running:
        yield running


@pytest.fixture(scope="module")
def settings(upstream: Running) -> dict[str, str]:
    own = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_UPSTREAM_URL": upstream.url, "PREFERRED_PROVIDER": "anthropic"}
    return {**own, "OPENAI_API_KEY": "sk-unused-0123456789"}


@pytest.fixture(scope="module")
def proxy(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running_proxy(tmp_path_factory.mktemp("proxy"), {**settings, "MODEL_HAIKU": "openai/gpt-5.5"}) as running:
        yield running
        assert "Traceback" not in running.log


@pytest.fixture(scope="module")
def impatient(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running_proxy(tmp_path_factory.mktemp("impatient"), {**settings, "UPSTREAM_IDLE_TIMEOUT": "2"}) as running:
        yield running


@pytest.fixture
def client(proxy: Proxy) -> Iterator[anthropic.Anthropic]:
    with open_sdk(base_url=proxy.url, api_key=SECRET, max_retries=0) as client:
        yield client


def entry(name: str, model: str, text: str = "Hello") -> Any:
    params = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": text}]}
    return {"custom_id": name, "params": params}


def message_of(caught: pytest.ExceptionInfo[anthropic.APIStatusError]) -> str:
    body: Any = caught.value.body
    return str(body["error"]["message"])


def test_a_batch_is_created_listed_read_cancelled_and_deleted(
    client: anthropic.Anthropic, resources: Resources
) -> None:
    names = [
        "claude-opus-5-5",
        "anthropic/claude-opus-5-5",
        "claude-anthropic/claude-sonnet-5-5",
        "claude-opus-5-5[1m]",
    ]
    requests = [entry(str(at), name) for at, name in enumerate(names)]
    response = client.messages.batches.with_raw_response.create(requests=requests)
    assert response.headers["x-proxy-fidelity"] == "best-effort; approximated=0; emulated=0; dropped=0"
    created = response.parse()
    assert resources.models(created.id) == [
        "claude-opus-5-5",
        "claude-opus-5-5",
        "claude-sonnet-5-5",
        "claude-opus-5-5",
    ]
    results_url = f"/v1/messages/batches/{created.id}/results"
    listed = client.messages.batches.list(limit=5)
    assert [(batch.id, batch.results_url) for batch in listed] == [(created.id, results_url)]
    assert client.messages.batches.retrieve(created.id).results_url == results_url
    assert [result.custom_id for result in client.messages.batches.results(created.id)] == ["0", "1", "2", "3"]
    assert client.messages.batches.cancel(created.id).processing_status == "canceling"
    assert client.messages.batches.delete(created.id).id == created.id
    assert resources.keys == {KEY}
    assert ("GET", "/v1/messages/batches?limit=5") in resources.requests


def test_the_tokens_of_a_batch_are_in_the_ledger_once(settings: dict[str, str], tmp_path: Path) -> None:
    prices = "\n".join(
        f'[prices."anthropic/{model}"]\ninput = 2\noutput = 8\ntiers.batch = {{ input = 1, output = 4 }}'
        for model in MODELS
    )
    (tmp_path / "anthropic-proxy.toml").write_text(prices, "utf-8")
    models = ["claude-opus-5-5", "claude-sonnet-5-5", "claude-opus-5-5"]
    requests = [entry(f"done-{number}", model) for number, model in enumerate(models)] + [entry("not", models[0])]
    database = {"DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}"}
    with (
        running_proxy(tmp_path, {**settings, **database}) as proxy,
        open_sdk(base_url=proxy.url, api_key=SECRET, max_retries=0) as client,
    ):
        batch = client.messages.batches.create(requests=requests).id
        for _ in range(2):
            assert len([*client.messages.batches.results(batch)]) == 4
        reader = proxy.client()
        stored = wait_for(lambda: reader.get("/api/requests").json()["requests"], bool)
        usage = reader.get("/api/usage", params={"by": "model"}).json()
    (row,) = stored
    assert (row["id"], row["input_tokens"], row["output_tokens"], row["cost"]) == (batch, 3_000, 300, 0.0042)
    assert row["price_source"].endswith(", tier batch")
    sums = {one["name"]: (one["input_tokens"], one["output_tokens"], one["cost"]) for one in usage["groups"]}
    assert sums == {
        "anthropic/claude-opus-5-5": (2_000, 200, 0.0028),
        "anthropic/claude-sonnet-5-5": (1_000, 100, 0.0014),
    }


def test_a_batch_with_a_model_of_another_provider_is_refused_unsent(
    client: anthropic.Anthropic, resources: Resources
) -> None:
    before = len(resources.requests)
    for model, mapped in (("claude-haiku-5-5", "openai/gpt-5.5"), ("openai/gpt-4.1", "openai/gpt-4.1")):
        with pytest.raises(anthropic.BadRequestError) as caught:
            client.messages.batches.create(requests=[entry("a", "claude-opus-5-5"), entry("b", model)])
        assert message_of(caught) == (
            f"requests.1.params.model: {model!r} is mapped to {mapped}. A batch is sent to anthropic, so each of its "
            "models must be one of anthropic."
        )
    assert len(resources.requests) == before


TWICE = b'{"requests":[{"custom_id":"a","params":{"model":"claude-opus-5-5","model":"openai/gpt-4.1"}}]}'
MANY = b'{"requests":[{"custom_id":"a","params":{"model":"claude-opus-5-5",%b}}]}'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "The request body is not valid JSON: "),
        (b'{"requests": [{"params": {"model": "a', "The request body is not valid JSON: "),
        (TWICE, "requests.0.params.model: 'openai/gpt-4.1' is mapped to openai/gpt-4.1."),
        (
            MANY % b",".join(b'"k%d":1' % number for number in range(300_000)),
            "The request body contains more than 250,000 list elements and object members.",
        ),
    ],
    ids=["open", "cut", "a repeated key", "many keys"],
)
def test_a_batch_that_cannot_be_read_is_refused_unsent(
    proxy: Proxy, resources: Resources, body: bytes, message: str
) -> None:
    before = len(resources.requests)
    response = proxy.client().post("/v1/messages/batches", content=body, headers={"x-api-key": SECRET})
    status, kind, text = error_of(response)
    assert (status, kind, text[: len(message)]) == (400, "invalid_request_error", message)
    assert len(resources.requests) == before


def test_a_file_is_uploaded_listed_downloaded_and_deleted(
    client: anthropic.Anthropic, proxy: Proxy, resources: Resources
) -> None:
    uploaded = client.beta.files.upload(file=("page.html", io.BytesIO(LARGE), "text/html"))
    assert (uploaded.filename, uploaded.size_bytes) == ("page.html", len(LARGE))
    assert resources.contents[uploaded.id] == LARGE
    assert proxy.client().get("/v1/files?beta=true&limit=3", headers={"x-api-key": SECRET}).status_code == 200
    assert resources.requests[-1] == ("GET", "/v1/files?beta=true&limit=3")
    assert [file.id for file in client.beta.files.list()] == [uploaded.id]
    assert client.beta.files.retrieve_metadata(uploaded.id).id == uploaded.id
    download = client.beta.files.download(uploaded.id)
    assert download.read() == LARGE
    assert download.headers["content-disposition"] == "attachment"
    assert download.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert client.beta.files.delete(uploaded.id).id == uploaded.id
    with pytest.raises(anthropic.NotFoundError, match=f"{uploaded.id} is not found"):
        client.beta.files.retrieve_metadata(uploaded.id)


def test_a_skill_is_created_listed_read_and_deleted(client: anthropic.Anthropic) -> None:
    files = [("greet/SKILL.md", io.BytesIO(b"---\nname: greet\n---\n"), "text/markdown")]
    created = client.beta.skills.create(files=files)
    assert [skill.id for skill in client.beta.skills.list()] == [created.id]
    assert client.beta.skills.retrieve(created.id).id == created.id
    assert client.beta.skills.delete(created.id).id == created.id


@pytest.mark.parametrize("kind", ["batches", "files", "skills"])
def test_nothing_is_created_twice_if_a_connection_closes_without_a_response(
    client: anthropic.Anthropic, resources: Resources, kind: str
) -> None:
    def create() -> None:
        if kind == "batches":
            client.messages.batches.create(requests=[entry("a", "claude-opus-5-5")])
        elif kind == "files":
            client.beta.files.upload(file=("a.html", io.BytesIO(b"a"), "text/html"))
        else:
            client.beta.skills.create(files=[("a/SKILL.md", io.BytesIO(b"a"), "text/markdown")])

    resources.stored.clear()
    create()  # leaves a connection that the next request could use
    resources.closes_after_creation = True
    try:
        with pytest.raises(anthropic.InternalServerError, match="closed the connection without an answer"):
            create()
        assert len(resources.stored) == 2
    finally:
        resources.closes_after_creation = False
        resources.stored.clear()


@pytest.mark.parametrize(
    "path", ["/v1/files/../models", "/v1/files/a%2f..%2f..%2fadmin", "/v1/skills/a/", "/v1/filesystem"]
)
def test_no_other_path_is_forwarded(proxy: Proxy, resources: Resources, path: str) -> None:
    before = len(resources.requests)
    response = proxy.client().get(path, headers={"x-api-key": SECRET})
    assert response.status_code == 404 or response.url.path == "/v1/models"
    assert [seen for _, seen in resources.requests[before:] if not re.match("/v1/models", seen)] == []


def test_the_proxy_s_own_key_is_required_and_not_sent(
    settings: dict[str, str], resources: Resources, tmp_path: Path
) -> None:
    with running_proxy(tmp_path, {**settings, "PROXY_API_KEY": "our-own-key-01234"}) as proxy:
        assert proxy.client().get("/v1/files", headers={"x-api-key": "another-key-01234"}).status_code == 401
        with open_sdk(base_url=proxy.url, api_key="our-own-key-01234", max_retries=0) as client:
            assert list(client.beta.skills.list()) == []
    assert resources.keys == {KEY}


@pytest.mark.parametrize("path", ["/v1/messages/batches", "/v1/files/file_1/content", "/v1/skills"])
def test_without_anthropic_and_for_virtual_keys_the_refusal_says_why(
    settings: dict[str, str], tmp_path: Path, path: str
) -> None:
    with running_proxy(tmp_path, {"OPENAI_API_KEY": "sk-unused-0123456789"}) as proxy:
        assert error_of(proxy.client().get(path)) == (
            404,
            "not_found_error",
            f"{path!r} is served only if Anthropic is the preferred provider, because no other provider has batches, "
            "files and skills of the Messages API. The preferred provider is openai.",
        )
    admin = "admin-canary0123456789abcdef01234567"
    keys = {"VIRTUAL_KEYS": "true", "ADMIN_API_KEY": admin, "DATABASE_URL": f"sqlite:///{tmp_path}/keys.sqlite3"}
    with running_proxy(tmp_path, {**settings, **keys}) as proxy:
        administrator = proxy.client(headers={"x-api-key": admin})
        created = wait_for(
            lambda: administrator.post("/admin/keys", json={"name": "ci"}), lambda reply: reply.status_code == 200
        )
        assert error_of(proxy.client().get(path, headers={"x-api-key": created.json()["key"]})) == (
            403,
            "permission_error",
            f"{path!r} is not served for virtual keys: batches, files and skills belong to the API key of the "
            "provider, so that every virtual key would see and delete those of the others.",
        )


def test_all_calls_use_the_first_of_several_keys(
    settings: dict[str, str], resources: Resources, tmp_path: Path
) -> None:
    several = {**settings, "ANTHROPIC_API_KEY": f"{SECRET},{KEY}"}
    with running_proxy(tmp_path, several) as proxy, open_sdk(base_url=proxy.url, api_key="any") as client:
        created = client.messages.batches.create(requests=[entry("a", "claude-opus-5-5")])
        for _ in range(3):
            assert client.messages.batches.retrieve(created.id).id == created.id
        uploaded = client.beta.files.upload(file=("a.txt", io.BytesIO(b"a"), "text/plain"))
        assert client.beta.files.download(uploaded.id).read() == b"a"
    assert resources.owners[created.id] == resources.owners[uploaded.id] == SECRET


def test_a_rejected_key_of_a_file_is_read_again(upstream: Running, tmp_path: Path) -> None:
    """Only servers of the configuration file have such keys. Their token counts are sent like batches and files."""
    (tmp_path / "key").write_text(new_canary("sk-ant-old-"))
    (tmp_path / "anthropic-proxy.toml").write_text(
        f'[providers.gateway]\nbase_url = "{upstream.url}"\nwire = "messages"\napi_key = {{ file = "key" }}\n'
    )
    with running_proxy(tmp_path, {}) as proxy, open_sdk(base_url=proxy.url, api_key="any") as client:
        (tmp_path / "key").write_text(KEY)
        messages: Any = [{"role": "user", "content": "x" * 4_000}]
        assert client.messages.count_tokens(model="gateway/claude-opus-5-5", messages=messages).input_tokens == 41


def test_the_error_for_a_rejected_key_names_its_setting(settings: dict[str, str], tmp_path: Path) -> None:
    key = new_canary("sk-ant-old-")
    with (
        running_proxy(tmp_path, {**settings, "ANTHROPIC_API_KEY": key}) as proxy,
        open_sdk(base_url=proxy.url, api_key="any") as client,
        pytest.raises(anthropic.APIStatusError) as caught,
    ):
        client.messages.batches.list()
    assert caught.value.status_code == 424
    assert message_of(caught) == (
        "anthropic: the key is not accepted. The key comes from ANTHROPIC_API_KEY in the environment."
    )


STALLED = "anthropic sent no data for 2 s; UPSTREAM_FIRST_BYTE_TIMEOUT and UPSTREAM_IDLE_TIMEOUT set this limit."


@pytest.mark.parametrize(
    ("path", "status", "kind", "message"),
    [
        ("/v1/messages/batches/stalled", 504, "timeout_error", STALLED),
        ("/v1/files/stalled", 504, "timeout_error", STALLED),
        ("/v1/skills/stalled_error", 500, "api_error", "anthropic returned HTTP 500"),
    ],
)
def test_a_response_that_stalls_ends_with_an_error(
    impatient: Proxy, path: str, status: int, kind: str, message: str
) -> None:
    assert error_of(impatient.client().get(path, headers={"x-api-key": SECRET})) == (status, kind, message)


@pytest.mark.parametrize(
    ("path", "status", "body", "content_range"),
    [
        ("/v1/skills/status_202", 202, b"{}", None),
        ("/v1/files/status_204", 204, b"", None),
        ("/v1/files/status_206/content", 206, b"{}", "bytes 0-1/9"),
        ("/v1/files/status_204/content", 204, b"", None),
    ],
)
def test_the_status_of_the_provider_is_forwarded(
    proxy: Proxy, path: str, status: int, body: bytes, content_range: str | None
) -> None:
    client = proxy.client()
    for _ in range(2):  # on one connection: the second response begins after the first one's end
        response = client.get(path, headers={"x-api-key": SECRET})
        assert (response.status_code, response.content) == (status, body)
        assert response.headers.get("content-range") == content_range
        assert "content-length" not in response.headers or status != 204


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/files/slow"),
        ("POST", "/v1/messages/batches/slow/cancel"),
        ("DELETE", "/v1/skills/slow"),
        ("GET", "/v1/files/slow/content"),
        ("POST", "/v1/messages/count_tokens"),
    ],
)
def test_a_disconnected_client_ends_the_call(proxy: Proxy, resources: Resources, method: str, path: str) -> None:
    with socket.create_connection(("127.0.0.1", port_of(proxy)), timeout=WAIT_SECONDS) as client:
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nx-api-key: {SECRET}\r\nContent-Length: {len(COUNTED)}"
        client.sendall(head.encode() + b"\r\n\r\n" + COUNTED)
        wait_for(lambda: path in resources.waiting)  # other tests have sent requests to the same paths
        if method == "GET":  # a client may end its direction and still read the response, so this one resets
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: path in resources.left)
    if "count" not in path:  # counts are logged at level debug
        wait_for(lambda: re.search(f"{method} {path} .*– client left before the reply", proxy.log))


@pytest.mark.slow
def test_an_upload_that_stalls_ends_with_an_error(proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", port_of(proxy)), timeout=WAIT_SECONDS) as client:
        client.sendall(b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\nonly this")
        head, _, body = client.recv(65_536).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    message = "The body was not complete in time: 9 bytes were received."
    assert json.loads(body)["error"] == {"type": "invalid_request_error", "message": message}


ROUTES = """
[[routes]]
name = "long"
when = { input_above = 1_000 }
targets = ["openai/gpt-4.1"]

[[routes]]
name = "cheap"
when = { model = "claude-opus-5-5", header = { x-team = "web" } }
targets = ["anthropic/claude-sonnet-5-5", "openai/gpt-4.1"]
"""


def test_routes_apply_to_each_request_of_a_batch(
    settings: dict[str, str], resources: Resources, tmp_path: Path
) -> None:
    (tmp_path / "anthropic-proxy.toml").write_text(ROUTES)
    short = [entry("a", "claude-opus-5-5"), entry("b", "claude-sonnet-5-5")]
    with running_proxy(tmp_path, settings) as proxy, open_sdk(base_url=proxy.url, api_key="any") as client:
        plain = client.messages.batches.create(requests=short)
        web_team = client.messages.batches.create(requests=short, extra_headers={"x-team": "web"})
        with pytest.raises(anthropic.BadRequestError) as caught:
            client.messages.batches.create(requests=[*short, entry("c", "claude-opus-5-5", "word " * 2_000)])
    assert resources.models(plain.id) == ["claude-opus-5-5", "claude-sonnet-5-5"]
    assert resources.models(web_team.id) == ["claude-sonnet-5-5", "claude-sonnet-5-5"]
    assert message_of(caught) == (
        "requests.2.params.model: 'claude-opus-5-5' is mapped to openai/gpt-4.1 by the route 'long'. A batch is sent "
        "to anthropic, so each of its models must be one of anthropic."
    )
