"""Strict stand-ins for Groq, Moonshot, xAI and a server of the user's own: what OpenAI's refuses, and what each refuses
or says otherwise.

`python -m tests.fakes.compatible groq --port 9000` runs one by itself.
"""

from tests.fakes.compatible.server import KINDS, new_server

__all__ = ["KINDS", "new_server"]
