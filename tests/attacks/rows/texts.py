"""Hostile texts of models, servers and clients, and every place that shows or stores them."""

import json
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

from tests.attacks.buyer import Attempts
from tests.attacks.lab import Attack, Row, ordinary
from tests.attacks.upstream import Reply, UpstreamCall, reply_text, respond
from tests.faults.client import Answer, Asking
from tests.support.command_line import run_command
from tests.support.replies import Reply as Content
from tests.support.waiting import wait_for

_SETTINGS = {
    "DATABASE_URL": "sqlite:///{directory}/ledger.sqlite3",
    "LEDGER_CONTENT": "true",
    "DASHBOARD": "true",
    "OPENAI_WIRE": "chat",
}
_MODELS = (
    "openai/gpt-4.1",
    "openai/gpt-5.5",
    "gemini/gemini-2.5-flash",
    "ollama/llama3",
    "anthropic/claude-sonnet-4-5",
)
HOSTILE: dict[str, str] = {
    "half of a character": "a\ud800b\udfff",
    "both halves in wrong order": "\udc00\ud83d",
    "a clipboard by OSC 52": "\x1b]52;c;ZXZpbA==\x07\x1b[2J",
    "C1 controls": "\x9b2J\x9d52;c;ZXZpbA==\x9c",
    "NUL and others": "a\x00b\x01\x08\x7f",
    "line ends": "a\rb\nc\u2028d\u2029e\x85f\x0b\x0c\x1c\x1d\x1e",
    "an event": "\n\nevent: error\ndata: {\"type\":\"error\"}\n\n",
    "an event with CR": "\r\revent: message_stop\rdata: {\"type\":\"message_stop\"}\r\r",
    "a header": "a\r\nset-cookie: evil=1\r\n\r\nHTTP/1.1 200 OK",
    "a page": "<script>alert(1)</script><img src=x onerror=alert(1)>'\"><b>",
    "a template": "{{7*7}}{% raw %}${7*7}#{7*7}%s%(x)s{0}{x.__class__}",
    "a formula": "=HYPERLINK(\"http://evil.example\")",
    "a formula behind a tab": "\t=1+1",
    "directions": "\u202eabc\u2066\u200f\u200b\ufeff",
    "a query": "'; DROP TABLE requests; --",
    "a link of a terminal": "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "long": "x" * 100_000,
    "combining": "a" + "\u0301" * 5_000,
    "JSON": "\"}],\"evil\":[{\"\\",
    "emoji": "👩‍👩‍👧‍👦" * 100,
}  # fmt: skip
_BAD_NUMBERS = (
    "NaN",
    "-Infinity",
    "1e999",
    "-5",
    "1" + "0" * 400,
    "9223372036854775808",
    "1.5",
    '"7"',
    "true",
    "null",
    "[]",
)


def _with_text(text: str, where: str) -> Reply:
    def build(call: UpstreamCall) -> bytes:
        form = call.protocol.replies
        content = {
            "text": Content(texts=[text or "x"]),
            "thinking": Content(thoughts=[text], texts=["x"]),
            "arguments": Content(calls=[("call_1", "probe", [json.dumps({"a": text})])]),
            "name of a tool": Content(calls=[("call_1", text, ["{}"])]),
            "id of a call": Content(calls=[(text, "probe", ["{}"])]),
        }[where]
        body = b"".join(_escape(form.stream, content)) if call.streaming else b"".join(_escape(form.whole, content))
        kind = "application/x-ndjson" if call.protocol.framing == "ndjson" else "text/event-stream"
        return respond(body, kind if call.streaming else "application/json")

    return build


def _escape(form: Any, content: Content) -> list[bytes]:
    """Return a reply in which halves of characters are escapes, because they have no bytes."""
    marks: dict[str, str] = {}

    def mark(text: str) -> str:
        for half in {character for character in text if unicodedata.category(character) == "Cs"}:
            marks[half] = f"(half {ord(half):x})"
            text = text.replace(half, marks[half])
        return text

    marked = Content(
        thoughts=[*map(mark, content.thoughts)],
        texts=[*map(mark, content.texts)],
        calls=[
            (mark(call), mark(name), [mark(piece.encode("ascii").decode()) for piece in pieces])
            for call, name, pieces in content.calls
        ],
    )
    built = form(marked)
    parts = built if isinstance(built, list) else [built]
    for half, name in marks.items():
        parts = [part.replace(name.encode(), b"\\u%04x" % ord(half)) for part in parts]
    return parts


def _error_with(text: str, status: int) -> Reply:
    def build(call: UpstreamCall) -> bytes:
        body = call.protocol.error(status, "MARK").replace(b"MARK", json.dumps(text)[1:-1].encode())
        name = b"x-request-id: %b\r\nrequest-id: %b\r\nretry-after: %b\r\n"
        value = text.replace("\r", " ").replace("\n", " ").replace("\0", " ").encode(errors="replace")[:2_000]
        return respond(body, head=name % (value, value, value), status=status)

    return build


def _run_replies(attack: Attack) -> list[Answer]:
    answers = []
    for text in HOSTILE.values():
        for where in ("text", "thinking", "arguments", "name of a tool", "id of a call"):
            attack.upstream.reply = _with_text(text, where)
            for number, model in enumerate(_MODELS):
                tools = [{"name": "probe", "input_schema": {"type": "object"}}]
                shown = {"thinking": {"type": "adaptive"}} if where == "thinking" else {}
                streams = bool((number + len(where)) % 2)
                answers.append(attack.post(ordinary(model, tools=tools, stream=streams, **shown)))
    for text in HOSTILE.values():
        for status in (400, 401, 404, 200):
            attack.upstream.reply = _error_with(text, status)
            answers += [attack.post(ordinary(model, stream=status == 404)) for model in _MODELS]
    _check_places(attack, len(answers))
    return answers


def _with_text_everywhere(text: str) -> Reply:
    """Return a complete reply of Chat Completions whose texts are all the same."""
    call = {"id": text, "type": "function", "function": {"name": text, "arguments": json.dumps({"a": text})}}
    message = {"role": "assistant", "content": text, "reasoning_content": text, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": text}
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    body = {"id": text, "object": text, "model": text, "choices": [choice], "usage": usage, "system_fingerprint": text}
    return lambda _: respond(json.dumps(body).encode())


def _run_commands(attack: Attack) -> list[Answer]:
    """Commands that ask a server themselves, and that read a file of another program."""
    attempts = Attempts()
    settings = {
        "OPENAI_BASE_URL": f"{attack.upstream.url}/v1",
        "OPENAI_API_KEY": "sk-attack-0001",
        "OPENAI_WIRE": "chat",
        "PREFERRED_PROVIDER": "openai",
    }
    for name in ("half of a character", "a clipboard by OSC 52", "C1 controls", "line ends", "directions"):
        text = HOSTILE[name]
        router = {"Providers": [{"name": text, "api_base_url": text, "api_key": text}], "Router": {"default": text}}
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            (directory / "config.json").write_text(json.dumps({**router, text: text}))
            attack.upstream.reply = _with_text_everywhere(text)
            for words in (
                ("doctor", "openai/gpt-4.1", "--yes"),
                ("doctor", "openai/gpt-4.1", "--yes", "--json"),
                ("models", "openai"),
                ("import", "config.json"),
            ):
                done = run_command(*words, directory=directory, settings=settings)
                shown = done.stdout + done.stderr
                is_held = "Traceback" not in shown and not _has_control(shown.replace("\n", ""))
                attempts.check(f"{name}: {words}", is_held, shown[-500:])
    return attempts.finish(attack)


def _run_numbers(attack: Attack) -> list[Answer]:
    answers = []
    for number in _BAD_NUMBERS:

        def build(call: UpstreamCall, number: str = number) -> bytes:
            form, content = call.protocol.replies, Content(texts=["x"], count=987_654)
            body = b"".join(form.stream(content)) if call.streaming else form.whole(content)
            kind = "application/x-ndjson" if call.protocol.framing == "ndjson" else "text/event-stream"
            return respond(body.replace(b"987654", number.encode()), kind if call.streaming else "application/json")

        attack.upstream.reply = build
        answers += [attack.post(ordinary(model, stream=stream)) for model in _MODELS for stream in (True, False)]
    _check_places(attack, len(answers))
    usage = attack.proxy.client().get("/api/usage").text
    assert all(abs(value) < 2**63 for value in _list_numbers(json.loads(usage))), usage
    return answers


def _list_numbers(value: Any) -> list[float]:
    if isinstance(value, dict | list):
        return [
            number for part in (value.values() if isinstance(value, dict) else value) for number in _list_numbers(part)
        ]
    return [value] if isinstance(value, int | float) else []


def _run_clients(attack: Attack) -> list[Answer]:
    """Texts in the fields and headers of requests."""
    answers = []
    attack.upstream.reply = reply_text("x")
    for text in HOSTILE.values():
        for place in ("model", "user", "tool", "message", "stop", "beta", "unknown"):
            body: dict[str, Any] = ordinary("openai/gpt-4.1", stream=place == "tool")
            match place:
                case "model":
                    body["model"] = text
                case "user":
                    body["metadata"] = {"user_id": text}
                case "tool":
                    body["tools"] = [
                        {"name": text, "description": text, "input_schema": {"type": "object", "title": text}}
                    ]
                case "message":
                    body["messages"] = [{"role": "user", "content": text}]
                case "stop":
                    body["stop_sequences"] = [text]
                case "beta":
                    body["betas"] = [text]
                case _:
                    body[text] = text
            answers.append(attack.post(body))
        value = text.replace("\r", " ").replace("\n", " ").replace("\0", " ").encode(errors="replace")[:2_000]
        for name in (
            "user-agent",
            "x-claude-code-session-id",
            "x-app",
            "anthropic-beta",
            "x-request-id",
            "traceparent",
        ):
            data = json.dumps(ordinary("openai/gpt-4.1")).encode()
            head = b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\n%b: %b\r\ncontent-length: %d\r\n\r\n"
            asking = Asking(attack.port)
            asking.send(head % (name.encode(), value, len(data)), data)
            asking.read_answer()
            asking.close()
    _check_places(attack, len(answers))
    return answers


def _check_places(attack: Attack, count: int) -> None:
    """Read log, API, pages, exports and commands, which show the texts."""
    client = attack.proxy.client()
    stored = wait_for(
        lambda: client.get("/api/requests?limit=100").json()["requests"], lambda found: len(found) >= min(count, 100)
    )
    problems = [
        f"log: {line[:200]!r}"
        for line in attack.proxy.log_file.read_bytes().split(b"\n")
        if _has_control(line.decode(errors="replace"))
    ]
    for path in (
        "/dashboard",
        "/dashboard/requests",
        "/dashboard/providers",
        "/dashboard/sessions",
        *(f"/dashboard/requests/{row['id']}" for row in stored[:100:7]),
    ):
        page = client.get(path)
        if page.status_code >= 500 or "<script>alert" in page.text or "<img src=x" in page.text or "\x1b" in page.text:
            problems.append(f"{path}: {page.status_code} {page.text[:100]}")
    export = client.get("/dashboard/requests?format=csv")
    problems += [
        f"export: {line[:200]!r}"
        for line in export.text.splitlines()
        if any(cell.startswith(("=", "\t=", '"=', "@", "+")) for cell in line.split(","))
    ]
    directory = Path(attack.proxy.log_file).parent
    settings = {"DATABASE_URL": f"sqlite:///{directory}/ledger.sqlite3"}
    for words in (("explain", stored[0]["id"]), ("explain", stored[-1]["id"]), ("usage",), ("db", "export")):
        done = run_command(*words, directory=directory, settings=settings)
        if "Traceback" in done.stderr or _has_control((done.stdout + done.stderr).replace("\n", "")):
            problems.append(f"{words}: {(done.stdout + done.stderr)[-300:]!r}")
    assert problems == [], problems


def _has_control(text: str) -> bool:
    return any(unicodedata.category(character) in ("Cc", "Cs") and character not in "\t" for character in text)


_ANY = frozenset({200, 400, 401, 402, 403, 404, 413, 422, 424, 429, 500, 502, 503, 529})
TEXTS: tuple[Row, ...] = (
    Row(name="texts: of models and servers", run=_run_replies, settings=_SETTINGS, statuses=_ANY),
    Row(name="texts: numbers of servers that are none", run=_run_numbers, settings=_SETTINGS, statuses=_ANY),
    Row(name="texts: of servers and files in commands", run=_run_commands, settings=_SETTINGS, statuses=_ANY),
    Row(name="texts: of clients", run=_run_clients, settings=_SETTINGS, statuses=_ANY),
)
