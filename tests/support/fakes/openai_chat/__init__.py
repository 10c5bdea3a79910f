"""A strict stand-in for OpenAI's Chat Completions: refuses what the real one refuses, and answers like it."""

from tests.support.fakes.openai_chat.server import KEY, new_openai

__all__ = ["KEY", "new_openai"]
