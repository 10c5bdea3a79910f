"""`Credentials`: chooses the API key or access token for each upstream request.

The keys of a provider are used in turn. After an error that concerns a key, its cooldown begins: the key is skipped for
some time. If the request may be the reason, it is skipped for its client only, until another client gets such an error
meanwhile. A key from a file or command is read again after its `refresh` time, and after the provider rejected it. An
access token expires, and comes from a `TokenSource`, such as Google's log-in.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from msgspec import Struct

from anthropic_proxy.engine.options import EngineOptions, KeySource
from anthropic_proxy.engine.own_thread import run_in_own_thread
from anthropic_proxy.engine.providers import Provider
from anthropic_proxy.engine.providers.hosts import find_missing_key, find_unset_place
from anthropic_proxy.engine.providers.registry import UNKNOWN_PROJECT
from anthropic_proxy.engine.wires.upstream_http import Credential
from anthropic_proxy.errors import ACCOUNT_STATUSES, AuthenticationFailed, ConfigurationError, UpstreamError
from anthropic_proxy.secrets import Secret

REJECTED_KEY_COOLDOWN_SECONDS = 600.0
"""Seconds for which a rejected API key is skipped. Not forever: a new key may become valid only after some minutes."""
RATE_LIMIT_COOLDOWN_SECONDS = 20.0
"""Seconds for which an API key is skipped after a first 429 that states no delay by a header or field.

A delay that only its text names may be the words of a client, so it is not read. Each further 429 after such a time
doubles it, to at most `REJECTED_KEY_COOLDOWN_SECONDS`, until a call with the key succeeds.
"""
UNCHANGED_KEY_RETRY_SECONDS = 10.0
"""Minimum seconds between two reads of a key file or key command for a provider that rejects the key."""
REJECTED_KEY_STATUSES = (401, 403)
"""HTTP statuses after which a key file or key command is read again. Amazon reports an expired key by 403."""
_READ_TIMEOUT_SECONDS = 35.0
"""Maximum seconds for a read: more than a key command may take, which ends it by itself."""


def concerns_key(error: UpstreamError) -> bool:
    """Return True if status or codes of an error, not only its text, say that other requests fail with the key too."""
    is_about_request = error.cause is not None and error.cause.kind != "quota"  # such as a prompt above a rate limit
    return error.stated_status in ACCOUNT_STATUSES and not is_about_request


def concerns_all_clients(error: UpstreamError) -> bool:
    """Return True for an error that concerns a key, whatever the request was. After another one, such as a status 429
    in unknown words, the request itself may be the reason: a prompt above a limit of tokens, a `max_tokens` above what
    is left of a balance, words that a firewall blocks.
    """
    return concerns_key(error) and (error.stated_status == 401 or error.states_account)


class _ClientCooldown(Struct):
    client: str
    """`Client.name_learner` of the client for which alone the key is skipped."""
    end: float
    """Clock time at which it ends."""
    seconds: float
    """Its length, from which that of the next one follows. 0: a call with the key has succeeded since then."""


class TokenSource(Protocol):
    """Interface of a source of access tokens, which expire. `engine/upstream/cloud_credentials.py` implements it."""

    @property
    def rejection_statuses(self) -> Collection[int]:
        """HTTP statuses of a provider that has rejected a token."""

    async def acquire_token(self, *, max_seconds: float | None = None) -> tuple[Credential, str | None]:
        """Return the header with a token, and its Google Cloud project (None if unknown).

        Raises `AuthenticationFailed`, whose message follows the name of the provider, and `UpstreamTimeout` if no token
        came within `max_seconds` from the begin of the log-in, which goes on for later calls. After a log-in without an
        answer, such a call does not wait. None: wait for its end.
        """

    def invalidate_token(self, credential: Credential) -> bool:
        """Discard a token that the provider rejected. Return True if a retry can use another one."""


class Credentials:
    """Source of the API key or access token for each upstream request.

    `tokens` maps a value of `Provider.key_source`, such as `google`, to the source of access tokens.
    """

    def __init__(
        self,
        settings: EngineOptions,
        tokens: Mapping[str, TokenSource] | None = None,
        *,
        read_key: Callable[[KeySource], Secret] | None = None,
        on_new_key: Callable[[str], None] = lambda key: None,
        on_problem: Callable[[str], None] = lambda problem: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_new_key`: callback with each key that was read again, before it is used. The log masks it. `on_problem`:
        callback with the reason why a key could not be read again.
        """
        self._settings = settings
        self._read_key = read_key
        """Function that reads the key of a file or command again, and blocks meanwhile. None: there are none."""
        self._tokens = tokens or {}
        self._clock = clock
        self._next_positions: dict[str, int] = {}
        self._headers: dict[str, tuple[Credential, ...]] = {}
        """Provider name → headers of its keys, in order."""
        self._cooldown_ends: dict[str, float] = {}
        """Key → clock time at which its cooldown ends. A provider's only key has no cooldown."""
        self.client_cooldowns: dict[str, _ClientCooldown] = {}
        """Key → the latest cooldown for one client alone."""
        self._cooldown_seconds: dict[str, float] = {}
        """Key → seconds of its latest cooldown. Absent: a call with the key has succeeded since then."""
        self._keys: dict[str, Sequence[Secret]] = dict(settings.keys)
        """Provider name → its keys. A key that was read again replaces that of the settings."""
        self._read_at = dict.fromkeys(settings.key_sources if read_key is not None else (), clock())
        """Provider name → clock time of the last read of its key file or key command."""
        self._unchanged_at: dict[str, float] = {}
        """Provider name → clock time of the last read, if it found no other key."""
        self._reads: dict[str, asyncio.Task[None]] = {}
        self._on_new_key = on_new_key
        self._on_problem = on_problem
        self._on_cooldown: Callable[[str, float, str], None] = lambda key, seconds, client: None

    def publish_to(self, send: Callable[[str, float, str], None]) -> None:
        """Call `send` for each cooldown after a failed call, with unredacted key, seconds and client ("": all), for
        other workers.
        """
        self._on_cooldown = send

    def copy_state_from(self, previous: "Credentials") -> None:
        self._next_positions.update(previous._next_positions)
        self._cooldown_ends.update(previous._cooldown_ends)
        self.client_cooldowns.update(previous.client_cooldowns)
        self._cooldown_seconds.update(previous._cooldown_seconds)

    def next_credential(self, provider: Provider, *, is_first: bool = False, client: str = "") -> Credential | None:
        """Return the header with a provider's next API key, or with its first one if `is_first` is True.

        `client`: `Client.name_learner` of the request. "": a request of the proxy itself.
        None: no key is needed. Raises `AuthenticationFailed` if a required key is missing.
        """
        if self._read_at and (source := self._settings.key_sources.get(provider.name)) is not None:
            age_limit = source.refresh_seconds
            if age_limit is not None and self._clock() - self._read_at[provider.name] >= age_limit:
                self._start_read(provider.name, source)  # the old key serves until then
        keys = self._keys.get(provider.name, ())
        if keys:
            headers = self._headers.get(provider.name)
            if headers is None:
                if problem := find_unset_place(provider, self._settings):
                    raise AuthenticationFailed(
                        problem.cause, remedy=problem.remedy, code="provider-place-missing", should_retry=False
                    )
                header, scheme = self._find_header(provider)
                headers = tuple(Credential(header, scheme + key.reveal(), key.origin) for key in keys)
                self._headers[provider.name] = headers
            if is_first or len(keys) == 1:
                return headers[0]
            start = self._next_positions.get(provider.name, 0)
            for step in range(len(keys)):
                position = (start + step) % len(keys)
                if self._is_available(keys[position], client):
                    self._next_positions[provider.name] = position + 1
                    return headers[position]
            return headers[min(range(len(keys)), key=lambda place: self._find_end(keys[place].reveal(), client))]
        if provider.key_source != "google" and (problem := find_missing_key(provider, self._settings)):
            raise AuthenticationFailed(
                problem.cause, remedy=problem.remedy, code="provider-key-missing", should_retry=False
            )
        return None

    def uses_tokens(self, provider: Provider) -> bool:
        """Return True if calls need an access token or a signature of a cloud, because no API key is set."""
        return provider.key_source != "settings" and not self._keys.get(provider.name)

    async def next_token_and_url(
        self, provider: Provider, base_url: str, *, max_seconds: float | None = None
    ) -> tuple[Credential, str]:
        """Return the header with a token, and `base_url` with the project inserted.

        `max_seconds` and errors: see `TokenSource.acquire_token`.
        """
        try:
            credential, project = await self._tokens[provider.key_source].acquire_token(max_seconds=max_seconds)
        except AuthenticationFailed as error:
            key = f", or set {provider.key_variable}" if provider.key_variable else ""
            text = f"{provider.prefix} {error.message_without_remedy}"
            raise AuthenticationFailed(
                text, remedy=f"{error.remedy}{key}", code=error.code, should_retry=False
            ) from error
        if project is None and UNKNOWN_PROJECT in base_url:
            raise AuthenticationFailed(
                f"{provider.prefix} has no project: VERTEX_PROJECT is not set, and the credentials "
                f"({credential.origin}) name none.",
                remedy=self._settings.set_variable,
                should_retry=False,
                code="vertex-project",
            )
        return credential, base_url.replace(UNKNOWN_PROJECT, project or "")

    def max_key_changes(self, provider: Provider) -> int:
        """Return how often one request may change the key: to try each once. A token is replaced once."""
        if self.uses_tokens(provider):
            return 1
        return max(len(self._keys.get(provider.name, ())) - 1, 0)

    def exclude_failed_key(
        self, provider: Provider, credential: Credential | None, error: UpstreamError, client: str = ""
    ) -> bool:
        """Start the cooldown of a key, or discard a token, if status or codes of `error` say that it concerns the key.

        Return True if a retry can use another one, also if only a text says so: it may quote the client, so it changes
        nothing for other requests. The only key of a provider has no cooldown. `client`: as for `next_credential`.
        """
        if credential is None:
            return False
        stated = error.stated_status
        if self.uses_tokens(provider):
            source = self._tokens[provider.key_source]
            return stated in source.rejection_statuses and source.invalidate_token(credential)
        keys = self._keys.get(provider.name, ())
        lasts = concerns_key(error)
        if len(keys) < 2 or not (lasts or error.status in ACCOUNT_STATUSES):
            return False
        secret = credential.value.removeprefix(self._find_header(provider)[1])
        if lasts:
            concerned = "" if concerns_all_clients(error) else self._find_concerned(secret, client)
            seconds = REJECTED_KEY_COOLDOWN_SECONDS
            if 429 in (stated, error.status):
                seconds = error.stated_retry_after or self._find_limit_seconds(secret, concerned)
            self._skip_key(secret, seconds, concerned)
            self._on_cooldown(secret, seconds, concerned)
        return any(self._is_available(key, client) for key in keys if key.reveal() != secret)

    def _find_limit_seconds(self, key: str, client: str) -> float:
        """Return the seconds for which a key is skipped after a 429 without a stated delay. `client`: "": for all."""
        seconds, end = self._cooldown_seconds.get(key, 0.0), self._cooldown_ends.get(key, 0.0)
        if client and (known := self.client_cooldowns.get(key)) is not None and known.client == client:
            seconds, end = max(seconds, known.seconds), max(end, known.end)
        if end <= self._clock():  # otherwise, the call may have begun before the cooldown
            seconds *= 2
        return min(max(seconds, RATE_LIMIT_COOLDOWN_SECONDS), REJECTED_KEY_COOLDOWN_SECONDS)

    def record_success(self, provider: Provider, credential: Credential | None) -> None:
        """Note a successful call, after which the next cooldown of its key is short again."""
        if (self._cooldown_seconds or self.client_cooldowns) and credential is not None:
            secret = credential.value.removeprefix(self._find_header(provider)[1])
            self._cooldown_seconds.pop(secret, None)
            if (known := self.client_cooldowns.get(secret)) is not None:
                known.seconds = 0.0

    async def replace_rejected_key(
        self,
        provider: Provider,
        credential: Credential | None,
        error: UpstreamError,
        *,
        max_seconds: float | None = None,
    ) -> bool:
        """Read the key file or key command again if the provider rejected the key.

        Return True if a retry can use another key. Requests that wait at the same time share one read, which goes on
        for later ones after `max_seconds` from its beginning. None: wait for its end.
        """
        source = self._settings.key_sources.get(provider.name)
        is_rejected = error.stated_status in REJECTED_KEY_STATUSES
        if source is None or credential is None or self._read_key is None or not is_rejected:
            return False
        rejected = credential.value.removeprefix(self._find_header(provider)[1])
        if all(key.reveal() != rejected for key in self._keys.get(provider.name, ())):
            return True  # another request has replaced it meanwhile
        unchanged_at = self._unchanged_at.get(provider.name)
        is_due = unchanged_at is None or self._clock() - unchanged_at >= UNCHANGED_KEY_RETRY_SECONDS
        if is_due or provider.name in self._reads:
            read = self._start_read(provider.name, source)
            age = self._clock() - self._read_at[provider.name]
            with suppress(TimeoutError):
                async with asyncio.timeout(None if max_seconds is None else max_seconds - age):
                    await asyncio.shield(read)
        return all(key.reveal() != rejected for key in self._keys.get(provider.name, ()))

    def _start_read(self, name: str, source: KeySource) -> asyncio.Task[None]:
        async def read() -> None:
            assert self._read_key is not None
            try:
                async with asyncio.timeout(_READ_TIMEOUT_SECONDS):
                    key = await run_in_own_thread("key", self._read_key, source)
            except ConfigurationError as error:
                self._on_problem(f"{name}: the key is unchanged, because it could not be read again: {error}")
                return
            except TimeoutError:
                self._on_problem(f"{name}: the key is unchanged, because {source.origin} did not end.")
                return
            if key.reveal() != self._keys[name][0].reveal():
                self._on_new_key(key.reveal())
                self._keys[name] = (key,)
                self._headers.pop(name, None)
                del self._unchanged_at[name]

        task = self._reads.get(name)
        if task is None:
            self._read_at[name] = self._unchanged_at[name] = self._clock()
            task = self._reads[name] = asyncio.create_task(read())
            task.add_done_callback(lambda _: self._reads.pop(name, None))
        return task

    def start_cooldown(self, key: str, seconds: float, client: str = "") -> None:
        """Skip an API key for `seconds`. If all keys of a provider are skipped, they are used nevertheless.

        `client`: the one whose request may be the reason. "": none may be. See `_find_concerned`.
        """
        self._skip_key(key, seconds, self._find_concerned(key, client))

    def _find_concerned(self, key: str, client: str) -> str:
        """Return the client for which alone a key is skipped after a failure that its request may have caused.

        "": for all, because it is skipped for another client at present: two requests are hardly both the reason.
        """
        known = self.client_cooldowns.get(key)
        is_second = known is not None and known.client != client and known.end > self._clock()
        return "" if is_second else client

    def _skip_key(self, key: str, seconds: float, client: str) -> None:
        end = self._clock() + seconds
        if client:
            self.client_cooldowns[key] = _ClientCooldown(client, end, seconds)
        else:
            self._cooldown_ends[key] = end
            self._cooldown_seconds[key] = seconds
            self.client_cooldowns.pop(key, None)  # else one client could prolong it alone

    def cooldown_count(self) -> int:
        """Return how many keys are skipped, also for one client alone."""
        now = self._clock()
        ends = [*self._cooldown_ends.items(), *((key, known.end) for key, known in self.client_cooldowns.items())]
        return len({key for key, end in ends if end > now})

    def list_cooldown_seconds(self, provider: str, client: str = "") -> list[float]:
        """Return the seconds for which keys of a provider are skipped, for all clients or also for `client`."""
        now = self._clock()
        ends = (self._find_end(key.reveal(), client) for key in self._keys.get(provider, ()))
        return [end - now for end in ends if end > now]

    def describe_key(self, provider: Provider, credential: Credential | None) -> str:
        """Return the source of a key and its masked text: `OPENAI_API_KEY in .env, line 1: …abcd`. "": no key."""
        if credential is None or self.uses_tokens(provider):
            return ""
        return f"{credential.origin}: {Secret(credential.value.removeprefix(self._find_header(provider)[1]))}"

    def is_skipped_for_all(self, provider: Provider, credential: Credential) -> bool:
        secret = credential.value.removeprefix(self._find_header(provider)[1])
        return self._cooldown_ends.get(secret, 0.0) > self._clock()

    def _find_header(self, provider: Provider) -> tuple[str, str]:
        options = self._settings.call_options.get(provider.name)
        if options is not None and options.key_header is not None:
            return options.key_header, "Bearer " if options.key_header == "authorization" else ""
        return provider.host.key_header, provider.host.key_scheme

    def _is_available(self, key: Secret, client: str) -> bool:
        return self._find_end(key.reveal(), client) <= self._clock()

    def _find_end(self, key: str, client: str) -> float:
        """Return the clock time until which a key is skipped for a client."""
        end = self._cooldown_ends.get(key, 0.0)
        known = self.client_cooldowns.get(key)
        return end if known is None or known.client != client else max(end, known.end)
