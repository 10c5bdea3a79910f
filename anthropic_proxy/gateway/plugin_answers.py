"""What plugins say about themselves, for `/readyz`, metrics and pages.

A plugin of another package may have a defect. It must not make an instance seem out of order, so the defect is a
warning in the log.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.plugins import BudgetLabels, Condition, Problem

_Answer = TypeVar("_Answer")


def ask_plugin(ask: Callable[[], _Answer], read: Callable[[_Answer], _Answer], log: Log) -> _Answer | None:
    """Return what `ask` of a plugin returns. None: it has failed, or `read` has found a value of another type."""
    try:
        return read(ask())
    except Exception as error:  # noqa: BLE001  # a defect of a plugin
        kind = f"{name_function(ask)} of a plugin gave no usable answer: {type(error).__name__}"
        log.write_once(f"{kind}{_read_text(error)}", "warning", key=kind)
        return None


def name_function(function: Callable[..., object]) -> str:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"


def _read_text(error: Exception) -> str:
    try:
        return f": {error}"
    except Exception:  # noqa: BLE001  # another defect: the text of the error fails
        return ""


def read_conditions(found: Sequence[Condition]) -> Sequence[Condition]:
    found = [*found]
    for condition in found:
        if not (isinstance(condition, Condition) and isinstance(condition.problem, Problem)):
            raise TypeError("it is no Condition with a Problem")
    return found


def read_counts(found: Mapping[str, int]) -> Mapping[str, int]:
    return msgspec.convert(found, dict[str, int])


def read_budget_uses(found: Mapping[BudgetLabels, float]) -> Mapping[BudgetLabels, float]:
    return msgspec.convert(found, dict[BudgetLabels, float])
