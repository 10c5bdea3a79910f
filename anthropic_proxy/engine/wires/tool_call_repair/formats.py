"""Text formats in which models write tool calls: one reader for each format, and the table of their markers.

Most formats begin with a start marker, a text such as `<tool_call>`. Some models write calls without markers (unmarked
calls), in a reply that contains nothing else.
"""

import ast
import functools
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.models.raw_json import ABSENT, replace_lone_escapes
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.wires.tool_call_repair.calls import (
    OfferedTools,
    RecoveredCall,
    is_json_object,
    repair_arguments,
)
from anthropic_proxy.engine.wires.tool_call_repair.nested_calls import read_gemma_calls, read_minimax_calls
from anthropic_proxy.engine.wires.tool_call_repair.quoting import SENTENCE_ENDS
from anthropic_proxy.engine.wires.tool_call_repair.tagged_calls import (
    FUNCTIONS,
    INVOKES,
    KEYS,
    XTML,
    Tags,
    read_elements,
    read_parameters,
)

ToolCallFormat = Literal[
    "hermes",
    "functions",
    "function_json",
    "keys",
    "python_tag",
    "listed",
    "section",
    "barred",
    "tool_code",
    "channel",
    "invoke",
    "braces",
    "marked",
    "bare_json",
    "bare_python",
]
"""Names of the text formats. The docstring of each reader function shows the format and its source. `bare_json` and
`bare_python` have no markers, and the reply consists only of calls. Examples: `{"name": …, "parameters": {…}}` (Llama
3.1 and later), `[name(key="value")]` (Llama 3.2 and 4)."""
TOOL_CALL_FORMATS: tuple[ToolCallFormat, ...] = get_args(ToolCallFormat)
"""All text formats, in the order of `ToolCallFormat`."""

_SEPARATORS = compile_anchored(r"[ \t\r\n,;]*")
_scan = json.JSONDecoder(strict=False).raw_decode


ToolCallReader = Callable[[str, OfferedTools], list[RecoveredCall] | None]
"""Function that parses a text from a start marker to an end marker and returns its tool calls. None: another format, or
a tool that was not offered."""


class _Written(Struct):
    """JSON fields of a tool call as the model wrote it. Some models put them into an object `function`."""

    name: str | None = None
    function: Raw = ABSENT
    arguments: Raw = ABSENT
    parameters: Raw = ABSENT
    input: Raw = ABSENT
    args: Raw = ABSENT


_decode = msgspec.json.Decoder(_Written).decode


def read_json_calls(text: str, offered: OfferedTools, *, without_markers: bool = False) -> list[RecoveredCall] | None:
    """Return the tool calls of a text that consists only of JSON objects, each of which is a call.

    None: the text has other content, an object is no valid call, or the client request has no such tool.
    """
    objects = _split(replace_lone_escapes(text.strip()))
    # Without markers, invalid JSON is not repaired. A repaired object without arguments may be cut before them.
    needs_arguments = without_markers
    if objects is None and not without_markers and (mended := repair_arguments(text, between_markers=True)):
        objects, needs_arguments = [mended], True
    calls: list[RecoveredCall] = []
    for part in objects or ():
        call = _read_object(part, offered, needs_arguments=needs_arguments)
        if call is None:
            return None
        calls.append(call)
    return calls or None


def resolve_call(name: str, arguments: str, offered: OfferedTools) -> RecoveredCall | None:
    """Return the checked call. None: the tool is not offered, or the arguments cannot be repaired."""
    known = offered.find_tool_name(name)
    arguments = arguments.strip() or "{}"
    if known is not None and not is_json_object(arguments):
        arguments = repair_arguments(arguments, between_markers=True) or ""
    return RecoveredCall(known, arguments) if known is not None and arguments else None


def find_value_end(text: str, start: int) -> int | None:
    """Return the index after the JSON value that begins at index `start`. None: no complete value."""
    try:
        _, end = _scan(text, start)
    except (ValueError, RecursionError):
        return None
    return end


def _split(text: str) -> list[str] | None:
    """Return the text of each value in a JSON list or a sequence of values. None: other content."""
    if text.startswith("["):
        try:
            return [bytes(part).decode() for part in msgspec.json.decode(text, type=list[Raw])]
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
            return None
    parts: list[str] = []
    position = 0
    while position < len(text):
        end = find_value_end(text, position)
        if end is None:
            return None
        parts.append(text[position:end])
        gap = _SEPARATORS.match(text, end)
        position = gap.end() if gap else end
    return parts


def _read_object(text: str, offered: OfferedTools, *, needs_arguments: bool) -> RecoveredCall | None:
    try:
        written = _decode(text)
        if (function := bytes(written.function)).startswith(b"{"):
            written = _decode(function)
        name = written.name or (msgspec.json.decode(function, type=str) if function.startswith(b'"') else "")
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None
    fields = (written.arguments, written.parameters, written.input, written.args)
    arguments = next((bytes(field) for field in fields if field is not ABSENT), b"")
    if (needs_arguments and not arguments) or not name:
        return None
    return resolve_call(name, "" if arguments == b"null" else arguments.decode(), offered)


_CALL_TAG, _CALL_TAG_END = "<tool_call>", "</tool_call>"
_JSON_TAG = compile_anchored(
    r"<tool_calls?>|</tool_calls?>|</?TOOLCALL>|<\|/?tool_call\|>|<\|tool_call_(?:start|end)\|>|</?(?:seed:|longcat_)tool_call>"
)
_FUNCTION = compile_anchored(r"\s*<function=(?P<name>[^<>\s]+)>")
_FUNCTION_OBJECT = compile_anchored(r"\s*<function=(?P<name>[\w.-]+)[\s=:,>(\[]*(?=\{)")
_FUNCTION_OBJECT_END = compile_anchored(r"[\s)\]>]*+(?:</?function>\s*+)?")
_WRAPPER = compile_anchored(
    r"\s*</?(?:(?:dots_)?function_calls?|minimax:tool_call|[｜|]DSML[｜|](?:function|tool)_calls|tool_calls?)>\s*"
)
_BRACKET = compile_later(r"[\[\]{}]")
_LISTED, _LISTED_ID, _LISTED_ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_SECTION_CALL = compile_later(
    r"<\|tool_call_begin\|>([^<>]++)<\|tool_call_argument_begin\|>(.*?)(?:<\|tool_call_end\|>|\Z)", re.DOTALL
)
_SECTION_MARKERS = compile_later(r"<\|tool_calls_section_(?:begin|end)\|>|\s+")
_XTML_BEGIN, _XTML_END = "<|open|>tools<|sep|>", "<|close|>tools<|sep|>"
_BARRED_CALL = compile_later(
    r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?\s*+([^<>\s]++)(?:\s*+<｜tool▁sep｜>|[^\S\n]*+\n)"
    r"(.*?)(?:<｜tool▁call▁end｜>|\Z)",
    re.DOTALL,
)
_BARRED_MARKERS = compile_later(r"<｜tool▁calls▁(?:begin|end)｜>|\s+")
_CODE_FENCE = "```"
_CHANNEL = compile_anchored(
    r"(?:<\|start\|>)?(?:assistant)?(?:<\|channel\|>)?(?:commentary|analysis)?\s*+to=(?:functions\.)?"
    r"(?P<name>[\w.:-]{1,128}+)(?:<\|channel\|>\w++)?\s*+(?:<\|constrain\|>\s*+)?(?:(?:json|code)\s*+)?"
    r"(?:<\|message\|>|(?=\{))"
)
_CHANNEL_END = compile_anchored(r"\s*+(?:<\|(?:call|end)\|>\s*+)?")
_CHANNEL_MARK = compile_later(r"<\|(?:call|end)\|>")
_METHOD, _CONTENT_TYPE = NAME_SUFFIXES = (".call", "json")
"""What may follow a name directly: `name.call(…)` (Llama), `namejson{…}` (a server dropped the token between them)."""


def read_tagged_json(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the calls of `<tool_call>{"name": …, "arguments": {…}}</tool_call>`.

    Written by Hermes 2 Pro, Qwen 2.5 and Qwen 3 (chat templates; vLLM's `hermes_tool_parser`), with other tags by
    MiniMax M1, Hunyuan and Jamba (`<tool_calls>`), Granite and Phi (`<|tool_call|>`), Nemotron (`<TOOLCALL>`) and
    LongCat: vLLM's parsers of these names.
    """
    return read_json_calls(_without_tags(text), offered)


def _without_tags(text: str) -> str:
    text = text.strip()
    if begin := _JSON_TAG.match(text):
        text = text[begin.end() :]
    last = text.rfind("<")
    return text[:last] if last >= 0 and _JSON_TAG.fullmatch(text, last) else text


def read_function_tags(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the calls of `<function=name><parameter=x>…</parameter></function>`, with or without `<tool_call>`.

    Written by Qwen 3 Coder (chat template; vLLM's `qwen3coder_tool_parser`), with `<seed:tool_call>` by Seed-OSS
    (vLLM's `seed_oss_tool_parser`).
    """
    # A value gets the type in the tool's schema, without a line break at its start and end.
    text = _without_tags(text).rstrip()
    read = read_elements(text, 0, FUNCTIONS, offered)
    return read[0] if read is not None and not text[read[1] :].strip() else None


def read_function_json(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the call of `<function=name>{…}</function>`.

    Written by Llama 3.1 for custom tools (`llama3_1/prompt_format.md`, "User-defined Custom tool calling"), by later
    Llamas also with `=`, `(…)`, a comma or nothing in place of the first `>`, which may follow the object (Groq, error
    `tool_use_failed`, 2026-11).
    """
    begin = _FUNCTION_OBJECT.match(text) or _FUNCTION.match(text)
    if begin is None:
        return None
    arguments = text[begin.end() :].strip().removesuffix("</function>")
    written, brace, rest = arguments.rpartition("}")
    if not begin[0].endswith(">"):
        if not _FUNCTION_OBJECT_END.fullmatch(rest):
            return None
        arguments = written + brace
    call = resolve_call(begin["name"], arguments, offered) if arguments else None
    return [call] if call else None


def read_invoke_calls(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the calls of one or more `<invoke name="…"><parameter name="x">…</parameter></invoke>`.

    Written by MiniMax M2, DeepSeek V3.2 and V4 (vLLM's `minimax_m2` and `deepseek_v32` parsers; `encoding_dsv4.py` of
    the model), and by others.
    """
    # Wrappers: `<minimax:tool_call>` (MiniMax M2), `<｜DSML｜function_calls>` (DeepSeek V3.2), `<｜DSML｜tool_calls>`
    # (V4), `<function_calls>` (models that imitate Claude).
    wrapper = _WRAPPER.match(text)
    start = wrapper.end() if wrapper else 0
    read = read_elements(text, start, INVOKES, offered)
    remainder = "" if read is None else text[read[1] :].strip()
    return read[0] if read is not None and (not remainder or _WRAPPER.fullmatch(remainder)) else None


def read_key_value_call(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the call of `<tool_call>name<arg_key>k</arg_key><arg_value>v</arg_value></tool_call>`.

    Written by GLM 4.5 and later (chat template; vLLM's `glm4_moe_tool_parser`).
    """
    body = text.removeprefix(_CALL_TAG).removesuffix(_CALL_TAG_END)
    name_text, mark, _ = body.partition("<arg_key>")
    name = offered.find_tool_name(name_text.strip()) if name_text.strip() else None
    if name is None or not (mark or text.rstrip().endswith(_CALL_TAG_END)):
        return None
    position = len(name_text) if mark else len(body)
    read = read_parameters(body.rstrip(), position, KEYS, offered, name)
    return [RecoveredCall(name, read[0])] if read is not None and read[1] >= len(body.rstrip()) else None


def read_mistral_calls(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the calls of one or more `[TOOL_CALLS][{"name": …, "arguments": {…}}]` or `[TOOL_CALLS]name[ARGS]{…}`.

    Written by Mistral's models (mistral-common; vLLM's `mistral_tool_parser`).
    """
    # The first form is of Mistral's tokenizers up to version 7, the second of version 11 and later. Version 13 adds
    # `[CALL_ID]…` before `[ARGS]`. Some servers drop `[ARGS]`.
    calls: list[RecoveredCall] = []
    for part in text.split(_LISTED)[1:]:
        is_json = part.lstrip()[:1] in ("[", "{")
        found = read_json_calls(part, offered) if is_json else _read_listed_call(part, offered)
        if not found:
            return None
        calls += found
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


def read_kimi_k3_calls(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the calls of `<|open|>call tool="name" index="0"<|sep|>`, with `<|open|>argument key="x" type="string"
    <|sep|>…<|close|>argument<|sep|>` for each parameter, and `<|close|>call<|sep|>`.

    They may stand between `<|open|>tools<|sep|>` and `<|close|>tools<|sep|>`. Written by Kimi K3 (sglang issue 39583,
    vllm pull 51355).
    """
    inside = text.strip().removeprefix(_XTML_BEGIN).removesuffix(_XTML_END)
    read = read_elements(inside, 0, XTML, offered)
    return read[0] if read is not None and not inside[read[1] :].strip() else None


def read_deepseek_calls(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the calls of `<｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}<｜tool▁call▁end｜>`.

    Written by DeepSeek V3.1 (vLLM's `deepseekv31_tool_parser`), and in a similar form by V3 and R1.
    """
    # The calls may stand in `<｜tool▁calls▁begin｜>…<｜tool▁calls▁end｜>`. DeepSeek V3 and R1 write
    # `function<｜tool▁sep｜>name` and put the arguments in a code fence (chat templates; vLLM's
    # `deepseekv3_tool_parser`).
    return _read_all(text, _BARRED_CALL, _BARRED_MARKERS, offered)


def read_harmony_calls(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the calls of `<|channel|>commentary to=functions.name <|constrain|>json<|message|>{…}<|call|>`.

    Written by gpt-oss ("OpenAI harmony response format", Function calling). The part `to=…` (the recipient) may also
    stand before `<|channel|>`, after the role. A server that drops special tokens leaves
    `assistantcommentary to=functions.name json{…}` (ollama/ollama-python issue 679, read 2026-11).
    """
    calls: list[RecoveredCall] = []
    position = 0
    while begin := _CHANNEL.match(text, position):
        start = begin.end()
        end = find_value_end(text, start)
        after = _CHANNEL_END.match(text, end) if end is not None else None
        if end is None or after is None or (after.end() < len(text) and not _CHANNEL.match(text, after.end())):
            mark = _CHANNEL_MARK.search(text, start)  # no JSON, or more than JSON
            end = mark.start() if mark else len(text)
            after = _CHANNEL_END.match(text, end)
        arguments, name = text[start:end], begin["name"]
        if offered.find_tool_name(name) is None:
            name = name.removesuffix(_CONTENT_TYPE)
        call = resolve_call(name, arguments, offered) if arguments.strip() or end < len(text) else None
        if call is None:
            return None
        calls.append(call)
        position = after.end() if after else end
    return calls if position == len(text) else None


def _read_all(
    text: str, pattern: re.Pattern[str], markers: re.Pattern[str], offered: OfferedTools
) -> list[RecoveredCall] | None:
    calls: list[RecoveredCall] = []
    for written in pattern.finditer(text):
        arguments = written[2].strip()
        if arguments.startswith(_CODE_FENCE):
            arguments = arguments.removeprefix(_CODE_FENCE).removeprefix("json").removesuffix(_CODE_FENCE)
        call = None if _is_cut(written) else resolve_call(written[1].strip(), arguments, offered)
        if call is None:
            return None
        calls.append(call)
    return calls if not markers.sub("", pattern.sub("", text)) else None


def _is_cut(written: re.Match[str]) -> bool:
    """Return True if a text ends before the arguments of a call, the second group of its pattern."""
    return not written[2].strip() and written.end(2) == len(written.string)


_TAG = "<|python_tag|>"
_FENCE = compile_anchored(r"\A```tool_code[ \t]*\n(.*?)\n?(?:```)?\Z", re.DOTALL)
_PRINTS = "print"
"""Name of the Python function that may enclose a call. `print(name(x=1))` is the call `name(x=1)`."""
_MAX_CHARACTERS = 64 * 1024
"""Maximum number of characters of a text that is parsed as Python. Longer text is not a call."""

_FILE_NAME = "<reply text>"
"""Name of the parsed text in warnings, and the pattern of their filter: no special character of expressions."""
_FILTER = ("ignore", None, Warning, compile_later(_FILE_NAME), 0)
"""Element of `warnings.filters` that ignores all warnings about the parsed text."""


def read_python_tag(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the calls of `<|python_tag|>{"name": …, "parameters": {…}}` or of `<|python_tag|>name.call(…)`.

    Several JSON objects are separated by `;`. Written by Llama 3.1 (`llama3_1/prompt_format.md`; vLLM's
    `llama_tool_parser`), between `<|tool_call_start|>` and `<|tool_call_end|>` by LFM2 (SGLang's `lfm2_detector`).
    """
    body = _without_tags(text).removeprefix(_TAG)
    return read_json_calls(body, offered) or read_python_calls(body, offered)


def read_tool_code(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the Python calls in a code fence named `tool_code`, with or without `print(…)` around each call.

    Written by Gemma and Gemini ("Function calling with Gemma"; Gemini's namespace `default_api`).
    """
    fenced = _FENCE.match(text)
    return read_python_calls(fenced[1], offered) if fenced else None


def read_python_calls(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the tool calls in `text`, Python code with one call per line or with a list of calls (`[a(x=1), b()]`).

    None: the text has another format. The models Llama 3.2 and 4 write this format, which is named "pythonic".
    """
    # Arguments must be keywords with literal values.
    if len(text) > _MAX_CHARACTERS:
        return None
    try:
        # `catch_warnings` would restore outdated filters if another thread also uses it
        if list(warnings.filters[:1]) != [_FILTER]:
            warnings.filterwarnings("ignore", module=_FILE_NAME)  # moves the filter to the front
        tree = ast.parse(replace_lone_escapes(text.strip()), filename=_FILE_NAME)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    calls: list[RecoveredCall] = []
    for statement in tree.body:
        if not isinstance(statement, ast.Expr):
            return None
        value = statement.value
        for node in value.elts if isinstance(value, ast.List) else [value]:
            call = _read_call(node, offered)
            if call is None:
                return None
            calls.append(call)
    return calls or None


def _read_call(node: ast.expr, offered: OfferedTools) -> RecoveredCall | None:
    if not isinstance(node, ast.Call):
        return None
    written = ast.unparse(node.func)
    if written == _PRINTS and len(node.args) == 1 and not node.keywords:
        return _read_call(node.args[0], offered)
    name = offered.find_tool_name(written) or offered.find_tool_name(written.removesuffix(_METHOD))
    if name is None or node.args:
        return None
    given: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            return None
        try:
            given[keyword.arg] = ast.literal_eval(keyword.value)
            msgspec.json.encode(given)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError):
            return None
    return RecoveredCall(name, msgspec.json.encode(given).decode())


class StartMarker(Struct, frozen=True):
    """Properties of one start marker, a text such as `<tool_call>` at the start of a tool call."""

    end_marker: str
    """End marker of the call. "": the call ends at the end of the reply."""
    readers: tuple[tuple[ToolCallFormat, ToolCallReader], ...]
    """Pairs of a format and its reader. They are tried in this order. Empty: the marker is removed from the text."""
    requires_name: bool = True
    """True if a tool name or a bracket must follow the marker. Any other text after it is no call."""


class FormatMarkers(NamedTuple):
    """Start and end markers of several tool call formats, with regular expressions to find them in streamed text."""

    start_markers: Mapping[str, StartMarker]
    """Mapping from each start marker to its properties."""
    start_pattern: re.Pattern[str] | None
    """Pattern of all start markers. A marker after a backtick (quoted text) does not match. None: no start markers."""
    dropped_end_markers: tuple[str, ...]
    """End markers and other tokens that are removed from the reply text if they follow directly after a call, the
    longest first."""
    tokens: tuple[str, ...]
    """All start markers, and all `dropped_end_markers`."""
    candidate_pattern: re.Pattern[str]
    """Pattern of the places at which a marker, a code fence or a line break may begin. Other text needs no search."""
    max_marker_length: int
    """Number of characters of the longest start marker. 0: no start markers."""
    marker_prefixes: frozenset[str]
    """All prefixes of the start markers, the complete markers included."""

    def find_partial_marker(self, text: str, offset: int, end: int) -> int:
        """Return the index at which an incomplete start marker at the end of `text` begins.

        The rest of the marker may follow in the next fragment of the reply. Only a marker that begins at `offset` or
        later, and before `end`, is found. If there is none, the length of `text` is returned.
        """
        begin = max(offset, len(text) - self.max_marker_length + 1)
        for candidate in self.candidate_pattern.finditer(text, begin, end):
            start = candidate.start()
            if text[start:] in self.marker_prefixes and (text[start].isalpha() or text[start - 1 : start] != "`"):
                return start
        return len(text)


_ROWS: Sequence[tuple[str, str, tuple[tuple[ToolCallFormat, ToolCallReader], ...]]] = (
    (
        "<tool_call>",
        "</tool_call>",
        (
            ("hermes", read_tagged_json),
            ("functions", read_function_tags),
            ("keys", read_key_value_call),
            ("invoke", read_invoke_calls),
            ("marked", read_minimax_calls),
        ),
    ),
    ("<tool_calls>", "</tool_calls>", (("hermes", read_tagged_json), ("invoke", read_invoke_calls))),
    ("<longcat_tool_call>", "</longcat_tool_call>", (("hermes", read_tagged_json),)),
    ("<TOOLCALL>", "</TOOLCALL>", (("hermes", read_tagged_json),)),
    ("<|tool_call|>", "", (("hermes", read_tagged_json),)),
    ("<seed:tool_call>", "</seed:tool_call>", (("functions", read_function_tags),)),
    ("<|tool_call_start|>", "<|tool_call_end|>", (("python_tag", read_python_tag),)),
    ("<function=", "</function>", (("functions", read_function_tags), ("function_json", read_function_json))),
    ("<|python_tag|>", "", (("python_tag", read_python_tag),)),
    ("[TOOL_CALLS]", "", (("listed", read_mistral_calls),)),
    ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", (("section", read_kimi_calls),)),
    ("<|tool_call_begin|>", "<|tool_call_end|>", (("section", read_kimi_calls),)),
    (_XTML_BEGIN, _XTML_END, (("section", read_kimi_k3_calls),)),
    ("<|open|>call tool=", "<|close|>call<|sep|>", (("section", read_kimi_k3_calls),)),
    ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", (("barred", read_deepseek_calls),)),
    ("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", (("barred", read_deepseek_calls),)),
    ("```tool_code", "\n```", (("tool_code", read_tool_code),)),
    *(
        (begin, "<|call|>", (("channel", read_harmony_calls),))
        for begin in (
            "<|channel|>commentary to=",
            "<|channel|>analysis to=",
            "<|start|>assistant<|channel|>commentary to=",
            "<|start|>assistant to=",
        )
    ),
    *(
        (begin, "", (("channel", read_harmony_calls),))
        for begin in ("<|start|>assistantcommentary to=", "assistantcommentary to=", "commentary to=functions.")
    ),
    ("<function_calls>", "</function_calls>", (("invoke", read_invoke_calls),)),
    ("<dots_function_call>", "</dots_function_call>", (("invoke", read_invoke_calls),)),
    ("<invoke name=", "</invoke>", (("invoke", read_invoke_calls),)),
    ("<minimax:tool_call>", "</minimax:tool_call>", (("invoke", read_invoke_calls),)),
    *(
        (f"<{mark}{tag}{end}", f"</{mark}{tag}>", (("invoke", read_invoke_calls),))
        for mark in ("｜DSML｜", "|DSML|")
        for tag, end in (("function_calls", ">"), ("tool_calls", ">"), ("invoke", " name="))
    ),
    ("<|tool_call>call:", "<tool_call|>", (("braces", read_gemma_calls),)),
    ("<start_function_call>call:", "<end_function_call>", (("braces", read_gemma_calls),)),
    ("call:", "", (("braces", read_gemma_calls),)),
    ("]<]minimax[>[<tool_call>", "</tool_call>", (("marked", read_minimax_calls),)),
    ("]<]minimax[>[<invoke name=", "</invoke>", (("marked", read_minimax_calls),)),
)
CallSign = Literal["offered tool", "no code", "by itself", "end of reply", "whole reply"]
"""What tells a call from one that the model quotes from a text of a stranger.

`offered tool`: it names one. `no code`: it stands in no code (`quoting`). `by itself`: it stands in
no sentence (`begins_alone`), and nothing follows it on its line except tokens of the chat format. `end of reply`: no
other text follows it. `whole reply`: the reply has no other text.
"""
_RULE: Sequence[CallSign] = ("offered tool", "no code", "by itself")
CALL_SIGNS: Mapping[ToolCallFormat, Sequence[CallSign]] = {
    **dict.fromkeys(TOOL_CALL_FORMATS, _RULE),
    **dict.fromkeys(("python_tag", "listed"), (*_RULE, "end of reply")),
    **dict.fromkeys(("bare_json", "bare_python"), (*_RULE, "end of reply", "whole reply")),
}
"""Format → the signs that its calls must have: one rule for all. Formats without an end marker also end the reply, and
those without any marker are all of it."""
OPEN_TAGS: Mapping[ToolCallFormat, Tags] = {"functions": FUNCTIONS, "invoke": INVOKES, "keys": KEYS}
"""Formats whose end tags may be missing in a complete reply."""
_NAMELESS = ("```tool_code", "<｜tool▁call▁begin｜>", "<|open|>call tool=")
"""Start markers after which another word, such as `print(`, may precede the tool name."""

_KEYS = ("name", "type", "function", "parameters", "arguments", "id")
"""Possible first keys of the JSON object of a call. An unmarked call is recognized by them."""
_IDENTIFIER = compile_anchored(r"[\w.]*")
_BEFORE_WORDS = "\r\n>:：" + SENTENCE_ENDS
"""A start marker that is a word, such as `call:`, begins a line, or stands directly behind one of these."""
_TOKENS_AFTER_CALLS = ("<|tool_response>", "<turn|>", "]<]minimax[>[</tool_call>")
"""Tokens of chat formats that are no end markers, and are removed if they follow directly after a call."""


_CHANNELS = ("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>")
"""Tokens of Kimi K3 around texts. They are removed wherever they stand outside of code."""


def _begin_pattern(first: str) -> str:
    """Return a pattern of the first character of a start marker, where one may begin.

    The character comes first, what stands before it is looked at then: so a search skips all other characters.
    """
    return re.escape(first) + f"(?<![{f'^{_BEFORE_WORDS}' if first.isalpha() else '`'}]{re.escape(first)})"


def _marks_pattern(marks: Iterable[str]) -> str:
    endings: dict[str, list[str]] = {}
    for mark in marks:
        endings.setdefault(mark[0], []).append(re.escape(mark[1:]))
    return "|".join(f"{_begin_pattern(first)}(?:{'|'.join(rest)})" for first, rest in endings.items())


def _word_beginning(mark: str) -> str:
    """Return a pattern of the first four characters of a word, or fewer at the end of a text: few others begin so."""
    pattern = ""
    for letter in reversed(mark[1:4]):
        pattern = rf"(?:{letter}{pattern}|\Z)"
    return _begin_pattern(mark[0]) + pattern


@functools.lru_cache(maxsize=64)
def build_format_markers(formats: tuple[ToolCallFormat, ...]) -> FormatMarkers:
    """Return the markers of the given text formats."""
    marks = {}
    for begin, ending, readers in _ROWS:
        if wanted := tuple(reader for reader in readers if reader[0] in formats):
            marks[begin] = StartMarker(ending, wanted, begin not in _NAMELESS)
    channels = _CHANNELS if "section" in formats else ()
    marks |= dict.fromkeys(channels, StartMarker("", ()))
    symbols = sorted({begin[0] for begin in marks if not begin[0].isalpha()}.union("`~\r\n"))
    words = sorted({_word_beginning(begin) for begin in marks if begin[0].isalpha()})
    dropped = {mark.end_marker for mark in marks.values() if len(mark.end_marker) > len("\n```")}
    dropped_end_markers = tuple(sorted(dropped.union(_TOKENS_AFTER_CALLS, channels), key=len, reverse=True))
    return FormatMarkers(
        start_markers=marks,
        start_pattern=compile_later(_marks_pattern(marks)) if marks else None,
        dropped_end_markers=dropped_end_markers,
        tokens=(*marks, *dropped_end_markers),
        candidate_pattern=compile_later("|".join((*map(re.escape, symbols), *words))),
        max_marker_length=max(map(len, marks), default=0),
        marker_prefixes=frozenset(begin[:size] for begin in marks for size in range(1, len(begin) + 1)),
    )


def read_unmarked_calls(
    text: str, formats: Sequence[ToolCallFormat], offered: OfferedTools
) -> tuple[ToolCallFormat, list[RecoveredCall]] | None:
    """Return the format and the tool calls of a complete reply that consists only of calls without markers.

    None: the reply is not in one of `formats`.
    """
    if "bare_json" in formats and (calls := read_json_calls(text, offered, without_markers=True)):
        return "bare_json", calls
    if "bare_python" in formats and text.lstrip().startswith("[") and (calls := read_python_calls(text, offered)):
        return "bare_python", calls
    return None


def can_be_unmarked_calls(text: str, formats: Sequence[ToolCallFormat], offered: OfferedTools) -> bool:
    """Return True if a reply that begins with `text` may consist only of tool calls without markers.

    False: it is ordinary text, or its calls are not in one of `formats`.
    """
    remainder = text.lstrip()
    listed = remainder.startswith("[")
    remainder = remainder.removeprefix("[").lstrip() if listed else remainder
    if not remainder:
        return listed
    if remainder[0] == "{":
        return "bare_json" in formats and _may_be_call_object(remainder[1:].lstrip())
    name = _IDENTIFIER.match(remainder)
    if not listed or "bare_python" not in formats or name is None or not name.group():
        return False
    return name.end() == len(remainder) or (
        remainder[name.end()] == "(" and offered.find_tool_name(name.group()) is not None
    )


def _may_be_call_object(inside: str) -> bool:
    if not inside:
        return True
    key, quote, _ = inside[1:].partition('"')
    return inside[0] == '"' and (key in _KEYS if quote else any(name.startswith(key) for name in _KEYS))
