"""The common steps before any wire: cleaning, effort, pairing of calls and results, aliases, session key, limits."""

from anthropic_proxy.messages.prepare.replay import ends_in_server_tools, unanswered
from anthropic_proxy.messages.prepare.request import (
    UNPREPARED,
    Kind,
    Limits,
    OwnedTool,
    Prepared,
    PreparedRequest,
)
from anthropic_proxy.messages.prepare.server_tools import kind_of, kinds_of
from anthropic_proxy.messages.prepare.steps import prepare
from anthropic_proxy.messages.prepare.tools import owned_tools

__all__ = [
    "UNPREPARED",
    "Kind",
    "Limits",
    "OwnedTool",
    "Prepared",
    "PreparedRequest",
    "ends_in_server_tools",
    "kind_of",
    "kinds_of",
    "owned_tools",
    "prepare",
    "unanswered",
]
