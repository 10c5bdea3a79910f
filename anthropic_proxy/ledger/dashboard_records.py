"""Records that the queries of the dashboard return: sums of periods and models, and errors.

`PeriodSums` has the sums of one period, `ModelSums` those of one model, `ModelPeriod` those of one model in one period.
`Neighbors` and `SessionPosition` describe the place of a request among others.
"""

from typing import NamedTuple

from msgspec import Struct

from anthropic_proxy.ledger.sums import UsageSums


class PeriodSums(Struct, frozen=True):
    """Numbers of requests, tokens and costs of one period (such as one hour) and one group of requests."""

    start: int
    """Beginning of the period in seconds since the epoch."""
    group: str
    """Value of the grouping column, such as a model. "": not grouped, or the column is empty."""
    sums: UsageSums


class ModelSums(Struct, frozen=True):
    """Numbers of requests, tokens and costs of one model at one provider."""

    provider: str
    model: str
    sums: UsageSums


class ModelPeriod(Struct, frozen=True):
    """Numbers of requests, tokens and costs of one model in one period, such as one hour."""

    start: int
    """Beginning of the period in seconds since the epoch."""
    model: ModelSums
    first_tokens: str = ""
    """Times to the first token: encoded histograms as hexadecimal text, for `sum_encoded_histograms`."""
    rated_tokens: int = 0
    """Number of output tokens of the requests that succeeded."""
    rated_time: int = 0
    """Time after the first token of the same requests, in microseconds."""


class ErrorGroup(Struct, frozen=True):
    """Failed requests of one provider with the same type of error and the same HTTP status."""

    provider: str
    error_type: str
    status: int
    count: int
    first_at: int
    last_at: int
    error: str
    """Error message of the latest request of the group."""
    request_id: str


class Neighbors(NamedTuple):
    """Ids of the stored requests directly before and after a request, in order of time. "": no such request."""

    older_id: str
    newer_id: str


class SessionPosition(NamedTuple):
    """Place of a request in its session, such as the third of eight requests."""

    number: int
    """Number of the request, in order of time. The first request of the session has the number 1."""
    request_count: int
    """Number of all stored requests of the session."""


class LedgerExtent(Struct, frozen=True):
    """Number of stored requests in the ledger, with the times of the first and the latest one."""

    requests: int
    first_hour: int | None
    """Hour of the first request, as number of hours since the epoch. None: the ledger is empty."""
    last_at: int | None
    """Start of the latest request in microseconds since the epoch. None: the ledger is empty."""
