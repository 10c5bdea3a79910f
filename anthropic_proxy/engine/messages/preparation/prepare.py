"""`prepare`: adapts a client request to one target (provider and model), with all preparation steps in order.

Its result contains a `PreparedRequest`, from which a wire (encoder of a provider's API) builds the upstream request. A
field without a fidelity note is sent, or has no effect on the content of the answer, such as `cache_control`.
"""

import functools
from collections.abc import Callable

from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.loaded_tools import find_unplaced_tools, rewrite_history
from anthropic_proxy.engine.messages.models import (
    ABSENT,
    CleanMessages,
    Message,
    MessagesRequest,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    is_string_or_absent,
)
from anthropic_proxy.engine.messages.preparation.cleaning import (
    Transcript,
    clean_messages,
    clean_system_prompt,
    pair_calls_with_results,
)
from anthropic_proxy.engine.messages.preparation.request import (
    STATED_WINDOW_MIN_MARGIN_TOKENS,
    WINDOW_MARGIN_TOKENS,
    PreparationResult,
    PreparedRequest,
    TargetLimits,
    available_output_tokens,
)
from anthropic_proxy.engine.messages.preparation.server_tools import restore_function_calls
from anthropic_proxy.engine.messages.preparation.tools import ToolNames, select_offered_tools, select_tool_choice
from anthropic_proxy.errors import InvalidRequest

_MAX_TOKENS_PER_BYTE = 2
"""Maximum tokens per byte of a request body without images and documents. The product with the body size shows without
counting that a request fits the context window."""
_SAFETY_FACTOR = 1.03
"""Factor for the estimated input when a request is checked for its length. An early rejection makes clients compact
their history in time."""
_DEFAULT_MAX_TOKENS = 8_192


def prepare(
    request: MessagesRequest, limits: TargetLimits, count_tokens: Callable[[MessagesRequest], int] | None = None
) -> PreparationResult:
    """Return the request with all changes that a target (provider and model) requires.

    Without `count_tokens`, the context window is not checked. Raises `InvalidRequest` or `UnsupportedFeature`.
    """
    notes = _notes_on_fields(request, limits)
    names = ToolNames(limits.tool_name_pattern, limits.max_tool_name_length)
    effort, changes = resolve_effort(request, limits)
    notes += changes
    offer = select_offered_tools(request, limits, names, notes)
    messages = restore_function_calls(request.messages, offer.proxy_tools) if offer.proxy_tools else request.messages
    if offer.loaded and limits.loaded_tools == "caller":
        messages = rewrite_history(messages, offer.loaded)
    config, thinking = request.output_config, request.thinking
    system = clean_system_prompt(request.system)
    if isinstance(messages, CleanMessages) and all(names.upstream_name(name) == name for name in messages.called):
        transcript = Transcript()
        transcript.extend(messages)
        messages = transcript.messages
    else:
        messages = pair_calls_with_results(clean_messages(messages, notes), names, notes)
    tools = offer.tools
    if limits.loaded_tools == "items" and (unplaced := find_unplaced_tools(messages, offer.loaded)):
        tools = [*tools, *unplaced]
    form = config.format if config and config.format else request.output_format
    prepared = PreparedRequest(
        system=system,
        messages=messages,
        tools=tools,
        loaded_tools=offer.loaded,
        tool_choice=select_tool_choice(request, offer, limits, names, notes),
        max_tokens=_output_limit(request, limits, count_tokens, notes),
        effort=effort,
        budget_tokens=thinking.budget_tokens if thinking else None,
        returns_thinking=thinking is None or not (thinking.display == "omitted" or thinking.type == "disabled"),
        output_schema=form.schema.copy() if form and form.type == "json_schema" else ABSENT,  # not of the whole body
        stop_sequences=request.stop_sequences and [text for text in request.stop_sequences if text.strip()],
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        service_tier=request.service_tier,
        cache_marks=request.cache_marks,
        user_id=request.metadata.user_id if request.metadata else None,
        mcp_servers=request.mcp_servers,
        accepts_images=limits.accepts_images,
        accepts_pdf=limits.accepts_pdf,
    )
    return PreparationResult(prepared, names.aliases, tuple(notes), offer.proxy_tools, offer.deferred)


_MCP_SERVERS = FidelityNote("dropped", "mcp_servers", "the provider is not known to connect to them")
_CONTAINER = FidelityNote("dropped", "container", "no other provider is known to have it")
_REGION = FidelityNote("dropped", "inference_geo", "the proxy cannot control where a model runs")
_CONTEXT = FidelityNote(
    "approximated", "context_management", "nothing is cleared or summarized: the model receives the complete history"
)
TASK_BUDGET = FidelityNote("approximated", "output_config.task_budget", "not sent to the model")
_STOPS = FidelityNote("emulated", "stop_sequences", "detected in the reply by the proxy")

_CLEARED_LATER = FidelityNote("approximated", "messages.system.clear_at", "the text stays in the conversation")
_LATE_CONFIG = FidelityNote(
    "dropped", "messages.system.output_config", "only the output_config of the whole request is sent"
)
_CALLED_BY_CODE = FidelityNote(
    "approximated", "tools.allowed_callers", "no other provider calls tools from code: the model calls them directly"
)
_NO_CONFIG = (b"", b"null", b"{}")


def _notes_on_fields(request: MessagesRequest, limits: TargetLimits) -> list[FidelityNote]:
    notes: list[FidelityNote] = []
    if request.repairs:
        notes += [FidelityNote("approximated", "body", what) for what in request.repairs]
    if request.mcp_servers and "mcp_toolset" not in limits.server_tools:
        notes.append(_MCP_SERVERS)
    if request.container:
        notes.append(_CONTAINER)
    if request.pins_region:
        notes.append(_REGION)
    if request.clears_context:
        notes.append(_CONTEXT)
    if request.output_config is not None and len(request.output_config.task_budget):
        notes.append(TASK_BUDGET)
    if request.stop_sequences and any(text.strip() for text in request.stop_sequences):
        notes.append(_STOPS)
    # loops, because this runs for each request: a generator costs a call for each item
    cleared, late_config = False, b""
    for message in request.messages:
        if message.role == "system":
            cleared = cleared or message.clear_at == "next_user_message"
            if len(message.output_config):
                late_config = bytes(message.output_config)  # earlier ones concern earlier replies
    if cleared:
        notes.append(_CLEARED_LATER)
    # Claude Code repeats the effort of the request
    effort = request.output_config.effort if request.output_config is not None else None
    if late_config.translate(None, b" ") not in (*_NO_CONFIG, b'{"effort":"%b"}' % (effort or "").encode()):
        notes.append(_LATE_CONFIG)
    for tool in request.tools:
        if tool.allowed_callers and "direct" not in tool.allowed_callers:
            notes.append(_CALLED_BY_CODE)
            break
    return notes


def _output_limit(
    request: MessagesRequest,
    limits: TargetLimits,
    count_tokens: Callable[[MessagesRequest], int] | None,
    notes: list[FidelityNote],
) -> int:
    requested = request.max_tokens if request.max_tokens is not None else limits.max_output or _DEFAULT_MAX_TOKENS
    limit, reason = requested, ""
    if limits.max_output is not None and limit > limits.max_output:
        limit, reason = limits.max_output, "the model's limit"
    if limits.context_window is not None and count_tokens is not None and _may_overflow(request, limit, limits):
        tokens, maximum = count_tokens(request), limits.max_input or limits.context_window
        if limits.reject_overflow and (raised := round(tokens * _SAFETY_FACTOR)) > maximum:
            raise InvalidRequest(f"prompt is too long: {raised} tokens > {maximum} maximum", code="prompt-too-long")
        available = available_output_tokens(limits.context_window, tokens, limits.margin)
        if limit > available:
            limit, reason = available, "the remainder of the context window"
    limit = max(limit, 1)
    if limit < requested:
        notes.append(_lower_limit(requested, limit, reason))
    return limit


@functools.lru_cache(maxsize=256)
def _lower_limit(requested: int, limit: int, reason: str) -> FidelityNote:
    return FidelityNote("approximated", "max_tokens", f"{requested} → {limit}, {reason}")


def _may_overflow(request: MessagesRequest, limit: int, limits: TargetLimits) -> bool:
    """Return True if input and output together may exceed the context window, judged by the size of the body.

    This fast comparison avoids most token counts. `limit`: maximum output tokens.
    """
    available = (limits.context_window or 0) - limit - WINDOW_MARGIN_TOKENS
    if limits.margin:
        available -= STATED_WINDOW_MIN_MARGIN_TOKENS
    if limits.reject_overflow and limits.max_input is not None:
        available = min(available, limits.max_input)
    return (
        not request.body_bytes
        or request.body_bytes * _MAX_TOKENS_PER_BYTE * (1 + limits.margin) > available
        or _may_have_media(request.messages)
    )


def _may_have_media(messages: list[Message]) -> bool:
    if isinstance(messages, CleanMessages):
        return not messages.light
    for message in messages:
        if isinstance(message.content, str):
            continue
        for block in message.content:
            if isinstance(block, ToolResultBlock):
                if not is_string_or_absent(block.content):
                    return True
            elif not isinstance(block, TextBlock | ToolUseBlock | ThinkingBlock):
                return True
    return False


_SCALE = ("minimal", "low", "medium", "high", "xhigh", "max")
_BUDGETS = ((4_096, "low"), (16_384, "medium"), (32_000, "high"))
"""Rows: maximum thinking tokens, effort level. A client's token budget gets the level of the first row that allows it.
A larger budget becomes `xhigh`."""
_BUDGET = {
    effort: FidelityNote("approximated", "thinking.budget_tokens", f"sent as the effort {effort}")
    for effort in ("low", "medium", "high", "xhigh")
}
_BETWEEN_TOOLS = FidelityNote("approximated", "thinking", "between_tools is sent as the effort low")
_MODEL_DECIDES = FidelityNote("kept", "thinking", "the model decides how much to reason, as it does by default")
NO_KNOWN_EFFORTS = "the model has no known effort levels, so none is sent"
_UNSUPPORTED = {
    field: FidelityNote("approximated", field, NO_KNOWN_EFFORTS) for field in ("thinking", "output_config.effort")
}


def resolve_effort(request: MessagesRequest, limits: TargetLimits) -> tuple[str, list[FidelityNote]]:
    """Return the effort level to send upstream, and fidelity notes on its differences from the client's request.

    The result `default` means that no level is sent, and `none` that the model must not reason.
    """
    thinking, config = request.thinking, request.output_config
    notes: list[FidelityNote] = []
    requested = _requested_effort(request, notes)
    if not limits.efforts:
        if thinking is not None:
            notes.append(_UNSUPPORTED["thinking"])
        elif requested != "default":
            notes.append(_UNSUPPORTED["output_config.effort"])
        return "default", notes
    if requested == "default":
        wants_thinking = thinking is not None and thinking.type in ("enabled", "adaptive")
        if limits.default_effort == "none" and wants_thinking:
            return _nearest_level("medium", limits.efforts), notes
        return "default", [*notes, _MODEL_DECIDES] if wants_thinking else notes
    names_level = config is not None and config.effort is not None
    gives_budget = thinking is not None and thinking.budget_tokens is not None and not names_level
    if thinking is not None and thinking.type == "between_tools" and requested == "low":
        notes.append(_BETWEEN_TOOLS)
    elif requested in _BUDGET and gives_budget and not limits.accepts_thinking_budget:
        notes.append(_BUDGET[requested])
    if requested == "none":
        effort = next((effort for effort in ("none", *_SCALE) if effort in limits.efforts), "default")
    else:
        effort = _nearest_level(requested, limits.efforts)
    if effort != requested:
        field = "thinking" if requested == "none" else "output_config.effort"
        notes.append(_nearest_note(field, requested, effort, limits.efforts))
    return effort, notes


@functools.lru_cache(maxsize=256)
def _nearest_note(field: str, requested: str, effort: str, efforts: tuple[str, ...]) -> FidelityNote:
    return FidelityNote("approximated", field, f"{requested} → {effort}; the model supports {', '.join(efforts)}")


def _requested_effort(request: MessagesRequest, notes: list[FidelityNote]) -> str:
    thinking, config = request.thinking, request.output_config
    if thinking is not None and thinking.type == "disabled":
        return "none"
    if config is not None and config.effort is not None:
        if config.effort == "none" or config.effort in _SCALE:
            return config.effort
        notes.append(FidelityNote("approximated", "output_config.effort", "it is not a known level"))
    if thinking is None:
        return "default"
    if thinking.budget_tokens is not None:
        return next((effort for maximum, effort in _BUDGETS if thinking.budget_tokens <= maximum), "xhigh")
    return "low" if thinking.type == "between_tools" else "default"


def _nearest_level(requested: str, efforts: tuple[str, ...]) -> str:
    place = _SCALE.index(requested)
    below = [effort for effort in _SCALE[: place + 1] if effort in efforts]
    above = [effort for effort in _SCALE[place + 1 :] if effort in efforts]
    return below[-1] if below else above[0] if above else "default"
