"""Puts the house together and answers ASGI; decides nothing about a request."""

import asyncio
import gc
import random
import string
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from anthropic_proxy.banner import write_banner, write_exposure
from anthropic_proxy.building import build_house
from anthropic_proxy.crew import Crew
from anthropic_proxy.errors import ClientError, ConfigurationError, ProxyError
from anthropic_proxy.exchange.house import House
from anthropic_proxy.log import Log
from anthropic_proxy.metrics import MetricsPage, Now
from anthropic_proxy.redaction import hide_secrets
from anthropic_proxy.routing.providers import PROVIDERS
from anthropic_proxy.routing.router import Facts, asks_ollama, resolve
from anthropic_proxy.server.channel import Fact
from anthropic_proxy.server.endpoints import Receive, Scope, Send, note_unreadable, serve
from anthropic_proxy.server.guard import describe_exposure, expect_guarded, is_loopback
from anthropic_proxy.settings import TIERS, Settings, SettingsReader, find_bound_host, list_changes
from anthropic_proxy.sharing import share, take
from anthropic_proxy.ways import Ways

FAILED_START = 3
"""Exit status by which servers that start workers know that starting them again will not help."""
ENDING_SECONDS = 2.0
"""How long exchanges that a server has cancelled may take to tell their clients so."""
_FIXED = frozenset({"HOST", "PORT", "STOP_TIMEOUT"})
"""Settings that a running server cannot change."""
_ALPHABET = (string.digits + string.ascii_letters).encode()
_CHARACTERS = bytes(_ALPHABET[byte % len(_ALPHABET)] for byte in range(256))
_COLLECTIONS = (10_000, 10, 10)
"""More objects than before a young one is looked at; CPython begins with 700."""


class App:
    """The ASGI application: one house, made when the first request or the server's start-up comes.

    `address`: where the server listens; None: another server says it itself. `announces`: whether it says what start-up
    says. `reader`: reads the settings anew; None: they are what was given.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        address: str | None = None,
        announces: bool = True,
        reader: SettingsReader | None = None,
    ) -> None:
        self._settings = settings
        self._address = address
        self._announces = announces
        self._reader = reader
        self._ways = Ways(settings)
        self._house: tuple[House, Ways] | None = None
        """What new exchanges work with; running ones keep theirs."""
        self._changing = asyncio.Lock()
        self._leaving: dict[asyncio.Task[None], Ways] = {}
        """Ways that were replaced, each until its last exchange has ended."""
        self.crew = Crew(self._tells_key, self._look_round, self._take)
        """What this process has in common with others that serve the same address."""
        self._log = _new_log(settings)
        self._wary = address is None
        """Whether nobody from another machine was seen, where only that tells that one can come."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] == "http":
            house, ways = self._house or await self._open()
            if self._wary:
                self._look_at(scope["client"])
            ways.enter()
            try:
                await serve(house, scope, receive, send)
            finally:
                ways.leave()
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def announce(self, workers: int) -> None:
        """Say what start-up says, on behalf of so many processes that then serve without saying it."""
        write_banner(
            await self._build(self._settings, self._ways), self._address, workers=workers, exposure=self._exposure()
        )
        await self._close()

    def tell(self, text: str) -> None:
        """Write a line of the server's own about what is not as it should be."""
        self._log.line(f"{self._log.paint('!', 'warn')} {text}", level="warning")

    def note_refusal(self, error: ProxyError) -> str:
        """Write the line of a request that could not be read, and return the id that it is given."""
        return note_unreadable(error, self._log, new_id, time.time)

    def read_again(self) -> bool:
        """Read the settings anew and say what came of it; False: they are wrong, so that the old ones stay.

        For the process that stands before the workers, which then each `reload`.
        """
        settings = self._read()
        if settings is None:
            return False
        self._tell_changes(settings)
        self._settings = settings
        return True

    async def reload(self) -> None:
        """Read the settings anew and put a new house in place of the old one; wrong ones change nothing."""
        async with self._changing:
            settings = await asyncio.to_thread(self._read)
            if settings is None or self._house is None:
                return
            (before, old_ways), changed = self._house, _log_of(settings) != _log_of(self._settings)
            if changed:
                self._log = _new_log(settings, self._log)
            ways = old_ways.renew(settings)
            house = await self._build(settings, ways, before)
            self._house = house, ways
            if self._announces:
                self._tell_changes(settings)
            self._settings, self._ways = settings, ways
            self._wary = self._address is None
            _study_defaults(house)
            if house.catalogue is not before.catalogue:
                await before.catalogue.close()
            if ways is not old_ways:
                task = asyncio.create_task(_close_when_empty(old_ways))
                self._leaving[task] = old_ways
                task.add_done_callback(self._leaving.pop)

    def _read(self) -> Settings | None:
        assert self._reader is not None
        try:
            settings = self._reader.read()
            if self._address is not None:
                expect_guarded(settings)
        except ConfigurationError as error:
            self._log.line(f"{self._log.paint('✕', 'error')} {error.message} All stays as it was.", level="error")
            return None
        return settings

    def _tell_changes(self, settings: Settings) -> None:
        changes = list_changes(self._settings, settings)
        self._log.line(f"Settings read again: {', '.join(changes) or 'nothing'} changed.")
        for warning in settings.warnings:
            self._log.line(f"  {self._log.paint('!', 'warn')} {warning}", level="warning")
        if fixed := [name for name in changes if name in _FIXED]:
            self.tell(f"{' and '.join(fixed)} will hold from the next start on.")

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._open()
                _spare_the_collector()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _open(self) -> tuple[House, Ways]:
        async with self._changing:
            if self._house is None:
                asyncio.get_running_loop().set_exception_handler(lambda _, context: self._log.report(context))
                house = await self._build(self._settings, self._ways)
                _study_defaults(house)
                if self._announces:
                    write_banner(house, self._address, exposure=self._exposure())
                self._house = house, self._ways
        return self._house

    async def _build(self, settings: Settings, ways: Ways, before: House | None = None) -> House:
        house = build_house(
            settings,
            ways.by_name(),
            self._log,
            new_id=new_id,
            tokens={"google": ways.tokens},
            fetch=ways.fetch,
            search=ways.search,
            observers=(self.crew.totals,),
            metrics=MetricsPage(self.crew.gather),
            place=self.crew.place,
            before=before,
        )
        if tell := self.crew.tell:
            share(house, tell)
        if asks_ollama(settings) and (before is None or house.catalogue is not before.catalogue):
            await house.catalogue.look("ollama")
        return house

    async def _close(self) -> None:
        """Let go of everything; exchanges that the server has just ended first say so to their clients."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ENDING_SECONDS):
                await self._ways.wait_until_empty()
        for task in self._leaving:
            task.cancel()
        if self._house is not None:
            await self._house[0].catalogue.close()
        await self._ways.close()
        await asyncio.to_thread(self._log.flush)

    def _tells_key(self, word: str) -> bool:
        return hide_secrets(word, self._settings.reveal_keys()) != word

    def _look_round(self, now: Now) -> None:
        """Take down what is under way and who rests; a process that only stands before the workers serves nothing."""
        now.serving = int(self._house is not None)
        now.under_way = sum(ways.exchanges for ways in (self._ways, *self._leaving.values()))
        if self._house is not None:
            house, _ = self._house
            now.upstreams_resting = house.breakers.count_resting()
            now.keys_resting = house.credentials.count_resting()

    def _take(self, fact: Fact) -> None:
        if self._house is not None:
            take(self._house[0], fact)

    def _exposure(self) -> str:
        host = self._settings.host if self._address is not None else find_bound_host(sys.argv)
        return describe_exposure(self._settings, host)

    def _look_at(self, peer: tuple[str, int] | None) -> None:
        """Warn at the first request from elsewhere, where nobody could know before that this address is reached."""
        if peer is None or is_loopback(peer[0]):
            return
        self._wary = False
        if exposure := describe_exposure(self._settings, peer[0]):
            write_exposure(self._log, exposure)


async def _close_when_empty(ways: Ways) -> None:
    await ways.wait_until_empty()
    await ways.close()


def _new_log(settings: Settings, before: Log | None = None) -> Log:
    form, level, colours, keys = _log_of(settings)
    log = Log(form=form, level=level, colours=colours, secrets=keys)
    if before is not None:
        log.follow(before)
    return log


def _log_of(settings: Settings) -> Any:
    return settings.log_format, settings.log_level, settings.colours, settings.reveal_keys()


def _spare_the_collector() -> None:
    """Never look again at what start-up made, and seldom at the rest: an exchange leaves no circles behind it.

    A large request makes thousands of objects, so that one in ten would wait for a look at the whole heap.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTIONS)


def _study_defaults(house: House) -> None:
    """Let the catalogue ask about the models that the tiers map to, before the first request needs to know."""
    for tier in TIERS:
        try:
            targets = resolve(Facts(f"claude-{tier}"), house.settings, house.catalogue).targets
        except ClientError:
            continue  # the banner says so
        for target in targets:
            house.catalogue.study(target.provider.name, target.model)


def create_app(settings: Settings, *, address: str | None = None, announces: bool = True) -> App:
    """Return the ASGI application for these settings; `announces`: whether it says what start-up says."""
    return App(settings, address=address, announces=announces)


def load_app(
    overrides: Mapping[str, object] | None = None, *, address: str | None = None, announces: bool = True
) -> App:
    """Return the application for the environment and `.env`; `overrides` are settings from the command line."""
    reader = SettingsReader(PROVIDERS, overrides)
    return App(reader.read(), address=address, announces=announces, reader=reader)


def app_from_environment() -> App:
    """Return the application for a server that imports it by name; a wrong setting ends that with one line."""
    try:
        return load_app()
    except ConfigurationError as error:
        Log(form="plain").line(f"✕ {error.message}", level="error")
        raise SystemExit(FAILED_START) from None


def new_id(prefix: str) -> str:
    """Return a fresh identifier: the prefix and 24 base-62 characters, 22 after `toolu_px`.

    Unique, not secret: nothing is granted to who knows one.
    """
    return prefix + random.randbytes(22 if prefix == "toolu_px" else 24).translate(_CHARACTERS).decode()
