"""Readers of tool calls that a model wrote in its reply text between tags or special tokens, one function per format.

Each `read_…` function is named after its tags or model, and its docstring shows the format. It parses the text from the
start marker to the end marker, both included. It returns the calls. None: the text has another format, or a tool is not
offered. The time is linear in the length of the text.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from anthropic_proxy.wire.tool_call_repair.json_calls import (
    RecoveredCall,
    find_value_end,
    read_json_calls,
    resolve_call,
)
from anthropic_proxy.wire.tool_call_repair.offered_tools import OfferedTools

_TAG, _TAG_END = "<tool_call>", "</tool_call>"
_FUNCTION = re.compile(r"\s*<function=([^<>\s]+)>")
_FUNCTION_END = re.compile(r"\s*</function>")
_PARAMETER = re.compile(r"\s*<parameter=([^<>]+)>")
_PARAMETER_END = re.compile(r"</parameter>(?=\s*(?:<parameter=|</function>|\Z))")
_INVOKE = re.compile(r'\s*<(｜DSML｜)?invoke name="([^"<>]+)"\s*>')
_INVOKE_END = re.compile(r"\s*</(?:｜DSML｜)?invoke>")
_ARGUMENT = re.compile(r'\s*<(?:｜DSML｜)?parameter name="([^"<>]+)"[^<>]*>')
_ARGUMENT_END = re.compile(
    r"</(?:｜DSML｜)?parameter>(?=\s*(?:<(?:｜DSML｜)?parameter name=|</(?:｜DSML｜)?invoke>|\Z))"
)
_WRAPPER = re.compile(r"\s*</?(?:function_calls|minimax:tool_call|｜DSML｜function_calls|tool_call)>\s*")
_KEY = re.compile(r"\s*<arg_key>(.*?)</arg_key>\s*<arg_value>", re.DOTALL)
_VALUE_END = re.compile(r"</arg_value>(?=\s*(?:<arg_key>|\Z))")
_BRACKET = re.compile(r"[\[\]{}]")
_LISTED, _LISTED_ID, _LISTED_ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_SECTION_CALL = re.compile(
    r"<\|tool_call_begin\|>([^<>]++)<\|tool_call_argument_begin\|>(.*?)(?:<\|tool_call_end\|>|\Z)", re.DOTALL
)
_SECTION_MARKERS = re.compile(r"<\|tool_calls_section_(?:begin|end)\|>|\s+")
_BARRED_CALL = re.compile(
    r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?\s*+([^<>\s]++)(?:\s*+<｜tool▁sep｜>|[^\S\n]*+\n)"
    r"(.*?)(?:<｜tool▁call▁end｜>|\Z)",
    re.DOTALL,
)
_BARRED_MARKERS = re.compile(r"<｜tool▁calls▁(?:begin|end)｜>|\s+")
_FENCE = "```"
_CHANNEL = re.compile(
    r"\A.*?\bto=(?:functions\.)?([\w.:-]++)(?:<\|channel\|>\w++)?\s*+(?:<\|constrain\|>\s*+)?(?:(?:json|code)\s*+)?"
    r"<\|message\|>(.*?)(?:<\|call\|>|<\|end\|>|\Z)",
    re.DOTALL,
)


def read_tagged_json(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the calls of `<tool_call>{"name": …, "arguments": {…}}</tool_call>`.

    Written by Hermes 2 Pro, Qwen 2.5 and Qwen 3 (chat templates; vLLM's `hermes_tool_parser`).
    """
    return read_json_calls(text.removeprefix(_TAG).removesuffix(_TAG_END), offered)


def read_function_tags(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the calls of `<function=name><parameter=x>…</parameter></function>`, with or without `<tool_call>`.

    Written by Qwen 3 Coder (chat template; vLLM's `qwen3coder_tool_parser`).
    """
    # A value gets the type in the tool's schema, without a line break at its start and end.
    calls: list[RecoveredCall] = []
    text = text.strip().removeprefix(_TAG).removesuffix(_TAG_END).rstrip()
    position = 0
    while begin := _FUNCTION.match(text, position):
        name = offered.find_tool_name(begin[1])
        if name is None:
            return None
        read = _read_parameters(text, begin.end(), (_PARAMETER, _PARAMETER_END), offered.schema_properties(name))
        if read is None or (end := _FUNCTION_END.match(text, read[1])) is None:
            return None
        calls.append(RecoveredCall(name, read[0]))
        position = end.end()
    return calls if not text[position:].strip() else None


def read_function_json(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the call of `<function=name>{…}</function>`.

    Written by Llama 3.1 for custom tools (`llama3_1/prompt_format.md`, "User-defined Custom tool calling").
    """
    begin = _FUNCTION.match(text)
    if begin is None:
        return None
    call = resolve_call(begin[1], text[begin.end() :].strip().removesuffix("</function>"), offered)
    return [call] if call else None


def read_invoke_calls(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the calls of one or more `<invoke name="…"><parameter name="x">…</parameter></invoke>`.

    Written by MiniMax M2 and DeepSeek V3.2 (vLLM's `minimax_m2` and `deepseek_v32` parsers), and by others.
    """
    calls: list[RecoveredCall] = []
    # Wrappers: `<minimax:tool_call>` (MiniMax M2), `<｜DSML｜function_calls>` (DeepSeek V3.2), `<function_calls>`
    # (models that imitate Claude).
    wrapper = _WRAPPER.match(text)
    position = wrapper.end() if wrapper else 0
    while begin := _INVOKE.match(text, position):
        name = offered.find_tool_name(begin[2])
        if name is None:
            return None
        read = _read_parameters(text, begin.end(), (_ARGUMENT, _ARGUMENT_END), offered.schema_properties(name))
        if read is None or (end := _INVOKE_END.match(text, read[1])) is None:
            return None
        calls.append(RecoveredCall(name, read[0]))
        position = end.end()
    remainder = text[position:].strip()
    return calls if not remainder or _WRAPPER.fullmatch(remainder) else None


def read_key_value_call(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the call of `<tool_call>name<arg_key>k</arg_key><arg_value>v</arg_value></tool_call>`.

    Written by GLM 4.5 and later (chat template; vLLM's `glm4_moe_tool_parser`).
    """
    body = text.removeprefix(_TAG).removesuffix(_TAG_END)
    name_text, mark, _ = body.partition("<arg_key>")
    name = offered.find_tool_name(name_text.strip()) if name_text.strip() else None
    if name is None:
        return None
    position = len(name_text) if mark else len(body)
    read = _read_parameters(body.rstrip(), position, (_KEY, _VALUE_END), offered.schema_properties(name))
    return [RecoveredCall(name, read[0])] if read is not None and read[1] >= len(body.rstrip()) else None


def read_mistral_calls(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the calls of one or more `[TOOL_CALLS][{"name": …, "arguments": {…}}]` or `[TOOL_CALLS]name[ARGS]{…}`.

    Written by Mistral's models (mistral-common; vLLM's `mistral_tool_parser`).
    """
    # The first form is of Mistral's tokenizers up to version 7, the second of version 11 and later. Version 13 adds
    # `[CALL_ID]…` before `[ARGS]`. Some servers drop `[ARGS]`.
    calls: list[RecoveredCall] = []
    for part in text.split(_LISTED)[1:]:
        if part.lstrip()[:1] in ("[", "{"):
            calls += (found := read_json_calls(part, offered)) or ()
        else:
            found = _read_listed_call(part, offered)
            calls += found or ()
        if not found:
            return None
    return calls


def _read_listed_call(part: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    start = part.find("{")
    if start < 0:
        return None
    end = find_value_end(part, start)
    if end is not None and part[end:].strip(" \t\r\n,"):
        return None
    name, _, identifier = part[:start].rstrip().removesuffix(_LISTED_ARGUMENTS).rstrip().partition(_LISTED_ID)
    call = resolve_call(name, part[start:end], offered) if not _BRACKET.search(identifier) else None
    return [call] if call else None


def read_kimi_calls(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the calls of `<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`.

    The calls may stand in `<|tool_calls_section_begin|>…<|tool_calls_section_end|>`. Written by Kimi K2
    (`tool_call_guidance.md` of the model; vLLM's `kimi_k2_tool_parser`).
    """
    return _read_all(text, _SECTION_CALL, _SECTION_MARKERS, offered)


def read_deepseek_calls(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the calls of `<｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}<｜tool▁call▁end｜>`.

    Written by DeepSeek V3.1 (vLLM's `deepseekv31_tool_parser`), and in a similar form by V3 and R1.
    """
    # The calls may stand in `<｜tool▁calls▁begin｜>…<｜tool▁calls▁end｜>`. DeepSeek V3 and R1 write
    # `function<｜tool▁sep｜>name` and put the arguments in a code fence (chat templates; vLLM's
    # `deepseekv3_tool_parser`).
    return _read_all(text, _BARRED_CALL, _BARRED_MARKERS, offered)


def read_harmony_call(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the call of `<|channel|>commentary to=functions.name <|constrain|>json<|message|>{…}<|call|>`.

    Written by gpt-oss ("OpenAI harmony response format", Function calling). The part `to=…` (the recipient) may also
    stand before `<|channel|>`, after the role.
    """
    written = _CHANNEL.match(text)
    call = resolve_call(written[1], written[2], offered) if written else None
    return [call] if call else None


def _read_all(
    text: str, pattern: re.Pattern[str], markers: re.Pattern[str], offered: OfferedTools
) -> list[RecoveredCall] | None:
    calls: list[RecoveredCall] = []
    for written in pattern.finditer(text):
        call = resolve_call(written[1].strip(), _unfenced(written[2]), offered)
        if call is None:
            return None
        calls.append(call)
    return calls if not markers.sub("", pattern.sub("", text)) else None


def _unfenced(text: str) -> str:
    stripped = text.strip()
    if not stripped.startswith(_FENCE):
        return text
    return stripped.removeprefix(_FENCE).removeprefix("json").removesuffix(_FENCE).strip()


def _read_parameters(
    text: str, position: int, marks: tuple[re.Pattern[str], re.Pattern[str]], properties: Mapping[str, Any]
) -> tuple[str, int] | None:
    """Return the tagged parameters at index `position` as JSON text of an object, and the index after them.

    `marks`: patterns of the start tag and the end tag of a parameter. None: an end tag is missing.
    """
    given: dict[str, Any] = {}
    while begin := marks[0].match(text, position):
        end = marks[1].search(text, begin.end())
        if end is None:
            return None
        name, value = begin[1].strip(), text[begin.end() : end.start()]
        given[name] = _typed(value.removeprefix("\n").removesuffix("\n"), properties.get(name))
        position = end.end()
    return msgspec.json.encode(given).decode(), position


def _typed(value: str, schema: Any) -> Any:
    """Return the value of a parameter in the JSON type that its schema requires. `value`: the text of the model.

    The text itself is returned if there is no schema, the schema allows a string, or the text is no JSON value.
    """
    kinds = schema.get("type") if isinstance(schema, dict) else None
    kinds = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else []
    if not isinstance(schema, dict) or kinds == ["string"]:
        return value
    literal = {"True": "true", "False": "false", "None": "null"}.get(value.strip(), value)
    try:
        read = msgspec.json.decode(literal)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return value
    return value if "string" in kinds and read is not None else read
