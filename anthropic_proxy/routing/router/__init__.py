"""Which provider and model serve a request: `resolve`, one pure function.

`Routes` keeps what it decided. `naming` knows names, `targets` what can be called, `addresses` where it is, `readiness`
whether its key is there.
"""

from anthropic_proxy.routing.router.addresses import find_server
from anthropic_proxy.routing.router.readiness import describe_missing_key
from anthropic_proxy.routing.router.routes import Routes
from anthropic_proxy.routing.router.targets import (
    Facts,
    Mapped,
    Route,
    Target,
    asks_ollama,
    describe_mapping,
    find_home,
    preferred,
    resolve,
    speak_otherwise,
)

__all__ = [
    "Facts",
    "Mapped",
    "Route",
    "Routes",
    "Target",
    "asks_ollama",
    "describe_mapping",
    "describe_missing_key",
    "find_home",
    "find_server",
    "preferred",
    "resolve",
    "speak_otherwise",
]
