"""The demo: a Chat Completions server with a fixed description of itself and a few simple requests with tools.

What it replies: `golden_texts/demo.txt`. Each line of an input has a word first: `tools` (the tools of a name in
`demo_tools.json`, or one as JSON), `fields` of the request, `environment` (the system prompt of an agent), `whole`
(show texts to their end). `ask` asks one question, `say` and `result` go on with the conversation, as do `add` and
`history`.
"""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from anthropic_proxy.engine.options import EngineOptions
from anthropic_proxy.engine.upstream import demo
from anthropic_proxy.engine.wires.bound_requests import Transport
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from tests.support.bound_requests import bound
from tests.support.golden_texts import GOLDEN, Check

Json = dict[str, Any]
TOOLS = {
    name: [{"type": "function", "function": function} for function in functions]
    for name, functions in json.loads((GOLDEN / "demo_tools.json").read_text("utf-8")).items()
}
OFFICE = TOOLS["OFFICE"]
ENVIRONMENT = {
    "role": "system",
    "content": "You help.\n<env>\nWorking directory: /home/ada/project\nIs directory a git repo: No\n</env>",
}


def new_demo_transport() -> Transport:
    return demo.new_demo_transport(("OPENAI_API_KEY", "GEMINI_API_KEY", "OLLAMA_API_BASE"), EngineOptions())


async def post(body: Json, path: str = "/chat/completions") -> tuple[int, bytes]:
    response = await new_demo_transport()(bound("demo:", UpstreamRequest(path=path, body=json.dumps(body).encode())))
    parts = []
    while part := await response.read():
        parts.append(part)
    await response.close()
    return response.status, b"".join(parts)


async def complete(messages: list[Json] | str, tools: list[Json] | None = None, **fields: Any) -> Json:
    """Ask without streaming, and return the choice as OpenAI's own types read it."""
    history = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    body = {"model": "demo", "messages": history, **({"tools": tools} if tools else {}), **fields}
    status, answer = await post(body)
    if status != 200:
        return {"error": f"{status} {json.loads(answer)['error']['message']}"}
    completion = ChatCompletion.model_validate_json(answer)
    return {"usage": completion.usage, **completion.choices[0].model_dump()}


def read_tools(text: str) -> Iterator[Json]:
    while text := text.strip():
        if text.startswith("{"):
            function, end = json.JSONDecoder().raw_decode(text)
            yield {"type": "function", "function": function}
        else:
            end = len(text.partition(" ")[0])
            yield from TOOLS[text[:end]]
        text = text[end:]


def show(choice: Json, *, whole: bool) -> str:
    if "error" in choice:
        return str(choice["error"])
    calls = [call["function"] for call in choice["message"]["tool_calls"] or []]
    shown = [f"{call['name']} {call['arguments']}" for call in calls]
    if text := choice["message"]["content"]:
        shown.append(
            text.replace("\n", "\\n") if whole or len(text) < 90 else f"{text[:70]!r}… {text[-20:]!r} ({len(text)})"
        )
    cut = f" {choice['usage'].completion_tokens} tokens" if choice["finish_reason"] == "length" else ""
    return f"{choice['finish_reason']}{cut}: {' | '.join(shown)}"


async def converse(given: str) -> str:
    tools: list[Json] = []
    start: list[Json] = []
    fields: Json = {}
    history: list[Json] = []
    choice: Json = {}
    lines, whole = [], False
    for line in given.split("\n"):
        word, _, rest = line.partition(" ")
        rest = re.sub(r"(.)×(\d+)", lambda match: match[1] * int(match[2]), rest)
        match word:
            case "tools":
                tools = list(read_tools(rest))
            case "fields":
                fields = json.loads(rest)
            case "environment":
                start = [ENVIRONMENT]
            case "whole":
                whole = True
            case "add":
                history.append(json.loads(rest))
            case "ask":
                history = [*start, {"role": "user", "content": rest}]
            case "say":
                history.append({"role": "user", "content": rest})
            case "history":
                history = json.loads(rest)
            case "result":
                calls = choice["message"]["tool_calls"]
                history.append({"role": "assistant", "content": choice["message"]["content"], "tool_calls": calls})
                history += [{"role": "tool", "tool_call_id": call["id"], "content": rest} for call in calls]
        if word in ("ask", "say", "history", "result"):
            choice = await complete(history, tools, **fields)
            lines.append(show(choice, whole=whole))
    return "\n".join(lines)


def test_replies(golden: Check) -> None:
    golden("demo", lambda given: asyncio.run(converse(given)))


async def stream(prompt: str, tools: list[Json] | None = None, **fields: Any) -> list[ChatCompletionChunk]:
    body = {"model": "demo", "messages": [{"role": "user", "content": prompt}], "tools": tools or [], "stream": True}
    _, answer = await post({**body, **fields})
    lines = answer.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [ChatCompletionChunk.model_validate_json(line.removeprefix("data: ")) for line in lines[:-2]]


async def test_a_stream_contains_the_same_as_a_whole_reply() -> None:
    for prompt in ("hello", "weather in Paris"):
        whole = await complete(prompt, OFFICE)
        chunks = await stream(prompt, OFFICE, stream_options={"include_usage": True})
        deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
        assert deltas[0].role == "assistant"
        assert "".join(delta.content or "" for delta in deltas) == whole["message"]["content"]
        assert max(len(delta.content or "") for delta in deltas) < 12
        calls = [call.function for delta in deltas for call in delta.tool_calls or () if call.function]
        expected = [call["function"]["arguments"] for call in whole["message"]["tool_calls"] or ()]
        assert "".join(call.arguments or "" for call in calls) == "".join(expected)
        reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
        assert reasons == [None] * (len(reasons) - 1) + [whole["finish_reason"]]
        assert (chunks[-1].choices, chunks[-1].usage) == ([], whole["usage"])
        assert len({chunk.id for chunk in chunks}) == 1


async def test_what_is_no_chat_request_is_refused_as_openai_does() -> None:
    status, body = await post({}, path="/embeddings")
    assert (status, json.loads(body)["error"]["type"]) == (404, "invalid_request_error")
    for wrong in (b"{", b"[]", b""):
        response = await new_demo_transport()(bound("demo:", UpstreamRequest(path="/chat/completions", body=wrong)))
        assert response.status == 400


KEYWORDS = st.sampled_from(
    ["$ref", "type", "properties", "required", "items", "minItems", "minLength", "minimum", "enum", "anyOf", "default"]
)
VALUES = st.sampled_from(["#", "#/properties/a", "object", "array", "string", "integer", "a", 0, 3, 10**30, -1.5, None])
SCHEMAS = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYWORDS | st.just("a"), inner, max_size=5)
)


@given(schema=st.dictionaries(KEYWORDS, SCHEMAS, max_size=6))
async def test_any_schema_gets_a_value_or_an_error_that_names_it(schema: Json) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "output", "schema": schema}}
    status, answer = await post({"messages": [{"role": "user", "content": "hello"}], "response_format": form})
    body = json.loads(answer)
    if status == 200:
        json.loads(body["choices"][0]["message"]["content"])
    else:
        assert body["error"]["message"].startswith("output_config.format.schema: it ")
