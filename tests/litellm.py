"""Whether LiteLLM is there: an optional engine, so its tests say why they did not run where it is not installed."""

from importlib.util import find_spec

import pytest

needs_litellm = pytest.mark.skipif(
    find_spec("litellm") is None, reason="LiteLLM is not installed: pip install 'anthropic-proxy[litellm]'"
)
