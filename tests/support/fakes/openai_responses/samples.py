"""Requests to OpenAI's Responses: good ones, and for each rule of the stand-in ones that break it."""

from typing import Any

from tests.support.fakes.openai_chat.samples import PNG_URL

ISSUED = {"rs_known": "gAAAAABpknown=="}
"""Reasoning that the server gave, for samples that give it back."""
USER = {"role": "user", "content": "hello"}
SCHEMA = {"type": "object", "properties": {"file_path": {"type": "string"}}, "required": ["file_path"]}
READ = {"type": "function", "name": "Read", "parameters": SCHEMA, "strict": False}
CALL = {"type": "function_call", "call_id": "call_a", "name": "Read", "arguments": '{"file_path":"/a"}'}
OTHER = {"call_id": "call_b"}
OUTPUT = {"type": "function_call_output", "call_id": "call_a", "output": "text"}
THOUGHT = {"type": "reasoning", "id": "rs_known", "summary": [], "encrypted_content": ISSUED["rs_known"]}
ASSISTANT_MESSAGE = {"type": "message", "role": "assistant", "content": "Hello."}
SEARCH = {"type": "web_search"}
DOCS = {"type": "mcp", "server_label": "docs", "server_url": "https://mcp.example.com/", "require_approval": "never"}


def body(*items: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "gpt-5", "input": list(items) or [USER], "store": False} | fields


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return body({"role": "user", "content": list(parts)})


def image(url: str) -> dict[str, Any]:
    return {"type": "input_image", "image_url": url, "detail": "auto"}


def pdf(**fields: Any) -> dict[str, Any]:
    return {"type": "input_file", **fields}


PDF = {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0xLjc="}
LONG = "c" * 65


def tools(*offered: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return body(tools=list(offered), **fields)


def format_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"format": {"type": "json_schema", "name": "output", "schema": schema, "strict": False}}


BAD: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("unknown_field", "supplied: max_tokens", body(max_tokens=30)),
    ("unknown_field", "input[0].cache_control", body(USER | {"cache_control": {}})),
    ("unknown_field", "tools[0].input_schema", tools(READ | {"input_schema": {}})),
    ("missing", "'tools[0].strict'", tools({name: READ[name] for name in ("type", "name", "parameters")})),
    ("missing", "'input[0].summary'", body({"type": "reasoning", "id": "rs_1"}, ASSISTANT_MESSAGE)),
    ("type", "'input[0].arguments'", body(CALL | {"arguments": {}}, OUTPUT)),
    ("value", "input[0].content[0].type", user({"type": "text", "text": "a"})),
    ("range", "Expected a value >= 16, but got 1", body(max_output_tokens=1)),
    ("range", "'temperature'", body(model="gpt-4.1", temperature=2.5)),
    ("output_limit", "at most 128000", body(max_output_tokens=200_000)),
    ("unsupported", "'reasoning.effort'", body(model="gpt-4.1", reasoning={"effort": "low"})),
    ("unsupported", "'reasoning.summary'", body(model="gpt-4.1", reasoning={"summary": "auto"})),
    ("unsupported", "'temperature'", body(temperature=0.5)),
    ("unsupported", "'parallel_tool_calls'", tools(READ, model="o3", parallel_tool_calls=False)),
    ("encrypted", "not supported", body(model="gpt-4.1", include=["reasoning.encrypted_content"])),
    ("effort", "'none' is not supported", body(reasoning={"effort": "none"})),
    ("search_effort", "web_search", tools(SEARCH, reasoning={"effort": "minimal"})),
    ("tools_many", "maximum length 128", tools(*(READ | {"name": f"t{number}"} for number in range(129)))),
    ("tool_name", "does not match pattern", tools(READ | {"name": "a.b"})),
    ("too_long", "maximum length 64", tools(READ | {"name": LONG})),
    ("too_long", "input[0].call_id", body(CALL | {"call_id": LONG}, OUTPUT | {"call_id": LONG})),
    ("too_long", "'prompt_cache_key'", body(prompt_cache_key=LONG)),
    ("tool_twice", "must be unique", tools(READ, READ)),
    ("schema", "object schema missing properties", tools(READ | {"parameters": {"type": "object"}})),
    ("schema", "'additionalProperties' is required", tools(READ | {"strict": True})),
    ("missing", "container", tools({"type": "code_interpreter"})),
    ("server_label", "'9 docs'", tools(DOCS | {"server_label": "9 docs"})),
    ("server_twice", "was given before", tools(DOCS, DOCS)),
    ("server_address", "must be given", tools({"type": "mcp", "server_label": "docs"})),
    ("choice", "'Write' not found", tools(READ, tool_choice={"type": "function", "name": "Write"})),
    (
        "choice",
        "'web_search' not found",
        tools(READ, tool_choice={"type": "allowed_tools", "mode": "auto", "tools": [SEARCH]}),
    ),
    ("choice_alone", "need 'tools'", body(tool_choice="required")),
    ("format_schema", "response_format 'output'", body(text=format_of({"type": "array"}))),
    ("stream_options", "when 'stream' is enabled", body(stream_options={"include_obfuscation": False})),
    ("previous", "resp_1", body(previous_response_id="resp_1")),
    ("stored", "keeps nothing", body(store=True)),
    ("input_missing", "'input'", {"model": "gpt-5", "store": False}),
    ("input_empty", "'input': empty array", body(input=[])),
    ("content_empty", "input[0].content", user()),
    ("image_model", "does not support image", {**user(image(PNG_URL)), "model": "o3-mini"}),
    ("image_url", "invalid format", user(image("data:image/png,abc"))),
    ("image_format", "valid image", user(image("data:image/png;base64,R0lGODlh"))),
    ("file_one", "Exactly one of", user(pdf(filename="a.pdf"))),
    ("file_data", "application/pdf", user(pdf(filename="a.txt", file_data="data:text/plain;base64,YQ=="))),
    ("file_name", "filename", user(pdf(file_data=PDF["file_data"]))),
    ("call_id", "empty string", body(CALL | {"call_id": ""}, OUTPUT | {"call_id": ""})),
    ("arguments", "JSON text of an object", body(CALL | {"arguments": "[]"}, OUTPUT)),
    ("item_id", "begins with 'fc'", body(CALL | {"id": "call_a"}, OUTPUT)),
    ("reasoning_model", "reasoning or computer use model", body(THOUGHT, ASSISTANT_MESSAGE, model="gpt-4.1")),
    ("reasoning_not_stored", "not found", body({"type": "reasoning", "id": "rs_1", "summary": []}, ASSISTANT_MESSAGE)),
    (
        "reasoning_foreign",
        "could not be verified",
        body(THOUGHT | {"encrypted_content": "gAAAAABpother=="}, ASSISTANT_MESSAGE),
    ),
    ("reasoning_foreign", "could not be verified", body(THOUGHT | {"id": "rs_other"}, ASSISTANT_MESSAGE)),
    ("reasoning_alone", "without its required following item", body(THOUGHT, USER)),
    ("reasoning_alone", "without its required following item", body(USER, THOUGHT)),
    ("reasoning_alone", "without its required following item", body(THOUGHT, THOUGHT, ASSISTANT_MESSAGE)),
    (
        "reasoning_alone",
        "without its required following item",
        {"model": "gpt-5", "input": [USER, THOUGHT, ASSISTANT_MESSAGE]},
    ),
    ("call_twice", "Duplicate item", body(CALL, OUTPUT, CALL, OUTPUT)),
    ("output_without_call", "No tool call found", body(USER, OUTPUT)),
    ("output_without_call", "No tool call found", body(CALL, OUTPUT, OUTPUT)),
    ("call_without_output", "No tool output found", body(CALL, USER)),
    ("call_without_output", "No tool output found", body(USER, CALL)),
)
