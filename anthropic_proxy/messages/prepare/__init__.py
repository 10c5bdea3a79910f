"""The common steps before any wire: cleaning, effort, pairing of calls and results, aliases, session key, limits."""

from anthropic_proxy.messages.prepare.request import (
    UNPREPARED,
    Kind,
    Limits,
    OwnedTool,
    Prepared,
    PreparedRequest,
)
from anthropic_proxy.messages.prepare.server_tools import kind_of
from anthropic_proxy.messages.prepare.steps import prepare

__all__ = ["UNPREPARED", "Kind", "Limits", "OwnedTool", "Prepared", "PreparedRequest", "kind_of", "prepare"]
