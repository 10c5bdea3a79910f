"""A plugin whose hooks misbehave as `GET /hostile/{hook}/{fault}` says. Rows install it by `PYTHONPATH`."""

import asyncio
from collections.abc import Mapping
from typing import Any

from anthropic_proxy.plugins import (
    Condition,
    InspectedTexts,
    InspectorScope,
    Passage,
    Plugin,
    Redaction,
    Refusal,
    Route,
    RouteRequest,
    RouteResponse,
)

SECRET = "a-word-that-nobody-sends"
_ANSI = "\x1b]52;c;ZXZpbA==\x07\x1b[2J"


async def _chunks() -> Any:
    yield b"first"
    raise RuntimeError("in a stream")


def _decide(fault: str, texts: InspectedTexts, place: tuple[int, int, int]) -> Any:
    """Return what no inspector may return."""
    good = Redaction(*place, "word")
    number, start, end = place
    decisions: Mapping[str, Any] = {
        "None": None,
        "True": True,
        "an empty object": {},
        "an object": {good: 1},
        "a set": {good},
        "a generator": (one for one in [good]),
        "an empty text": "",
        "a text": "xx",
        "bytes": b"",
        "texts": ["a"],
        "a list of None": [None],
        "the class": Refusal,
        "a refusal without texts": Refusal(None, None),  # type: ignore[arg-type]
        "a refusal with numbers": Refusal(1, 2),  # type: ignore[arg-type]
        "a refusal with bytes": Refusal("x", b"no"),  # type: ignore[arg-type]
        "a list of a refusal": [Refusal("x", "no")],
        "a refusal with escapes": Refusal(_ANSI, _ANSI),
        "a refusal with half a character": Refusal("\ud83d", "\ud83d"),
        "a refusal of 5 MB": Refusal("k" * 1_000_000, "n" * 5_000_000),
        "places between characters": [Redaction(number, start + 0.5, end, "word")],  # type: ignore[arg-type]
        "places in words": [Redaction(number, "0", "5", "word")],  # type: ignore[arg-type]
        "no end": [Redaction(number, start, None, "word")],  # type: ignore[arg-type]
        "another passage": [Redaction(-1, start, end, "word")],
        "not a number": [Redaction(number, float("nan"), end, "word")],  # type: ignore[arg-type]
        "no kind": [Redaction(number, start, end, None)],  # type: ignore[arg-type]
        "a number as a kind": [Redaction(number, start, end, 7)],  # type: ignore[arg-type]
        "a kind with escapes": [Redaction(number, start, end, _ANSI)],
        "half a character as a kind": [Redaction(number, start, end, "\ud83d")],
        "a kind of 1 MB": [Redaction(number, start, end, "K" * 1_000_000)],
        "a number as a replacement": [Redaction(*place, "word", 7)],  # type: ignore[arg-type]
        "bytes as a replacement": [Redaction(*place, "word", b"x")],  # type: ignore[arg-type]
        "half a character as a replacement": [Redaction(*place, "word", "\ud83d")],
        "a placeholder as a replacement": [Redaction(*place, "word", "REDACTED_WORD_0123456789abcdef")],
        "two at one place": [good, good],
    }
    return decisions[fault]


def _raise(fault: str) -> None:
    errors: Mapping[str, BaseException] = {
        "an error": RuntimeError("broken"),
        "an error with escapes": RuntimeError(_ANSI),
        "an error with half a character": RuntimeError("\ud83d"),
        "a cancellation": asyncio.CancelledError(),
        "an end of an iteration": StopAsyncIteration(),
        "a time limit": TimeoutError(),
        "no memory": MemoryError(),
        "too deep": RecursionError(),
    }
    if fault in errors:
        raise errors[fault]


RAISED = (
    *("an error", "an error with escapes", "an error with half a character", "a cancellation"),
    *("an end of an iteration", "a time limit", "no memory", "too deep"),
)
DECIDED = (
    *("None", "True", "an empty object", "an object", "a set", "a generator", "an empty text", "a text", "bytes"),
    *("texts", "a list of None", "the class", "a refusal without texts", "a refusal with numbers"),
    *("a refusal with bytes", "a list of a refusal", "a refusal with escapes", "a refusal with half a character"),
    *("a refusal of 5 MB", "places between characters", "places in words", "no end", "another passage"),
    *("not a number", "no kind", "a number as a kind", "a kind with escapes", "half a character as a kind"),
    *("a kind of 1 MB", "a number as a replacement", "bytes as a replacement", "half a character as a replacement"),
    *("a placeholder as a replacement", "two at one place"),
)
OTHERS = ("a hang", "a stubborn hang", "passages removed", "passages replaced", "a list that is emptied later")


class Hostile:
    """All hooks. Each one misbehaves only while its name is in `faults`."""

    scope = InspectorScope(name="hostile", replies=True, timeout_seconds=0.5, holds_blocks=True)

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}

    async def choose(self, request: RouteRequest) -> RouteResponse:
        self.faults = {request.path_parameters["hook"]: request.path_parameters["fault"]}
        return RouteResponse(headers={"content-type": "text/plain"}, body=b"chosen")

    def act(self, hook: str) -> str:
        fault = self.faults.get(hook, "")
        _raise(fault)
        return fault

    async def inspect(self, texts: InspectedTexts) -> Any:
        number, text = next(((i, one.text) for i, one in enumerate(texts.passages) if SECRET in one.text), (-1, ""))
        if number < 0:
            return []
        fault = self.act(texts.part)
        place = number, text.index(SECRET), text.index(SECRET) + len(SECRET)
        good = [Redaction(*place, "word")]
        passages: Any = texts.passages
        match fault:
            case "":
                return good
            case "a hang":
                await asyncio.Event().wait()
            case "a stubborn hang":
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    return []
            case "passages removed":
                passages.clear()
                return good
            case "passages replaced":
                passages[:] = [Passage("x", "user")] * 3
                return good
            case "a list that is emptied later":
                asyncio.get_running_loop().call_soon(good.clear)
                return good
        return _decide(fault, texts, place)

    def find_open_end(self, text: str) -> int:
        return 0

    async def identify(self, headers: Any) -> Any:
        if "x-hostile" not in headers:
            return None
        return "ann" if self.act("identify") == "a text" else None

    async def admit(self, request: Any) -> Any:
        fault = self.act("admit")
        if fault == "further calls":
            request.further_calls.append("nothing")
        return "settle" if fault == "a text" else lambda receipt: _raise(self.faults.get("settle", ""))

    def record(self, *given: Any) -> Any:
        fault = self.act("record" if len(given) == 1 else "recorder")
        return "recorded" if fault == "a text" else None

    def find_conditions(self) -> Any:
        fault = self.act("conditions")
        none: Any = None
        wrong: Mapping[str, Any] = {"None": none, "a text": "wrong", "texts": ["wrong"]}
        wrong = {**wrong, "no problem": [Condition(check="x", state=_ANSI, problem=none)]}
        return wrong.get(fault, ())

    def count(self) -> Any:
        return {"a text": "x", "None": None, "texts": {("a",): "x"}}.get(self.act("counts"), {})

    async def respond(self, request: RouteRequest) -> Any:
        fault = self.act("route")
        text = {"content-type": "text/plain"}
        responses: Mapping[str, Any] = {
            "None": None,
            "a text": "x",
            "a header with a line end": RouteResponse(headers={**text, "x-a": "b\r\nset-cookie: evil=1"}, body=b"x"),
            "a name with a line end": RouteResponse(headers={**text, "x-a: b\r\nx-b": "c"}, body=b"x"),
            "a header beyond Latin-1": RouteResponse(headers={**text, "x-a": "€"}, body=b"x"),
            "a header of numbers": RouteResponse(headers={**text, "x-a": 7}, body=b"x"),  # type: ignore[dict-item]
            "an unknown status": RouteResponse(status=999, headers=text, body=b"x"),
            "a status in words": RouteResponse(status="200", headers=text, body=b"x"),  # type: ignore[arg-type]
            "a text as a body": RouteResponse(headers=text, body="x"),  # type: ignore[arg-type]
            "a stream that breaks": RouteResponse(headers=text, body=_chunks()),
            "another length": RouteResponse(headers={**text, "content-length": "50"}, body=b"x"),
        }
        return responses.get(fault, RouteResponse(headers=text, body=b"fine"))


def open_plugin(settings: object) -> Plugin:
    hostile: Any = Hostile()
    return Plugin(
        policies=[hostile],
        inspectors=[hostile],
        observers=[hostile],
        recorders=[hostile],
        routes=[
            Route(path="/hostile/{hook}/{fault}", respond=hostile.choose),
            Route(path="/hostile", respond=hostile.respond),
        ],
        conditions=hostile.find_conditions,
        telemetry_drops=hostile.count,
    )
