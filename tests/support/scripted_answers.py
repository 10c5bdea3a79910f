"""Answers of a provider that a golden text scripts: which one a request gets, and what it consists of.

A condition is the path of a field that the body has, also with `=`, `<` or `>` and a value; text in quotes in the
body; `@` and a part of the address; `always`; `!` before it negates, `&` joins. An answer is `unreachable`, `refused`
(no program listens at a local address), or a status, headers and a body: JSON or another text, `reply` with the content
of a reply, or JSON events of a stream (`sse`, `events`, `lines`; STALL and BREAK among them). `‹path›` stands for a
field of the sent body.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from anthropic_proxy.errors import UpstreamProtocolError, UpstreamUnreachable
from tests.support import replies
from tests.support.fakes.server import RequestLog, new_application
from tests.support.harness import STALL, FakeResponse

WELL = replies.Reply(texts=["well"], count=5)
FORMS = {
    "/chat/completions": replies.CHAT,
    "/responses": replies.RESPONSES,
    "/api/chat": replies.OLLAMA,
    "/v1/messages": replies.MESSAGES,
}
MISSING = object()
Chunk = bytes | bytearray | Exception


def field(body: Any, path: str) -> Any:
    for name in path.split("."):
        try:
            body = body[int(name) if isinstance(body, list) else name]
        except (KeyError, IndexError, TypeError, ValueError):
            return MISSING
    return body


def holds(condition: str, body: Any, address: str) -> bool:
    if " & " in condition:
        return all(holds(part, body, address) for part in condition.split(" & "))
    if condition.startswith("!"):
        return not holds(condition[1:], body, address)
    if condition.startswith("@"):
        return condition[1:] in address
    if condition.startswith('"'):
        return str(json.loads(condition)) in json.dumps(body, ensure_ascii=False)
    path, sign, value = re.fullmatch(r"([^=<>]+)(?:([=<>])(.*))?", condition).groups()
    found = field(body, path)
    if sign is None or found is MISSING:
        return path == "always" or found is not MISSING
    wanted = json.loads(value)
    return {"=": lambda: found == wanted, "<": lambda: found < wanted, ">": lambda: found > wanted}[sign]()


def read_chunks(text: str, frame: str) -> Iterator[Chunk]:
    """Yield the pieces of a stream: JSON values in frames, and STALL or BREAK."""
    while text := text.strip():
        if match := re.match(r"STALL|BREAK", text):
            yield STALL if match[0] == "STALL" else UpstreamProtocolError("the connection broke")
            text = text[5:]
            continue
        value, end = json.JSONDecoder().raw_decode(text)
        kind = f"event: {value['type']}\n" if frame == "events" else ""
        line = json.dumps(value, ensure_ascii=False)
        yield (f"{line}\n" if frame == "lines" else f"{kind}data: {line}\n\n").encode()
        text = text[end:]


def short_reply(path: str, reply: replies.Reply, *, stream: bool) -> FakeResponse:
    form = next((form for end, form in FORMS.items() if path.partition("?")[0].endswith(end)), replies.GEMINI)
    return FakeResponse(200, *form.stream(reply)) if stream else FakeResponse(200, form.whole(reply))


def respond(answer: str, body: Any, path: str) -> FakeResponse:
    answer = re.sub(r"‹(.+?)›", lambda place: str(field(body, place[1])), answer)
    status, _, rest = answer.partition(" ")
    if status == "unreachable":
        raise UpstreamUnreachable("nothing answers")
    if status == "refused":
        raise UpstreamUnreachable("no server responds there (connection refused)", should_retry=False)
    headers = {}
    while match := re.match(r"([a-z-]+)=(\S+) ?", rest):
        headers[match[1]], rest = match[2], rest[match.end() :]
    is_stream = (isinstance(body, dict) and bool(body.get("stream"))) or "streamGenerate" in path
    if not rest and status == "200":
        return short_reply(path, WELL, stream=is_stream)
    frame, _, events = rest.partition(" ")
    if frame == "reply":
        return short_reply(path, msgspec.convert(json.loads(events), replies.Reply), stream=is_stream)
    if frame in ("sse", "lines", "events"):
        return FakeResponse(200, *read_chunks(events, frame), headers=headers)
    if rest == "STALL":
        return FakeResponse(int(status), STALL, headers=headers)
    return FakeResponse(int(status), rest.encode(), headers=headers)


def new_scripted_server(script: Sequence[Mapping[str, Any]]) -> web.Application:
    """Return a server that answers by the first entry whose condition `if` holds, and short replies else.

    An entry has an answer as `then`, and may have a number of `times` after which it counts no longer.
    """
    left = [entry.get("times", 1_000_000) for entry in script]

    async def answer(request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        body = json.loads(raw) if raw else {}
        seen = {**body, "authorization": request.headers.get("authorization", "")}
        journal.open(request, body)
        entries = enumerate(script)
        place = next((at for at, entry in entries if left[at] and holds(entry["if"], seen, request.path)), None)
        if place is not None:
            left[place] -= 1
        found = respond(script[place]["then"] if place is not None else "200", seen, request.path)
        kind = "text/event-stream" if body.get("stream") and found.status == 200 else "application/json"
        response = web.StreamResponse(status=found.status, headers={"content-type": kind, **found.headers})
        await response.prepare(request)
        while chunk := await found.read():
            await response.write(chunk)
        return response

    return new_application(answer, RequestLog())
