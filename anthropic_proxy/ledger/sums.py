"""`UsageSums`: numbers of requests, tokens and costs, and the SQL expressions that add them up.

`hourly_sums`, `session_sums` and `request_sums` return the SQL expressions for one table each. `to_sums` builds a
`UsageSums` from their values. `add_up` returns the totals of several `UsageSums`, `add_up_groups` those of each group.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from msgspec import Struct
from sqlalchemy import ColumnElement, case, func

from anthropic_proxy.ledger.tables import hourly, session_hours


class UsageSums(Struct):
    """Numbers of requests and tokens, and costs, summed over several requests.

    Costs are in nano-dollars (10⁻⁹ US dollars). A cost includes only requests with a known price.
    """

    requests: int = 0
    errors: int = 0
    """Number of failed requests: the client received an error."""
    cancelled: int = 0
    """Number of requests that ended early, because the client disconnected. They have neither succeeded nor failed."""
    input_tokens: int = 0
    """Number of input tokens that were neither read from nor written to a cache."""
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    """Number of tokens among the cache writes that the provider keeps for one hour, at a higher price."""
    output_tokens: int = 0
    thinking_tokens: int = 0
    tool_results: int = 0
    """Number of results of client tools that requests with a reply returned to the model."""
    tool_errors: int = 0
    """Number of these results with `is_error`: the tool failed."""
    malformed_replies: int = 0
    """Number of replies with a malformed tool call: an unknown name, or arguments that are no JSON object.

    They are counted only if the proxy repairs the tool calls of the server.
    """
    cost: int = 0
    unknown_cost_requests: int = 0
    """Number of requests to models without a known price. Their costs are missing in `cost`."""
    requested_cost: int = 0
    """Cost in nano-dollars of the same tokens at the prices of the models that the clients requested."""
    unknown_requested_cost_requests: int = 0

    @property
    def all_input_tokens(self) -> int:
        """Number of all input tokens of the requests, cached ones included."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens

    @property
    def all_tokens(self) -> int:
        """Number of all input and output tokens of the requests, cached ones included."""
        return self.all_input_tokens + self.output_tokens

    @property
    def cached_input_share(self) -> float | None:
        """Share of the input tokens that were read from a cache, 0 to 1. None: the requests have no input tokens."""
        return self.cache_read_tokens / self.all_input_tokens if self.all_input_tokens else None

    @property
    def tool_error_share(self) -> float | None:
        """Share of the tool results with an error, 0 to 1. None: the requests have no tool results."""
        return self.tool_errors / self.tool_results if self.tool_results else None

    @property
    def succeeded(self) -> int:
        """Number of requests that neither failed nor were cancelled."""
        return self.requests - self.errors - self.cancelled

    @property
    def known_cost(self) -> int | None:
        """Cost in nano-dollars of the requests with a known price. None: the cost is 0, but some prices are unknown."""
        return known_cost_or_none(self.cost, self.unknown_cost_requests)

    def add(self, other: "UsageSums") -> None:
        """Add each number of `other` to the same number of this `UsageSums`."""
        self.requests += other.requests
        self.errors += other.errors
        self.cancelled += other.cancelled
        self.input_tokens += other.input_tokens
        self.cache_read_tokens += other.cache_read_tokens
        self.cache_write_tokens += other.cache_write_tokens
        self.cache_write_1h_tokens += other.cache_write_1h_tokens
        self.output_tokens += other.output_tokens
        self.thinking_tokens += other.thinking_tokens
        self.tool_results += other.tool_results
        self.tool_errors += other.tool_errors
        self.malformed_replies += other.malformed_replies
        self.cost += other.cost
        self.unknown_cost_requests += other.unknown_cost_requests
        self.requested_cost += other.requested_cost
        self.unknown_requested_cost_requests += other.unknown_requested_cost_requests


SUM_NAMES: Sequence[str] = UsageSums.__struct_fields__
KeyT = TypeVar("KeyT")


def add_up(sums: Iterable[UsageSums]) -> UsageSums:
    """Return one `UsageSums` with the totals of `sums`."""
    total = UsageSums()
    for one in sums:
        total.add(one)
    return total


def add_up_groups(groups: Iterable[tuple[KeyT, UsageSums]]) -> dict[KeyT, UsageSums]:
    """Return the totals of each group in `groups`, which are pairs of a group and its sums.

    If several pairs have the same group, their sums are added up.
    """
    found: dict[KeyT, UsageSums] = {}
    for key, sums in groups:
        found.setdefault(key, UsageSums()).add(sums)
    return found


def known_cost_or_none(cost: int, unknown_requests: int) -> int | None:
    """Return `cost`, a sum of costs in nano-dollars, or None if no cost is known.

    No cost is known if `cost` is 0 and some requests have no known price. `unknown_requests` is the number of these
    requests.
    """
    return None if unknown_requests and not cost else cost


def hourly_sums() -> list[ColumnElement[Any]]:
    """Return the SQL expressions for the sums over rows of the table `hourly`, in the order of `SUM_NAMES`."""
    column = hourly.c
    cancelled = func.sum(case((column.outcome_class == "cancelled", column.requests), else_=0))
    return [cancelled if name == "cancelled" else func.sum(column[name]) for name in SUM_NAMES]


def session_sums() -> list[ColumnElement[Any]]:
    """Return the SQL expressions for the sums over rows of the table `session_hours`, in the order of `SUM_NAMES`."""
    return [func.sum(session_hours.c[name]) for name in SUM_NAMES]


def request_sums(columns: Any) -> list[ColumnElement[Any]]:
    """Return the SQL expressions for the sums over single requests, in the order of `SUM_NAMES`.

    `columns` is the column collection `requests.c`, or that of a subquery with the same columns.
    """
    counts: Mapping[str, ColumnElement[Any]] = {
        "requests": func.count(),
        "errors": _count_if(columns.outcome_class == "error"),
        "cancelled": _count_if(columns.outcome_class == "cancelled"),
        "unknown_cost_requests": _count_if(columns.cost.is_(None)),
        "unknown_requested_cost_requests": _count_if(columns.requested_cost.is_(None)),
    }
    return [counts[name] if name in counts else func.coalesce(func.sum(columns[name]), 0) for name in SUM_NAMES]


def _count_if(condition: ColumnElement[bool]) -> ColumnElement[Any]:
    """Return the SQL expression for the number of rows that meet `condition`."""
    return func.sum(case((condition, 1), else_=0))


def to_sums(values: Sequence[Any], names: Sequence[str] = SUM_NAMES) -> UsageSums:
    """Build a `UsageSums` from `values`, which are sums in the order of `names`.

    Sums that `names` does not contain are 0.
    """
    if names is SUM_NAMES:
        return UsageSums(*map(int, values))
    return UsageSums(**dict(zip(names, map(int, values), strict=True)))
