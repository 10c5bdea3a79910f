"""Command `statusline`: one line for the status line of Claude Code, from the JSON on its standard input and the proxy.

It always prints a line and ends with status 0, because Claude Code shows nothing otherwise: without a proxy, without a
ledger, and for an input that is no JSON.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.local_proxy import RECENT_PATH, find_proxy
from anthropic_proxy.cli.output import Output, open_data_output
from anthropic_proxy.cli.proxy_client import get_json
from anthropic_proxy.console import formats
from anthropic_proxy.console.client_variables import ASSUMED_MODEL, COMPACT_WINDOW, LIMITING_MODEL, MAX_CONTEXT
from anthropic_proxy.console.ledger.records import StoredRequest, count_lost_tokens
from anthropic_proxy.console.units import MICROSECONDS
from anthropic_proxy.engine.messages.purpose import KINDS_BESIDE
from anthropic_proxy.engine.options import LONG_CONTEXT_SUFFIX
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.money import NANO_DOLLARS, UNKNOWN_AMOUNT, format_amount, format_cost
from anthropic_proxy.gateway.settings import copy_environment
from anthropic_proxy.gateway.telemetry.log.columns import count_columns, cut

TIMEOUT_SECONDS = 0.8
"""Maximum time in seconds for the replies to one round of requests. What is missing then is left out of the line."""
_MAX_INPUT_CHARACTERS = 1_000_000
_MAX_WORD_CHARACTERS = 80
_MAX_NUMBER = 10**15
_SEPARATOR = " · "
_PADDING = 4
"""Columns of the terminal, of which Claude Code tells the number by COLUMNS, that it does not use for the line."""
_MIN_NAME = 12
"""Number of columns that remain of the name of the model in a narrow terminal."""
_MIN_PROBLEM = 24
"""Number of columns that remain of the problems in a narrow terminal."""
_SESSION_DAYS = 7
"""Age in days after which requests no longer count for the cost of their session."""
_SUMS = {
    "today": "/api/usage?by=session&since=today",
    "session": f"/api/usage?by=session&since={_SESSION_DAYS}d",
    "budget": "/api/budget",
    "own": "/api/oauth/usage",
}
"""Paths and queries of sums. Not each reader may ask for them: `/api/requests/recent` names those that he may."""


def statusline() -> None:
    text = "" if sys.stdin.isatty() else sys.stdin.buffer.read(_MAX_INPUT_CHARACTERS).decode("utf-8", "replace")
    environ = copy_environment()
    columns = max(_read_number(environ, "COLUMNS") - _PADDING, 0)
    window = _read_number(environ, MAX_CONTEXT)
    limiting = environ.get(LIMITING_MODEL, "")
    is_fixed = environ.get(COMPACT_WINDOW) != environ.get(MAX_CONTEXT)  # `code` sets both to one value
    is_assumed = ASSUMED_MODEL in environ
    line = build_line(text, _find_proxy(), window, limiting, columns, is_fixed=is_fixed, is_assumed=is_assumed)
    Output(open_data_output()).write_line(line)


def _read_number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else 0


Reader = Callable[[str], Any]
"""Function that returns the JSON at a path of the proxy. None: there is no such reply."""


def _find_proxy() -> Reader:
    """Return a reader for the proxy that Claude Code uses, or the one on PORT of the settings."""
    environ = copy_environment()
    address = environ.get("ANTHROPIC_BASE_URL", "")
    token = environ.get("ANTHROPIC_AUTH_TOKEN", "")
    certificate = ""
    try:
        url = urlsplit(address)
        host = url.hostname or "127.0.0.1"
        port = url.port or 80
        if url.scheme != "http":
            settings = load_command_settings(is_client=True)
            certificate = settings.tls_certificate_file or ""
            if not address:
                proxy = find_proxy(settings, TIMEOUT_SECONDS)
                return lambda path: None if proxy is None else proxy.get_json(path, TIMEOUT_SECONDS)
            if url.scheme != "https" or not certificate:  # without the certificate, the token would be sent in clear
                return lambda path: None
            port = url.port or 443
    except (ConfigurationError, ValueError):
        return lambda path: None
    return lambda path: get_json(host, port, path, token, certificate, timeout=TIMEOUT_SECONDS)


def build_line(
    text: str,
    read: Reader,
    window: int = 0,
    limiting: str = "",
    columns: int = 0,
    *,
    is_fixed: bool = False,
    is_assumed: bool = False,
) -> str:
    """Return the line. `text`: JSON of Claude Code. `read`: reader for the proxy. `window`: tokens of the model;
    0: the one that Claude Code assumes. `limiting`: another model that has this window; "": none. `columns`: width for
    which the line is shortened; 0: no limit. `is_fixed`: the user has chosen this window. `is_assumed`: `code` and
    `env` did not know it.
    """
    try:
        session = json.loads(text)
    except (ValueError, RecursionError):
        session = {}
    session_id = _text(session, "session_id")
    model = _text(session, "model", "id").removesuffix(LONG_CONTEXT_SUFFIX)
    replies = _read_all(read, {"recent": RECENT_PATH})
    served = _get(replies.get("recent"), "sums")  # an earlier version of the proxy does not say it
    is_any = not isinstance(served, list)
    replies |= _read_all(
        read, {name: path for name, path in _SUMS.items() if is_any or path.partition("?")[0] in served}
    )

    # the last reply to the conversation itself: a title or a sub-agent may have another model
    of_conversation = _list_of_conversation(replies.get("recent"), session_id)
    own_replies = [receipt for receipt in of_conversation if _text(receipt, "model") and not _text(receipt, "agent")]
    main = [receipt for receipt in own_replies if _text(receipt, "requested_model") in ("", model)]
    receipt = next(reversed(main), None)
    target = f"{_text(receipt, 'prefix')}/{_text(receipt, 'model')}" if _text(receipt, "model") else ""
    name = _clean(target) or _clean(_text(session, "model", "display_name")) or "no model yet"
    hint = "choose a provider: anthropic-proxy init" if name == "demo/demo" else ""
    if chosen := _clean(_text(replies.get("recent"), "chosen_models", session_id)):
        hint = "chosen" if _clean(_text(receipt, "session_model")) == chosen else f"next: {chosen}"

    of_target = _number(_get(replies.get("recent"), "windows"), target)
    of_client = _get(session, "context_window")
    used = _count_tokens(own_replies, receipt) or _number(of_client, "total_input_tokens")
    shown_window = min(filter(None, (window, of_target)), default=0) or _number(of_client, "context_window_size")
    share = note = ""
    if used and shown_window:
        share = f"{formats.percent(used, shown_window)} of {formats.short_count(shown_window)}"
        share += " (assumed)" if is_assumed and not of_target else ""
        other = limiting if limiting != target else ""
        # without a reply of the proxy, the window of the target is unknown
        is_unknown = bool(replies) and not of_target
        note = _describe_window(window, of_target, other, is_kept=is_fixed or bool(limiting), is_unknown=is_unknown)

    groups = _list(replies.get("session"), "groups") if session_id else []
    of_session = next((group for group in groups if _text(group, "name") == session_id), None)
    costs = _describe_costs({"session": of_session, "today": _get(replies.get("today"), "total")})

    own = replies.get("own")
    spent = _number(_get(own, "extra_usage", "daily"), "used_credits")
    if spent and "today" not in costs:  # a team key reads no sums of the ledger
        costs["today"] = f"today {_format_dollars(spent / _CENTS)}"
    own_budget = _read_own_budget(own)  # the most used one, also among those of the proxy
    budgets = [own_budget] if own_budget else _list(replies.get("budget"), "budgets")
    costs |= {label: text for label, text in map(_describe_budget, budgets) if text}

    problems = [*_list_problems(receipt, main, of_conversation), *filter(None, map(_describe_budget_problem, budgets))]
    if not replies:  # /health needs no key
        problems.append("no data for this key" if _read_all(read, {"health": "/health"}) else "no proxy responds")
    parts = {"note": note, **{label: _join(text) for label, text in costs.items()}}
    return _fit(name, _join(hint, share), parts, _join(*problems), columns or sys.maxsize)


def _list_of_conversation(recent: object, session_id: str) -> list[object]:
    """Return the receipts of the session, the latest last, without those beside its conversation."""
    receipts = [
        _get(request, "receipt") for request in _list(recent, "finished") if _get(request, "is_exchange") is True
    ]
    of_session = [receipt for receipt in receipts if session_id and _text(receipt, "session") == session_id]
    # an auxiliary request with the model of the session may be the test of a model that the user has just chosen
    return [receipt for receipt in of_session if _text(receipt, "kind") not in KINDS_BESIDE - {"auxiliary"}]


def _count_tokens(own_replies: Sequence[object], receipt: object) -> int:
    """Return the tokens of the conversation after its last turn. 0: unknown."""
    # after `/model`, Claude Code tests the model with a small request; other ones beside the conversation are a title
    # and a search, with at most one tool
    turn = next((own_reply for own_reply in reversed(own_replies) if _number(own_reply, "tool_count") > 1), receipt)
    used = sum(_number(turn, counter) for counter in ("input_tokens", "cache_read_tokens", "cache_write_tokens"))
    return used + _number(turn, "output_tokens") if used else 0


def _describe_window(window: int, of_target: int, limiting: str, *, is_kept: bool, is_unknown: bool) -> str:
    """Return why the window differs from `of_target`, that of the model. `is_kept`: the user or another model has
    chosen it. `is_unknown`: the model may have another one.
    """
    # a route or a fallback may have chosen a model with a smaller window
    is_smaller = 0 < window < of_target and formats.short_count(window) != formats.short_count(of_target)
    if limiting and (is_smaller or is_unknown):
        return f", the limit of {_clean(limiting)}"
    # the settings have changed since the start of Claude Code, which keeps its window
    return f" (the model has {formats.short_count(of_target)})" if is_smaller and not is_kept else ""


def _describe_costs(measured: Mapping[str, object]) -> dict[str, str]:
    """Return a text for each sum with a cost or tokens, and for the cached part of the session.

    `measured`: label → sums of the ledger, or something else.
    """
    known: set[bool] = set()
    costs = {}
    for label, sums_of_label in measured.items():
        if not isinstance(sums_of_label, dict):
            continue
        cost = sums_of_label.get("cost")
        unknown = _number(sums_of_label, "unknown_cost_requests")
        # a stranger's server may write NaN, or a whole number that no float can hold
        cost = cost if isinstance(cost, int | float) and 0 <= cost <= _MAX_NUMBER else None
        names = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")
        # without tokens, `free` would say too much: no model was called
        if cost != 0 or any(_number(sums_of_label, token) for token in names):
            costs[label] = f"{label} {format_cost(None if cost is None else cost * NANO_DOLLARS, unknown)}"
            known.add(cost is not None)
    costs = {"session": f"cost {UNKNOWN_AMOUNT}"} if known == {False} else costs
    sums = measured["session"]
    read_again = _number(sums, "cache_read_tokens")
    total = read_again + _number(sums, "input_tokens") + _number(sums, "cache_write_tokens")
    return {**costs, "cached": f"{formats.percent(read_again, total)} cached" if total else ""}


def _format_dollars(amount: float) -> str:
    return format_amount(round(amount * NANO_DOLLARS))


_CENTS = 100
_OWN_PERIODS = {"daily": "day", "weekly": "week", "monthly": "month", "total": "total"}


def _read_own_budget(own: object) -> dict[str, object]:
    """Return the budget of the key, its team or the proxy of which most is used, as `/api/budget` has one. Empty: there
    is none in dollars.

    `own`: what `/usage` of Claude Code reads.
    """
    limit = next((one for one in _list(own, "limits") if _get(one, "is_active") is True), None)
    usage = _get(own, "extra_usage")
    amount = _number(usage, "monthly_limit")
    if limit is None or not amount:
        return {}
    return {
        "period": _OWN_PERIODS.get(_text(limit, "group"), ""),
        "unit": "usd",
        "used": _number(usage, "used_credits") / _CENTS,
        "amount": amount / _CENTS,
        "resets_at": _text(limit, "resets_at"),
        "severity": _text(limit, "severity"),
        "is_used_up": _number(limit, "percent") >= 100,
    }


_PERIODS = {"day": "today", "week": "this week", "month": "this month", "total": "in total"}


def _describe_budget(budget: object) -> tuple[str, str]:
    """Return the label of a budget of the proxy and its text, such as `today $1.20 of $5.00`. "": it is none."""
    period, unit = _text(budget, "period"), _text(budget, "unit")
    used, amount = (_get(budget, name) for name in ("used", "amount"))
    numbers = [number for number in (used, amount) if isinstance(number, int | float) and 0 <= number <= _MAX_NUMBER]
    if period not in _PERIODS or len(numbers) < 2:
        return "", ""
    show = _format_dollars if unit == "usd" else formats.short_count
    texts = [show(number) for number in numbers]
    models = _clean(_text(budget, "models"))
    label = _PERIODS[period] if not models else f"{_PERIODS[period]} for {models}"
    return label, f"{label} {texts[0]} of {texts[1]}{'' if unit == 'usd' else ' tokens'}"


def _describe_budget_problem(budget: object) -> str:
    """Return the notice about a budget that is nearly used up, or refuses requests. "": it is none."""
    label, _ = _describe_budget(budget)
    if not label or _text(budget, "severity") in ("", "normal"):
        return ""
    if _get(budget, "is_used_up") is not True:
        return f"! budget {label}: {formats.percent(_get(budget, 'used'), _get(budget, 'amount'))} used"
    try:
        end = datetime.fromisoformat(_text(budget, "resets_at")).timestamp()
    except (ValueError, OverflowError):  # a budget without a period, or the reply of a stranger's server
        return f"✕ budget {label}: used up"
    return f"✕ budget {label}: used up until {formats.day_and_time(end * MICROSECONDS)}"


def _list_problems(receipt: object, main: Sequence[object], receipts: Sequence[object]) -> Iterator[str]:
    """Yield the problems, in this order:

    - the error of `receipt`, the last reply, or the last attempt that failed before it
    - what the last request that did not fail could not read from the provider's cache
    - calls that auto mode flagged, or left without a verdict, in the latest checked reply to the present prompt

    `receipts`: those of the conversation. `main`: those of its model.
    """
    failed = [_clean(attempt) for attempt in _list(receipt, "failed_attempts") if isinstance(attempt, str)]
    if _text(receipt, "outcome") == "error":
        yield f"✕ {_clean(_text(receipt, 'prefix'))} {_number(receipt, 'status')}"
    elif failed:
        yield f"↻ {failed[-1]}"
    rows = (
        StoredRequest(
            model=_text(reply, "model"),
            outcome_class=_text(reply, "outcome"),
            input_tokens=_number(reply, "input_tokens"),
            cache_read_tokens=_number(reply, "cache_read_tokens"),
            cache_write_tokens=_number(reply, "cache_write_tokens"),
            prefix_change=_clean(_text(reply, "prefix_change", "part")),
            prefix_change_tokens=_number(_get(reply, "prefix_change"), "tokens"),
        )
        for reply in main
    )
    *_, (last, tokens) = [(StoredRequest(), 0), *count_lost_tokens(rows)]
    if tokens:
        cause = f"{last.prefix_change} changed" if last.prefix_change else "cache not read"
        yield f"! {cause}: {formats.short_count(tokens)} tokens"
    prompt = _text(next(reversed(receipts), None), "prompt_id")
    checked = (
        checked_reply
        for checked_reply in reversed(receipts)
        if _list(checked_reply, "checks") and _text(checked_reply, "prompt_id") == prompt
    )
    checks = _list(next(checked, None), "checks")
    if flagged := [_clean(_text(check, "tool")) for check in checks if _text(check, "verdict") == "flagged"]:
        named = flagged[0] if len({*flagged}) == 1 else ""
        yield f"✕ {named or formats.plural(len(flagged), 'call')} flagged"
    if failed_checks := sum(_text(check, "verdict") == "unavailable" for check in checks):
        count = f"{failed_checks} " if failed_checks > 1 else ""
        yield f"! {count}auto mode check{'s' if failed_checks > 1 else ''} failed"


def _join(*parts: str) -> str:
    return "".join(_SEPARATOR + part for part in parts if part)


def _fit(name: str, start: str, parts: dict[str, str], end: str, columns: int) -> str:
    """Return the line in at most so many columns. The least important parts are left out first, then the name is
    shortened: Claude Code would cut the end, which has the problems.
    """
    is_same = parts.get("today", "").replace("today", "session", 1) == parts.get("session", "")
    for label in (*(["today"] if is_same else []), "note", "cached", "today"):
        if count_columns(f"{name}{start}{''.join(parts.values())}{end}") <= columns:
            break
        parts.pop(label, None)
    shortest = count_columns(_shorten_name(name, _MIN_NAME) + start + cut(end, _MIN_PROBLEM))
    if shortest + count_columns("".join(parts.values())) > columns:
        parts.pop("session", None)
    rest = f"{start}{''.join(parts.values())}{end}"
    return cut(_shorten_name(name, max(columns - count_columns(rest), _MIN_NAME)) + rest, columns)


def _shorten_name(name: str, most: int) -> str:
    """Return `…/Qwen3-Coder-30B` for `vllm/Qwen/Qwen3-Coder-30B`, and less of it if that is too long."""
    last = f"…/{name.rpartition('/')[2]}"
    return name if count_columns(name) <= most else cut(last if "/" in name else name, most)


def _read_all(read: Reader, paths: Mapping[str, str]) -> dict[str, Any]:
    """Return the replies that arrive within `TIMEOUT_SECONDS`."""
    replies: dict[str, Any] = {}

    def fetch(name: str, path: str) -> None:
        if (reply := read(path)) is not None:
            replies[name] = reply

    # daemon threads: the end of the process does not wait for a proxy that sends slowly
    threads = [threading.Thread(target=fetch, args=item, daemon=True) for item in paths.items()]
    deadline = time.monotonic() + TIMEOUT_SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    return dict(replies)


def _clean(text: str) -> str:
    """Return `text` without control characters, which a terminal would obey, and not too long."""
    return "".join(filter(str.isprintable, text))[:_MAX_WORD_CHARACTERS].strip()


def _get(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _text(value: Any, *names: str) -> str:
    member = _get(value, *names)
    return member if isinstance(member, str) else ""


def _list(value: Any, name: str) -> list[Any]:
    member = _get(value, name)
    return member if isinstance(member, list) else []


def _number(value: Any, name: str) -> int:
    member = _get(value, name)
    return min(member, _MAX_NUMBER) if isinstance(member, int) and member > 0 else 0
