"""A strict stand-in for Gemini's generateContent, at AI Studio's paths and at Vertex AI's."""

from tests.support.fakes.gemini.server import KEY, new_gemini

__all__ = ["KEY", "new_gemini"]
