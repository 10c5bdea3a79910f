"""Skips the tests of LiteLLM, an optional engine, where it is not installed."""

from importlib.util import find_spec

import pytest

needs_litellm = pytest.mark.skipif(
    find_spec("litellm") is None, reason="engine: LiteLLM is not installed: python3 scripts/setup.py litellm"
)
