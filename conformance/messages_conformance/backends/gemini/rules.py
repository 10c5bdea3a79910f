"""Gemini's rules on a request that hold for every model: tools, the reply's form, counts."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from messages_conformance.backends.gemini.contents import check_contents
from messages_conformance.backends.gemini.schemas import check_json_schema, check_lowered
from messages_conformance.backends.gemini.shapes import check_shape
from messages_conformance.backends.wire import ContractViolation

MAX_STOPS = 5
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}")
_OWN_TOOLS = {"googleSearch": "google_search", "urlContext": "url_context", "codeExecution": "code_execution"}


class Abilities(Protocol):
    """What the rules must know of a model."""

    @property
    def tools(self) -> bool: ...
    @property
    def combines(self) -> bool:
        """True if functions may stand beside a reply's schema, and beside Google's own tools."""
        ...

    @property
    def json_schema(self) -> bool:
        """True if it knows `parametersJsonSchema` and `responseJsonSchema`."""
        ...

    @property
    def accepts_media_in_results(self) -> bool: ...


@dataclass(frozen=True)
class _AnyModel:
    tools: bool = True
    combines: bool = True
    json_schema: bool = True
    accepts_media_in_results: bool = True


def declarations_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for tool in body.get("tools") or () for one in tool.get("functionDeclarations") or ()]


def own_tools_of(body: dict[str, Any]) -> list[str]:
    return [name for tool in body.get("tools") or () for name in _OWN_TOOLS if name in tool]


def _check_declarations(body: dict[str, Any], model: Abilities, name: str) -> Iterator[ContractViolation]:
    declared = declarations_of(body)
    if declared and not model.tools:
        yield ContractViolation("tools", f"Function calling is not enabled for models/{name}")
    names: set[str] = set()
    for number, function in enumerate(declared):
        where = f"GenerateContentRequest.tools[0].function_declarations[{number}]"
        called = function.get("name") or ""
        if not _NAME.fullmatch(called):
            text = (
                f"* {where}.name: Invalid function name. Must start with a letter or an underscore. Must be "
                "alphanumeric (a-z, A-Z, 0-9), underscores (_), dots (.), colons (:), or dashes (-), with a maximum "
                "length of 128.\n"
            )
            yield ContractViolation("tool_name", text)
        if called in names:
            yield ContractViolation("tool_twice", f"Duplicate function declaration found: {called}")
        names.add(called)
        if "parameters" in function and "parametersJsonSchema" in function:
            yield ContractViolation(
                "two_schemas", f"* {where}: only one of parameters and parameters_json_schema may be set.\n"
            )
        elif "parametersJsonSchema" in function:
            if not model.json_schema:
                yield ContractViolation(
                    "json_schema", f"* {where}.parameters_json_schema: not supported by this model.\n"
                )
            for text in check_json_schema(function["parametersJsonSchema"], f"{where}.parameters_json_schema"):
                yield ContractViolation("schema", f"* {text}\n")
        elif function.get("parameters") is not None:
            for text in check_lowered(function["parameters"], f"{where}.parameters", accepts_empty=model.json_schema):
                yield ContractViolation("schema", f"* {text}\n")


def _check_tools(body: dict[str, Any], model: Abilities, *, vertex: bool) -> Iterator[ContractViolation]:
    declared, own = declarations_of(body), own_tools_of(body)
    config = body.get("toolConfig") or {}
    if "tools" in body and not body["tools"]:
        yield ContractViolation("tools_empty", "tools must not be empty.")
    if declared and own:
        if not model.combines:
            yield ContractViolation("combined", "Tool use with function calling is unsupported")
        elif not vertex and not config.get("includeServerSideToolInvocations"):
            text = (
                "Please enable tool_config.include_server_side_tool_invocations to use Built-in tools with Function "
                "calling."
            )
            yield ContractViolation("combined", text)
    calling = config.get("functionCallingConfig")
    if calling is None:
        return
    if not declared:
        yield ContractViolation("calling", "Function calling config is set without function_declarations.")
    allowed = calling.get("allowedFunctionNames") or []
    if allowed and calling.get("mode") not in ("ANY", "VALIDATED"):
        yield ContractViolation(
            "allowed", "Allowed function names should only be set when the mode is ANY or VALIDATED."
        )
    for name in allowed:
        if name not in {one.get("name") for one in declared}:
            yield ContractViolation("allowed", f"Allowed function name {name} is not among the function declarations.")


def _check_reply(body: dict[str, Any], config: dict[str, Any], model: Abilities) -> Iterator[ContractViolation]:
    """Yield the violations in the requested format of the reply."""
    asks_json = config.get("responseMimeType") == "application/json"
    given = [name for name in ("responseSchema", "responseJsonSchema") if config.get(name) is not None]
    if given and not asks_json:
        yield ContractViolation(
            "reply_type", "Response schema is only supported with response mime type: 'application/json'"
        )
    if len(given) > 1:
        yield ContractViolation("reply_schema", "Only one of response_schema and response_json_schema may be set.")
    if asks_json and body.get("tools") and not model.combines:
        yield ContractViolation(
            "reply_tools", "Function calling with a response mime type: 'application/json' is unsupported"
        )
    if "responseJsonSchema" in given:
        if not model.json_schema:
            yield ContractViolation("reply_schema", "response_json_schema is not supported by this model.")
        for text in check_json_schema(config["responseJsonSchema"], "response_json_schema"):
            yield ContractViolation("reply_schema", f"* GenerateContentRequest.generation_config.{text}\n")
    if "responseSchema" in given:
        for text in check_lowered(config["responseSchema"], "response_schema", accepts_empty=model.json_schema):
            yield ContractViolation("reply_schema", f"* GenerateContentRequest.generation_config.{text}\n")


def _check_limits(config: dict[str, Any]) -> Iterator[ContractViolation]:
    thinking = config.get("thinkingConfig") or {}
    if thinking.get("thinkingLevel") is not None and thinking.get("thinkingBudget") is not None:
        yield ContractViolation("thinking_both", "You can only set only one of thinking budget and thinking level.")
    if len(config.get("stopSequences") or ()) > MAX_STOPS:
        yield ContractViolation("stops", f"The number of stop sequences must be at most {MAX_STOPS}.")
    if (config.get("candidateCount") or 1) != 1:
        yield ContractViolation("candidates", "Multiple candidates is not enabled for this model")


def check_count(body: dict[str, Any], name: str, *, vertex: bool) -> Iterator[ContractViolation]:
    """Yield the rules for the top of a token count (ai.google.dev/api/tokens; Vertex AI: CountTokensRequest)."""
    fields = ("contents", "systemInstruction", "tools", "generationConfig", "model", "instances")
    for field in body:
        if field not in (fields if vertex else ("contents", "generateContentRequest")):
            text = f'Invalid JSON payload received. Unknown name "{field}": Cannot find field.'
            yield ContractViolation("unknown_field", text)
    whole = body.get("generateContentRequest")
    if whole is not None and "contents" in body:
        yield ContractViolation("two_prompts", "contents and generate_content_request are mutually exclusive.")
    if whole is not None and whole.get("model") != f"models/{name}":
        yield ContractViolation("model", "generate_content_request.model must be the model of the path.")


def check_rules(body: dict[str, Any], name: str, model: Abilities, *, vertex: bool) -> Iterator[ContractViolation]:
    """Yield the rules beyond types and numbers that a request breaks. `name`: of the model. `vertex`: at Vertex AI."""
    yield from check_contents(body.get("contents") or [], media_in_results=model.accepts_media_in_results)
    instruction = body.get("systemInstruction")
    if instruction is not None and not any(part.get("text") for part in instruction.get("parts") or ()):
        yield ContractViolation("system", "* GenerateContentRequest.system_instruction.parts: must not be empty.\n")
    yield from _check_declarations(body, model, name)
    yield from _check_tools(body, model, vertex=vertex)
    config = body.get("generationConfig") or {}
    yield from _check_limits(config)
    yield from _check_reply(body, config, model)


def check_body(body: dict[str, Any]) -> Iterator[ContractViolation]:
    """Yield every rule that a request breaks; the real server would name the first."""
    shapes = list(check_shape(body))
    yield from shapes
    if not shapes:
        yield from check_rules(body, "scripted", _AnyModel(), vertex=False)
