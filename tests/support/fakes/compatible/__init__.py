"""Strict stand-ins for Groq, Moonshot, xAI and a server of the user's own: what OpenAI's refuses, and what each refuses
or sends otherwise.

`python -m tests.support.fakes.compatible groq --port 9000` runs one by itself.
"""

from tests.support.fakes.compatible.server import KINDS, new_server

__all__ = ["KINDS", "new_server"]
