"""Requests of a client, the calls that the proxy makes for them, and what comes of it: `golden_texts/exchanges`.

Each line of an input has a word first. Given are `env` (variables), `.env` and `toml` (a line of these files),
`headers` (of the client; calls then show theirs), `now` (a date), `on CONDITION: ANSWER` (what a provider answers; else
it is a short reply), `answer ANSWER` (once, before these); as JSON, `search` and `web` (what the proxy finds) and
`shows` (what Ollama tells of each model). `post` sends a request, `again` the same one, `then` the conversation with
the reply and this content; `both` does so also in a stream, from the beginning. `show` names fields of the sent bodies.

Conditions and answers: `scripted_answers`.

The result has one line for each call, with what its body changes of the one before; then what the client got and what
the receipt says.
"""

import asyncio
import json
import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.documents.reader import DocumentReader
from anthropic_proxy.engine.upstream.contract import DEFAULT_MEDIA_TYPES, FetchedPage, SearchResult
from anthropic_proxy.engine.upstream.web_fetch import matches_media_types
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.errors import WebFetchFailed, WebSearchFailed
from anthropic_proxy.plugins import Receipt, UpstreamAttempt
from tests.support.event_grammar import check_bytes
from tests.support.golden_runner import fold_events
from tests.support.golden_texts import Check, golden_files
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink
from tests.support.scripted_answers import field, holds, respond
from tests.support.virtual_time import VirtualTimeLoop


def brief(value: Any) -> Any:
    """Return a value with the beginnings of its long texts."""
    if isinstance(value, dict):
        return {name: brief(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [brief(inner) for inner in value]
    return f"{value[:100]}… ({len(value)})" if isinstance(value, str) and len(value) > 300 else value


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in old | new:
            inner = f"{path}.{name}".lstrip(".")
            if name not in new:
                yield f"-{inner}"
            elif name not in old:
                yield f"+{inner}={json.dumps(brief(new[name]), ensure_ascii=False)}"
            else:
                yield from differences(old[name], new[name], inner)
    elif isinstance(old, list) and isinstance(new, list) and len(old) <= len(new):
        for index, value in enumerate(new):
            if index < len(old):
                yield from differences(old[index], value, f"{path}.{index}")
            else:
                yield f"+{path}.{index}={json.dumps(brief(value), ensure_ascii=False)}"
    elif old != new:
        yield f"{path}={json.dumps(brief(new), ensure_ascii=False)}"


OF_EACH_CALL = ("accept", "content-type")


class Unread(DocumentReader):
    """Documents are read in a process, which does not follow the time of these exchanges."""

    is_installed = False


class Exchanges:
    """The proxy and the provider of one input, and the lines of its result."""

    def __init__(self, given: str, *, stream: bool = False) -> None:
        self.stream = stream
        self.env: dict[str, str] = {}
        self.env_file: list[str] = []
        self.config_file: list[str] = []
        self.headers: dict[str, str] = {}
        self.rules: list[tuple[str, str]] = []
        self.answers: list[str] = []
        self.shown: list[str] = []
        self.posts: list[tuple[str, dict[str, str]]] = []
        self.now: datetime | None = None
        self.lines: list[str] = []
        self.tools: dict[str, Any] = {}
        self.shows = ""
        self.given: list[FakeResponse] = []
        self.last: Any = None
        for line in given.split("\n"):
            word, _, rest = line.partition(" ")
            match word:
                case "env":
                    self.env |= dict(each.split("=", 1) for each in shlex.split(rest))
                case ".env":
                    self.env_file.append(rest)
                case "toml":
                    self.config_file.append(rest)
                case "headers":
                    self.headers = self.headers | dict(each.split("=", 1) for each in shlex.split(rest))
                case "now":
                    self.now = datetime.fromisoformat(rest)
                case "on":
                    condition, _, answer = rest.partition(": ")
                    self.rules.append((condition, answer))
                case "answer":
                    self.answers.append(rest)
                case "then":
                    self.posts.append((f"then {rest}", self.headers))
                case "search":
                    self.tools["web_search"] = self.search(json.loads(rest))
                case "web":
                    self.tools["web_fetch"] = self.fetch({page["url"]: page for page in json.loads(rest)})
                case "shows":
                    self.shows = rest
                case "show":
                    self.shown += rest.split()
                case "post" | "both":
                    self.posts.append((rest, self.headers))
                case "again":
                    self.posts.append(self.posts[-1])
                case _:
                    raise AssertionError(line)
        Path(".env").write_text("\n".join(self.env_file), "utf-8")
        Path("anthropic-proxy.toml").write_text("\n".join(self.config_file), "utf-8")

    def __call__(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        if request.path in ("/api/tags", "/api/show"):
            is_known = self.shows and request.path == "/api/show"
            return FakeResponse(200, self.shows.encode()) if is_known else FakeResponse(404, b"{}")
        body = json.loads(request.body)
        server = base_url.split("/")[2]
        changes = " ".join(differences(self.last, body)) if self.last is not None else ""
        shown = [f"{path}={json.dumps(field(body, path), default=lambda _: None)}" for path in self.shown]
        self.last = body
        answer = self.answers.pop(0) if self.answers else None
        if answer is None:
            answer = next((text for condition, text in self.rules if holds(condition, body, base_url)), "200")
        has_keys = any("," in value for name, value in self.env.items() if name.endswith("_API_KEY"))
        key = f" (key …{credential.value[-4:]})" if credential and has_keys else ""
        if self.headers:
            sent = {**request.headers, **({credential.header: credential.value} if credential else {})}
            key = f" ({', '.join(f'{name}: {sent[name]}' for name in sorted(sent) if name not in OF_EACH_CALL)})"
        status = answer.partition(" ")[0]
        self.lines.append(" ".join(["→", server + request.path + key, *shown, changes, "←", status]).replace("  ", " "))
        self.given.append(respond(answer, body, request.path))
        return self.given[-1]

    def search(self, found: list[dict[str, str]] | str) -> Any:
        lines = self.lines

        class Service:
            service = "searxng"

            async def search(self, _origin: object, query: str, **options: Any) -> list[SearchResult]:
                limits = [value for value in options.values() if value]
                lines.append(f"search {query!r} {limits or ''}".rstrip())
                if isinstance(found, str):
                    raise WebSearchFailed("no", found)  # type: ignore[arg-type]
                return [SearchResult(**page) for page in found]

        return Service()

    def fetch(self, pages: Mapping[str, dict[str, Any]]) -> Any:
        async def fetch(
            _origin: object, url: str, *, media_types: Collection[str] = DEFAULT_MEDIA_TYPES, **_: Any
        ) -> FetchedPage:
            self.lines.append(f"fetch {url}")
            page = dict(pages.get(url, {"error": "url_not_accessible"}))
            if "error" not in page and not matches_media_types(page["media_type"], media_types):
                page["error"] = "unsupported_content_type"
            if "error" in page:
                raise WebFetchFailed(f"{url} cannot be had", page["error"])
            return FetchedPage(**{**page, "body": page.get("body", "").encode()})

        return fetch

    async def run(self) -> str:
        proxy = ProxyHarness(self, env_file=".env" if self.env_file or self.config_file else None, **self.env)
        proxy.services = structs.replace(proxy.services, documents=Unread(), **self.tools)
        if self.now:
            now = self.now.timestamp()
            proxy.services = structs.replace(proxy.services, clock=lambda: now)
        sink, fields = RecordingSink(), dict[str, Any]()
        for post, headers in self.posts:
            self.headers = headers
            logged, sleeps = len(proxy.log.getvalue()), len(proxy.sleeps)
            if post.startswith("then "):
                turns = [{"role": "assistant", "content": message_of(sink)["content"]}]
                if content := json.loads(post[5:]):
                    turns.append({"role": "user", "content": content})
                fields["messages"] = [*fields.get("messages", [{"role": "user", "content": "hello"}]), *turns]
            else:
                fields = json.loads(post or "{}")
            sink = await proxy.post(
                headers=self.headers, **{"max_tokens": 100, **fields, **({"stream": True} if self.stream else {})}
            )
            self.lines += [f"waited {seconds:g} s" for seconds in proxy.sleeps[sleeps:]]
            self.lines += show_reply(sink)
            assert all(response.closed for response in self.given)
            assert sink.is_ended == bool(sink.stream)
            self.lines += show_receipt(proxy.receipts[-1])
            log = [
                line
                for line in proxy.log.getvalue()[logged:].splitlines()
                if ", because of: " in line or "; sent again" in line
            ]
            self.lines += [f"log: {line.split(' ', 1)[1].strip()}" for line in log]
        return "\n".join(self.lines)


def message_of(sink: RecordingSink) -> dict[str, Any]:
    if is_streamed := sink.stream.startswith(b"event"):
        assert check_bytes(sink.stream) == []
    return fold_events(sink.stream) if is_streamed else sink.body or json.loads(sink.stream)


def show_reply(sink: RecordingSink) -> Iterator[str]:
    if error := sink.error:
        retry = f" retry-after {error.retry_after:g}" if error.retry_after else ""
        retry += "" if error.should_retry is None else f" x-should-retry {error.should_retry}"
        body = f" {relayed.decode()}" if (relayed := getattr(error, "body", None)) else ""
        headers = "".join(f" {name}: {value}" for name, value in (getattr(error, "headers", None) or {}).items())
        yield f"= {error.status} {error.error_type} ({error.code}){retry}: {error.message}{body}{headers}"
        return
    message = message_of(sink)
    blocks = [block.get("text") or json.dumps(brief(block), ensure_ascii=False) for block in message["content"]]
    usage = {name: value for name, value in message["usage"].items() if value}
    usage |= usage.pop("server_tool_use", {})
    yield f"= {message['stop_reason']}: {' | '.join(blocks)} {show_counts(usage)}"
    for event in re.findall(rb"event: error\ndata: (.*)", sink.stream):
        yield f"= error event: {json.loads(event)['error']}"


def show_counts(counts: Mapping[str, Any]) -> str:
    names = (
        (name.removesuffix("_tokens"), value) for name, value in counts.items() if value and isinstance(value, int)
    )
    return f"({', '.join(f'{value} {name}' for name, value in names)})"


COUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "thinking_tokens",
    "billed_searches",
    "stated_cost",
)


def show_record(record: Receipt | UpstreamAttempt) -> str:
    tier = f" {record.service_tier}" if record.service_tier else ""
    return show_counts({name: value for name in COUNTS if (value := getattr(record, name))}) + tier


def show_receipt(receipt: Receipt) -> Iterator[str]:
    yield f"{receipt.prefix}/{receipt.model} {receipt.outcome} {show_record(receipt)}"
    if len(receipt.attempts) > 1:
        yield from (f"attempt {one.status} {show_record(one)} {one.error}".rstrip() for one in receipt.attempts)
    if receipt.failed_attempts:
        yield f"failed: {', '.join(receipt.failed_attempts)}"
    yield from (f"{note.handling} {note.field}: {note.reason}" for note in receipt.notes)


@pytest.mark.parametrize("name", golden_files("exchanges"))
def test_exchanges(name: str, golden: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def run(given: str, *, stream: bool = False) -> str:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            result = runner.run(Exchanges(given, stream=stream).run())
        return re.sub(r'"retrieved_at": "[^"]+"', '"retrieved_at": …', result)

    def show(given: str) -> str:
        whole = run(given)
        if "\nboth" not in given:
            return whole
        streamed = run(given, stream=True)
        return f"{whole}\n{'the same' if plain(whole) == plain(streamed) else streamed} in a stream"

    golden(name, show)


def plain(result: str) -> str:
    """Return a result without the fields that always differ for a stream."""
    return re.sub(r" \+?stream(_options)?=\S+", "", result)
