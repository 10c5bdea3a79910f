"""Where a key comes from, and whose turn it is among several. Nobody but its owner is ever sent one."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from anthropic_proxy.errors import AuthenticationFailed, UpstreamError
from anthropic_proxy.routing.providers import Provider
from anthropic_proxy.routing.providers.rows import UNKNOWN_PROJECT
from anthropic_proxy.routing.router import describe_missing_key, find_server
from anthropic_proxy.settings import Secret, Settings
from anthropic_proxy.wire.contract import Credential

REFUSED_REST_SECONDS = 600.0
"""How long a key rests that its provider refused: it may be new and not known everywhere yet."""
LIMITED_REST_SECONDS = 20.0
"""How long a key rests that is over its limit, where the provider does not say."""


class TokenSource(Protocol):
    """Gives tokens that end and must be asked for; `upstream/` has them, because it takes a call to get one."""

    async def find(self) -> tuple[Credential, str | None]:
        """Return the header, and the project that it belongs to where that is known. Raises where there is none."""
        ...

    def drop(self, credential: Credential) -> bool:
        """Forget one that was refused; say whether another may do."""
        ...


class Credentials:
    """The keys and tokens of all providers; one object for each set of settings. Several keys are used in turn.

    `tokens`: a row's `key_source` → where its tokens come from. `clock` gives seconds that only grow.
    """

    def __init__(
        self,
        settings: Settings,
        tokens: Mapping[str, TokenSource] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._tokens = tokens or {}
        self._clock = clock
        self._turns: dict[str, int] = {}
        self._offered: dict[str, tuple[Credential, ...]] = {}
        """Name of a provider → what its keys are sent as, in their order."""
        self._rests: dict[str, float] = {}
        """Key → when it may be used again. Only keys that have a sister ever rest."""
        self.told: Callable[[str, float], None] | None = None
        """Is given each key that begins to rest, and for how many seconds."""

    def inherit(self, before: "Credentials") -> None:
        """Take over from the settings before whose turn it is, and which keys rest."""
        self._turns.update(before._turns)
        self._rests.update(before._rests)

    def find(self, provider: Provider) -> Credential | None:
        """Return the next key's header, or None where the provider needs none.

        Raises `AuthenticationFailed` naming the variable to set.
        """
        keys = self._settings.keys.get(provider.name, ())
        if keys:
            offered = self._offered.get(provider.name)
            if offered is None:
                header, scheme = self._find_header(provider)
                offered = tuple(Credential(header, scheme + key.reveal(), key.origin) for key in keys)
                self._offered[provider.name] = offered
            return offered[self._next(provider.name, keys) if len(keys) > 1 else 0]
        is_settled = provider.key_source == "settings"
        if is_settled and (problem := describe_missing_key(provider, self._settings)):
            raise AuthenticationFailed(problem, should_retry=False)
        return None

    async def find_token(self, provider: Provider, base_url: str) -> tuple[Credential, str]:
        """Return a token's header, for a row whose `key_source` is no setting, and the address with the project in it.

        Raises `AuthenticationFailed` where there is no token, or nobody says the project.
        """
        credential, project = await self._tokens[provider.key_source].find()
        if project is None and UNKNOWN_PROJECT in base_url:
            raise AuthenticationFailed(
                f"{provider.name} has no project: VERTEX_PROJECT is not set, and the credentials "
                f"({credential.origin}) name none. Set it in .env or in the environment and start the proxy again.",
                should_retry=False,
            )
        return credential, base_url.replace(UNKNOWN_PROJECT, project or "")

    def turns(self, provider: Provider) -> int:
        """Return how often one request may turn to another key: each has one try, and a token is got anew once."""
        if provider.key_source != "settings":
            return 1
        return max(len(self._settings.keys.get(provider.name, ())) - 1, 0)

    def turn(self, provider: Provider, credential: Credential | None, error: UpstreamError) -> bool:
        """Say whether another key may do what this one could not; the key that failed rests.

        A key is at fault where it was refused (401, 403) or is over its limit (402, 429); a token where it was refused
        (401).
        """
        if provider.key_source != "settings":
            return credential is not None and error.status == 401 and self._tokens[provider.key_source].drop(credential)
        keys = self._settings.keys.get(provider.name, ())
        if credential is None or len(keys) < 2 or error.status not in (401, 402, 403, 429):
            return False
        secret = credential.value.removeprefix(self._find_header(provider)[1])
        limited = error.status == 429
        seconds = (error.retry_after or LIMITED_REST_SECONDS) if limited else REFUSED_REST_SECONDS
        self.rest(secret, seconds)
        if self.told is not None:
            self.told(secret, seconds)
        return any(self._is_awake(key) for key in keys)

    def rest(self, key: str, seconds: float) -> None:
        """Leave a key alone for so long, while it has a sister that does not rest."""
        self._rests[key] = self._clock() + seconds

    def count_resting(self) -> int:
        """Return how many keys rest now."""
        now = self._clock()
        return sum(until > now for until in self._rests.values())

    def describe(self, provider: Provider, credential: Credential | None) -> str:
        """Return which key this is, in words that do not tell it; "": it is no key of the settings."""
        if credential is None or provider.key_source != "settings":
            return ""
        return f"{credential.origin}: {Secret(credential.value.removeprefix(self._find_header(provider)[1]))}"

    def _find_header(self, provider: Provider) -> tuple[str, str]:
        """Return the header that takes a key, and what stands before the key there."""
        server = find_server(provider, self._settings)
        if server is None or server.key_header is None:
            return provider.key_header, provider.key_scheme
        return server.key_header, server.key_scheme

    def _next(self, name: str, keys: Sequence[Secret]) -> int:
        start = self._turns.get(name, 0)
        for step in range(len(keys)):
            position = (start + step) % len(keys)
            if self._is_awake(keys[position]):
                self._turns[name] = position + 1
                return position
        return min(range(len(keys)), key=lambda position: self._rests[keys[position].reveal()])

    def _is_awake(self, key: Secret) -> bool:
        return self._rests.get(key.reveal(), 0.0) <= self._clock()
