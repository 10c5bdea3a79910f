"""A badge of shields.io from the results of a run: the number of rules that hold, by level."""

import json
from collections.abc import Sequence

from messages_conformance.results import count_levels
from messages_conformance.rows import Level
from messages_conformance.runner import Outcome, Result


def write_badge(results: Sequence[Result], label: str = "Messages API") -> str:
    """Return the JSON of an endpoint badge. Skipped checks do not count."""
    counts = count_levels(results)
    parts = list[str]()
    shares = dict[Level, float]()
    for level in Level:
        passed = counts[level][Outcome.PASSED]
        tried = passed + counts[level][Outcome.FAILED] + counts[level][Outcome.FAULT]
        if tried:
            parts.append(f"{level} {passed}/{tried}")
            shares[level] = passed / tried
    must = shares.get(Level.MUST, 0.0)
    if must < 1:
        color = "yellow" if must >= 0.9 else "red"
    else:
        color = "brightgreen" if shares.get(Level.SHOULD, 1.0) == 1 else "green"
    badge = {"schemaVersion": 1, "label": label, "message": " · ".join(parts) or "no checks", "color": color}
    return json.dumps(badge, ensure_ascii=False) + "\n"
