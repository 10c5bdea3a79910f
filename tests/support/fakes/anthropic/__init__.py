"""A strict stand-in for Anthropic's Messages API: refuses what the real one refuses, and answers like it."""

from tests.support.fakes.anthropic.server import KEY, new_anthropic

__all__ = ["KEY", "new_anthropic"]
