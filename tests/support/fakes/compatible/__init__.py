"""Strict fake servers of Groq, Moonshot, xAI and a user's own server.

They have the rules of OpenAI's fake, with the differences of each.

`python -m tests.support.fakes.compatible groq --port 9000` runs one by itself.
"""

from tests.support.fakes.compatible.server import KINDS, new_server

__all__ = ["KINDS", "new_server"]
