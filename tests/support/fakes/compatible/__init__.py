"""Strict fake servers of Groq, Moonshot, xAI and a user's own server.

They have the rules of OpenAI's fake, with the differences of each.
"""

from tests.support.fakes.compatible.server import KINDS, new_server

__all__ = ["KINDS", "new_server"]
