"""A request that names this kind of proxy too often in `CDN-Loop` is a loop."""

import pytest

from anthropic_proxy.engine.passed_proxies import MAX_PASSES, require_no_loop
from anthropic_proxy.errors import LoopDetected
from tests.support.messages import exactly

NAMES = ["anthropic-proxy", "Anthropic-Proxy", "ANTHROPIC-PROXY ;version=2"]
MESSAGE = (
    f"The request has passed anthropic-proxy {MAX_PASSES + 1} times. The address of a provider leads back to this "
    "proxy: check ANTHROPIC_UPSTREAM_URL and base_url."
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_counts_in_each_spelling(name: str) -> None:
    require_no_loop({"cdn-loop": ", ".join([name] * MAX_PASSES)})
    with pytest.raises(LoopDetected, match=exactly(MESSAGE)):
        require_no_loop({"cdn-loop": ", ".join([name] * (MAX_PASSES + 1))})


@pytest.mark.parametrize("name", ["not-anthropic-proxy", "anthropic-proxy-2", "other;name=anthropic-proxy", ""])
def test_another_name_does_not_count(name: str) -> None:
    require_no_loop({"cdn-loop": ", ".join([name] * 99)})
