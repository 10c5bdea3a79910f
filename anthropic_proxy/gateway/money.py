"""Amounts of money as texts, in one notation for the command line, the log and the dashboard.

A cost is `free`, `<$0.001`, `$0.043`, `$1.24`, `$1,234.50`, or `unknown` if a used model has no known price.
"""

from decimal import Decimal

NANO_DOLLARS = 1_000_000_000
"""Number of nano-dollars in one US dollar. Costs are stored as whole numbers of nano-dollars."""
UNKNOWN_AMOUNT = "unknown"
_MIN_SHOWN = NANO_DOLLARS // 1_000
"""Smallest amount that is shown with its digits, in nano-dollars."""


def format_amount(nano_dollars: float | None, *, zero: str = "$0.00") -> str:
    """Return an amount in nano-dollars as text. None is an unknown amount. `zero`: text of the amount 0."""
    if nano_dollars is None:
        return UNKNOWN_AMOUNT
    if not nano_dollars:
        return zero
    dollars = nano_dollars / NANO_DOLLARS
    if nano_dollars < _MIN_SHOWN:
        return "<$0.001"
    return f"${dollars:.3f}" if dollars < 0.0995 else f"${dollars:,.2f}"


def format_cost(nano_dollars: float | None, unknown_requests: int = 0) -> str:
    """Return a cost in nano-dollars as text; a cost of 0 is `free`.

    `unknown_requests`: number of requests whose cost is unknown and not part of the sum: `≥ $0.043`. A sum that would
    be shown as `<$0.001` is then `unknown`.
    """
    if unknown_requests:
        return f"≥ {format_amount(nano_dollars)}" if (nano_dollars or 0) >= _MIN_SHOWN else UNKNOWN_AMOUNT
    return format_amount(nano_dollars, zero="free")


def format_price(dollars: float | Decimal) -> str:
    """Return a price, or another amount that was set, with all its digits and at least two decimals.

    Examples: `$2.00`, `$0.075`, `free`.
    """
    if not dollars:
        return "free"
    whole, _, decimals = f"{Decimal(str(dollars)):f}".partition(".")
    return f"${int(whole):,}.{decimals.rstrip('0').ljust(2, '0')}"
