"""Which provider and model serve a request: one pure function."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from anthropic_proxy.routing.catalogue import Catalogue, ModelFacts
from anthropic_proxy.routing.providers import Provider
from anthropic_proxy.settings import Settings
from anthropic_proxy.wire.contract import Wire


class Facts(Struct, frozen=True):
    """What routing may know of a request."""

    model: str
    """As the client asked for it."""


class Target(Struct, frozen=True, kw_only=True):
    """One provider, model and language that can serve the request."""

    provider: Provider
    model: str
    """The upstream's id, without the prefix."""
    wire: Wire
    dialect: Any
    """The speech's dialect with the model's rules merged in."""
    facts: ModelFacts
    base_url: str


class Route(Struct, frozen=True):
    """The decision."""

    targets: Sequence[Target]
    """In the order in which they are tried; never empty."""
    why: str
    """The reason in words, for the log and `explain`."""


def resolve(facts: Facts, settings: Settings, catalogue: Catalogue) -> Route:
    """Decide. Raises `UnknownModel`, `UnsupportedFeature` or `InvalidRequest` with what the reader can do."""
    raise NotImplementedError
