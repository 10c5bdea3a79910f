"""A strict fake server of Anthropic's Messages API: rejects the same requests as the real one, and answers like it."""

from tests.support.fakes.anthropic.server import KEY, new_anthropic

__all__ = ["KEY", "new_anthropic"]
