"""Results for people: a table, and for each failure the request, the reply, the rule and its source."""

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from messages_conformance.client import Exchange, Request
from messages_conformance.rows import Level
from messages_conformance.runner import Outcome, Result

MARKS = {Outcome.PASSED: "✓", Outcome.FAILED: "✕", Outcome.SKIPPED: "-", Outcome.FAULT: "!"}
KEY_HEADERS = {"x-api-key": "$MESSAGES_API_KEY", "authorization": "Bearer $MESSAGES_API_KEY"}
"""Header with a secret → what is shown instead."""
MAX_SHOWN = 2000
"""Maximum number of characters of a body that are shown."""


def describe(result: Result) -> str:
    """Return one line for each result, and the reasons below it."""
    check = result.check
    lines = [f"{MARKS[result.outcome]} {check.level:<6} {check.id:<44} {check.rule}"]
    if result.outcome is not Outcome.SKIPPED:
        lines += [f"    {line}" for reason in result.reasons for line in reason.splitlines()]
    return "\n".join(lines)


def describe_failure(result: Result, url: str) -> str:
    """Return all that a maintainer needs to repeat a failure."""
    check = result.check
    lines = [
        f"✕ {check.id} ({check.level})",
        f"  Rule: {check.rule}",
        f"  Source: {check.source}, read {check.read}",
        *(f"  Wrong: {reason}" for reason in result.reasons),
    ]
    if result.trials > 1:
        lines.append(f"  It failed in each of {result.trials} trials. A weak model can be the reason.")
    for exchange in result.trial.exchanges if result.trial else ():
        lines += ["  Request:", f"    {write_curl(exchange.request, url)}"]
        lines += ["  Reply:", *(f"    {line}" for line in describe_reply(exchange).splitlines())]
    return "\n".join(lines)


def write_curl(request: Request, url: str) -> str:
    """Return a request as a command line, without its key."""
    words = ["curl", "-isSN"]
    if request.method != "POST":
        words += ["-X", request.method]
    words.append(shlex.quote(url + request.path))
    for name, value in request.headers:
        shown = KEY_HEADERS.get(name.lower())
        words += ["-H", f'"{name}: {shown}"' if shown else shlex.quote(f"{name}: {value}")]
    if request.body is not None:
        words += ["--data-binary", shlex.quote(request.body.decode("utf-8", "replace"))]
    return " ".join(words)


def describe_reply(exchange: Exchange) -> str:
    """Return status, content type and body of a reply, the body shortened."""
    if not exchange.status:
        return exchange.failure or "none"
    head = f"{exchange.status} {exchange.header('content-type') or 'without a content type'}"
    body = exchange.body.decode("utf-8", "replace").strip()
    return f"{head}\n{shorten(body)}" + (f"\n({exchange.failure})" if exchange.failure else "")


def shorten(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text) - MAX_SHOWN} more characters)"


def write_table(results: Sequence[Result]) -> str:
    """Return the numbers by group, and in the last line those of all checks."""
    groups = list(dict.fromkeys(result.check.group for result in results))
    rows = [
        ("group", *Outcome),
        *((group, *_count(result for result in results if result.check.group == group)) for group in groups),
        ("all", *_count(results)),
    ]
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"{row[0]:<{width}}" + "".join(f"{cell:>9}" for cell in row[1:]) for row in rows)


def _count(results: Iterable[Result]) -> tuple[str, ...]:
    counts = Counter(result.outcome for result in results)
    return tuple(str(counts[outcome]) if counts[outcome] else "·" for outcome in Outcome)


def count_levels(results: Iterable[Result]) -> dict[str, dict[str, int]]:
    """Return level → outcome → number."""
    counts = Counter((result.check.level, result.outcome) for result in results)
    return {level.value: {outcome.value: counts[level, outcome] for outcome in Outcome} for level in Level}


def to_json(results: Sequence[Result], url: str, **facts: Any) -> str:
    """Return all results as one JSON object. `facts` are what the caller adds, such as the model."""
    return json.dumps(
        {
            "url": url,
            **facts,
            "levels": count_levels(results),
            "checks": [_to_object(result, url) for result in results],
        },
        ensure_ascii=False,
        indent=1,
    )


def _to_object(result: Result, url: str) -> dict[str, Any]:
    check = result.check
    shows_exchanges = result.outcome in (Outcome.FAILED, Outcome.FAULT) and result.trial is not None
    return {
        "id": check.id,
        "level": check.level.value,
        "rule": check.rule,
        "source": check.source,
        "read": check.read.isoformat(),
        "sets": list(check.sets),
        "outcome": result.outcome.value,
        "reasons": list(result.reasons),
        "trials": result.trials,
        "seconds": round(result.seconds, 3),
        "exchanges": [
            {"curl": write_curl(exchange.request, url), "reply": describe_reply(exchange)}
            for exchange in (result.trial.exchanges if shows_exchanges and result.trial else ())
        ],
    }
