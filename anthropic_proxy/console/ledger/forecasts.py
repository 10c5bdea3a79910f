"""What will be used in the rest of a day, week or month.

The rest is the mean of two guesses: the use goes on as so far in this period (weight: the elapsed share of the period),
and it is as in the same part of the period before (weight: the rest). Without use before the same point of that period,
only the first guess counts. There is no result from too little data.
"""

from datetime import UTC, datetime

from msgspec import Struct

MIN_REQUESTS = 10
MIN_SHARE = 0.1
"""Elapsed share of the period from which there is a result."""
MIN_SHARE_ALONE = 0.25
"""The same without the period before."""


class PeriodUse(Struct):
    """Use of a period that is running, and of the one before: nano-dollars or tokens."""

    elapsed_share: float
    requests: int = 0
    used: int = 0
    used_before_until: int = 0
    """Until the same point of the period before."""
    used_before: int = 0
    """In the whole period before."""

    def expect_rest(self) -> int | None:
        """Return what will be used until the end of the period. None: there is too little data."""
        share = self.elapsed_share
        rest = 1 - self.elapsed_share
        has_before = self.used_before_until > 0
        if self.requests < MIN_REQUESTS or share < (MIN_SHARE if has_before else MIN_SHARE_ALONE):
            return None
        if not has_before:
            return round(self.used * rest / share)
        return round(rest * (self.used + self.used_before - self.used_before_until))


class PeriodBounds(Struct, frozen=True):
    """Beginning and end of a running period, and what of the period before is compared, in seconds since the epoch."""

    start: float
    end: float
    start_before: float
    now: float

    @property
    def elapsed_share(self) -> float:
        return min(max((self.now - self.start) / (self.end - self.start), 0.0), 1.0)

    @property
    def same_point_before(self) -> float:
        return self.start_before + self.elapsed_share * (self.start - self.start_before)


def describe_month(now: float) -> str:
    """`November`"""
    return f"{datetime.fromtimestamp(now, UTC).astimezone():%B}"
