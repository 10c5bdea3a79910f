"""What the wires of Chat Completions and Responses share: dialect fields, request fields, and changes after an error.

The `add_…` functions add fields to `body`, the upstream request as a dict. They append a note to `notes` for each
client setting that is changed or dropped. After the server rejected a parameter, the `find_…` functions return the
adaptation that fits the error: `drop temperature`, `effort none low`. `apply_drop_or_effort` applies it to a dialect.
"""

import re
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Raw, structs

from anthropic_proxy.engine.efforts import list_named_efforts
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import Tool
from anthropic_proxy.engine.messages.work_budget import WorkBudget
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.contract import changes_request
from anthropic_proxy.engine.wires.dialect import SAMPLING_VALUES, Adaptation, BaseDialect, RequestPart
from anthropic_proxy.engine.wires.failures import find_rejected_parameter, find_replacement_effort
from anthropic_proxy.engine.wires.json_schema import (
    BASIC_RULES,
    UNRESTRICTED_RULES,
    SchemaRules,
    encode_schema,
    encode_schema_cached,
    may_accept_object,
)
from anthropic_proxy.engine.wires.shared_notes import NO_SAMPLING, NO_SERVICE_TIER, NO_TOP_K, SINGLE_TOOL_CALL
from anthropic_proxy.engine.wires.tools import tool_description
from anthropic_proxy.engine.wires.upstream_http import JSON_HEADERS, UpstreamRequest
from anthropic_proxy.errors import UpstreamError

SCHEMA_NOT_ENFORCED = FidelityNote(
    "approximated", "output_config.format", "the schema does not fit strict mode, so the reply may deviate from it"
)


class OpenAIDialect(BaseDialect, frozen=True, kw_only=True, cache_hash=True):
    """Dialect fields that Chat Completions and Responses have in common. The dialect of each wire sets defaults."""

    sampling_support: Literal["always", "not_thinking", "never"]
    """Condition on which `temperature` and `top_p` are sent. `not_thinking`: only with the effort (reasoning level)
    `none`."""
    effort_names: tuple[tuple[str, str], ...]
    """Pairs of a requested effort level and the level to send, where the two differ."""
    min_output_tokens: int
    """Minimum of the output limit that the server accepts. If the client's limit is lower, this minimum is sent, and
    the proxy cuts the reply at the client's limit."""
    sends_parallel_tool_calls: bool
    sends_user_id: bool
    """True if a hash of the client's user is sent as `safety_identifier`."""
    session_field: Literal["", "session_id", "prompt_cache_key"]
    """Request field with a hash of the session, which finds the cached prompt. "": none."""
    sends_service_tier: bool
    """True if the client's `service_tier: "standard_only"` is sent as `service_tier: "default"`."""
    session_header: str
    """Name of the request header with a hash of the session. It selects a machine with a warm prompt cache. "":
    none."""

    @property
    def min_output(self) -> int:
        return self.min_output_tokens

    @property
    def always_reasons(self) -> bool:
        """Also true if the model has rejected the effort `none`."""
        return self.thinks_always or dict(self.effort_names).get("none", "none") != "none"


OpenAICall = TranslatedCall[OpenAIDialect]


def add_tools(
    body: dict[str, Any], definitions: list[Any], tool_choice: Any, call: OpenAICall, notes: list[FidelityNote]
) -> None:
    """Add `tools`, `tool_choice` and `parallel_tool_calls`."""
    body["tools"] = definitions
    if tool_choice is not None:
        body["tool_choice"] = tool_choice
    dialect = call.dialect
    asked = call.request.tool_choice
    if asked is None or not asked.disable_parallel_tool_use:
        return
    if dialect.sends_parallel_tool_calls:
        body["parallel_tool_calls"] = False
    else:
        notes.append(SINGLE_TOOL_CALL)


def add_sampling(
    body: dict[str, Any], effort: str, call: OpenAICall, notes: list[FidelityNote], *, sends_top_k: bool = False
) -> None:
    """Add the client's `temperature`, `top_p` and `top_k` to `body`, or a note to `notes` for each that is not sent.

    `effort` is the level of reasoning. Some servers accept `temperature` and `top_p` only with the level `none`.
    """
    request, dialect = call.request, call.dialect
    if request.temperature is None and request.top_p is None and request.top_k is None:
        return
    accepted = dialect.sampling_support == "always" or (dialect.sampling_support == "not_thinking" and effort == "none")
    for name, value in (("temperature", request.temperature), ("top_p", request.top_p)):
        if value is None:
            continue
        if accepted:
            body[name] = value
        else:
            notes.append(NO_SAMPLING[name])
    if request.top_k is not None and sends_top_k:
        body["top_k"] = request.top_k
    elif request.top_k is not None:
        notes.append(NO_TOP_K)


def add_user_and_tier(body: dict[str, Any], call: OpenAICall, notes: list[FidelityNote]) -> Mapping[str, str]:
    """Add hashes of the client's user and session, and its service tier, to `body`, if the server accepts them.

    Return the headers of the upstream request. For some servers, they also contain the hash of the session.
    """
    request, dialect = call.request, call.dialect
    if dialect.sends_user_id and request.user_id:
        body["safety_identifier"] = request.user_key()
    if dialect.session_field:
        body[dialect.session_field] = request.session_key()
    if request.service_tier == "standard_only":
        if dialect.sends_service_tier:
            body["service_tier"] = "default"
        else:
            notes.append(NO_SERVICE_TIER)
    if dialect.session_header:
        return {**JSON_HEADERS, dialect.session_header: request.session_key()}
    return JSON_HEADERS


def encode_function(
    tool: Tool, budget: WorkBudget, rules: SchemaRules, *, sends_strict: bool
) -> tuple[dict[str, Any], bool, Sequence[str]]:
    """Return the fields of a client tool, True if it is strict, and texts for notes on losses.

    In strict mode, the arguments of a call always match the schema. `sends_strict`: the server has this mode.
    """
    parameters, qualifies, losses = encode_schema(bytes(tool.input_schema), budget, rules)
    description = tool_description(tool)
    fields = {"name": tool.name, **({"description": description} if description else {}), "parameters": parameters}
    if not tool.strict or (qualifies and sends_strict):
        return fields, bool(tool.strict), losses
    why = "the schema does not fit strict mode" if sends_strict else "the server has no known strict mode"
    return fields, False, (*losses, f"strict was not sent: {why}")


def encode_reply_schema(
    call: OpenAICall, budget: WorkBudget, notes: list[FidelityNote], rules: SchemaRules = UNRESTRICTED_RULES
) -> tuple[Raw, bool] | None:
    """Return the client's JSON Schema for the reply, reduced to the keywords that `rules` permit, and True if strict
    mode allows it.

    None: the request has no schema, or no JSON object can match its schema. The API accepts only schemas of objects.
    Raises `WorkLimitExceeded` if the work exceeds `budget`.
    """
    schema = bytes(call.request.output_schema)
    if not schema or not may_accept_object(schema, budget):
        return None
    cleaned, qualifies, lost = encode_schema_cached(schema, budget, rules)
    notes += [FidelityNote("approximated", "output_config.format", what) for what in lost]
    return cleaned, qualifies


def reply_schema_instruction(call: OpenAICall, budget: WorkBudget, notes: list[FidelityNote]) -> str:
    """Return a system prompt text with a reply schema that allows no JSON object. "": no text is needed."""
    schema = bytes(call.request.output_schema)
    if not schema or may_accept_object(schema, budget):
        return ""
    why = "requested in the prompt: the provider accepts only schemas of objects"
    notes.append(FidelityNote("emulated", "output_config.format", why))
    text = msgspec.json.format(schema, indent=-1).decode()
    return f"Reply with one JSON value only, without a code fence, that fits this JSON Schema:\n{text}"


D = TypeVar("D", bound=OpenAIDialect)

ParameterDrops = Mapping[str, Mapping[str, object]]
"""Type of a table: parameter of the upstream request → dialect fields, with values that make the encoder omit it."""

SHARED_DROPS: ParameterDrops = {
    "temperature": {"sampling_support": "never"},
    "top_p": {"sampling_support": "never"},
    "parallel_tool_calls": {"sends_parallel_tool_calls": False},
    "safety_identifier": {"sends_user_id": False},
    "prompt_cache_key": {"session_field": ""},
    "session_id": {"session_field": ""},
    "strict": {"sends_strict": False},
    "parameters": {"schema_rules": BASIC_RULES},
    "media of earlier turns": {"omits_past_media": True},
}
"""Parameters of both APIs that the encoder can omit. For `parameters`, the input schema of a tool, the schema is
reduced to basic keywords. `store` and the service tier restrict what the server does, so no refusal removes them."""

SHARED_PARTS = (
    RequestPart(name="drop temperature", values=SAMPLING_VALUES),
    RequestPart(name="drop parallel_tool_calls"),
    *(RequestPart(name=f"drop {name}", is_lossless=True) for name in ("safety_identifier", "prompt_cache_key")),
    RequestPart(name="drop strict", changes_prefix=True),
    RequestPart(name="drop parameters", changes_prefix=True, values=("tools",)),
)
"""Parts of requests of both APIs. The proxy itself cuts further tool calls off, and writes the user's hash and the
session's."""

_ALWAYS_REASONS = compile_later(
    r"\b(?:think|reason)\w*\b.{0,80}\b(?:cannot|can't|can not|may not|must not) be (?:disabled|turned off|switched off)"
    r"|\b(?:disabl|turn|switch)\w* (?:off )?(?:the )?(?:thinking|reasoning) is not (?:supported|allowed|possible)"
    r"|\b(?:thinking|reasoning) is (?:mandatory|always (?:on|enabled))",
    re.IGNORECASE | re.DOTALL,
)
"""Pattern of error messages about a model that always reasons. Sources: Z.ai, code 1210 (pydantic-ai profiles/zai.py);
OpenRouter "Reasoning is mandatory for this endpoint and cannot be disabled." (2026-11-20)."""
_EFFORTS = ("effort", "reasoning_effort", "reasoning", "think", "thinking")
_STEP = compile_later(r"[^.\[\]]+")
_HUMP = compile_later(r"(?<=[a-z0-9])[A-Z]")


def _last_name(parameter: str | None) -> str:
    """Return the last name in the path of a rejected parameter: `summary` for `reasoning.summary`. "": none.

    Indexes of lists are omitted. A name in camel case, such as `reasoningEffort`, becomes `reasoning_effort`.
    """
    steps = [step for step in _STEP.findall(parameter or "") if not step.isdecimal()]
    return _HUMP.sub(lambda hump: f"_{hump[0].lower()}", steps[-1]) if steps else ""


def find_rejected_name(error: UpstreamError, known: Container[str]) -> str:
    """Return the name of the rejected parameter, one of `known` if the error names one. "": it names none."""
    name = _last_name(error.parameter)
    return name if name in known else find_rejected_parameter(error.provider_text, known) or name


_MINIMUM = compile_later(
    r"\bmax_(?:(?:completion|output)_)?tokens\b[^\n]{0,80}?(?:>= ?|\bgreater than or equal to |\bat least |\bminimum "
    r"(?:(?:value|of|is|value of|value is):? )?)(?P<least>\d{1,4})\b(?!\.\d)",
    re.IGNORECASE,
)
"""Pattern of errors about an output limit that is too low: OpenAI, also through OpenRouter (2026-11)."""
_LARGEST_MINIMUM = 1_024
"""A larger number is no minimum of an output limit."""


def find_minimum_adaptation(call: OpenAICall, error: UpstreamError) -> Adaptation | None:
    """Return the adaptation that sends the lowest output limit which the error states. None: it states none."""
    stated = _MINIMUM.search(error.provider_text)
    if stated is None:
        return None
    least = int(stated["least"])
    sent = max(call.request.max_tokens, call.dialect.min_output_tokens)
    return Adaptation(f"minimum {least}") if sent < least <= _LARGEST_MINIMUM else None


def find_lowest_effort_adaptation(call: OpenAICall, error: UpstreamError) -> Adaptation | None:
    """Replace the rejected effort `none` by the lowest level: some models always reason."""
    sent = dict(call.dialect.effort_names).get(call.request.effort, call.request.effort)
    if sent != "none" or not _ALWAYS_REASONS.search(error.provider_text):
        return None
    # The new effort is the lowest level that the error message lists, else `low`.
    lowest = next((level for level in list_named_efforts(error.provider_text) if level != "none"), "low")
    return Adaptation(f"effort {call.request.effort} {lowest}")


_VALUE_REFUSED = compile_later(
    r"\b(?:above|below) (?:the )?(?:maximum|minimum)|\b(?:less|greater|more|larger|smaller|higher|lower) than\b"
    r"|[<>]=? ?-?\d|\bbetween\b.{1,40}\band\b|\b(?:out of|in the|allowed|valid) range\b|\bat (?:most|least) -?\d"
    r"|\btoo (?:high|low|large|small)\b",
    re.IGNORECASE,
)
"""Pattern of errors about the size of a value (OpenAI, vLLM, Mistral; 2026-11)."""


def find_drop_adaptation(
    call: TranslatedCall[D],
    name: str,
    drops: ParameterDrops,
    encode_request: Callable[[TranslatedCall[D]], UpstreamRequest],
    message: str = "",
) -> Adaptation | None:
    """Return the adaptation that omits the request parameter `name`. None: it was not sent, or cannot be omitted.

    `message`: the error.
    """
    fields = drops.get(name)
    if fields is None or (dialect := structs.replace(call.dialect, **fields)) == call.dialect:
        return None
    if not changes_request(call, dialect, encode_request):
        return None
    # a value that is too high or too low is that of this request, and says nothing about other values
    return Adaptation(f"drop {name}", persistent=_VALUE_REFUSED.search(message) is None)


def find_parameter_adaptation(
    call: TranslatedCall[D],
    error: UpstreamError,
    name: str,
    drops: ParameterDrops,
    encode_request: Callable[[TranslatedCall[D]], UpstreamRequest],
) -> Adaptation | None:
    """Return the adaptation after the parameter `name` was rejected, or after an error that names none ("").

    It sends another effort, or omits the parameter.
    """
    if name in _EFFORTS or not name:
        asked = call.request.effort
        level = find_replacement_effort(error.provider_text, asked, dict(call.dialect.effort_names).get(asked, asked))
        if level:
            return Adaptation(f"effort {asked} {level}")
    return find_drop_adaptation(call, name, drops, encode_request, error.provider_text)


def apply_drop_or_effort(dialect: D, name: str, drops: ParameterDrops) -> D:
    """Return the dialect with an adaptation of this module applied. Any other `name` returns it unchanged."""
    verb, _, value = name.partition(" ")
    fields: dict[str, object] = {}
    if verb == "minimum" and value.isdecimal():
        fields["min_output_tokens"] = int(value)
    if verb == "drop":
        fields.update(drops.get(value, {}))
    elif verb == "effort" and len(levels := value.split()) == 2:
        fields["effort_names"] = (*dialect.effort_names, (levels[0], levels[1]))
    return structs.replace(dialect, **fields) if fields else dialect
