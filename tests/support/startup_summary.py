"""The start-up summary of given settings."""

from datetime import date

import pytest

from anthropic_proxy.gateway.startup_summary import log_startup_summary
from tests.support.harness import ProxyHarness

ADDRESS = "http://127.0.0.1:8082"
BEFORE, NOW = date(2025, 6, 1), date(2026, 11, 20)


def startup_lines(today: date = NOW, address: str | None = ADDRESS, **settings: str) -> list[str]:
    proxy = ProxyHarness(lambda *_: pytest.fail("start-up calls nobody"), **settings)
    log_startup_summary(proxy.services, address, today)
    return proxy.log.getvalue().splitlines()
