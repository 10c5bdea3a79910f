"""Results for people: a table, and for each failure the request, the reply, the rule and its source."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from messages_conformance.backends import NEEDS_OF_BACKENDS
from messages_conformance.rows import NEEDS, Level
from messages_conformance.runner import Outcome, Result

MARKS = {Outcome.PASSED: "✓", Outcome.FAILED: "✕", Outcome.MODEL: "~", Outcome.SKIPPED: "-"}
MARKS |= {Outcome.UNFINISHED: "…", Outcome.FAULT: "!"}


_JUDGED = (Outcome.PASSED, Outcome.FAILED)
_MIN_CHECKS = 3
"""Minimum number of failures with one cause."""
_BUSY = ("429", "503")
_BUSY_ADVICE = (
    "Most failures are replies with the status 429 or 503. A proxy that pauses after errors of its provider sends "
    "them: turn off its cooldowns and circuit breakers for this run."
)


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
    return "\n".join(f"{row[0]:<{width}}" + "".join(f"{cell:>11}" for cell in row[1:]) for row in rows)


def _count(results: Iterable[Result]) -> tuple[str, ...]:
    counts = Counter(result.outcome for result in results)
    return tuple(str(counts[outcome]) if counts[outcome] else "·" for outcome in Outcome)


def count_levels(results: Iterable[Result]) -> dict[str, dict[str, int]]:
    """Return level → outcome → number."""
    counts = Counter((result.check.level, result.outcome) for result in results)
    return {level.value: {outcome.value: counts[level, outcome] for outcome in Outcome} for level in Level}


@dataclass(frozen=True)
class Cause:
    """What several failures have in common, and what to do about it."""

    advice: str
    checks: tuple[str, ...]


def find_causes(results: Sequence[Result]) -> list[Cause]:
    """Return the causes of failures that several checks have in common, those of most checks first."""
    failed = [result for result in results if result.outcome is Outcome.FAILED]
    found = list[Cause]()
    for need in sorted(NEEDS.keys() - NEEDS_OF_BACKENDS):
        ended = [result for result in results if need in result.check.needs and result.outcome in _JUDGED]
        if len(ended) >= _MIN_CHECKS and all(result.outcome is Outcome.FAILED for result in ended):
            advice = f"No check that needs {NEEDS[need]} passed. If the server does not have it, use --without {need}."
            found.append(Cause(advice, tuple(result.check.id for result in ended)))
    busy = [result for result in failed if result.exchanges and result.exchanges[-1].reply.startswith(_BUSY)]
    if len(busy) >= _MIN_CHECKS and len(busy) * 2 > len(failed):
        found.append(Cause(_BUSY_ADVICE, tuple(result.check.id for result in busy)))
    explained = set[str]()
    causes = list[Cause]()
    for cause in sorted(found, key=lambda cause: -len(cause.checks)):
        if rest := tuple(name for name in cause.checks if name not in explained):
            causes.append(Cause(cause.advice, rest))
            explained.update(rest)
    return [cause for cause in causes if len(cause.checks) >= _MIN_CHECKS]


def describe_cause(cause: Cause) -> str:
    return f"✕ {len(cause.checks)} failures have one cause. {cause.advice}\n  {', '.join(cause.checks)}"


def to_json(
    results: Sequence[Result], url: str, expected: Mapping[str, str], facts: Mapping[str, str], *, complete: bool
) -> str:
    """Return all results as one JSON object. `facts` are what the caller adds, such as the model."""
    return json.dumps(
        {
            **facts,
            "url": url,
            "complete": complete,
            "levels": count_levels(results),
            "causes": [asdict(cause) for cause in find_causes(results)],
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
