"""Durations as users write them, such as `30m`. Each option, setting and field with a duration accepts all units."""

from anthropic_proxy.engine.patterns import compile_anchored

_DURATION = compile_anchored(r"([0-9]{1,6})([smhdw])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_MAX_SECONDS = 1_000 * 365 * 86_400
"""1,000 years. A time that is further away may have no date."""


def decode_duration(text: str) -> int | None:
    """Return the seconds of a text such as `30s`, `15m`, `12h`, `7d` or `4w`. None: it is no duration, or too long."""
    found = _DURATION.fullmatch(text.strip().lower())
    seconds = 0 if found is None else int(found[1]) * _UNIT_SECONDS[found[2]]
    return None if found is None or seconds > _MAX_SECONDS else seconds
