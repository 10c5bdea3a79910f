"""Gemini's rules on a request beyond types and contents: tools, thinking, sampling, limits, the reply's form."""

import re
from collections.abc import Iterator
from typing import Any

from tests.support.fakes.gemini.contents import check_contents
from tests.support.fakes.gemini.models import Model
from tests.support.fakes.gemini.schemas import check_json_schema, check_lowered
from tests.support.fakes.gemini.shapes import check_request
from tests.support.fakes.gemini.signatures import Signatures
from tests.support.fakes.server import ContractViolation

MAX_STOPS = 5
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}")
_RANGES = {"temperature": (0.0, 2.0), "topP": (0.0, 1.0), "topK": (1.0, 1_000.0)}
_OWN_TOOLS = {"googleSearch": "google_search", "urlContext": "url_context", "codeExecution": "code_execution"}


def declarations_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for tool in body.get("tools") or () for one in tool.get("functionDeclarations") or ()]


def own_tools_of(body: dict[str, Any]) -> list[str]:
    return [name for tool in body.get("tools") or () for name in _OWN_TOOLS if name in tool]


def _check_declarations(body: dict[str, Any], model: Model, name: str) -> Iterator[ContractViolation]:
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


def _check_tools(body: dict[str, Any], model: Model, *, vertex: bool) -> Iterator[ContractViolation]:
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


def _check_thinking(config: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    thinking = config.get("thinkingConfig")
    if thinking is None:
        return
    if not model.thinks:
        yield ContractViolation("thinking", "Unable to submit request because thinking is not supported by this model.")
        return
    level, budget = thinking.get("thinkingLevel"), thinking.get("thinkingBudget")
    if level is not None and budget is not None:
        yield ContractViolation("thinking_both", "You can only set only one of thinking budget and thinking level.")
    if level is not None and not model.levels:
        yield ContractViolation("thinking_level", "Thinking level is not supported for this model.")
    elif level is not None and level.lower() not in model.levels:
        text = (
            f"Thinking level {level.upper()} is not supported for this model. Please retry with other thinking level."
        )
        yield ContractViolation("thinking_level", text)
    if budget is None:
        return
    if model.budgets is None:
        yield ContractViolation(
            "thinking_budget", "Thinking budget is not supported for this model, use thinking level."
        )
    elif budget == 0 and not model.turns_off:
        yield ContractViolation("thinking_budget", "Budget 0 is invalid. This model only works in thinking mode.")
    elif budget not in (0, -1) and not model.budgets[0] <= budget <= model.budgets[1]:
        low, high = model.budgets
        text = f"The thinking budget {budget} is invalid. Please choose a value between {low} and {high}."
        yield ContractViolation("thinking_budget", text)
    if budget == 0 and thinking.get("includeThoughts"):
        text = "The thinking_config.include_thoughts is only enabled when thinking is enabled."
        yield ContractViolation("thinking_shown", text)


def _check_config(config: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    yield from _check_thinking(config, model)
    limit = config.get("maxOutputTokens")
    if limit is not None and not 1 <= limit <= model.output:
        text = (
            f"Unable to submit request because it has a maxOutputTokens value of {limit} but the supported range is "
            f"from 1 (inclusive) to {model.output + 1} (exclusive). Update the value and try again."
        )
        yield ContractViolation("output_limit", text)
    for name, (low, high) in _RANGES.items():
        value = config.get(name)
        if value is None:
            continue
        if model.sampling == "refused":
            yield ContractViolation(
                "sampling", f"* GenerateContentRequest.generation_config.{name}: not supported by this model.\n"
            )
        elif not low <= value <= high:
            yield ContractViolation(
                "sampling", f"* GenerateContentRequest.generation_config.{name}: must be in [{low}, {high}].\n"
            )
    if model.signs and any(config.get(name) for name in ("frequencyPenalty", "presencePenalty")):
        yield ContractViolation("penalty", "Penalty is not enabled for this model")
    if len(config.get("stopSequences") or ()) > MAX_STOPS:
        yield ContractViolation("stops", f"The number of stop sequences must be at most {MAX_STOPS}.")
    if (config.get("candidateCount") or 1) != 1:
        yield ContractViolation("candidates", "Multiple candidates is not enabled for this model")


def _check_reply(body: dict[str, Any], config: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
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


def check_body(
    body: dict[str, Any], name: str, model: Model, signatures: Signatures, *, vertex: bool
) -> Iterator[ContractViolation]:
    """Yield every rule that a request breaks; the real server would name the first, or all of one kind."""
    shapes = list(check_request(body, vertex=vertex))
    yield from shapes
    if any(breach.rule == "type" for breach in shapes):
        return
    yield from check_contents(body.get("contents") or [], model, name, signatures)
    instruction = body.get("systemInstruction")
    if instruction is not None and not any(part.get("text") for part in instruction.get("parts") or ()):
        yield ContractViolation("system", "* GenerateContentRequest.system_instruction.parts: must not be empty.\n")
    yield from _check_declarations(body, model, name)
    yield from _check_tools(body, model, vertex=vertex)
    config = body.get("generationConfig") or {}
    yield from _check_config(config, model)
    yield from _check_reply(body, config, model)
