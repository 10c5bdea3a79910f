"""`models update`: reads a signed file with facts about models, compares it with those in use, and stores it."""

import asyncio
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct, structs

from anthropic_proxy.cli.facts_changes import describe_changes
from anthropic_proxy.engine.platforms.files import read_bounded_file
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.lookup import require_known_wire
from anthropic_proxy.engine.providers.model_facts import FACTS, FactsFile, load_built_in_facts
from anthropic_proxy.engine.upstream.transports import Transports
from anthropic_proxy.errors import ConfigurationError, ProxyError
from anthropic_proxy.gateway.http_calls import HttpCalls
from anthropic_proxy.gateway.server.auth import is_loopback
from anthropic_proxy.gateway.services import require_route_prices
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.facts_file import (
    FACTS_KEY,
    MAX_FACTS_BYTES,
    format_day,
    read_signed_facts,
    remove_facts,
    require_verifier,
    store_facts,
)

_RELOAD = "A proxy that runs reads them at its next start, or when it reloads its settings."


class FactsUpdate(Struct, frozen=True, kw_only=True):
    """What the command has changed."""

    text: str
    date: date
    """Date of the facts that are in use now."""
    file: str
    """The stored file. "": the facts of the release are in use."""
    changes: list[str]


def update_facts(
    settings: Settings,
    source: str | None,
    *,
    older: bool = False,
    public_key: str = FACTS_KEY,
    today: date | None = None,
) -> FactsUpdate:
    """Raises `ConfigurationError` or another `ProxyError`; then nothing has changed."""
    if not source:
        raise ConfigurationError(
            "models update needs a file or its address:  anthropic-proxy models update model-facts.toml",
            code="model-facts",
        )
    directory = _require_directory(settings)
    require_verifier()
    content = asyncio.run(_download(settings, source)) if "://" in source else _read(source)
    try:
        facts = read_signed_facts(content, source, public_key, today)
    except ValueError as error:
        raise ConfigurationError(
            f"{source} is not used: {error}. Nothing has changed.",
            code="model-facts",
        ) from None
    _require_newer(source, facts, settings.facts, older=older)
    _require_usable(source, facts, settings)
    changes = describe_changes(settings.facts, facts)
    try:
        stored = store_facts(directory, content)
    except OSError as error:
        raise _cannot_write(directory, error) from None
    text = f"The facts of {format_day(facts.date)} are stored in {shorten_home(str(stored))}. {_RELOAD}"
    return FactsUpdate(text=text, date=facts.date, file=str(stored), changes=changes)


def reset_facts(settings: Settings) -> FactsUpdate:
    """Raises `ConfigurationError`."""
    directory = _require_directory(settings)
    try:
        was_removed = remove_facts(directory)
    except OSError as error:
        raise _cannot_write(directory, error) from None
    facts = load_built_in_facts()
    applied = f"The facts of this release apply, of {format_day(facts.date)}."
    text = f"{applied} {_RELOAD}" if was_removed else f"{applied} No other file was stored."
    return FactsUpdate(text=text, date=facts.date, file="", changes=describe_changes(settings.facts, facts))


def _require_directory(settings: Settings) -> Path:
    if settings.data_directory is None:
        raise ConfigurationError(
            "There is no home directory, and so no place for facts about models.",
            code="model-facts",
        )
    return settings.data_directory


def _require_newer(source: str, facts: FactsFile, present: FactsFile, *, older: bool) -> None:
    built_in = load_built_in_facts()
    if facts.date < built_in.date:
        raise ConfigurationError(
            f"{source} is not used: its facts are of {format_day(facts.date)}, and those of this release of "
            f"{format_day(built_in.date)}. To return to those:  anthropic-proxy models update --reset",
            code="model-facts",
        )
    if facts.date < present.date and not older:
        raise ConfigurationError(
            f"{source} is not used: its facts are of {format_day(facts.date)}, and those in use of "
            f"{format_day(present.date)}. To use it nevertheless, add --older.",
            code="model-facts",
        )


def _require_usable(source: str, facts: FactsFile, settings: Settings) -> None:
    """The facts must know the models that the settings name by `model_of`, and price those that a route compares."""
    try:
        with FACTS.trying(facts):
            for table in settings.configured_providers:
                require_known_wire(table, tuple(PROVIDERS))
            require_route_prices(structs.replace(settings, facts=facts))
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{source} is not used, because these settings are not valid with it: {' '.join(error.messages)} "
            "Nothing has changed.",
            code="model-facts",
        ) from None


def _read(source: str) -> bytes:
    try:
        return read_bounded_file(Path(source).expanduser(), MAX_FACTS_BYTES)
    except OSError as error:
        raise ConfigurationError(
            f"{source} cannot be read: {describe_os_error(error)}. Nothing has changed.",
            code="model-facts",
        ) from None


async def _download(settings: Settings, url: str) -> bytes:
    """Redirects are not followed, and no credential is sent."""
    if not _is_allowed(url):
        raise ConfigurationError(
            "The address of a file with facts is https://…, or http://… on this machine, without user and password. "
            "Nothing has changed.",
            code="model-facts",
        )
    transports = Transports(settings)
    try:
        calls = HttpCalls(lambda: transports.http)
        reply = await calls.send_http("GET", url, max_bytes=MAX_FACTS_BYTES, purpose="model_facts")
    except ProxyError as error:
        raise ConfigurationError(
            f"{url} cannot be read: {error.message.rstrip('.')}. Nothing has changed.",
            code="model-facts",
        ) from None
    finally:
        await transports.close()
    if reply.status != 200:
        moved = " Redirects are not followed: use the address to which it points." if 300 <= reply.status < 400 else ""
        raise ConfigurationError(
            f"{url} cannot be read: the server answers with HTTP {reply.status}.{moved} Nothing has changed.",
            code="model-facts",
        )
    return reply.body


def _is_allowed(url: str) -> bool:
    try:
        parsed = urlsplit(url)
        is_valid = bool(parsed.hostname) and parsed.port != 0
    except ValueError:
        return False
    is_secure = parsed.scheme == "https" or (parsed.scheme == "http" and is_loopback(parsed.hostname or ""))
    return is_valid and is_secure and parsed.username is None


def _cannot_write(directory: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"The file in {directory} cannot be changed: {describe_os_error(error)}. Nothing has changed.",
        code="model-facts",
    )
