"""Inspection of texts by plugins (`Inspector`): of requests before they leave, of replies before the client gets them.

The modules are imported with the first request of an engine that has inspectors.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from msgspec import Raw

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.hooks import PassageKind, Receipt

if TYPE_CHECKING:
    from anthropic_proxy.engine.exchange.inspection.inspection import Inspection


InspectAdded = Callable[[Sequence[str], PassageKind], Awaitable[Sequence[str]]]
"""Function that returns texts that the proxy adds to a request, as the inspectors leave them. A refusal or failure is
raised: it is that of the request."""
InspectResult = Callable[[Raw], Awaitable[Raw | None]]
"""Function that returns the result of a tool as the model may get it, or None if it may not."""


def open_inspection(engine: Engine, receipt: Receipt, model: str) -> "Inspection":
    from anthropic_proxy.engine.exchange.inspection.inspection import Inspection  # noqa: PLC0415

    return Inspection(engine, receipt, model)
