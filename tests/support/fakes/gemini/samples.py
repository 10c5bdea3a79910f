"""Requests that keep every rule, and for each rule one that breaks it."""

import base64
from typing import Any

from tests.support.fakes.gemini.signatures import PLACEHOLDER
from tests.support.fakes.openai_chat.samples import png

Body = dict[str, Any]

PNG = base64.b64encode(png(3, 2)).decode()
PDF = "JVBERi0xLjQK"
NEW, OLD, OLDER = "gemini-3.6-flash", "gemini-2.5-pro", "gemini-2.0-flash"
OBJECT = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


def user(*parts: Body) -> Body:
    return {"role": "user", "parts": list(parts) or [{"text": "hello"}]}


def model(*parts: Body) -> Body:
    return {"role": "model", "parts": list(parts) or [{"text": "hi"}]}


def call(name: str = "look", identity: str = "c1", signature: str | None = PLACEHOLDER) -> Body:
    part: Body = {"functionCall": {"name": name, "args": {}, "id": identity}}
    return part if signature is None else part | {"thoughtSignature": signature}


def result(name: str = "look", identity: str = "c1", **more: Any) -> Body:
    return {"functionResponse": {"name": name, "id": identity, "response": {"output": "x"}, **more}}


def blob(kind: str = "image/png", data: str = PNG) -> Body:
    return {"inlineData": {"mimeType": kind, "data": data}}


def body(*contents: Body, **fields: Any) -> Body:
    return {"contents": list(contents) or [user()], **fields}


def config(**fields: Any) -> Body:
    return body(generationConfig=fields)


def thinking(**fields: Any) -> Body:
    return config(thinkingConfig=fields)


def tools(*declared: Body, **fields: Any) -> Body:
    return body(tools=[{"functionDeclarations": list(declared)}], **fields)


def function(name: str = "look", schema: Any = None, **fields: Any) -> Body:
    return (
        {"name": name, "description": "Looks."} | ({} if schema is None else {"parametersJsonSchema": schema}) | fields
    )


def lowered(**schema: Any) -> Body:
    return tools(function(parameters=schema))


def asking(mode: str, *names: str, **fields: Any) -> Body:
    calling = {"mode": mode} | ({"allowedFunctionNames": list(names)} if names else {})
    return fields | {"toolConfig": {"functionCallingConfig": calling}}


SEARCHES = {"tools": [{"functionDeclarations": [function()]}, {"googleSearch": {}}]}
JSON = {"responseMimeType": "application/json"}
BAD: tuple[tuple[str, str, str, Body], ...] = (
    ("unknown_field", 'Unknown name "top_k": Cannot', NEW, body(top_k=3)),
    ("unknown_field", "'contents[0].parts[0]'", NEW, body(user({"text": "a", "cache_control": {}}))),
    ("unknown_field", "at 'generation_config'", NEW, config(maxTokens=3)),
    ("unknown_field", "function_declarations[0]'", NEW, tools(function(input_schema={}))),
    ("unknown_field", "function_declarations[0].parameters'", NEW, lowered(type="OBJECT", additionalProperties=False)),
    ("unknown_field", '"$ref" at', NEW, lowered(**{"$ref": "#"})),
    ("unknown_field", '"const" at', NEW, lowered(type="OBJECT", properties={"a": {"const": 1}})),
    (
        "unknown_field",
        "Unknown name",
        NEW,
        body(labels={"a": "b"}) | {"toolConfig": {"includeServerSideToolInvocations": True}},
    ),
    ("type", "contents[0].parts[0].text", NEW, body(user({"text": 3}))),
    ("type", "function_call.args", NEW, body(user(), model({"functionCall": {"name": "a", "args": []}}))),
    ("type", "inline_data.data", NEW, body(user(blob(data="***")))),
    ("enum", "WHAT", NEW, lowered(type="WHAT")),
    ("enum", "ultra", NEW, thinking(thinkingLevel="ultra")),
    ("contents", "contents is not specified", NEW, {"contents": []}),
    ("role", "valid role", NEW, body({"role": "assistant", "parts": [{"text": "a"}]})),
    ("parts", "must not be empty", NEW, body(user() | {"parts": []})),
    ("part_data", "must have one initialized field", NEW, body(user({"thought": True}))),
    ("part_data", "already set", NEW, body(user({"text": "a"} | blob()))),
    ("empty_text", "empty text parameter", NEW, body(user({"text": ""}))),
    ("result_media", "not supported by this model", OLD, body(user(), model(call()), user(result(parts=[blob()])))),
    ("call_name", "[name]", NEW, body(user(), model(call("")), user(result("")))),
    ("mime", "image/gif", NEW, body(user(blob("image/gif", "R0lGODlh")))),
    ("media", "input image", NEW, body(user(blob("image/jpeg")))),
    ("media", "no pages", NEW, body(user(blob("application/pdf")))),
    ("first", "start with a user turn", NEW, body(model(), user())),
    ("last", "end with a user role", NEW, body(user(), model())),
    ("call_place", "function call turn comes", NEW, body(user(), model(), model(call()), user(result()))),
    ("response_place", "function response turn comes", NEW, body(user(), model(), user(result()))),
    ("response_count", "number of function response", NEW, body(user(), model(call(), call()), user(result()))),
    ("response_count", "number of function response", NEW, body(user(), model(call()), user())),
    ("response_order", "c2 answers look c1", NEW, body(user(), model(call()), user(result(identity="c2")))),
    ("response_alone", "without text", NEW, body(user(), model(call()), user(result(), {"text": "a"}))),
    (
        "signature_missing",
        "`default_api:look` , position 2",
        NEW,
        body(user(), model(call(signature=None)), user(result())),
    ),
    ("signature", "Corrupted", NEW, body(user(), model(call(signature="EpAICo0IAb4=")), user(result()))),
    ("signature", "Corrupted", NEW, body(user(), model({"text": "a", "thoughtSignature": PLACEHOLDER}), user())),
    ("system", "system_instruction", NEW, body(systemInstruction={"parts": [{"text": ""}]})),
    ("tools", "not enabled", "gemma-3-27b-it", tools(function())),
    ("tool_name", "Invalid function name", NEW, tools(function("1 look"))),
    ("tool_name", "maximum length of 128", NEW, tools(function("a" * 129))),
    ("tool_twice", "Duplicate", NEW, tools(function(), function())),
    ("two_schemas", "only one of", NEW, tools(function(schema=OBJECT, parameters={"type": "OBJECT"}))),
    ("json_schema", "not supported by this model", "gemini-1.5-pro", tools(function(schema=OBJECT))),
    ("schema", "'pattern' is not supported", NEW, tools(function(schema=OBJECT | {"pattern": "a"}))),
    ("schema", "'STRING' is no type", NEW, tools(function(schema={"type": "STRING"}))),
    ("schema", "refers to nothing", NEW, tools(function(schema={"$ref": "#/$defs/a"}))),
    ("schema", "'b' is not defined", NEW, tools(function(schema=OBJECT | {"required": ["b"]}))),
    ("schema", "should be non-empty for OBJECT", "gemini-1.5-pro", lowered(type="OBJECT", properties={})),
    ("schema", "items: missing field", NEW, lowered(type="ARRAY")),
    ("schema", "only allowed for STRING", NEW, lowered(type="INTEGER", enum=["1"])),
    (
        "schema",
        "property is not defined",
        NEW,
        lowered(type="OBJECT", properties={"a": {"type": "STRING"}}, required=["b"]),
    ),
    ("schema", "are supported for STRING", NEW, lowered(type="STRING", format="uri")),
    ("tools_empty", "tools must not be empty", NEW, body(tools=[])),
    ("combined", "unsupported", OLD, body(**SEARCHES)),
    ("combined", "include_server_side_tool_invocations", NEW, body(**SEARCHES)),
    ("calling", "without function_declarations", NEW, asking("ANY", **body())),
    ("allowed", "mode is ANY", NEW, asking("AUTO", "look", **tools(function()))),
    ("allowed", "write is not among", NEW, asking("ANY", "write", **tools(function()))),
    ("thinking", "not supported", OLDER, thinking(includeThoughts=True)),
    ("thinking_both", "only one of", NEW, thinking(thinkingLevel="low", thinkingBudget=9)),
    ("thinking_level", "not supported", OLD, thinking(thinkingLevel="low")),
    ("thinking_level", "Thinking level MINIMAL", "gemini-3.8-flash", thinking(thinkingLevel="minimal")),
    ("thinking_budget", "use thinking level", NEW, thinking(thinkingBudget=9)),
    ("thinking_budget", "Budget 0 is invalid", OLD, thinking(thinkingBudget=0)),
    ("thinking_budget", "between 128 and 32768", OLD, thinking(thinkingBudget=40_000)),
    ("thinking_shown", "include_thoughts", "gemini-2.5-flash", thinking(thinkingBudget=0, includeThoughts=True)),
    ("output_limit", "65537 (exclusive)", NEW, config(maxOutputTokens=100_000)),
    ("sampling", "must be in [0.0, 2.0]", OLD, config(temperature=2.1)),
    ("sampling", "not supported by this model", "gemini-4-argon", config(temperature=1.0)),
    ("penalty", "Penalty is not enabled", NEW, config(frequencyPenalty=0.1)),
    ("stops", "at most 5", NEW, config(stopSequences=list("abcdef"))),
    ("candidates", "Multiple candidates", NEW, config(candidateCount=2)),
    ("reply_type", "application/json", NEW, config(responseJsonSchema=OBJECT)),
    ("reply_schema", "Only one of", NEW, config(**JSON, responseJsonSchema=OBJECT, responseSchema={"type": "STRING"})),
    ("reply_schema", "'pattern' is not supported", NEW, config(**JSON, responseJsonSchema={"pattern": "a"})),
    ("reply_tools", "is unsupported", OLD, tools(function()) | {"generationConfig": JSON}),
)
