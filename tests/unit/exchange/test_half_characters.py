"""Half of a surrogate pair in any text: no reply, log line or record is lost.

`json.loads` and `JSON.parse` admit it in JSON as an escape, and UTF-8 has no bytes for it. It becomes U+FFFD where the
text enters the proxy.
"""

import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.upstream.litellm import LiteLLMLibrary, LiteLLMResponse, LiteLLMThread
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.plugins import InspectedTexts, InspectorScope, Redaction, Refusal
from tests.support.golden_runner import fold_events
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink
from tests.support.replies import CHAT, GEMINI, MESSAGES, OLLAMA, RESPONSES, Reply, ReplyForm

HALF = "\ud800"
WIRES: dict[str, tuple[dict[str, str], ReplyForm]] = {
    "chat": ({"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_WIRE": "chat"}, CHAT),
    "responses": ({"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_WIRE": "responses"}, RESPONSES),
    "gemini": ({"GEMINI_API_KEY": "AIza-test-0123456789", "PREFERRED_PROVIDER": "google"}, GEMINI),
    "ollama": ({"PREFERRED_PROVIDER": "ollama", "OLLAMA_BASE_URL": "http://127.0.0.1:1", "BIG_MODEL": "m"}, OLLAMA),
    "relay": ({"ANTHROPIC_API_KEY": "sk-ant-test-0123456789"}, MESSAGES),
}
ALL_WIRES = pytest.mark.parametrize("wire", WIRES)
BOTH_FORMS = pytest.mark.parametrize("stream", [True, False])
BASH = {"name": "Bash", "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}}}
SAFEGUARDS = [{"type": "dangerous_tool_use", "classifier_context": {}}]
VERDICT = {"rule": "Deleting", "verdict": "flagged", "explanation": "Deletes data."}
CALL = Reply(texts=["ok"], calls=[("call_1", "Bash", ['{"command":"rm -rf x"}'])])
Path = Sequence[str | int]


def find_texts(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the place of each text in a JSON value."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from find_texts(item, (*path, key))


def add_half(value: Any, path: Path) -> Any:
    changed = copy.deepcopy(value)
    part = changed
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] += HALF
    return changed


class Server:
    """A provider that makes a call, and flags it. `frames`: what it sends. `verdict`: what its checker sends."""

    def __init__(self, frames: Sequence[bytes], verdict: bytes) -> None:
        self.frames = frames
        self.verdict = verdict

    def __call__(self, _: str, request: UpstreamRequest, __: Any) -> FakeResponse:
        if b"safety check of a coding agent" in request.body:
            return FakeResponse(200, self.verdict, headers={"content-type": "application/json"})
        is_stream = b'"stream":true' in request.body.replace(b" ", b"") or "stream" in request.path
        kind = "text/event-stream" if is_stream else "application/json"
        return FakeResponse(200, *self.frames, headers={"content-type": kind})


def frames_of(wire: str, *, stream: bool, reply: Reply = CALL) -> Sequence[bytes]:
    form = WIRES[wire][1]
    return form.stream(reply) if stream else [form.whole(reply)]


async def post(wire: str, server: Any, *, stream: bool, **fields: Any) -> tuple[RecordingSink, ProxyHarness]:
    """Post a request, whose reply, record and log line must be complete."""
    built = ProxyHarness(server, **WIRES[wire][0])
    sink = await built.post(**{"tools": [BASH], "stream": stream, **fields})
    log = built.log.getvalue()
    assert "Traceback" not in log
    assert sink.error is None or sink.error.status != 500
    assert sink.error is not None or not stream or sink.is_ended
    str(built.receipts).encode()
    assert "req_test" in log
    return sink, built


def read_message(sink: RecordingSink) -> Any:
    assert sink.error is None, sink.error
    if sink.body:
        return sink.body
    return json.loads(sink.stream) if sink.stream.startswith(b"{") else fold_events(sink.stream)


@ALL_WIRES
@BOTH_FORMS
async def test_in_any_text_of_a_provider(wire: str, stream: bool) -> None:
    frames = frames_of(wire, stream=stream)
    verdict = WIRES[wire][1].whole(Reply(texts=[json.dumps(VERDICT)]))
    places = 0
    for at, frame in enumerate(frames):
        begin, end = frame.find(b"{"), frame.rfind(b"}") + 1
        if begin < 0:
            continue
        content = json.loads(frame[begin:end])
        for path in find_texts(content):
            changed = frame[:begin] + json.dumps(add_half(content, path)).encode() + frame[end:]
            sent = [*frames[:at], changed, *frames[at + 1 :]]
            await post(wire, Server(sent, verdict), stream=stream, safeguards=SAFEGUARDS)
            places += 1
    assert places >= 5


@ALL_WIRES
@BOTH_FORMS
@pytest.mark.parametrize("field", ["rule", "explanation"])
async def test_in_a_verdict(wire: str, stream: bool, field: str) -> None:
    text = json.dumps({**VERDICT, field: VERDICT[field] + HALF})
    server = Server(frames_of(wire, stream=stream), WIRES[wire][1].whole(Reply(texts=[text])))
    sink, built = await post(wire, server, stream=stream, safeguards=SAFEGUARDS)
    explanation = "Deletes data.\ufffd" if field == "explanation" else "Deletes data."
    outcome = {"type": "evaluated", "outcome": "flagged", "explanation": explanation}
    if stream:
        events = [json.loads(line[6:]) for line in sink.stream.split(b"\n") if line.startswith(b"data: ")]
        ((result,),) = [event["delta"]["safeguard_results"] for event in events if event["type"] == "message_delta"]
    else:
        (result,) = read_message(sink)["safeguard_results"]
    assert list(result["status"]["tool_uses"].values()) == [outcome]
    (check,) = built.receipts[-1].checks
    assert (check.verdict, check.reason) == ("flagged", explanation)


@BOTH_FORMS
async def test_in_the_verdict_of_a_server(stream: bool) -> None:
    outcome = {"type": "evaluated", "outcome": "flagged", "explanation": f"Deletes data.{HALF}"}
    uses = {"call_1": outcome, f"call{HALF}": outcome}
    results = [{"type": "dangerous_tool_use", "status": {"type": "available", "tool_uses": uses}}]
    frames = []
    for frame in frames_of("relay", stream=stream):
        text, place = frame.decode(), '"stop_sequence":null'
        is_end = not stream or "message_delta" in text
        frames.append(
            (text.replace(place, f'{place},"safeguard_results":{json.dumps(results)}') if is_end else text).encode()
        )
    sink, built = await post("relay", Server(frames, b""), stream=stream, safeguards=SAFEGUARDS)
    assert sink.stream == b"".join(frames)
    (check,) = built.receipts[-1].checks
    assert (check.verdict, check.reason) == ("flagged", "Deletes data.\ufffd")


@ALL_WIRES
@BOTH_FORMS
async def test_in_the_arguments_of_a_call(wire: str, stream: bool) -> None:
    reply = Reply(calls=[("call_1", "Bash", ['{"command":"echo @@ x"}'])])
    is_text = wire in ("chat", "responses") or (wire == "relay" and stream)
    frames = [
        frame.replace(b"@@", rb"\\ud800" if is_text else rb"\ud800")
        for frame in frames_of(wire, stream=stream, reply=reply)
    ]
    sink, _ = await post(wire, Server(frames, b""), stream=stream)
    if stream:
        events = [json.loads(line[6:]) for line in sink.stream.split(b"\n") if line.startswith(b"data: ")]
        given_input = json.loads("".join(event.get("delta", {}).get("partial_json", "") for event in events))
    else:
        (given_input,) = [block["input"] for block in read_message(sink)["content"] if block["type"] == "tool_use"]
    assert given_input["command"].replace(HALF, "\ufffd") == "echo \ufffd x"


async def test_in_a_reply_with_a_schema_that_the_proxy_checks() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    text = json.dumps({"a": f"x{HALF}"})
    frames = OLLAMA.stream(Reply(texts=[text]))
    output = {"format": {"type": "json_schema", "schema": schema}}
    sink, _ = await post("ollama", Server(frames, b""), stream=True, tools=[], output_config=output)
    assert read_message(sink)["content"] == [{"type": "text", "text": text}]


class Inspector:
    """A plugin whose service answers with half of a character. `refuses`: it refuses the texts."""

    def __init__(self, *, refuses: bool, **scope: Any) -> None:
        self.scope = InspectorScope(**{"name": "plugin", **scope})
        self._refuses = refuses

    async def inspect(self, texts: InspectedTexts) -> Sequence[Redaction] | Refusal:
        if self._refuses:
            return Refusal(f"kind{HALF}", f"Not allowed.{HALF}")
        return [Redaction(place, 0, 1, f"kind{HALF}", f"new{HALF}") for place, _ in enumerate(texts.passages)]

    def find_open_end(self, text: str) -> int:
        return len(text)


@pytest.mark.parametrize("wire", ["chat", "relay"])
@BOTH_FORMS
@pytest.mark.parametrize("refuses", [True, False])
@pytest.mark.parametrize("part", ["requests", "replies"])
async def test_in_what_an_inspector_decides(wire: str, stream: bool, refuses: bool, part: str) -> None:
    built = ProxyHarness(Server(frames_of(wire, stream=stream), b""), **WIRES[wire][0])
    scope = {"requests": part == "requests", "replies": part == "replies"}
    built.services = structs.replace(built.services, inspectors=[Inspector(refuses=refuses, **scope)])
    sink = await built.post("hello", stream=stream, tools=[BASH])
    assert "Traceback" not in built.log.getvalue()
    str(built.receipts).encode()
    if refuses and part == "requests":
        assert sink.error is not None
        assert sink.error.message == "Not allowed.\ufffd"
    elif refuses:
        assert read_message(sink)["stop_details"]["explanation"] == "Not allowed.\ufffd"
    elif part == "replies":
        assert "new\ufffd" in json.dumps(read_message(sink), ensure_ascii=False)


@BOTH_FORMS
async def test_in_a_reply_of_litellm(stream: bool) -> None:
    class Answer:
        choices: Sequence[Any] = ()

        def model_dump(self, **_: Any) -> dict[str, Any]:
            return {"choices": [{"message": {"content": f"a{HALF}"}}]}

    async def reply(**arguments: Any) -> Any:
        async def chunks() -> Any:
            yield Answer()

        return chunks() if arguments.get("stream") else Answer()

    class Thread(LiteLLMThread):
        def load_library(self, model: str) -> LiteLLMLibrary:
            return LiteLLMLibrary(reply, ZeroDivisionError)

    thread = Thread(lambda: None)
    response = LiteLLMResponse(thread)
    await thread.run_coroutine(response.start_call({"model": "m", "stream": stream}))
    data = await response.read()
    await response.close()
    await thread.close()
    assert json.loads(data.removeprefix(b"data: "))["choices"][0]["message"]["content"] == f"a{HALF}"
