"""Auto mode: the check of a reply's tool calls that a client requests with the field `safeguards`.

`rules` has the calls that are harmless without a question to a model, `transcript` what the user wrote, `prompt` what
the checking model reads, `verdict` how its reply is read, and `check` the checks of one reply: when they start, how
long the reply waits, and the answer.

The modules are imported with the first request that asks for checks.
"""

from typing import TYPE_CHECKING

from msgspec import Raw

from anthropic_proxy.engine.exchange.own_requests import ParentRequest

if TYPE_CHECKING:
    from anthropic_proxy.engine.exchange.inspection.inspection import Inspection
    from anthropic_proxy.engine.exchange.safeguards.check import ReplyCheck


def open_check(parent: ParentRequest, safeguards: Raw, inspection: "Inspection | None") -> "ReplyCheck | None":
    """Return the checks of the tool calls of a reply. None: the field `safeguards` of its request asks for none."""
    from anthropic_proxy.engine.exchange.safeguards.check import (  # noqa: PLC0415
        ReplyCheck,
        find_auto_mode,
        read_safeguards,
    )

    context = read_safeguards(safeguards)
    if context is None:
        return None
    return ReplyCheck(parent, context, find_auto_mode(parent.engine.settings.auto_mode, parent.route), inspection)
