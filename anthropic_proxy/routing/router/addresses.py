"""Where a provider is reached: its own address or the user's, whose server that is, and whose account."""

from fnmatch import fnmatchcase
from functools import lru_cache
from urllib.parse import urlsplit

from anthropic_proxy.routing.providers import Provider, Server, Speech, find_provider
from anthropic_proxy.routing.providers.rows import UNKNOWN_PROJECT
from anthropic_proxy.settings import Settings


def find_address(row: Provider, speech: Speech, settings: Settings) -> str:
    """Return the address that paths are added to, without a slash at its end.

    `UNKNOWN_PROJECT` stays in it where no setting names the project.
    """
    address = _find_address(row, settings)
    for ending, other in speech.url_endings:
        if address.endswith(ending):
            return address.removesuffix(ending) + other
    return address


def find_server(row: Provider, settings: Settings) -> Server | None:
    """Return whose server answers in a provider's place; None: the provider's own."""
    address = settings.base_urls.get(row.name)
    return None if address is None or not row.servers else _match(row.name, address)


@lru_cache(maxsize=64)
def _match(provider: str, address: str) -> Server | None:
    row, parts = find_provider(provider), urlsplit(address)
    if parts.hostname == urlsplit(row.base_url).hostname:
        return None
    place = f"{parts.netloc}{parts.path.rstrip('/')}/".lower()
    return next((one for one in row.servers if any(fnmatchcase(place, pattern) for pattern in one.addresses)), None)


def _find_address(row: Provider, settings: Settings) -> str:
    address = settings.base_urls.get(row.name)
    if address is None:
        address = _address_at(row, settings.vertex_location)
    elif row.url_version and not urlsplit(address).path:
        address += row.url_version
    if not row.url_resource:
        return address
    if "/projects/" not in address:
        address += row.url_resource
    project = settings.vertex_project or UNKNOWN_PROJECT
    return address.replace("{location}", settings.vertex_location).replace(UNKNOWN_PROJECT, project)


def _address_at(row: Provider, location: str) -> str:
    return next((url for pattern, url in row.regional_urls if fnmatchcase(location, pattern)), row.base_url)
