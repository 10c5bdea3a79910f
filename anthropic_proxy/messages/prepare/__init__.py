"""The common steps before any wire: cleaning, effort, pairing of calls and results, aliases, session key, limits."""

from anthropic_proxy.messages.prepare.request import UNPREPARED, Limits, Prepared, PreparedRequest
from anthropic_proxy.messages.prepare.steps import prepare

__all__ = ["UNPREPARED", "Limits", "Prepared", "PreparedRequest", "prepare"]
