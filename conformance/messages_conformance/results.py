"""Results for people: a table, and for each failure the request, the reply, the rule and its source."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from messages_conformance.rows import Level
from messages_conformance.runner import Outcome, Result

MARKS = {Outcome.PASSED: "✓", Outcome.FAILED: "✕", Outcome.MODEL: "~", Outcome.SKIPPED: "-", Outcome.FAULT: "!"}


def describe(result: Result, known: str | None = None) -> str:
    """Return one line for a result, and its reasons below it. `known`: reason of an expected failure."""
    check = result.check
    line = f"{MARKS[result.outcome]} {check.level:<6} {check.id:<44} {check.rule}"
    if result.outcome is Outcome.FAILED and known is not None:
        return f"{line}\n    expected: {known}"
    if result.outcome is Outcome.PASSED and result.trials > 1:
        return f"{line}\n    passed in trial {result.trials}; a weak model can fail it"
    return "\n".join([line, *(f"    {part}" for reason in result.reasons for part in reason.splitlines())])


def describe_failure(result: Result) -> str:
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
    for exchange in result.exchanges:
        lines += ["  Request:", f"    {exchange.request}"]
        lines += ["  Reply:", *(f"    {line}" for line in exchange.reply.splitlines())]
    return "\n".join(lines)


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


def to_json(results: Sequence[Result], url: str, expected: Mapping[str, str], facts: Mapping[str, str]) -> str:
    """Return all results as one JSON object. `facts` are what the caller adds, such as the model."""
    return json.dumps(
        {
            **facts,
            "url": url,
            "levels": count_levels(results),
            "checks": [_to_object(result, expected.get(result.check.id)) for result in results],
        },
        ensure_ascii=False,
        indent=1,
    )


def _to_object(result: Result, known: str | None) -> dict[str, Any]:
    check = result.check
    return {
        "id": check.id,
        "level": check.level.value,
        "rule": check.rule,
        "source": check.source,
        "read": check.read.isoformat(),
        "sets": list(check.sets),
        "outcome": result.outcome.value,
        "reasons": list(result.reasons),
        "expected": known,
        "trials": result.trials,
        "seconds": round(result.seconds, 3),
        "exchanges": [{"curl": exchange.request, "reply": exchange.reply} for exchange in result.exchanges],
    }
