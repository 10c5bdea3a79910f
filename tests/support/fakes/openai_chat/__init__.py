"""A strict fake server of OpenAI's Chat Completions: rejects the same requests as the real one, and answers like it."""

from tests.support.fakes.openai_chat.server import KEY, new_openai

__all__ = ["KEY", "new_openai"]
