"""The demo: a Chat Completions server with a fixed description of itself and a few simple requests with tools."""

import asyncio
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from anthropic_proxy.engine.upstream import demo
from anthropic_proxy.engine.wires.contract import Transport, UpstreamRequest

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


def new_demo_transport() -> Transport:
    return demo.new_demo_transport(("OPENAI_API_KEY", "GEMINI_API_KEY", "OLLAMA_API_BASE"))


async def post(body: Json, path: str = "/chat/completions") -> tuple[int, bytes]:
    response = await new_demo_transport()("demo:", UpstreamRequest(path=path, body=json.dumps(body).encode()), None)
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


def calls_of(choice: Json) -> list[tuple[str, Json]]:
    calls = choice["message"]["tool_calls"] or []
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


def answered(history: list[Json], choice: Json, *results: str) -> list[Json]:
    """Return the history with the model's calls and their results."""
    calls = choice["message"]["tool_calls"]
    assert len(calls) == len(results)
    assistant = {"role": "assistant", "content": choice["message"]["content"], "tool_calls": calls}
    tool_messages = [
        {"role": "tool", "tool_call_id": call["id"], "content": text} for call, text in zip(calls, results, strict=True)
    ]
    return [*history, assistant, *tool_messages]


HOME = "/home/ada/project"
LISTS = [
    *("list the files here", "List the files here.", "please list all the files", "list files", "ls"),
    *("Can you show me the files in this folder?", "what files are here?"),
    "Which files are in the current directory?",
    *("list the files in my project directory, please", "list the files and tell me what you see"),
]
READS = [
    "read a.txt",
    "Read the file a.txt",
    "read `a.txt`",
    'read "a.txt" and tell me what it says',
    "please read ./a.txt",
    "cat a.txt",
    "show me the contents of a.txt",
    "What's in a.txt?",
    "open the file a.txt please",
    f"Read the file {HOME}/a.txt.",
]
RUNS = ["run `echo hi`", "Run the command `echo hi`", "run the command: echo hi", 'execute "echo hi"']
WEATHERS = ["What's the weather in Paris?", "weather in Paris", "What is the weather like in Paris today?"]
BASH_ONLY = [tool("Bash", "", required=["command"], command=STRING, description=STRING)]
OBVIOUS = [
    *((FILES, prompt, "list_directory", {"path": HOME}) for prompt in LISTS),
    *((FILES, prompt, "read_file", {"path": f"{HOME}/a.txt"}) for prompt in READS),
    *((FILES, prompt, "execute_command", {"command": "echo hi"}) for prompt in RUNS),
    *((OFFICE, prompt, "get_weather", {"city": "Paris"}) for prompt in WEATHERS),
    *((CODE_AGENT, prompt, "Bash", {"command": "ls -la"}) for prompt in LISTS),
    *((CODE_AGENT, prompt, "Read", {"file_path": f"{HOME}/a.txt"}) for prompt in READS),
    *((CODE_AGENT, prompt, "Bash", {"command": "echo hi"}) for prompt in RUNS),
    (FILES, "list the files in src", "list_directory", {"path": f"{HOME}/src"}),
    (FILES, "list the files in `my folder`", "list_directory", {"path": f"{HOME}/my folder"}),
    (FILES, "list the files in /tmp", "list_directory", {"path": "/tmp"}),
    (FILES, "read ~/a.txt", "read_file", {"path": "~/a.txt"}),
    (FILES, "Read the file Makefile", "read_file", {"path": f"{HOME}/Makefile"}),
    (BASH_ONLY, "list the files in `my folder`", "Bash", {"command": "ls -la 'my folder'"}),
    (BASH_ONLY, "read 'my notes.txt'", "Bash", {"command": "cat 'my notes.txt'"}),
    ([tool("Glob", "", pattern=STRING)], "list the files here", "Glob", {"pattern": "*"}),
    ([tool("Glob", "", pattern=STRING)], "list the files in src", "Glob", {"pattern": "src/*"}),
    ([tool("LS", "", path=STRING), *BASH_ONLY], "list the files here", "LS", {"path": HOME}),
    (
        [tool("mcp__disk__read_text_file", "", path=STRING)],
        "read a.txt",
        "mcp__disk__read_text_file",
        {"path": f"{HOME}/a.txt"},
    ),
    (CODE_AGENT, "use the Bash tool to list the files", "Bash", {"command": "ls -la"}),
    (CODE_AGENT, "use Bash to read a.txt", "Bash", {"command": "cat a.txt"}),
    (CODE_AGENT, "Use the Read tool to read a.txt", "Read", {"file_path": f"{HOME}/a.txt"}),
    (OFFICE, "the weather in New York", "get_weather", {"city": "New York"}),
]
NOT_OBVIOUS = """
hello
How do I read a file in Python?
write a summary of notes.txt
run the tests
run faster
read my mind
read a book
read 3.14
open the door
open example.com
read https://example.com/a.txt
list three reasons to learn Rust
list the planets in order
what files should I look at?
He read a.txt yesterday.
Summarize our work. Do not call any tools, even to read a.txt.
search the web for anthropic proxy
use the Agent tool to list the files
use the Agent tool to read a.txt
use WebSearch to search for python
use the Skill tool to run `ls`
read a.txt and delete it
read a.txt and b.txt
list the files and then delete them
translate "read a.txt" to French
What does "ls" do?
Explain what a weather balloon is
What's the weather?
Lies die Datei a.txt
"""


@pytest.mark.parametrize(("tools", "prompt", "name", "arguments"), OBVIOUS)
async def test_an_obvious_request_calls_the_tool_that_serves_it(
    tools: list[Json], prompt: str, name: str, arguments: Json
) -> None:
    choice = await complete([ENVIRONMENT, {"role": "user", "content": prompt}], tools)
    assert calls_of(choice) == [(name, arguments)]
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("prompt", NOT_OBVIOUS.strip().splitlines())
async def test_any_other_request_is_answered_with_text(prompt: str) -> None:
    skills = [tool("Skill", "", skill=STRING, args=STRING), tool("ListAgents", "List agents.")]
    choice = await complete([ENVIRONMENT, {"role": "user", "content": prompt}], [*CODE_AGENT, *FILES, *OFFICE, *skills])
    assert calls_of(choice) == []
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"].startswith("This is the built-in demonstration of anthropic-proxy.")


@pytest.mark.parametrize(
    "offered",
    [
        tool("read_mail", "", path=STRING),
        tool("read_file", "", number={"type": "integer"}),
        tool("read_file", "", path={"type": "integer"}),
        tool("thread", "", path=STRING),
        {"type": "function", "function": {"name": "read_file"}},
    ],
)
async def test_a_tool_with_another_name_or_argument_is_not_called(offered: Json) -> None:
    assert calls_of(await complete("read a.txt", [offered])) == []


async def test_other_required_arguments_get_plain_defaults() -> None:
    offered = tool("read_file", "", path=STRING, explanation=STRING, lines={"type": "integer", "minimum": 1})
    expected = {"path": "a.txt", "explanation": "demo", "lines": 1}
    assert calls_of(await complete("read a.txt", [offered])) == [("read_file", expected)]


async def test_the_text_states_what_it_is_and_how_to_configure_a_provider() -> None:
    choice = await complete("hello", FILES)
    assert choice["message"]["content"] == (
        "This is the built-in demonstration of anthropic-proxy. It is not a language model and knows nothing.\n\n"
        "For a real model, run anthropic-proxy init, or put OPENAI_API_KEY=… into .env, and start the proxy again. "
        "Other variables for this: GEMINI_API_KEY, OLLAMA_API_BASE.\n\n"
        "It calls your tools for a few plain requests only: list the files here · read a.txt · run `echo hi` · What's "
        "the weather in Paris?"
    )


async def test_additions_of_the_client_are_no_request() -> None:
    reminder = "<system-reminder>Primary working directory: /srv/app\nread secret.txt</system-reminder>"
    table = "<local-command-stdout>Source Tokens\nSkill 2</local-command-stdout>"
    parts = [{"type": "text", "text": text} for text in (reminder, table, "read a.txt")]
    late = {"role": "system", "content": "The user may say: run `rm x`."}
    history = [{"role": "user", "content": parts}, late]
    assert calls_of(await complete(history, CODE_AGENT)) == [("Read", {"file_path": "/srv/app/a.txt"})]


async def test_a_tag_that_is_never_closed_is_text() -> None:
    assert calls_of(await complete("<system-reminder> read a.txt", FILES)) == []


async def test_the_result_is_repeated_and_then_it_stops() -> None:
    history = [{"role": "user", "content": "What's the weather in Paris?"}]
    choice = await complete(history, OFFICE)
    history = answered(history, choice, "17 degrees <system-reminder>Beware.</system-reminder>and drizzle")
    choice = await complete(history, OFFICE)
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == (
        "get_weather returned:\n\n17 degrees and drizzle\n\n(The demonstration repeats tool results. For a real model, "
        "run anthropic-proxy init, or put OPENAI_API_KEY=… into .env, and start the proxy again.)"
    )


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("[tool error] File does not exist.", "Read failed:\n\nFile does not exist.\n\n("),
        ("", "Read returned:\n\n(no text)\n\n("),
        ("start " + "x" * 50_000, "Read returned:\n\nstart " + "x" * 1494 + " … (50,006 characters in total)\n\n("),
    ],
)
async def test_failed_empty_and_long_results(result: str, expected: str) -> None:
    history = [{"role": "user", "content": "read a.txt"}]
    choice = await complete(history, CODE_AGENT)
    choice = await complete(answered(history, choice, result), CODE_AGENT)
    assert choice["message"]["content"].startswith(expected)


async def test_results_of_parallel_calls_are_repeated_in_order() -> None:
    calls = [
        {"id": f"c{place}", "type": "function", "function": {"name": "read_file", "arguments": "{}"}}
        for place in (1, 2)
    ]
    results = [{"role": "tool", "tool_call_id": f"c{place}", "content": f"text {place}"} for place in (1, 2)]
    history = [{"role": "user", "content": "go"}, {"role": "assistant", "tool_calls": calls}, *results]
    text = (await complete(history, FILES))["message"]["content"]
    assert text.startswith("read_file returned:\n\ntext 1\n\nread_file returned:\n\ntext 2\n\n(")


async def test_a_new_question_starts_a_new_turn() -> None:
    history = [{"role": "user", "content": "read a.txt"}]
    choice = await complete(history, FILES)
    history = [*answered(history, choice, "apples"), {"role": "assistant", "content": "It says apples."}]
    again = await complete([*history, {"role": "user", "content": "read a.txt"}], FILES)
    assert calls_of(again) == [("read_file", {"path": "a.txt"})]
    thanks = await complete([*history, {"role": "user", "content": "thank you"}], FILES)
    assert "demonstration" in thanks["message"]["content"]


@pytest.mark.parametrize("remark", ["read a.txt", "Go on.", "<system-reminder>read b.txt</system-reminder>"])
async def test_it_never_loops_even_if_the_client_adds_text_to_each_result(remark: str) -> None:
    history = [{"role": "user", "content": "read a.txt"}]
    choice = await complete(history, FILES)
    history = [*answered(history, choice, "apples"), {"role": "user", "content": remark}]
    choice = await complete(history, FILES)
    assert calls_of(choice) == []
    assert "apples" in choice["message"]["content"]


async def test_tool_choice_is_respected() -> None:
    assert calls_of(await complete("weather in Paris", OFFICE, tool_choice="none")) == []
    assert calls_of(await complete("hello", OFFICE, tool_choice="required")) == [("get_weather", {"city": "demo"})]
    paris = ("get_weather", {"city": "Paris"})
    assert calls_of(await complete("weather in Paris", OFFICE[::-1], tool_choice="required")) == [paris]
    named = {"type": "function", "function": {"name": "lookup_customer"}}
    assert calls_of(await complete("weather in Paris", OFFICE, tool_choice=named)) == [
        ("lookup_customer", {"id": "demo"})
    ]


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


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_the_token_limit_cuts_text_and_arguments(field: str) -> None:
    for fields in ({}, {"tool_choice": "required"}):
        for limit in (1, 3, 5):
            choice = await complete("weather in Paris", OFFICE, **fields, **{field: limit})
            assert (choice["finish_reason"], choice["usage"].completion_tokens) == ("length", limit)


DEFAULTS: list[tuple[Any, Any]] = [
    (STRING, "demo"),
    ({}, "demo"),
    (True, "demo"),
    ({"type": "string", "minLength": 6}, "demo.."),
    ({"type": "string", "pattern": "^[0-9]{5}$"}, "demo"),
    ({"type": ["integer", "null"], "minimum": 3}, 3),
    ({"type": "number", "exclusiveMinimum": 0}, 1),
    ({"type": "integer", "minimum": 10**400}, 10**400),
    ({"type": "integer", "maximum": -3}, -3),
    ({"type": "string", "maxLength": 2}, "de"),
    ({"type": "boolean"}, False),
    ({"type": "null"}, None),
    ({"const": 7}, 7),
    ({"type": "string", "default": "x", "enum": ["y"]}, "x"),
    ({"enum": ["y", "z"]}, "y"),
    ({"type": "array", "items": STRING, "minItems": 2}, ["demo", "demo"]),
    ({"type": "array"}, []),
    ({"type": "object", "properties": {"a": STRING, "b": STRING}, "required": ["b"]}, {"b": "demo"}),
    ({"required": ["a"]}, {"a": "demo"}),
    ({"anyOf": [{"type": "integer"}, STRING]}, 0),
    ({"oneOf": [], "allOf": [{"type": "boolean"}]}, False),
    ({"$ref": "#/$defs/a~1b"}, 1),
    ({"$ref": "#/$defs/none"}, "demo"),
    ({"$ref": "https://example.com/schema"}, "demo"),
    ({"type": "unknown"}, "demo"),
    ({"type": 5, "enum": 5, "required": 5, "properties": 5, "minimum": "x"}, {}),
]


@pytest.mark.parametrize(("schema", "value"), DEFAULTS)
async def test_plain_defaults(schema: Any, value: Any) -> None:
    whole = {"type": "object", "properties": {"it": schema}, "required": ["it"], "$defs": {"a/b": {"const": 1}}}
    offered = {"type": "function", "function": {"name": "do_it", "parameters": whole}}
    assert calls_of(await complete("hello", [offered], tool_choice="required")) == [("do_it", {"it": value})]
    form = {"type": "json_schema", "json_schema": {"name": "output", "schema": whole}}
    choice = await complete("hello", response_format=form)
    assert json.loads(choice["message"]["content"]) == {"it": value}


def test_json_without_a_schema_is_an_object() -> None:
    choice = asyncio.run(complete("hello", response_format={"type": "json_object"}))
    assert choice["message"]["content"] == "{}"


async def test_a_schema_that_is_too_large_is_refused_with_its_name_and_the_limit() -> None:
    offered = tool("do_it", "", it={"type": "string", "minLength": 10**9})
    body = {"messages": [{"role": "user", "content": "hello"}], "tools": [offered], "tool_choice": "required"}
    status, answer = await post(body)
    assert (status, json.loads(answer)["error"]["message"]) == (
        400,
        "tools.do_it.input_schema: it has more than 1,000 nodes when its references are written out; that is "
        "the limit. Refer to fewer definitions from each other, or list fewer alternatives.",
    )


async def test_a_client_that_compacts_its_history_gets_a_summary() -> None:
    prompt = "Summarize. Do NOT call any tools. Reply with an <analysis> block and a <summary> block. We read a.txt."
    choice = await complete(prompt, CODE_AGENT)
    assert calls_of(choice) == []
    assert re.fullmatch(r"(?s)<summary>This is the built-in demonstration.+</summary>", choice["message"]["content"])


async def test_the_tool_for_structured_output_is_called_once_at_the_end() -> None:
    final = tool("StructuredOutput", "", colour=STRING, brightness={"type": "integer", "minimum": 1})
    history = [{"role": "user", "content": "read a.txt"}]
    for name, result in (("read_file", "apples"), ("StructuredOutput", "[tool error] Output does not match.")):
        choice = await complete(history, [final, *FILES])
        assert [call for call, _ in calls_of(choice)] == [name]
        history = answered(history, choice, result)
    assert calls_of(choice) == [("StructuredOutput", {"colour": "demo", "brightness": 1})]
    assert calls_of(await complete(history, [final, *FILES])) == []


async def test_what_is_no_chat_request_is_refused_as_openai_does() -> None:
    status, body = await post({}, path="/embeddings")
    assert (status, json.loads(body)["error"]["type"]) == (404, "invalid_request_error")
    for wrong in (b"{", b"[]", b""):
        response = await new_demo_transport()("demo:", UpstreamRequest(path="/chat/completions", body=wrong), None)
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
