"""`prepare`: adapts a client request to one target, with all preparation steps in order.

Its result contains a `PreparedRequest`, from which a wire builds the upstream request. A field without a fidelity note
is sent, or has no effect on the content of the answer, such as `cache_control`.
"""

from collections.abc import Callable, Sequence

from msgspec import Raw

from anthropic_proxy.engine.efforts import EFFORTS, nearest_effort
from anthropic_proxy.engine.messages.citations import NumberedSources, build_format_error, number_passages
from anthropic_proxy.engine.messages.fidelity import FidelityNote, note_replacement
from anthropic_proxy.engine.messages.loaded_tools import (
    NOWHERE,
    DeferredToolPlaces,
    find_unplaced_tools,
    rewrite_history,
)
from anthropic_proxy.engine.messages.media import may_have_media
from anthropic_proxy.engine.messages.models import ABSENT, CleanMessages, Message, MessagesRequest
from anthropic_proxy.engine.messages.models.tools import are_called_by_code
from anthropic_proxy.engine.messages.preparation.cleaning import (
    clean_messages,
    clean_system_prompt,
    merge_messages,
    pair_calls_with_results,
)
from anthropic_proxy.engine.messages.preparation.request import (
    DEFAULT_MAX_TOKENS,
    MIN_MARGIN_TOKENS,
    WINDOW_MARGIN_TOKENS,
    PreparationResult,
    PreparedRequest,
    TargetLimits,
    available_output_tokens,
)
from anthropic_proxy.engine.messages.preparation.tools import (
    ToolNames,
    ToolOffer,
    restore_function_calls,
    select_offered_tools,
    select_tool_choice,
)
from anthropic_proxy.errors import InvalidRequest

_MAX_TOKENS_PER_BYTE = 2
"""Maximum tokens per byte of a request body without images and documents. The product with the body size shows without
counting that a request fits the context window."""
_SAFETY_FACTOR = 1.03
"""Factor for the estimated input when a request is checked for its length. An early rejection makes clients compact
their history in time."""
_NOTHING_OFFERED = ToolOffer([], {}, [])


def prepare(
    request: MessagesRequest,
    limits: TargetLimits,
    count_tokens: Callable[[MessagesRequest], int] | None = None,
    earlier: DeferredToolPlaces = NOWHERE,
) -> PreparationResult:
    """Return the request with all changes that a target requires.

    `earlier`: `PreparationResult.places` of earlier requests of the conversation, as digests. Without `count_tokens`,
    the context window is not checked. Raises `InvalidRequest` or `UnsupportedFeature`.
    """
    notes: list[FidelityNote] = []
    _note_fields(request, limits, notes)
    effort = resolve_effort(request, limits, notes)
    names = ToolNames(limits.tool_name_pattern, limits.max_tool_name_length)
    messages = request.messages
    known: CleanMessages | None = None
    sources: NumberedSources | None = None
    has_tools = request.tools or request.mcp_servers or not isinstance(messages, CleanMessages)  # which may add tools
    offer = select_offered_tools(request, limits, names, notes, earlier) if has_tools else _NOTHING_OFFERED
    if offer.proxy_tools:
        messages = restore_function_calls(messages, offer.proxy_tools)
    if offer.loaded and limits.loaded_tools == "caller":
        messages = rewrite_history(messages, offer.loaded)
    if isinstance(messages, CleanMessages) and (
        not messages.names or names.allow(messages.names.values(), offer.tools)
    ):
        known = messages.known
        messages = merge_messages(messages)
    else:
        messages, sources = number_sources(request, messages, notes)
        messages = pair_calls_with_results(clean_messages(messages, notes), names.upstream_name, notes)
    tools = offer.tools
    if offer.loaded and limits.loaded_tools == "items" and (unplaced := find_unplaced_tools(messages, offer.loaded)):
        tools = [*tools, *unplaced]
    max_tokens, reply_limit = _limit_output(request, limits, effort, count_tokens, notes)
    prepared = PreparedRequest(
        system=clean_system_prompt(request.system),
        messages=messages,
        tools=tools,
        tool_choice=select_tool_choice(request, offer, limits, names, notes) if request.tool_choice else None,
        max_tokens=max_tokens,
        effort=effort,
        temperature=request.temperature,
        service_tier=request.service_tier,
        cache_marks=request.cache_marks,
        user_id=request.metadata.user_id if request.metadata is not None else None,
        accepts_images=limits.accepts_images,
        accepts_pdf=limits.accepts_pdf,
    )
    # what few requests have: a call with more than 15 arguments is slow
    prepared.top_p, prepared.top_k = request.top_p, request.top_k
    if request.stop_sequences:
        prepared.stop_sequences = [text for text in request.stop_sequences if text.strip()]
    prepared.reply_limit = reply_limit
    if (thinking := request.thinking) is not None:
        prepared.shows_thinking = request.shows_thinking
        prepared.asks_for_thinking = thinking.type != "disabled"
        prepared.budget_tokens = thinking.budget_tokens
        prepared.enables_thinking = thinking.type in ("enabled", "adaptive") and bool(limits.efforts)
        prepared.returns_thinking = thinking.display != "omitted" and thinking.type != "disabled"
    if request.output_config is not None or request.output_format is not None:
        prepared.output_schema = _find_reply_schema(request)
    prepared.known = known
    if sources:
        prepared.sources = sources
    if offer.loaded:
        prepared.loaded_tools = offer.loaded
    if request.mcp_servers:
        prepared.mcp_servers = request.mcp_servers
    return PreparationResult(prepared, names.aliases, tuple(notes), offer.proxy_tools, offer.deferred, offer.places)


def number_sources(
    request: MessagesRequest, messages: Sequence[Message], notes: list[FidelityNote]
) -> tuple[list[Message], NumberedSources]:
    """Return the messages with numbers before the passages that the client wants cited.

    Raises `InvalidRequest` if they cannot be cited.
    """
    key, kept = request.citation_key, request.kept_passages
    numbered, sources = number_passages(messages, notes, request.pages, request.picture_texts, key=key, kept=kept)
    if sources and len(_find_reply_schema(request)):
        raise build_format_error()
    return numbered, sources


def _find_reply_schema(request: MessagesRequest) -> Raw:
    config = request.output_config
    form = config.format if config is not None and config.format is not None else request.output_format
    return form.schema.copy() if form is not None and form.type == "json_schema" else ABSENT  # not of the whole body


_MCP_SERVERS = FidelityNote("dropped", "mcp_servers", "the provider is not known to connect to them")
_CONTAINER = FidelityNote("dropped", "container", "no other provider is known to have it")
_REGION = FidelityNote("dropped", "inference_geo", "the proxy cannot control where a model runs")
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


def _note_fields(request: MessagesRequest, limits: TargetLimits, notes: list[FidelityNote]) -> None:
    """Add notes on the fields that no provider with another API has."""
    if request.repairs:
        notes += [FidelityNote("approximated", "body", what) for what in request.repairs]
    if request.mcp_servers and "mcp_toolset" not in limits.server_tools:
        notes.append(_MCP_SERVERS)
    if request.container:
        notes.append(_CONTAINER)
    if request.region:
        notes.append(_REGION)
    if request.context_edits:
        notes += dict.fromkeys(edit.note for edit in request.context_edits)
    config = request.output_config
    if config is not None and len(config.task_budget):
        notes.append(TASK_BUDGET)
    if request.stop_sequences and any(text.strip() for text in request.stop_sequences):
        notes.append(_STOPS)
    messages = request.messages
    late: Sequence[Message]
    if isinstance(messages, CleanMessages):
        late = messages.late_system
    else:
        late = [message for message in messages if message.role == "system"]
    if late:
        if any(message.clear_at == "next_user_message" for message in late):
            notes.append(_CLEARED_LATER)
        # only the last one counts, because earlier ones concern earlier replies
        configs = [bytes(message.output_config) for message in late if len(message.output_config)]
        # Claude Code repeats the effort of the request
        repeated = b'{"effort":"%b"}' % (config.effort or "" if config is not None else "").encode()
        if configs and configs[-1].translate(None, b" ") not in (*_NO_CONFIG, repeated):
            notes.append(_LATE_CONFIG)
    if request.tools and are_called_by_code(request.tools):
        notes.append(_CALLED_BY_CODE)


def _limit_output(
    request: MessagesRequest,
    limits: TargetLimits,
    effort: str,
    count_tokens: Callable[[MessagesRequest], int] | None,
    notes: list[FidelityNote],
) -> tuple[int, int | None]:
    """Return the maximum output tokens to send, and the lower limit at which the proxy cuts the reply, if there is one.

    Raises `InvalidRequest` if the input exceeds the context window.
    """
    requested = request.max_tokens if request.max_tokens is not None else limits.max_output or DEFAULT_MAX_TOKENS
    without_reserve = limit = requested
    reason = ""
    if limits.max_output is not None and limit > limits.max_output:
        without_reserve = limit = limits.max_output
        reason = "the model's limit"
    elif request.max_tokens is not None and (reserve := _reasoning_reserve(request, limits, effort)):
        limit = max(limit, min(limit + reserve, limits.max_output or _MAX_RESERVED_OUTPUT))
    if count_tokens is not None and (room := _find_room(request, limits, limit, without_reserve, count_tokens)) < limit:
        limit = room
        reason = "the remainder of the context window"
    limit = max(limit, 1)
    if limit < requested:
        notes.append(note_replacement("max_tokens", requested, limit, f", {reason}"))
    if limit < limits.min_output:
        what = f", the minimum of {limits.provider}; the proxy cuts the reply at about {limit} tokens"
        notes.append(note_replacement("max_tokens", limit, limits.min_output, what, "emulated"))
        return limits.min_output, limit
    if limit > max(requested, 1):
        what = f", with a reserve for reasoning; the proxy cuts the text at about {requested} tokens"
        notes.append(note_replacement("max_tokens", requested, limit, what))
        return limit, requested
    return limit, None


def _find_room(
    request: MessagesRequest,
    limits: TargetLimits,
    limit: int,
    without_reserve: int,
    count_tokens: Callable[[MessagesRequest], int],
) -> int:
    """Return the output tokens for which the context window has room: `limit`, unless it has less room.

    `without_reserve`: the limit without tokens for reasoning. Raises `InvalidRequest` if the input exceeds the window.
    """
    window = limits.context_window
    if window is None:
        return limit
    available = window - limit - WINDOW_MARGIN_TOKENS - (MIN_MARGIN_TOKENS if limits.margin else 0)
    if limits.reject_overflow and limits.max_input is not None:
        available = min(available, limits.max_input)
    # the size of the body avoids most token counts; only images and documents can have more tokens than bytes
    messages = request.messages
    if (
        not may_have_media(messages)
        and request.body_bytes
        and request.body_bytes * _MAX_TOKENS_PER_BYTE * (1 + limits.margin) <= available
    ):
        return limit
    tokens = count_tokens(request)
    maximum = limits.max_input or window
    if limits.reject_overflow and (raised := round(tokens * _SAFETY_FACTOR)) > maximum:
        raise InvalidRequest(f"prompt is too long: {raised} tokens > {maximum} maximum", code="prompt-too-long")
    room = available_output_tokens(window, tokens, limits.margin)
    is_asked = not limits.margin and without_reserve == request.max_tokens
    if is_asked and without_reserve <= window - tokens - WINDOW_MARGIN_TOKENS:
        room = max(room, without_reserve)  # a client that asks for what fits gets all of it
    return min(limit, room)


_MAX_RESERVED_OUTPUT = 65_536
"""Limit to which a reserve raises the output limit of a model whose own limit is unknown."""
REASONING_RESERVES = {
    "none": 1_024,
    "minimal": 1_024,
    "low": 4_096,
    "medium": 8_192,
    "high": 16_384,
    "xhigh": 32_000,
    "max": 32_000,
}
"""Effort level → tokens for reasoning that are added to a client's limit. A limit that is not lower than they are has
room for both, so nothing is added."""


def _reasoning_reserve(request: MessagesRequest, limits: TargetLimits, effort: str) -> int:
    """Return the output tokens to request besides the client's limit, because reasoning counts as output. 0: none."""
    thinking = request.thinking
    if limits.accepts_thinking_budget and thinking is not None and thinking.budget_tokens is not None:
        return 0  # the client itself divides its limit
    budget = dict(limits.thinking_budgets).get(effort, 0)
    always = limits.always_reasons or (limits.efforts and "none" not in limits.efforts)
    if not always and not (limits.reasons_unasked and effort != "none"):
        return budget
    level = effort if effort != "default" else limits.default_effort or "medium"
    if level == "none" and limits.reasons_unasked:
        level = "medium"
    reserve = REASONING_RESERVES[level]
    if request.max_tokens is not None and request.max_tokens < reserve:
        return max(reserve, budget)
    return budget


def may_lack_room(max_tokens: int | None) -> bool:
    """Return True if reasoning can have used up an output limit before the first word."""
    return max_tokens is not None and max_tokens < REASONING_RESERVES["medium"]


THINKING_BUDGETS = ((4_096, "low"), (16_384, "medium"), (32_000, "high"))
"""Rows: maximum thinking tokens, effort level. A client's token budget gets the level of the first row that allows it.
A larger budget becomes `xhigh`."""
_BUDGET = {
    effort: FidelityNote("approximated", "thinking.budget_tokens", f"sent as the effort {effort}")
    for effort in ("low", "medium", "high", "xhigh")
}
_THINKING_TYPES = ("enabled", "adaptive", "disabled", "between_tools")
_LISTED_TYPES = " or ".join((", ".join(_THINKING_TYPES[:-1]), _THINKING_TYPES[-1]))
_BETWEEN_TOOLS = FidelityNote("approximated", "thinking", "between_tools is sent as the effort low")
_MODEL_DECIDES = FidelityNote("kept", "thinking", "the model decides how much to reason, as it does by default")
NO_KNOWN_EFFORTS = {
    field: FidelityNote("approximated", field, "the model has no known effort levels, so none is sent")
    for field in ("thinking", "output_config.effort")
}
ALWAYS_REASONS = {
    field: FidelityNote("approximated", field, "the model always reasons and has no effort levels, so none is sent")
    for field in ("thinking", "output_config.effort")
}


def resolve_effort(request: MessagesRequest, limits: TargetLimits, notes: list[FidelityNote]) -> str:
    """Return the effort level to send upstream. `notes` receives its differences from the client's request.

    The result `default` means that no level is sent, and `none` that the model must not reason.
    """
    thinking, config = request.thinking, request.output_config
    if thinking is None and config is None:
        return "default"
    if thinking is not None and thinking.type not in _THINKING_TYPES:
        notes.append(FidelityNote("dropped", "thinking", f"{thinking.type!r} is not {_LISTED_TYPES}"))
    requested = _requested_effort(request, notes)
    if not limits.efforts:
        if limits.always_reasons and requested == "default" and thinking is not None:
            notes.append(_MODEL_DECIDES)
        elif thinking is not None or requested != "default":
            reasons = ALWAYS_REASONS if limits.always_reasons else NO_KNOWN_EFFORTS
            notes.append(reasons["output_config.effort" if thinking is None else "thinking"])
        return "default"
    if requested != "default":
        return _fit_effort(requested, request, limits, notes)
    if thinking is not None and thinking.type in ("enabled", "adaptive"):
        if limits.default_effort == "none":
            return nearest_effort("medium", limits.efforts)
        notes.append(_MODEL_DECIDES)
    return "default"


def _fit_effort(requested: str, request: MessagesRequest, limits: TargetLimits, notes: list[FidelityNote]) -> str:
    thinking, config = request.thinking, request.output_config
    names_level = config is not None and config.effort is not None
    gives_budget = thinking is not None and thinking.budget_tokens is not None and not names_level
    if thinking is not None and thinking.type == "between_tools" and requested == "low":
        notes.append(_BETWEEN_TOOLS)
    elif requested in _BUDGET and gives_budget and not limits.accepts_thinking_budget:
        notes.append(_BUDGET[requested])
    if requested == "none":
        effort = next((effort for effort in EFFORTS if effort in limits.efforts), "default")
    else:
        effort = nearest_effort(requested, limits.efforts)
    if effort != requested:
        field = "thinking" if requested == "none" else "output_config.effort"
        levels = ", ".join(limits.efforts)
        notes.append(note_replacement(field, requested, effort, f"; the model supports {levels}"))
    return effort


def _requested_effort(request: MessagesRequest, notes: list[FidelityNote]) -> str:
    thinking, config = request.thinking, request.output_config
    if thinking is not None and thinking.type == "disabled":
        return "none"
    if config is not None and config.effort is not None:
        if config.effort in EFFORTS:
            return config.effort
        notes.append(FidelityNote("approximated", "output_config.effort", "it is not a known level"))
    if thinking is None:
        return "default"
    if thinking.budget_tokens is not None:
        return next((effort for maximum, effort in THINKING_BUDGETS if thinking.budget_tokens <= maximum), "xhigh")
    return "low" if thinking.type == "between_tools" else "default"
