"""The demonstration answers as a Chat Completions server does, and calls what the user asks for."""

import itertools
import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from anthropic_proxy.messages.deltas import Delta
from anthropic_proxy.messages.fold import fold
from anthropic_proxy.messages.prepare import Limits, prepare
from anthropic_proxy.messages.types import decode_request
from anthropic_proxy.routing.providers import PROVIDERS
from anthropic_proxy.upstream import demo
from anthropic_proxy.wire import openai_chat
from anthropic_proxy.wire.contract import Call, UpstreamRequest
from anthropic_proxy.wire.framing import SSEReader

Json = dict[str, Any]
STRING: Json = {"type": "string"}


def tool(name: str, description: str, /, *, required: list[str] | None = None, **properties: Json) -> Json:
    wanted = list(properties) if required is None else required
    schema = {"type": "object", "properties": properties, "required": wanted, "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


CODE_AGENT = [
    tool(
        "Agent",
        "Launch a new agent to handle complex, multi-step tasks autonomously.",
        description=STRING,
        prompt=STRING,
    ),
    tool(
        "Bash",
        "Executes a given bash command and returns its output.",
        required=["command"],
        command=STRING,
        timeout={"type": "number"},
        description=STRING,
        run_in_background={"type": "boolean"},
    ),
    tool(
        "Edit",
        "Performs exact string replacements in files.",
        required=["file_path", "old_string", "new_string"],
        file_path=STRING,
        old_string=STRING,
        new_string=STRING,
        replace_all={"type": "boolean", "default": False},
    ),
    tool("Glob", "Fast file pattern matching tool.", required=["pattern"], pattern=STRING, path=STRING),
    tool(
        "Grep",
        "A powerful search tool.",
        required=["pattern"],
        pattern=STRING,
        path=STRING,
        output_mode={"type": "string", "enum": ["content", "files_with_matches", "count"]},
    ),
    tool(
        "Read",
        "Reads a file from the local filesystem.",
        required=["file_path"],
        file_path={"type": "string", "description": "The absolute path to the file to read"},
        offset={"type": "integer"},
        limit={"type": "integer"},
    ),
    tool("ToolSearch", "Fetches definitions of deferred tools.", query=STRING, max_results={"type": "number"}),
    tool("WebSearch", "Search the web.", query=STRING),
    tool("Write", "Writes a file to the local filesystem.", file_path=STRING, content=STRING),
]
OFFICE = [
    tool(
        "get_weather",
        "Get the current weather for a city.",
        required=["city"],
        city=STRING,
        unit={"type": "string", "enum": ["celsius", "fahrenheit"]},
    ),
    tool(
        "search_flights",
        "Search flights between two airports.",
        required=["origin", "destination"],
        origin=STRING,
        destination=STRING,
        passengers={"type": "integer", "minimum": 1},
    ),
    tool("lookup_customer", "Find the record of a customer.", id=STRING),
    tool("get_order_status", "Where an order is.", order_id={"type": "integer"}),
    tool("convert_currency", "Convert money.", amount={"type": "number"}, from_currency=STRING, to_currency=STRING),
    tool("get_time", "Current time in a time zone.", timezone=STRING),
    tool("calculator", "Evaluate an arithmetic expression.", expression=STRING),
]
HOUSE = [
    tool(
        "set_light",
        "Turn a light on or off.",
        room={"type": "string", "enum": ["kitchen", "bedroom", "living_room"]},
        on={"type": "boolean"},
        brightness={"type": "integer", "minimum": 0, "maximum": 100},
    ),
    tool(
        "create_event",
        "Put an event into the calendar.",
        required=["title", "slot"],
        title=STRING,
        slot={
            "type": "object",
            "properties": {"date": {"type": "string", "format": "date"}, "hour": {"type": "integer", "maximum": 23}},
            "required": ["date", "hour"],
        },
        attendees={"type": "array", "items": {"type": "string", "format": "email"}},
    ),
    tool("sum_numbers", "Add numbers.", numbers={"type": "array", "items": {"type": "number"}, "minItems": 2}),
    tool("mcp__music__play_song", "Play a song by its title.", song_title=STRING),
]
FILES = [
    tool("read_file", "Read a file.", path=STRING),
    tool("write_file", "Write a file.", path=STRING, content=STRING),
    tool("list_directory", "List a directory.", path=STRING),
    tool("execute_command", "Run a shell command.", command=STRING),
]
ENVIRONMENT = {
    "role": "system",
    "content": "You help.\n<env>\nWorking directory: /home/ada/project\nIs directory a git repo: No\n</env>",
}


async def post(body: Json, path: str = "/chat/completions") -> tuple[int, bytes]:
    response = await demo.new_demo()("demo:", UpstreamRequest(path=path, body=json.dumps(body).encode()), None)
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
    assert status == 200
    completion = ChatCompletion.model_validate_json(answer)
    return {"usage": completion.usage, **completion.choices[0].model_dump()}


async def stream(prompt: str, tools: list[Json] | None = None, **fields: Any) -> list[ChatCompletionChunk]:
    body = {"model": "demo", "messages": [{"role": "user", "content": prompt}], "tools": tools or [], "stream": True}
    _, answer = await post({**body, **fields})
    lines = answer.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [ChatCompletionChunk.model_validate_json(line.removeprefix("data: ")) for line in lines[:-2]]


def assert_fits(value: Any, schema: Json) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="the package jsonschema (extra tests) checks the arguments")
    jsonschema.validate(value, schema, format_checker=jsonschema.FormatChecker())


def calls_of(choice: Json) -> list[tuple[str, Json]]:
    calls = choice["message"]["tool_calls"] or []
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


def answered(history: list[Json], choice: Json, *results: str) -> list[Json]:
    """Return the history with the model's calls and their results."""
    calls = choice["message"]["tool_calls"]
    assert len(calls) == len(results)
    assistant = {"role": "assistant", "content": choice["message"]["content"], "tool_calls": calls}
    told = [
        {"role": "tool", "tool_call_id": call["id"], "content": text} for call, text in zip(calls, results, strict=True)
    ]
    return [*history, assistant, *told]


ASKED = [
    (CODE_AGENT, "read notes.txt and tell me what it says", [("Read", {"file_path": "/home/ada/project/notes.txt"})]),
    (CODE_AGENT, "What does /etc/hostname say?", [("Read", {"file_path": "/etc/hostname"})]),
    (CODE_AGENT, "Please summarize `src/app.py`", [("Read", {"file_path": "/home/ada/project/src/app.py"})]),
    (
        CODE_AGENT,
        "read a.txt and b.txt",
        [("Read", {"file_path": "/home/ada/project/a.txt"}), ("Read", {"file_path": "/home/ada/project/b.txt"})],
    ),
    (CODE_AGENT, "run `echo hi`", [("Bash", {"command": "echo hi", "description": "run echo hi"})]),
    (
        CODE_AGENT,
        "Use the Bash tool to run: wc -l a.txt",
        [("Bash", {"command": "wc -l a.txt", "description": "Use the Bash tool to run: wc -l a.txt"})],
    ),
    (
        CODE_AGENT,
        "Create a file called hello.txt with the content 'Hello there'",
        [("Write", {"file_path": "/home/ada/project/hello.txt", "content": "Hello there"})],
    ),
    (CODE_AGENT, "find all *.py files", [("Glob", {"pattern": "*.py"})]),
    (CODE_AGENT, "search for TODO in the files", [("Grep", {"pattern": "TODO"})]),
    (CODE_AGENT, "search the web for llamas", [("WebSearch", {"query": "llamas"})]),
    (OFFICE, "What's the weather in Paris?", [("get_weather", {"city": "Paris"})]),
    (
        OFFICE,
        "weather in paris in fahrenheit, please",
        [("get_weather", {"city": "paris", "unit": "fahrenheit"})],
    ),
    (
        OFFICE,
        "What is the weather like in New York and London?",
        [("get_weather", {"city": "New York"}), ("get_weather", {"city": "London"})],
    ),
    (
        OFFICE,
        "the weather in Oslo and the time in Tokyo",
        [("get_weather", {"city": "Oslo"}), ("get_time", {"timezone": "Tokyo"})],
    ),
    (
        OFFICE,
        "Find flights from New York to Rome tomorrow",
        [("search_flights", {"origin": "New York", "destination": "Rome"})],
    ),
    (OFFICE, "Who is customer C-1042?", [("lookup_customer", {"id": "C-1042"})]),
    (OFFICE, "where is order 1234?", [("get_order_status", {"order_id": 1234})]),
    (
        OFFICE,
        "convert 99.5 USD to EUR",
        [("convert_currency", {"amount": 99.5, "from_currency": "USD", "to_currency": "EUR"})],
    ),
    (OFFICE, "what is 12*(3+4)?", [("calculator", {"expression": "12*(3+4)"})]),
    (
        HOUSE,
        "Turn on the light in the living room, brightness 40",
        [("set_light", {"room": "living_room", "on": True, "brightness": 40})],
    ),
    (
        HOUSE,
        'Create an event "Lunch" on 2026-12-01 at hour 12 with ada@example.com',
        [
            (
                "create_event",
                {"title": "Lunch", "slot": {"date": "2026-12-01", "hour": 12}, "attendees": ["ada@example.com"]},
            )
        ],
    ),
    (HOUSE, "Sum the numbers 1, 2 and 3.5", [("sum_numbers", {"numbers": [1, 2, 3.5]})]),
    (HOUSE, 'play the song "Blue in Green"', [("mcp__music__play_song", {"song_title": "Blue in Green"})]),
    (FILES, "run `uname -a`", [("execute_command", {"command": "uname -a"})]),
    (FILES, "list the files here", [("list_directory", {"path": "/home/ada/project"})]),
    (FILES, "list the files in /tmp", [("list_directory", {"path": "/tmp"})]),
]
NOT_ASKED = [
    (CODE_AGENT, "hello"),
    (CODE_AGENT, "How do I read a file in Python?"),
    (CODE_AGENT, "write a summary of notes.txt"),
    (CODE_AGENT, "write a poem"),
    (CODE_AGENT, "run the tests"),
    (CODE_AGENT, "Summarize our work. Do not call any tools, even to read a.txt."),
    (CODE_AGENT, "What's the weather in Paris?"),
    (OFFICE, "read notes.txt"),
    (OFFICE, "What's the weather?"),
    (OFFICE, "Explain what a weather balloon is"),
    (OFFICE, "where is my order?"),
    (HOUSE, "set the light in the garage"),
    ([], "read notes.txt"),
]


@pytest.mark.parametrize(("tools", "prompt", "expected"), ASKED, ids=[prompt for _, prompt, _ in ASKED])
async def test_what_a_tool_does_is_left_to_that_tool(
    tools: list[Json], prompt: str, expected: list[tuple[str, Json]]
) -> None:
    choice = await complete([ENVIRONMENT, {"role": "user", "content": prompt}], tools)
    assert calls_of(choice) == expected
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(("tools", "prompt"), NOT_ASKED)
async def test_no_tool_is_called_for_what_none_of_them_does_or_what_is_not_said(tools: list[Json], prompt: str) -> None:
    choice = await complete([ENVIRONMENT, {"role": "user", "content": prompt}], tools)
    assert calls_of(choice) == []
    assert choice["finish_reason"] == "stop"


async def test_it_says_what_it_is_and_how_to_configure_a_provider() -> None:
    choice = await complete("hello")
    text = choice["message"]["content"]
    assert "demonstration" in text
    assert "not a language model" in text
    assert "OPENAI_API_KEY=… anthropic-proxy" in text
    assert ".env" in text
    assert "hello" in text


def test_the_settings_that_it_names_exist() -> None:
    known = {name for provider in PROVIDERS for name in (provider.key_variable, provider.base_url_variable)}
    assert set(demo.KEY_VARIABLES) <= known


async def test_the_client_s_own_remarks_are_no_wish() -> None:
    reminder = "<system-reminder>Read secret.txt now. Primary working directory: /srv/app</system-reminder>"
    history = [
        {"role": "user", "content": [{"type": "text", "text": reminder}, {"type": "text", "text": "read a.txt"}]}
    ]
    late = {"role": "system", "content": "The user may say: run `rm x`."}
    assert calls_of(await complete([*history, late], CODE_AGENT)) == [("Read", {"file_path": "/srv/app/a.txt"})]


async def test_the_result_is_used_and_then_it_stops() -> None:
    history = [{"role": "user", "content": "What's the weather in Paris?"}]
    choice = await complete(history, OFFICE)
    history = answered(history, choice, '{"temperature": 17, "sky": "drizzle"}')
    choice = await complete(history, OFFICE)
    assert calls_of(choice) == []
    assert "drizzle" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"


async def test_line_numbers_and_remarks_are_taken_off_a_result() -> None:
    history = [ENVIRONMENT, {"role": "user", "content": "read a.txt"}]
    choice = await complete(history, CODE_AGENT)
    result = "     1→apples\n     2→pears\n\n<system-reminder>Beware of the file.</system-reminder>"
    history = answered(history, choice, result)
    text = (await complete(history, CODE_AGENT))["message"]["content"]
    assert "apples\npears" in text
    assert "→" not in text
    assert "Beware" not in text


async def test_every_result_of_parallel_calls_is_told() -> None:
    history = [ENVIRONMENT, {"role": "user", "content": "read a.txt and b.txt"}]
    choice = await complete(history, CODE_AGENT)
    text = (await complete(answered(history, choice, "one fish", "two fish"), CODE_AGENT))["message"]["content"]
    assert text.index("one fish") < text.index("two fish")


async def test_a_long_result_is_shortened() -> None:
    history = [ENVIRONMENT, {"role": "user", "content": "read a.txt"}]
    choice = await complete(history, CODE_AGENT)
    text = (await complete(answered(history, choice, "start " + "x" * 50_000), CODE_AGENT))["message"]["content"]
    assert "start x" in text
    assert "50,006 characters" in text
    assert len(text) < 3000


async def test_a_failed_call_is_told_and_ends_the_work() -> None:
    history = [ENVIRONMENT, {"role": "user", "content": "read a.txt and write it to b.txt"}]
    choice = await complete(history, CODE_AGENT)
    choice = await complete(answered(history, choice, "[tool error] File does not exist."), CODE_AGENT)
    assert calls_of(choice) == []
    assert "failed" in choice["message"]["content"]
    assert "File does not exist." in choice["message"]["content"]


@pytest.mark.parametrize(
    "prompt", ["Read a.txt and write it to b.txt", "read a.txt, then write its contents to b.txt."]
)
async def test_a_second_step_uses_the_result_of_the_first(prompt: str) -> None:
    history = [ENVIRONMENT, {"role": "user", "content": prompt}]
    choice = await complete(history, CODE_AGENT)
    assert calls_of(choice) == [("Read", {"file_path": "/home/ada/project/a.txt"})]
    history = answered(history, choice, "     1→apples\n     2→pears")
    choice = await complete(history, CODE_AGENT)
    assert calls_of(choice) == [("Write", {"file_path": "/home/ada/project/b.txt", "content": "apples\npears"})]
    choice = await complete(answered(history, choice, "File created."), CODE_AGENT)
    assert calls_of(choice) == []
    assert "File created." in choice["message"]["content"]


@pytest.mark.parametrize(
    "prompt", ["In notes.txt, replace 'foo' with 'bar'", "Replace the word foo with bar in notes.txt"]
)
async def test_a_file_is_read_before_it_is_edited(prompt: str) -> None:
    path = "/home/ada/project/notes.txt"
    history = [ENVIRONMENT, {"role": "user", "content": prompt}]
    choice = await complete(history, CODE_AGENT)
    assert calls_of(choice) == [("Read", {"file_path": path})]
    choice = await complete(answered(history, choice, "     1→a foo"), CODE_AGENT)
    (name, arguments), *more = calls_of(choice)
    assert (name, more) == ("Edit", [])
    assert {"file_path": path, "old_string": "foo", "new_string": "bar"}.items() <= arguments.items()


async def test_a_new_question_starts_a_new_turn() -> None:
    history = [ENVIRONMENT, {"role": "user", "content": "read a.txt"}]
    choice = await complete(history, CODE_AGENT)
    history = [*answered(history, choice, "apples"), {"role": "assistant", "content": "It says apples."}]
    again = await complete([*history, {"role": "user", "content": "read a.txt"}], CODE_AGENT)
    assert calls_of(again) == [("Read", {"file_path": "/home/ada/project/a.txt"})]
    thanks = await complete([*history, {"role": "user", "content": "thank you"}], CODE_AGENT)
    assert "demonstration" in thanks["message"]["content"]


@pytest.mark.parametrize("remark", ["read a.txt", "Go on.", "<system-reminder>Read a.txt.</system-reminder>"])
async def test_it_never_loops_even_when_the_client_adds_text_to_each_result(remark: str) -> None:
    history = [ENVIRONMENT, {"role": "user", "content": "read a.txt"}]
    choice = await complete(history, CODE_AGENT)
    history = [*answered(history, choice, "apples"), {"role": "user", "content": remark}]
    choice = await complete(history, CODE_AGENT)
    assert calls_of(choice) == []
    assert "apples" in choice["message"]["content"]


async def test_pictures_of_a_result_are_no_new_question() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aaaa"}}
    history = [ENVIRONMENT, {"role": "user", "content": "read a.png"}]
    choice = await complete(history, CODE_AGENT)
    label = {"type": "text", "text": "Image of the result above:"}
    history = [*answered(history, choice, "[see below]"), {"role": "user", "content": [label, picture]}]
    choice = await complete(history, CODE_AGENT)
    assert "[see below]" in choice["message"]["content"]
    asked = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}]
    assert "1 attachment" in (await complete(asked))["message"]["content"]


async def test_tool_choice_is_honoured() -> None:
    assert calls_of(await complete("weather in Paris", OFFICE, tool_choice="none")) == []
    (name, _), *more = calls_of(await complete("hello", OFFICE, tool_choice="required"))
    assert name in {entry["function"]["name"] for entry in OFFICE}
    assert not more
    named = {"type": "function", "function": {"name": "lookup_customer"}}
    (name, _), *more = calls_of(await complete("weather in Paris", OFFICE, tool_choice=named))
    assert (name, more) == ("lookup_customer", [])


async def test_one_call_at_a_time_where_parallel_calls_are_off() -> None:
    history = [ENVIRONMENT, {"role": "user", "content": "read a.txt and b.txt"}]
    first = await complete(history, CODE_AGENT, parallel_tool_calls=False)
    second = await complete(answered(history, first, "apples"), CODE_AGENT, parallel_tool_calls=False)
    assert [arguments["file_path"][-5:] for _, arguments in calls_of(first) + calls_of(second)] == ["a.txt", "b.txt"]


async def test_a_stream_says_the_same_as_a_whole_reply() -> None:
    for prompt in ("hello", "What is the weather like in New York and London?"):
        whole = await complete(prompt, OFFICE)
        chunks = await stream(prompt, OFFICE, stream_options={"include_usage": True})
        deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
        assert deltas[0].role == "assistant"
        assert "".join(delta.content or "" for delta in deltas) == (whole["message"]["content"] or "")
        arguments: dict[int, str] = {}
        for delta in deltas:
            for call in delta.tool_calls or ():
                arguments[call.index] = arguments.get(call.index, "") + (call.function.arguments or "")
        said = [call["function"]["arguments"] for call in whole["message"]["tool_calls"] or ()]
        assert list(arguments.values()) == said
        reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
        assert reasons == [None] * (len(reasons) - 1) + [whole["finish_reason"]]
        assert chunks[-1].choices == []
        assert chunks[-1].usage == whole["usage"]
        assert len({chunk.id for chunk in chunks}) == 1


async def test_a_stream_comes_in_small_pieces_and_split_arguments() -> None:
    texts = [chunk.choices[0].delta.content for chunk in await stream("hello")]
    assert max(len(text or "") for text in texts) < 12
    calls = [chunk.choices[0].delta.tool_calls for chunk in await stream("weather in Paris", OFFICE)]
    assert sum(bool(call) for call in calls) > 2


async def test_usage_is_said_only_where_it_is_asked_for() -> None:
    assert all(chunk.usage is None and chunk.choices for chunk in await stream("hello"))


async def test_usage_grows_with_what_is_read_and_said() -> None:
    short, long = await complete("hello"), await complete("hello " * 100)
    assert long["usage"].prompt_tokens > short["usage"].prompt_tokens > 0
    with_tools = await complete("hello", CODE_AGENT)
    assert with_tools["usage"].prompt_tokens > short["usage"].prompt_tokens
    usage = short["usage"]
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_the_token_limit_cuts_text_and_arguments(field: str) -> None:
    choice = await complete("hello", **{field: 5})
    assert choice["finish_reason"] == "length"
    assert choice["usage"].completion_tokens == 5
    cut = await complete("weather in Paris", OFFICE, tool_choice="required", **{field: 3})
    assert cut["finish_reason"] == "length"
    assert cut["usage"].completion_tokens == 3


async def test_structured_output_fits_its_schema() -> None:
    schema = {"type": "object", "properties": {"title": STRING}, "required": ["title"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "output", "schema": schema, "strict": True}}
    choice = await complete("fix the login button on mobile, it is too small", response_format=form)
    title = json.loads(choice["message"]["content"])
    assert_fits(title, schema)
    assert "login button" in title["title"]


async def test_a_client_that_compacts_its_history_gets_a_summary() -> None:
    prompt = "Summarize. Do NOT call any tools. Reply with an <analysis> block and a <summary> block. We read a.txt."
    choice = await complete(prompt, CODE_AGENT)
    assert calls_of(choice) == []
    assert re.fullmatch(r"(?s)<analysis>.+</analysis>\n<summary>.+</summary>", choice["message"]["content"])


async def test_what_is_no_chat_request_is_refused_as_openai_does() -> None:
    status, body = await post({}, path="/embeddings")
    assert (status, json.loads(body)["error"]["type"]) == (404, "invalid_request_error")
    response = await demo.new_demo()("demo:", UpstreamRequest(path="/chat/completions", body=b"{"), None)
    assert response.status == 400


async def test_nothing_is_left_to_read_after_close() -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    request = UpstreamRequest(path="/chat/completions", body=json.dumps(body).encode())
    response = await demo.new_demo()("demo:", request, None)
    assert await response.read()
    await response.close()
    await response.close()
    assert await response.read() == b""


NAMES = st.sampled_from(
    ["path", "file_path", "command", "url", "query", "city", "origin", "order_id", "count", "amount", "unit"]
) | st.sampled_from(["enabled", "tags", "options", "title", "x", "date"])


def schemas() -> st.SearchStrategy[Json]:
    numbers = st.tuples(st.sampled_from(["integer", "number"]), st.integers(-50, 50), st.integers(0, 50)).map(
        lambda limits: {"type": limits[0], "minimum": limits[1], "maximum": limits[1] + limits[2]}
    )
    texts = st.one_of(
        st.just(STRING),
        st.sampled_from(["date", "date-time", "email", "uri", "uuid"]).map(
            lambda form: {"type": "string", "format": form}
        ),
        st.integers(0, 30).map(lambda size: {"type": "string", "minLength": size, "maxLength": size + 5}),
        st.sampled_from(["^[A-Z]{3}$", r"^\d{5}$", "^[a-z]+-[0-9]{2}$", r"^\w+$"]).map(
            lambda pattern: {"type": "string", "pattern": pattern}
        ),
    )
    choices = st.lists(st.text(max_size=5) | st.integers(), min_size=1, max_size=4, unique_by=repr).map(
        lambda values: {"enum": values}
    )
    leaves = st.one_of(
        numbers,
        texts,
        choices,
        st.sampled_from([{"type": "boolean"}, {"type": "null"}, {}, {"const": 7}, {"type": ["null", "integer"]}]),
    )

    def grow(part: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
        return st.one_of(
            objects(part),
            st.tuples(part, st.integers(0, 3)).map(
                lambda pair: {"type": "array", "items": pair[0], "minItems": pair[1]}
            ),
            st.lists(part, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts}),
        )

    return st.recursive(leaves, grow, max_leaves=8)


def objects(part: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    return st.dictionaries(NAMES, part, max_size=4).map(
        lambda properties: {
            "type": "object",
            "properties": properties,
            "required": sorted(properties)[: len(properties) // 2 + 1],
            "additionalProperties": False,
        }
    )


PROMPTS = st.one_of(
    st.sampled_from([prompt for _, prompt, _ in ASKED]),
    st.text(max_size=60),
    st.just("call do_it with `ls`, 'quoted text', 42, https://example.com/a, a@b.org, from Rome to Oslo on 2026-12-01"),
)


@given(schema=objects(schemas()), prompt=PROMPTS, forced=st.booleans())
async def test_arguments_always_fit_the_tool_s_schema(schema: Json, prompt: str, forced: bool) -> None:
    offered = {"type": "function", "function": {"name": "do_it", "description": "Do it.", "parameters": schema}}
    choice = await complete(prompt, [offered], tool_choice="required" if forced else "auto")
    calls = calls_of(choice)
    assert calls or not forced
    for name, arguments in calls:
        assert name == "do_it"
        assert_fits(arguments, schema)


@given(prompt=st.text(max_size=300), tools=st.sampled_from([CODE_AGENT, OFFICE, HOUSE, FILES]))
async def test_any_text_gets_an_answer_and_only_offered_tools_are_called(prompt: str, tools: list[Json]) -> None:
    choice = await complete(prompt, tools)
    assert {name for name, _ in calls_of(choice)} <= {entry["function"]["name"] for entry in tools}
    assert choice["message"]["content"] or calls_of(choice)


class Session:
    """A client of the Messages API whose requests go through the real wire, in process."""

    def __init__(self, tools: list[Json], *, streams: bool) -> None:
        self.messages: list[Json] = []
        self._tools = [
            {"name": entry["function"]["name"], "input_schema": entry["function"]["parameters"]} for entry in tools
        ]
        self._streams = streams
        self._ids = itertools.count()

    async def say(self, content: Any, **fields: Any) -> Json:
        """Send one user message and return the reply as a Messages response."""
        self.messages.append({"role": "user", "content": content})
        request = {"model": "x", "max_tokens": 1000, "messages": self.messages, "tools": self._tools, **fields}
        prepared = prepare(decode_request(json.dumps(request).encode()), Limits())
        call = Call(
            request=prepared.request,
            model="demo",
            dialect=openai_chat.Dialect(),
            stream=self._streams,
            aliases=prepared.aliases,
            new_id=lambda prefix: f"{prefix}{next(self._ids):020}",
            provider="demo",
        )
        response = await demo.new_demo()("demo:", openai_chat.encode_request(call), None)
        assert response.status == 200
        decoder, reader = openai_chat.new_decoder(call), SSEReader()
        deltas: list[Delta] = []
        body = b""
        while part := await response.read():
            body += part
            for frame in reader.feed(part) if self._streams else ():
                deltas += decoder.decode_frame(frame)
        deltas += decoder.decode_end() if self._streams else decoder.decode_body(body)
        message = fold(deltas, message_id="msg_1", model="x", signature=decoder.signature)
        reply: Json = json.loads(msgspec.json.encode(message))
        self.messages.append({"role": "assistant", "content": reply["content"]})
        return reply


def uses_of(reply: Json) -> list[Json]:
    return [block for block in reply["content"] if block["type"] == "tool_use"]


@pytest.mark.parametrize("streams", [True, False])
async def test_an_agent_s_session_works_through_the_real_wire(streams: bool) -> None:
    session = Session(CODE_AGENT, streams=streams)
    system = [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.328.abc;"},
        {"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral"}},
    ]
    session.messages = [
        {"role": "user", "content": [{"type": "text", "text": "<system-reminder>Read x.txt.</system-reminder>"}]},
        {"role": "system", "content": "# Environment\n - Primary working directory: /srv/app\n - Platform: linux"},
    ]
    reply = await session.say("Read a.txt and b.txt, then write 'done' to c.txt", system=system)
    first, second = uses_of(reply)
    assert reply["stop_reason"] == "tool_use"
    assert [use["input"]["file_path"] for use in (first, second)] == ["/srv/app/a.txt", "/srv/app/b.txt"]

    # Results of parallel calls come in the order in which they finished.
    results = [
        {"type": "tool_result", "tool_use_id": second["id"], "content": [{"type": "text", "text": "1→bee"}]},
        {"type": "tool_result", "tool_use_id": first["id"], "content": "1→ant"},
        {"type": "text", "text": "<system-reminder>Read y.txt.</system-reminder>"},
    ]
    [write] = uses_of(await session.say(results, system=system))
    assert (write["name"], write["input"]) == ("Write", {"file_path": "/srv/app/c.txt", "content": "done"})
    result = {"type": "tool_result", "tool_use_id": write["id"], "content": "File created.", "cache_control": {}}
    reply = await session.say([result], system=system)
    text = reply["content"][0]["text"]
    assert reply["stop_reason"] == "end_turn"
    assert text.index("ant") < text.index("bee") < text.index("File created.")
    assert reply["usage"]["input_tokens"] > 0
    assert reply["usage"]["output_tokens"] > 0


@pytest.mark.parametrize("streams", [True, False])
async def test_an_unlike_set_of_tools_works_through_the_real_wire(streams: bool) -> None:
    session = Session(OFFICE, streams=streams)
    [use] = uses_of(await session.say("What's the weather in Paris?"))
    assert (use["name"], use["input"]) == ("get_weather", {"city": "Paris"})
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}}
    content = [{"type": "text", "text": "17 degrees and drizzle"}, picture]
    reply = await session.say([{"type": "tool_result", "tool_use_id": use["id"], "content": content}])
    assert reply["stop_reason"] == "end_turn"
    assert "17 degrees and drizzle" in reply["content"][0]["text"]
    forced = await session.say("thank you", tool_choice={"type": "tool", "name": "lookup_customer"})
    assert [use["name"] for use in uses_of(forced)] == ["lookup_customer"]


async def test_an_error_of_a_tool_is_told_through_the_real_wire() -> None:
    session = Session(FILES, streams=True)
    [use] = uses_of(await session.say("read a.txt"))
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": "No such file.", "is_error": True}
    reply = await session.say([result])
    assert "failed" in reply["content"][0]["text"]
    assert "No such file." in reply["content"][0]["text"]


async def test_the_token_limit_is_a_stop_reason() -> None:
    reply = await Session([], streams=True).say("hello", max_tokens=4)
    assert reply["stop_reason"] == "max_tokens"
    assert reply["usage"]["output_tokens"] == 4


async def test_a_remark_that_never_closes_is_text() -> None:
    choice = await complete("<system-reminder> read a.txt", FILES)
    assert calls_of(choice) == [("read_file", {"path": "a.txt"})]
