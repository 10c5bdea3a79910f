"""Days and hours as people say them, spelled as schemas want them."""

import re
from collections.abc import Sequence
from datetime import date, datetime, timedelta

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_FROM_TODAY = {"today": 0, "tonight": 0, "tomorrow": 1, "yesterday": -1, "next week": 7, "next month": 30}
_DAY_IN_MONTH = re.compile(r"(?:(\d{1,2})\.? )?([a-z]+)(?: (\d{1,2})(?:st|nd|rd|th)?)?(?:,? (\d{4}))?")
_HOUR = re.compile(r"(\d{1,2})(?::(\d{2}))?(?: ?([ap])m)?")
_MORNING = 9
"""The hour that is meant where none is said."""


def spell_days(said: Sequence[str], today: date) -> list[str]:
    """Return the days among what was said as `2026-12-01`."""
    return [day.isoformat() for text in said if (day := _day_of(text.lower(), today))]


def spell_moments(said: Sequence[str], today: date, *, ends: bool) -> list[str]:
    """Return the moment that was said as `2026-12-01T09:00:00Z`; `ends`: the one an hour later."""
    days = [day for text in said if (day := _day_of(text.lower(), today))]
    hours = [time for text in said if (time := _time_of(text.lower()))]
    if not days and not hours:
        return []
    hour, minute = hours[0] if hours else (_MORNING, 0)
    day = days[0] if days else today
    moment = datetime(day.year, day.month, day.day, hour, minute) + timedelta(hours=int(ends))
    return [f"{moment.isoformat()}Z"]


def _day_of(text: str, today: date) -> date | None:
    if text in _FROM_TODAY:
        return today + timedelta(days=_FROM_TODAY[text])
    weekday = text.rpartition(" ")[2]
    if weekday in _WEEKDAYS:
        return today + timedelta(days=(_WEEKDAYS.index(weekday) - today.weekday() - 1) % 7 + 1)
    match = _DAY_IN_MONTH.fullmatch(text)
    try:
        if match and match[2] in _MONTHS:
            day = int(match[1] or match[3] or 1)
            year = int(match[4] or today.year)
            found = date(year, _MONTHS.index(match[2]) + 1, day)
            return found if match[4] or found >= today else found.replace(year=year + 1)
        return date.fromisoformat(text[:10])
    except ValueError:
        return None


def _time_of(text: str) -> tuple[int, int] | None:
    match = _HOUR.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        return None
    hour, minute = int(match[1]) % 12 if match[3] else int(match[1]), int(match[2] or 0)
    hour += 12 if match[3] == "p" else 0
    return (hour, minute) if hour < 24 and minute < 60 else None
