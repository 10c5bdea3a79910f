"""Provider keys and tokens, with rotation and cooldown. A key is sent to its own provider only."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from anthropic_proxy.errors import AuthenticationFailed, UpstreamError
from anthropic_proxy.routing.providers import Provider
from anthropic_proxy.routing.providers.registry import UNKNOWN_PROJECT
from anthropic_proxy.routing.router import describe_missing_key, find_server
from anthropic_proxy.settings import Secret, Settings
from anthropic_proxy.wire.contract import Credential

REJECTED_KEY_COOLDOWN_SECONDS = 600.0
"""Cooldown of a rejected key. A new key may not have reached all servers of the provider."""
RATE_LIMIT_COOLDOWN_SECONDS = 20.0
"""Cooldown of a rate-limited key, if the reply has no `retry-after`."""


class TokenSource(Protocol):
    """Source of expiring tokens. Implemented in `upstream/`, because a token requires a network call."""

    async def next_token(self) -> tuple[Credential, str | None]:
        """Return the header and its project. None: unknown project. Raises `AuthenticationFailed`."""
        ...

    def invalidate(self, credential: Credential) -> bool:
        """Discard a rejected token. Return True if another one can be requested."""
        ...


class Credentials:
    """The keys and tokens of all providers. Several keys of one provider rotate.

    `tokens`: `Provider.key_source` → its token source. `clock` returns monotonic seconds.
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
        self._next_positions: dict[str, int] = {}
        self._headers: dict[str, tuple[Credential, ...]] = {}
        """Provider name → headers of its keys, in order."""
        self._cooldown_ends: dict[str, float] = {}
        """Key → clock time at which its cooldown ends. A provider's only key has no cooldown."""
        self.on_cooldown: Callable[[str, float], None] | None = None
        """Called with a key and the seconds of its cooldown."""

    def restore_state(self, before: "Credentials") -> None:
        """Copy rotation and cooldowns from the object of the previous settings."""
        self._next_positions.update(before._next_positions)
        self._cooldown_ends.update(before._cooldown_ends)

    def next_credential(self, provider: Provider) -> Credential | None:
        """Return the header with the next key. None: no key is required.

        Raises `AuthenticationFailed` with the name of the missing setting.
        """
        keys = self._settings.keys.get(provider.name, ())
        if keys:
            headers = self._headers.get(provider.name)
            if headers is None:
                header, scheme = self._find_header(provider)
                headers = tuple(Credential(header, scheme + key.reveal(), key.origin) for key in keys)
                self._headers[provider.name] = headers
            return headers[self._next(provider.name, keys) if len(keys) > 1 else 0]
        is_from_settings = provider.key_source == "settings"
        if is_from_settings and (problem := describe_missing_key(provider, self._settings)):
            raise AuthenticationFailed(problem, should_retry=False)
        return None

    async def next_token(self, provider: Provider, base_url: str) -> tuple[Credential, str]:
        """Return the header with a token and the base URL with its project, for a `key_source` other than `settings`.

        Raises `AuthenticationFailed` if there is no token or no project.
        """
        credential, project = await self._tokens[provider.key_source].next_token()
        if project is None and UNKNOWN_PROJECT in base_url:
            raise AuthenticationFailed(
                f"{provider.prefix} has no project: VERTEX_PROJECT is not set, and the credentials "
                f"({credential.origin}) name none. Set it in .env or in the environment and start the proxy again.",
                should_retry=False,
            )
        return credential, base_url.replace(UNKNOWN_PROJECT, project or "")

    def key_count(self, provider: Provider) -> int:
        """Return the number of times that a request may change its key. A token is replaced once."""
        if provider.key_source != "settings":
            return 1
        return max(len(self._settings.keys.get(provider.name, ())) - 1, 0)

    def rotate(self, provider: Provider, credential: Credential | None, error: UpstreamError) -> bool:
        """Start the cooldown of a failed key. Return True if another key is available.

        Status codes of a failed key: 401, 402, 403, 429. Of a failed token: 401.
        """
        if provider.key_source != "settings":
            return (
                credential is not None
                and error.status == 401
                and self._tokens[provider.key_source].invalidate(credential)
            )
        keys = self._settings.keys.get(provider.name, ())
        if credential is None or len(keys) < 2 or error.status not in (401, 402, 403, 429):
            return False
        secret = credential.value.removeprefix(self._find_header(provider)[1])
        limited = error.status == 429
        seconds = (error.retry_after or RATE_LIMIT_COOLDOWN_SECONDS) if limited else REJECTED_KEY_COOLDOWN_SECONDS
        self.start_cooldown(secret, seconds)
        if self.on_cooldown is not None:
            self.on_cooldown(secret, seconds)
        return any(self._is_available(key) for key in keys)

    def start_cooldown(self, key: str, seconds: float) -> None:
        """Skip a key for `seconds`, unless all keys of its provider are in cooldown."""
        self._cooldown_ends[key] = self._clock() + seconds

    def cooldown_count(self) -> int:
        """Return the number of keys in cooldown."""
        now = self._clock()
        return sum(end > now for end in self._cooldown_ends.values())

    def describe(self, provider: Provider, credential: Credential | None) -> str:
        """Return the origin and the redacted form of a key. "": no key of the settings."""
        if credential is None or provider.key_source != "settings":
            return ""
        return f"{credential.origin}: {Secret(credential.value.removeprefix(self._find_header(provider)[1]))}"

    def _find_header(self, provider: Provider) -> tuple[str, str]:
        """Return the name of the key header and the prefix of its value."""
        server = find_server(provider, self._settings)
        if server is None or server.key_header is None:
            return provider.key_header, provider.key_scheme
        return server.key_header, server.key_scheme

    def _next(self, name: str, keys: Sequence[Secret]) -> int:
        start = self._next_positions.get(name, 0)
        for step in range(len(keys)):
            position = (start + step) % len(keys)
            if self._is_available(keys[position]):
                self._next_positions[name] = position + 1
                return position
        return min(range(len(keys)), key=lambda position: self._cooldown_ends[keys[position].reveal()])

    def _is_available(self, key: Secret) -> bool:
        return self._cooldown_ends.get(key.reveal(), 0.0) <= self._clock()
