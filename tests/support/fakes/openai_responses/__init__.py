"""A strict stand-in for OpenAI's Responses, and its Chat Completions beside it: one server, as the real one is."""

from tests.support.fakes.openai_responses.server import KEY, new_openai

__all__ = ["KEY", "new_openai"]
