"""Page of one request: outcome, figures, timeline, changes by the proxy, tokens and cost, stored texts."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from msgspec import Struct, structs
from sqlalchemy import Connection

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.conversation import (
    CallVerdict,
    build_turns,
    build_verdict,
    find_cache_breaks,
    find_image,
    format_json,
)
from anthropic_proxy.console.dashboard.page import Figure, OpenTexts, Page, PageContext, PageTable
from anthropic_proxy.console.dashboard.query import require_valid_text
from anthropic_proxy.console.dashboard.services import DashboardServices
from anthropic_proxy.console.dashboard.web import SECURITY_HEADERS
from anthropic_proxy.console.ledger import queries
from anthropic_proxy.console.ledger.contents import StoredContent
from anthropic_proxy.console.ledger.costs import ModelCosts
from anthropic_proxy.console.ledger.export import ExportTable, tabulate_requests
from anthropic_proxy.console.ledger.receipt_queue import EXCHANGE_PATH, MAX_CONTENT_BYTES
from anthropic_proxy.console.ledger.records import (
    AttemptTime,
    StoredRequest,
    decode_attempt_times,
    decode_block_times,
    decode_checks,
    decode_inspections,
    decode_model_usage,
    describe_part,
    find_context,
)
from anthropic_proxy.console.ledger.request_queries import (
    find_check_requests,
    find_stored_request,
    list_failed_attempts,
    list_fallbacks,
    list_notes,
    read_contents,
    sum_sessions,
)
from anthropic_proxy.console.session_names import find_names
from anthropic_proxy.console.units import MICROSECONDS, to_microseconds
from anthropic_proxy.engine.messages.deltas import TokenCounts
from anthropic_proxy.errors import UnknownModel
from anthropic_proxy.gateway.error_catalog import find_cause, find_remedy
from anthropic_proxy.gateway.money import format_cost, format_price
from anthropic_proxy.gateway.telemetry.outcomes import (
    INSPECTIONS,
    count_verdicts,
    describe_cause,
    describe_outcome,
    list_findings,
)
from anthropic_proxy.plugins import ModelUsage, RouteRequest, RouteResponse

MAX_TEXT_CHARACTERS = 20_000
MAX_BLOCK_BARS = 40
MAX_BLOCK_EVENTS = 500
_MAX_STEPS = 6
_MIN_WAIT = 50_000
"""Microseconds between a failed attempt and the next one, from which the timeline shows them as a wait."""
_SUMMARIES = {
    "ok": "Succeeded",
    "truncated": "Truncated by the token limit",
    "refused": "Refused by the model",
    "cancelled": "Cancelled by the client",
}
_HANDLINGS = {"dropped": ("✕", "error"), "kept": ("✓", "ok")}
_ROLES = {"text": "text", "thinking": "thinking", "tool call": "tool", "server tool": "tool"}


def build_request_page(context: PageContext) -> Mapping[str, Any] | None:
    """Return the values for the template of the page of one request. None: the ledger does not have the request."""
    request_id = context.path_parameters["id"]
    require_valid_text("request id", request_id)
    row = find_stored_request(context.connection, request_id)
    if row is None:
        return None
    older, newer = queries.find_neighbors(context.connection, row)
    notes = [(*_HANDLINGS.get(note.handling, ("~", "warn")), note) for note in list_notes(row)]
    handlings = Counter(note.handling for *_, note in notes)
    hidden = context.open_texts(row.id, [row])
    stored = {content.kind: content for content in read_contents(context.connection, row.id)}
    costs = ModelCosts(context.settings)
    (turn,) = build_turns([row], {row.id: stored}, find_cache_breaks([row], costs))
    if row.error:  # a panel of its own shows it
        turn = structs.replace(turn, reply=[block for block in turn.reply if not block.is_error])
    texts = {kind: _shorten(content, format_json(content.data)) for kind, content in stored.items()}
    tokens = row.all_input_tokens
    window = find_max_input(context, row)
    # signs of the failed attempts are beside that of a retried request
    outcome_class = "ok" if row.outcome_class == "retried" else row.outcome_class
    sign, role, outcome = describe_outcome(outcome_class, row.outcome, row.status)
    if outcome_class != "cancelled":
        outcome = f"{row.status} {row.outcome}".strip()
    checks = decode_checks(row.checks)
    check_requests = {} if row.parent else find_check_requests(context.connection, checks)
    check_note = count_verdicts(checks)
    if check_requests:
        unknown = sum(request.cost is None for request in check_requests.values())
        check_note += f" · {format_cost(sum(request.cost or 0 for request in check_requests.values()), unknown)}"
    setting = costs.find_key_setting(row.provider)
    fallbacks = context.settings.fallbacks
    remedy = find_remedy(row.error_code, setting, row.requested_model, row.prefix, row.remedy, fallbacks=fallbacks)
    share = f"{formats.percent(find_context(row), window)} of the window of {formats.short_count(window)}"
    return {
        "title": f"Request {row.id}",
        "row": row,
        "cause": " ".join(describe_cause(row.kind)).capitalize(),
        "summary": summarize_outcome(row),
        "tag_parts": (sign, role, outcome),
        "failed": list_failed_attempts(row),
        "figures": _list_figures(row),
        "timeline": build_timeline(row),
        "attempts": list_attempts(row),
        "notes": notes,
        "note_counts": " · ".join(f"{number} {name}" for name, number in handlings.items()) or "all fields unchanged",
        "adaptations": json.loads(row.adaptations or "[]"),
        "checks": list(list_check_rows(row, check_requests)),
        "inspections": [
            (
                INSPECTIONS[record.decision],
                record,
                list_findings(record),
                formats.seconds(to_microseconds(record.seconds)),
            )
            for record in decode_inspections(row.inspections)
        ],
        "check_note": check_note,
        "tokens": _tokens(costs, row),
        "older": older,
        "newer": newer,
        "turn": turn,
        "texts": [(kind.capitalize(), *texts[kind]) for kind in ("request", "reply") if kind in texts],
        "hidden": hidden,
        "replay_problem": _explain_no_replay(row, stored.get("request")),
        "sent": texts.get("sent"),
        "events": list_client_events(row),
        "error": find_cause(row.error, row.remedy),
        "remedy": remedy,
        "content_days": context.settings.ledger_content_days,
        "context": tokens,
        "window": share if tokens and window else "",
        **_describe_session(context, row),
    }


def _describe_session(context: PageContext, row: StoredRequest) -> Mapping[str, str]:
    """Return the name of the session, and the place of the request in it."""
    if not row.session:
        return {"session_name": "", "place": ""}
    number, whole = queries.find_session_position(context.connection, row)
    names = find_names(context.connection, sum_sessions(context.connection, [row.session]))
    place = f"request {formats.count(number)} of {formats.count(whole)}" if row.requested_model else ""
    return {"session_name": names.get(row.session, row.session), "place": place}


def _explain_no_replay(row: StoredRequest, sent: StoredContent | None) -> str:
    """Return why the request cannot be sent again. "": it can."""
    if row.path != EXCHANGE_PATH:
        return f"Requests to {row.path} cannot be sent again."
    if sent is None:
        return "The request cannot be sent again: its text is not stored."
    return "The request cannot be sent again: only the beginning of its text is stored." if sent.is_cut else ""


def _list_figures(row: StoredRequest) -> list[Figure]:
    start = formats.clock_time(row.started_at)
    end = formats.clock_time(row.started_at + row.duration)
    note = "no content"
    if row.first_token:
        note = f"{formats.percent(row.first_token, row.duration)} of the total"
        if lost := sum_failed_attempt_time(row):
            note += f" · {formats.seconds(lost)} in failed attempts and waits"
    figures = [
        Figure("Total", formats.seconds(row.duration), f"at {start}" if start == end else f"{start} to {end}"),
        Figure("Time to first token", formats.seconds(row.first_token or None), note),
    ]
    tokens = row.all_input_tokens
    cached = row.cache_read_tokens
    if not (tokens or row.output_tokens):
        return [*figures, *(Figure(title, formats.UNKNOWN, "no tokens") for title in ("Input", "Output", "Cost"))]
    read = f"{formats.count(cached)} read from cache, {formats.percent(cached, tokens)}"
    speed = f"{formats.rate(row.output_rate)} · " if row.output_rate else ""
    endings = {"error": row.outcome, "cancelled": "cancelled, partly estimated"}
    ending = endings.get(row.outcome_class, f"stop reason {row.outcome}")
    if row.cost is None:
        price = row.price_source or f"no price of {row.prefix or row.provider}/{row.model} was known"
    elif row.requested_cost is None:
        price = f"no price of {row.requested_model} is known"
    else:
        price = f"{format_cost(row.requested_cost)} at {row.requested_model}'s price"
    return [
        *figures,
        Figure("Input", formats.count(tokens), read if cached else "none read from cache"),
        Figure("Output", formats.count(row.output_tokens), speed + ending),
        Figure("Cost", format_cost(row.cost), price),
    ]


def summarize_outcome(row: StoredRequest) -> str:
    failed = list_failed_attempts(row)
    name = row.prefix or row.provider
    retries = {0: "", 1: " after one retry"}.get(len(failed), f" after {len(failed)} retries")
    if any(list_fallbacks(row)):
        is_same = failed[0].partition(" ")[0] == name
        retries = f" after a fallback to {name}/{row.model}" if is_same else f" after a fallback to {name}"
    if row.outcome_class == "error":
        return f"Failed with {row.status}{retries}"
    if row.outcome_class == "retried":
        return f"Succeeded{retries}"
    return _SUMMARIES.get(row.outcome_class, row.outcome) + retries


def find_max_input(context: PageContext, row: StoredRequest) -> int | None:
    name = f"{row.prefix or row.provider}/{row.model}"
    models = context.describe_models([name], row.key_label) if row.model else ()
    return next((model.max_input for model in models if model.model == name), None)


class CheckRow(Struct, frozen=True):
    """The verdict about a tool call of the reply, or that of one of two checking models."""

    tool: str
    verdict: CallVerdict
    request: str = ""
    """Request to the checking model. "": none was asked, or the rows of two models follow."""
    provider: str = ""
    model: str = ""
    tokens: str = formats.UNKNOWN
    cost: str = formats.UNKNOWN
    time: str = formats.UNKNOWN


def list_check_rows(row: StoredRequest, check_requests: Mapping[str, StoredRequest]) -> Iterator[CheckRow]:
    """`check_requests`: id → request to a checking model."""
    for check in decode_checks(row.checks):
        tool = formats.shorten(check.tool, 64)
        verdict = build_verdict(check)
        if len(verdict.requests) != 1:
            yield CheckRow(tool, verdict)
        for request_id in verdict.requests:
            if (request := check_requests.get(request_id)) is None:
                yield CheckRow(tool, verdict, request_id)
                continue
            request_verdict = build_verdict(checks[0]) if (checks := decode_checks(request.checks)) else verdict
            tokens = f"{formats.count(request.all_input_tokens)} in, {formats.count(request.output_tokens)} out"
            cost = format_cost(request.cost)
            time = formats.seconds(request.duration)
            yield CheckRow(
                tool, request_verdict, request_id, request.prefix or request.provider, request.model, tokens, cost, time
            )


class TokenCost(Struct, frozen=True):
    name: str
    role: str
    """CSS class of the color of this kind of token. "": web searches, which have no color."""
    tokens: str
    price: str
    """Price in dollars per million tokens, as text. "": unknown, or free."""
    cost: str


def _tokens(prices: ModelCosts, row: StoredRequest) -> list[TokenCost]:
    """Divide the stored cost, without the searches and other models, among the kinds of tokens. The current prices give
    the shares.
    """
    parts = decode_model_usage(row.model_usage)
    own_part = next((part for part in parts if (part.provider, part.model) == (row.provider, row.model)), None)
    others = [_describe_part(part) for part in parts if part is not own_part]
    tokens: TokenCounts = row
    own_cost = row.cost
    if parts:
        tokens, own_cost = (own_part, own_part.cost) if own_part is not None else (TokenCounts(), 0)
    search_cost = 0
    searches = list[TokenCost]()
    if count := row.billed_searches:
        price = prices.find_price(row.provider, row.model)
        whole = None if price is None else price.calculate_search_cost(count)
        unit_cost = cost = ""
        if price is not None and whole is not None:
            search_cost = whole if own_cost is None else min(whole, own_cost)
            unit_cost = f"{format_cost(price.calculate_search_cost(1_000))} per 1,000"
            cost = format_cost(search_cost)
        searches.append(TokenCost("web search", "", formats.count(count), unit_cost, cost))
    costs = prices.divide_cost(row.provider, row.model, tokens, own_cost - search_cost) if own_cost else {}
    token_costs = []
    for kind, number in tokens.divide_by_kind().items():
        amount = costs.get(kind)
        if number or kind in ("input", "output"):
            unit_cost = format_price(round(amount / number / 1_000, 4)) if amount and number else ""
            cost = format_cost(amount) if amount else ""
            shown = formats.count(number) if row.all_input_tokens or row.output_tokens else formats.UNKNOWN
            token_costs.append(TokenCost(kind.replace("_", " "), kind.replace("_", "-"), shown, unit_cost, cost))
    return [*token_costs, *searches, *others]


def _describe_part(part: ModelUsage) -> TokenCost:
    tokens = f"{formats.count(part.all_input_tokens)} in, {formats.count(part.output_tokens)} out"
    return TokenCost(describe_part(part), "", tokens, "", format_cost(part.cost))


def _shorten(stored: StoredContent, text: str) -> tuple[str, str]:
    size = f"{formats.count(stored.size)} bytes"
    if stored.is_cut:
        size += f", the first {formats.count(MAX_CONTENT_BYTES)} are stored"
    if len(text) > MAX_TEXT_CHARACTERS:
        size += f", the first {formats.count(MAX_TEXT_CHARACTERS)} characters are shown"
    return size, text[:MAX_TEXT_CHARACTERS]


class Bar(Struct, frozen=True):
    """One bar of the timeline. `start` and `share` are beginning and length as fractions (0 to 1) of the time scale."""

    name: str
    role: str
    start: float
    share: float
    begins: str
    time: str
    text: str = ""


class AttemptRow(Struct, frozen=True):
    provider: str
    model: str
    failure: str
    """HTTP status and duration of a failed attempt: `429 after 0.21 s`. "": the attempt succeeded."""
    error: str


class Timeline(Struct, frozen=True):
    bars: Sequence[Bar]
    ticks: Sequence[str]
    first_token: float | None
    """Position of the first token on the time scale, 0 to 1. None: the reply has no content."""


def build_timeline(row: StoredRequest) -> Timeline:
    attempts = decode_attempt_times(row.attempt_times)
    end = max([row.duration, 1, *(attempt.offset + attempt.duration for attempt in attempts)])
    # 1, 2 or 5 times a power of ten
    step = next(step for power in count() for factor in (1, 2, 5) if end <= (step := factor * 10**power) * _MAX_STEPS)
    steps = -(-end // step)
    scale = float(step * steps)
    if attempts:
        bars = [*_attempt_bars(row, attempts, scale)]
    else:  # bars for waiting and reply
        total = max(row.duration, 1)
        failures = list_failed_attempts(row)
        first = min(row.first_token, total) if row.first_token else total
        name = "wait for the first token" if row.first_token else "wait"
        name = "failed attempts and wait" if failures else name
        role = "bad" if row.outcome_class == "error" and not row.first_token else "wait"
        bars = [_bar(name, role, (0, first), scale, ", ".join(failures))]
        bars += _reply_bars(row, (first, total), scale) if first < total else []
    unit, name = (1_000, "ms") if step < 10_000 else (MICROSECONDS, "s")
    decimals = len(f"{step / unit:g}".partition(".")[2])
    ticks = [f"{number * step / unit:.{decimals if number else 0}f} {name}" for number in range(steps)]
    return Timeline(bars, ticks, row.first_token / scale if row.first_token else None)


def sum_failed_attempt_time(row: StoredRequest) -> int:
    """Microseconds of failed calls to providers, and of the waits after them, before the first token of the reply."""
    first = row.first_token or row.duration
    attempts = decode_attempt_times(row.attempt_times)
    starts = [*(attempt.offset for attempt in attempts[1:]), first]
    failed = [
        (attempt, min(start, first)) for attempt, start in zip(attempts, starts, strict=False) if attempt.error_type
    ]
    return sum(end - attempt.offset for attempt, end in failed if attempt.offset + attempt.duration <= first)


def _bar(name: str, role: str, span: tuple[int, int], scale: float, text: str = "") -> Bar:
    start, end = span
    begins = formats.seconds(start)
    time = formats.seconds(end - start)
    return Bar(name, role, start / scale, (end - start) / scale, begins, time, text)


def _attempt_bars(row: StoredRequest, attempts: Sequence[AttemptTime], scale: float) -> Iterator[Bar]:
    failed_at = None
    for number, attempt in enumerate(attempts, 1):
        end = attempt.offset + attempt.duration
        name = f"attempt {number}"
        if failed_at is not None and attempt.offset - failed_at >= _MIN_WAIT:
            yield _bar("wait", "wait", (failed_at, attempt.offset), scale, f"before attempt {number}")
        failed_at = end if attempt.error_type else None
        first = row.first_token or end
        if attempt.error_type and not attempt.offset < first < end:
            yield _bar(name, "bad", (attempt.offset, end), scale, f"{attempt.provider}: {_failure(attempt)}")
        elif attempt.offset < first < end:
            yield _bar(name, "wait", (attempt.offset, first), scale, f"{attempt.provider}: wait for the first token")
            if attempt.error_type:
                yield _bar("reply", "bad", (first, end), scale, _failure(attempt))
            else:
                yield from _reply_bars(row, (first, end), scale)
        else:
            yield _bar(name, "text", (attempt.offset, end), scale, attempt.provider)


def list_attempts(row: StoredRequest) -> list[AttemptRow]:
    """The list is empty if the ledger has no times of these calls."""
    rows = []
    for attempt in decode_attempt_times(row.attempt_times):
        failure = f"{_failure(attempt)} after {formats.seconds(attempt.duration)}" if attempt.error_type else ""
        rows.append(AttemptRow(attempt.provider, attempt.model, failure, attempt.error))
    return rows


def _failure(attempt: AttemptTime) -> str:
    return str(attempt.status) if attempt.status else attempt.error_type


def _reply_bars(row: StoredRequest, span: tuple[int, int], scale: float) -> Iterator[Bar]:
    """Yield a bar for each content block of the reply, or one for the whole reply if the blocks are not stored."""
    blocks = decode_block_times(row.reply_blocks)
    last = max(span[1], min(row.duration, int(scale)))  # blocks of a tool loop arrive in several attempts
    if not blocks:
        yield _bar("reply", "text", span, scale, f"{formats.count(row.output_tokens)} tokens")
    for block in blocks[:MAX_BLOCK_BARS]:
        begin = min(block.offset, last)
        end = min(block.offset + block.duration, int(scale)) if block.duration else last
        text = formats.plural(block.characters, "character") if block.characters else ""
        yield _bar(block.name or block.kind, _ROLES[block.kind], (begin, max(begin, end)), scale, text)
    if len(blocks) > MAX_BLOCK_BARS:
        hidden = blocks[MAX_BLOCK_BARS].offset
        text = formats.plural(len(blocks) - MAX_BLOCK_BARS, "block")
        yield _bar("more", "text", (min(hidden, last), last), scale, text)


class ClientEvent(NamedTuple):
    time: str
    name: str
    """Type of the event: `content_block_start`. `–`: the client disconnected."""
    description: str


def list_client_events(row: StoredRequest) -> list[ClientEvent]:
    """The list is empty if the reply was not streamed, or if the ledger has no times of its content blocks."""
    blocks = decode_block_times(row.reply_blocks)
    if not (blocks and row.stream and row.first_token):
        return []
    events = [ClientEvent(_moment(row.first_token), "message_start", f"model {row.requested_model}")]
    for index, block in enumerate(blocks[:MAX_BLOCK_EVENTS]):
        kind = {"tool call": f"tool_use {block.name}", "server tool": "block of a server tool"}.get(
            block.kind, block.kind
        )
        events.append(ClientEvent(_moment(block.offset), "content_block_start", f"{index} {kind}"))
        if block.duration:
            size = f", {formats.plural(block.characters, 'character')}" if block.characters else ""
            events.append(ClientEvent(_moment(block.offset + block.duration), "content_block_stop", f"{index}{size}"))
    if (hidden := len(blocks) - MAX_BLOCK_EVENTS) > 0:
        more = f"{formats.plural(hidden, 'block')} more"
        events.append(ClientEvent(_moment(blocks[MAX_BLOCK_EVENTS].offset), "…", more))
    moment = _moment(row.duration)
    if row.outcome_class == "error":
        return [*events, ClientEvent(moment, "error", row.error_type)]
    if row.outcome_class == "cancelled":
        return [*events, ClientEvent(moment, "–", "the client disconnected")]
    end = f"stop reason {row.outcome}, {formats.count(row.output_tokens)} output tokens"
    return [*events, ClientEvent(moment, "message_delta", end), ClientEvent(moment, "message_stop", "")]


def _moment(microseconds: int) -> str:
    return f"{microseconds / MICROSECONDS:.3f} s"


def _tabulate_request(context: PageContext) -> ExportTable:
    row = find_stored_request(context.connection, context.path_parameters["id"])
    if row is None:
        raise UnknownModel(f"The ledger has no request {context.path_parameters['id']!r}.", code="ledger-request")
    return tabulate_requests([row])


async def send_image(services: DashboardServices, request: RouteRequest) -> RouteResponse:
    """Send an image of the new messages of a request, which the page of the request and its session show."""
    request_id = request.path_parameters["id"]
    number = request.path_parameters["number"]

    def find(connection: Connection, open_texts: OpenTexts) -> tuple[str, bytes] | None:
        if (row := find_stored_request(connection, request_id)) is not None:
            open_texts(row.id, [row])
        stored = {content.kind: content for content in read_contents(connection, request_id)}
        is_number = number.isascii() and number.isdecimal() and len(number) < 6
        return find_image(stored["request"].data, int(number)) if is_number and "request" in stored else None

    require_valid_text("request id", request_id)
    image = await services.read("Requests", request, find)
    if image is None:
        raise UnknownModel("The ledger has no such image.", code="ledger-request")
    fields = {"content-type": image[0], "cache-control": "no-store", **SECURITY_HEADERS}
    fields["content-security-policy"] = "default-src 'none'; sandbox"
    return RouteResponse(headers=fields, body=image[1])


PAGE = Page(
    section="Requests",
    template="request.html",
    build=build_request_page,
    tables={"request": PageTable(_tabulate_request)},
    missing="The ledger has no request with this id. It was deleted, is still running, or belongs to another proxy.",
)
