"""Sign-in of Claude Code: discovery, device codes, access tokens and their refresh, and the sign-out.

Claude Code ends a sign-in after any error that it does not expect. So a failure of the database or of the identity
provider is never `invalid_grant`, and refresh tokens are not replaced: several processes of a device use the same one.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import msgspec

from anthropic_proxy.console.gateway_protocol.grants import (
    CODE_SECONDS,
    DESCRIPTION_SECONDS,
    MAX_WAITING_OF_NETWORK,
    Grants,
)
from anthropic_proxy.console.identity.limits import AddressLimit, Window, explain_limit
from anthropic_proxy.console.identity.oidc_client import GrantRejected, UnclearRefusal
from anthropic_proxy.console.identity.people import (
    OidcError,
    UserRefused,
    is_of_issuer,
    require_provider,
)
from anthropic_proxy.console.identity.provider import IdentityProvider
from anthropic_proxy.console.keys.access_tokens import TokenKeys, build_claims, find_own_claims
from anthropic_proxy.console.keys.descriptions import hash_key
from anthropic_proxy.console.keys.sign_ins import SignIn
from anthropic_proxy.console.ledger.database import DATABASE_ERRORS, find_cause
from anthropic_proxy.console.ledger.reader_threads import PASSING_FAILURES, ReaderThreads
from anthropic_proxy.errors import UnknownModel
from anthropic_proxy.gateway.settings import Settings, SignInSettings
from anthropic_proxy.plugins import Gateway, Limit, RouteRequest, RouteResponse

DEVICE_AUTHORIZATION_PATH = "/oauth/device_authorization"
TOKEN_PATH = "/oauth/token"
REVOCATION_PATH = "/oauth/revoke"
DEVICE_PATH = "/device"
"""Path of the page on which a person confirms the code of a device."""
_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_INTERVAL_SECONDS = 5
"""Time after which a device asks again whether the person has signed in."""
_MIN_INTERVAL_SECONDS = 4.0
_REFRESH_SECONDS = 3.0
"""Time after which a refresh is answered. Claude Code waits ten seconds, and a load balancer may wait less."""
_CLAIM_POLL_SECONDS = 0.1
_STORE_PAUSE_SECONDS = 1.0
"""Pause after a failure of the database before a refresh token of the identity provider is stored again."""
_STOP_SECONDS = 8.0
"""Maximum time for which the stop waits for refreshes: the identity provider may have replaced its refresh tokens."""
_MAX_USES_PER_MINUTE = 120
"""Maximum number of uses of a refresh token, or of sign-outs with an access token."""
_MAX_FORM_FIELDS = 20
_MAX_SHOWN_CHARACTERS = 100
_NEW_CODES = AddressLimit("sign-in/codes", (Window(MAX_WAITING_OF_NETWORK, float(CODE_SECONDS)),))
_UNKNOWN_TOKENS = AddressLimit("sign-in/tokens", (Window(100, 60.0),))
_HEADERS = {"content-type": "application/json", "cache-control": "no-store", "pragma": "no-cache"}


class OAuthError(Exception):
    """Exception: the request is answered with an error of OAuth 2.0 (RFC 6749, section 5.2)."""

    def __init__(self, error: str, description: str = "", *, status: int = 400) -> None:
        super().__init__(error)
        self.error = error
        self.description = description
        self.status = status

    def build_response(self) -> RouteResponse:
        body = {"error": self.error, **({"error_description": self.description} if self.description else {})}
        is_poll = self.error in ("authorization_pending", "slow_down")
        return RouteResponse(
            status=self.status, headers=_HEADERS, body=msgspec.json.encode(body), is_negotiated=is_poll
        )


class SignInEndpoints:
    """The URL paths of the sign-in. `clock` returns seconds since the epoch."""

    def __init__(self, gateway: Gateway[Settings], clock: Callable[[], float] = time.time) -> None:
        self._gateway = gateway
        self._clock = clock
        self._provider = IdentityProvider(gateway)
        # the limits of addresses and tokens come before
        self._threads = ReaderThreads(MAX_WAITING_OF_NETWORK, max_wait_seconds=_REFRESH_SECONDS)
        self._renewals: dict[str, asyncio.Task[SignIn | None]] = {}
        """Id of a sign-in → question to the identity provider, which all refreshes of this time share."""
        self._storing = asyncio.Lock()
        """Held while a refresh token is stored that the database has not taken before, so that one of them tries."""
        self._opened: tuple[Settings, TokenKeys] | None = None
        self._posted: Mapping[str, Callable[[RouteRequest, Mapping[str, str]], Awaitable[RouteResponse]]] = {
            DEVICE_AUTHORIZATION_PATH: self._authorize_device,
            TOKEN_PATH: self._issue_token,
            REVOCATION_PATH: self._revoke,
        }

    async def stop(self) -> None:
        renewals = [*self._renewals.values()]
        if renewals:
            _, waiting = await asyncio.wait(renewals, timeout=_STOP_SECONDS)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        await self._threads.stop()

    async def respond(self, request: RouteRequest) -> RouteResponse:
        if (respond := self._posted.get(request.path)) is None:  # the metadata of the server (RFC 8414)
            url = self._settings.dashboard_url
            return _json(
                {
                    "issuer": url,
                    "device_authorization_endpoint": f"{url}{DEVICE_AUTHORIZATION_PATH}",
                    "token_endpoint": f"{url}{TOKEN_PATH}",
                    "revocation_endpoint": f"{url}{REVOCATION_PATH}",
                    "grant_types_supported": [_DEVICE_GRANT, "refresh_token"],
                    "response_types_supported": [],
                    "token_endpoint_auth_methods_supported": ["none"],
                    "scopes_supported": ["openid", "profile", "email"],
                    "gateway_protocol_version": 1,
                }
            )
        try:
            return await respond(request, _read_form(request))
        except OAuthError as error:
            return error.build_response()
        except PASSING_FAILURES as error:
            self._warn_once(error)
            return OAuthError("temporarily_unavailable", "Try again in a moment.", status=503).build_response()

    def _warn_once(self, error: Exception) -> None:
        cause = find_cause(error) if isinstance(error, DATABASE_ERRORS) else error
        self._gateway.log_warning_once(f"A sign-in from Claude Code has to wait: {cause}")

    async def _authorize_device(self, request: RouteRequest, form: Mapping[str, str]) -> RouteResponse:
        begun = await _NEW_CODES.reserve(self._gateway.store, request)
        if begun.refused is not None:
            hint = explain_limit(request, self._settings)
            self._gateway.log_warning_once(f"Too many sign-ins from Claude Code begin at {request.address}.{hint}")
            raise _slow_down("Too many sign-ins begin at this address. Wait some minutes.")
        stated = request.headers.get("user-agent", "") or form.get("surface", "")
        device = "".join(filter(str.isprintable, stated[:_MAX_SHOWN_CHARACTERS])) or "unknown program"
        address = request.address
        grants = self._grants
        code, user_code = await self._threads.run(address, lambda: grants.create_code(device, address))
        url = f"{self._settings.dashboard_url}{DEVICE_PATH}"
        notice = self._sign_in_settings.notice
        return _json(
            {
                "device_code": code,
                "user_code": user_code,
                "verification_uri": url,
                "verification_uri_complete": f"{url}?user_code={user_code}",
                "expires_in": CODE_SECONDS,
                "interval": _INTERVAL_SECONDS,
                **({"login_notice": notice} if notice else {}),
            }
        )

    async def _issue_token(self, request: RouteRequest, form: Mapping[str, str]) -> RouteResponse:
        grant = form.get("grant_type", "")
        if grant == _DEVICE_GRANT:
            return await self._redeem(request, _require(form, "device_code"))
        if grant == "refresh_token":
            return await self._refresh(request, _require(form, "refresh_token"))
        raise OAuthError(
            "unsupported_grant_type", f"grant_type is {grant[:80]!r}. Use {_DEVICE_GRANT} or refresh_token."
        )

    async def _redeem(self, request: RouteRequest, device_code: str) -> RouteResponse:
        sealed = self._keys.find_sealed(device_code, "device code", self._clock())
        if sealed is None:
            await self._count_unknown(request)
            raise _expired()
        place = f"sign-in/polls/{hash_key(sealed.encode())}"
        try:
            polled = await self._gateway.store.reserve([Limit(place, "rate", 1, 1, _MIN_INTERVAL_SECONDS)])
            if polled.refused is not None:
                raise _slow_down()
            grants = self._grants
            code, sign_in, refresh_token = await self._threads.run(device_code, lambda: grants.redeem(device_code))
        except PASSING_FAILURES:  # any other answer would end the sign-in
            raise _slow_down() from None
        if code is None:
            raise _expired()
        if code.state == "pending":
            raise OAuthError("authorization_pending")
        if code.state == "refused":  # Claude Code shows no reason for `access_denied`
            raise OAuthError("unauthorized_client", code.reason, status=403)
        if sign_in is None:
            raise OAuthError("access_denied", "The sign-in was denied in the browser.")
        return self._send_tokens(sign_in, refresh_token)

    async def _refresh(self, request: RouteRequest, refresh_token: str) -> RouteResponse:
        sealed = self._keys.find_sealed(refresh_token, "refresh token", self._clock())
        if sealed is None:
            await self._count_unknown(request)
            raise _ended()
        await self._count_use(sealed)
        grants = self._grants
        silent = "database of the proxy"
        try:
            async with asyncio.timeout(_REFRESH_SECONDS):
                sign_in = await self._threads.run(refresh_token, lambda: grants.find_sign_in(refresh_token))
                renewed = None
                if sign_in is not None:
                    silent = "identity provider"
                    task = self._renewals.get(sign_in.id)
                    if task is None:
                        task = self._renewals[sign_in.id] = asyncio.create_task(self._renew(sign_in))
                        task.add_done_callback(partial(self._forget, sign_in.id))
                    # it goes on after the time limit, because the provider may have replaced its own refresh token
                    renewed = await asyncio.shield(task)
                if renewed is None:
                    raise await self._build_end(refresh_token)
        except TimeoutError:
            raise _unavailable(f"The {silent} has not answered in time.") from None
        return self._send_tokens(renewed)

    async def _build_end(self, refresh_token: str) -> OAuthError:
        grants = self._grants
        return _ended(await self._threads.run(refresh_token, lambda: grants.find_end_reason(refresh_token)))

    def _forget(self, sign_in: str, task: asyncio.Task[SignIn | None]) -> None:
        del self._renewals[sign_in]
        if not task.cancelled():
            task.exception()  # nobody may wait for it any more

    async def _renew(self, sign_in: SignIn) -> SignIn | None:
        """Ask the identity provider whether the person still has access. None: the sign-in has ended.

        Raises `OAuthError` if this is not known.
        """
        grants = self._grants
        end = self._clock() + 2 * _REFRESH_SECONDS
        while True:
            claim = await self._threads.run(sign_in.id, lambda: grants.claim(sign_in))
            if claim.sign_in is None:
                return None
            if claim.is_own:
                return await self._renew_own(grants, claim.sign_in)
            if claim.sign_in.checked_at != sign_in.checked_at:  # another instance has asked meanwhile
                return claim.sign_in
            if self._clock() >= end:
                raise _unavailable("Another instance waits for the identity provider.")
            await asyncio.sleep(_CLAIM_POLL_SECONDS)

    async def _renew_own(self, grants: Grants, sign_in: SignIn) -> SignIn | None:
        try:
            return await self._ask_provider(grants, sign_in)
        except BaseException:
            with suppress(*PASSING_FAILURES):  # it ends by itself
                await self._threads.run(sign_in.id, lambda: grants.release(sign_in))
            raise

    async def _ask_provider(self, grants: Grants, sign_in: SignIn) -> SignIn | None:
        try:
            token = self._require_token(grants, sign_in)
            reply = None
            if token:
                with self._waiting_for_provider():
                    client = await self._provider.find_client()
                    renewed = await client.renew_tokens(token)
                sign_in = await self._keep_token(grants, sign_in, renewed.refresh_token)
                with self._waiting_for_provider():
                    async with asyncio.timeout(DESCRIPTION_SECONDS):
                        reply = await client.describe_user(renewed, sign_in.user.subject)
            return await self._threads.run(sign_in.id, grants.renew, sign_in, reply)
        except OidcError as error:
            refusal = error
            if isinstance(refusal, UnclearRefusal) and self._may_pass(sign_in):
                await self._mark_refused(grants, sign_in, refusal)
                raise _unavailable(self._describe(refusal)) from None
            if isinstance(refusal, GrantRejected):
                present = await self._threads.run(sign_in.id, lambda: grants.find_active(sign_in.id))
                if present is not None and present.provider_token != sign_in.provider_token:
                    raise _unavailable("Another instance has asked the identity provider.") from None
            ended = sign_in.key_id if isinstance(error, UserRefused) else sign_in.id  # of the person, or of the device
            await self._threads.run(sign_in.id, lambda: grants.end(ended, sign_in.user, refusal))
            self._gateway.log_warning_each_time(
                f"The sign-in of {sign_in.user.unique_name} has ended. {refusal.message}"
            )
            return None

    def _may_pass(self, sign_in: SignIn) -> bool:
        """Return False if the provider has refused the sign-in for as long as an access token is valid."""
        since = sign_in.refused_at
        return since is None or self._clock() < since + self._sign_in_settings.token_seconds

    async def _mark_refused(self, grants: Grants, sign_in: SignIn, refusal: OidcError) -> None:
        if await self._threads.run(sign_in.id, lambda: grants.mark_refused(sign_in, refusal)):
            self._gateway.log_warning_each_time(
                f"The sign-in of {sign_in.user.unique_name} ends in {self._sign_in_settings.token_minutes} minutes, "
                f"unless a refresh succeeds. {refusal.message}"
            )

    def _require_token(self, grants: Grants, sign_in: SignIn) -> str:
        """Return the refresh token of the provider. "": it gave none, so it cannot be asked. Raises `OidcError`."""
        if not is_of_issuer(require_provider(self._settings), sign_in.user):  # the token is a secret of the earlier one
            raise OidcError("It is of another identity provider or client than this proxy has now. Sign in again.")
        if not sign_in.provider_token:
            return ""
        if (token := grants.decrypt(sign_in)) is None:
            raise OidcError("The secret of SIGN_IN_SECRET with which the sign-in was stored is not set any more.")
        return token

    @contextmanager
    def _waiting_for_provider(self) -> Iterator[None]:
        """Raises `OidcError` if the provider refuses the person, and `OAuthError` if it gives no answer about the
        person.
        """
        try:
            yield
        except (GrantRejected, UnclearRefusal):
            raise
        except TimeoutError:
            raise _unavailable("The identity provider has not answered in time.") from None
        except OidcError as error:
            self._gateway.log_warning_each_time(f"A refresh from Claude Code has to wait. {error.message}")
            raise _unavailable(self._describe(error)) from None

    async def _keep_token(self, grants: Grants, sign_in: SignIn, token: str) -> SignIn:
        """Store the next refresh token of the provider, which accepts no other one any more, however long the database
        fails.
        """
        try:
            return await self._threads.run(sign_in.id, grants.keep_token, sign_in, token)
        except PASSING_FAILURES as error:
            self._warn_once(error)
        async with self._storing:
            while True:
                try:
                    return await self._threads.run(sign_in.id, grants.keep_token, sign_in, token)
                except PASSING_FAILURES:
                    await asyncio.sleep(_STORE_PAUSE_SECONDS)

    async def _revoke(self, request: RouteRequest, form: Mapping[str, str]) -> RouteResponse:
        """End the sign-in of an access token or a refresh token (RFC 7009). The answer is the same for all tokens."""
        token = form.get("token", "")
        grants = self._grants
        keys = self._keys
        claims = find_own_claims(token.encode("utf-8", "replace"))
        sign_in_id = "" if claims is None or keys.find_signed_claims(token) is None else str(claims.get("sid"))
        counted = sign_in_id or keys.find_sealed(token, "refresh token", self._clock())
        if not counted:
            await self._count_unknown(request)
            return _json({})
        await self._count_use(counted)

        def end() -> None:
            sign_in = grants.find_active(sign_in_id) if sign_in_id else grants.find_sign_in(token)
            if sign_in is not None:
                grants.end(sign_in.id, sign_in.user)

        await self._threads.run(token, end)
        return _json({})

    def _send_tokens(self, sign_in: SignIn, refresh_token: str = "") -> RouteResponse:
        now = self._clock()
        user = sign_in.user
        seconds = min(self._sign_in_settings.token_seconds, int(sign_in.ends_at - now))
        claims = build_claims(user, sign_in.id, self._settings.dashboard_url, now, seconds)
        return _json(
            {
                "access_token": self._keys.sign(claims),
                "token_type": "Bearer",
                "expires_in": seconds,
                **({"refresh_token": refresh_token} if refresh_token else {}),
                "email": user.email,
            }
        )

    def _describe(self, error: OidcError) -> str:
        return error.describe_to_people(self._settings.limit_contact)

    async def _count_use(self, token: str) -> None:
        """Raises `OAuthError` if the token is used too often. `token`: what identifies it, in whatever spelling."""
        place = f"sign-in/uses/{hash_key(token.encode())}"
        counted = await self._gateway.store.reserve([Limit(place, "rate", 1, _MAX_USES_PER_MINUTE, 60.0)])
        if counted.refused is not None:
            raise _slow_down("The device uses its token too often.")

    async def _count_unknown(self, request: RouteRequest) -> None:
        """Raises `OAuthError` if the address has sent too many unknown codes and tokens."""
        begun = await _UNKNOWN_TOKENS.reserve(self._gateway.store, request)
        if begun.refused is not None:
            raise _slow_down("Too many unknown codes or tokens came from this address. Wait a minute.")

    @property
    def _settings(self) -> Settings:
        return self._gateway.settings

    @property
    def _sign_in_settings(self) -> SignInSettings:
        """Raises `UnknownModel` if a reload has just removed `SIGN_IN_SECRET`."""
        if (sign_in := self._settings.sign_in) is None:
            raise UnknownModel("SIGN_IN_SECRET is not set, so nobody signs in here.", code="sign-in-off")
        return sign_in

    @property
    def _keys(self) -> TokenKeys:
        settings = self._settings
        if self._opened is None or self._opened[0] is not settings:
            self._opened = settings, TokenKeys(self._sign_in_settings)
        return self._opened[1]

    @property
    def _grants(self) -> Grants:
        return Grants(self._settings, self._keys, self._clock)


def _read_form(request: RouteRequest) -> Mapping[str, str]:
    """Raises `OAuthError`."""
    try:
        fields = parse_qs(request.body.decode("utf-8", "replace"), max_num_fields=_MAX_FORM_FIELDS)
    except ValueError:
        raise OAuthError("invalid_request", f"The form has more than {_MAX_FORM_FIELDS} fields.") from None
    return {name: values[-1] for name, values in fields.items()}


def _require(form: Mapping[str, str], name: str) -> str:
    if not (value := form.get(name, "")):
        raise OAuthError("invalid_request", f"The form has no {name}.")
    return value


def _slow_down(description: str = "") -> OAuthError:
    return OAuthError("slow_down", description, status=429)


def _unavailable(description: str) -> OAuthError:
    return OAuthError("temporarily_unavailable", description, status=503)


def _expired() -> OAuthError:
    return OAuthError("expired_token", "The code is unknown or has expired. Start the sign-in again.")


def _ended(reason: str = "") -> OAuthError:
    text = f"The sign-in has ended. {reason}" if reason else "The sign-in is unknown or has ended. Sign in again."
    return OAuthError("invalid_grant", text)


def _json(value: Mapping[str, Any]) -> RouteResponse:
    return RouteResponse(headers=_HEADERS, body=msgspec.json.encode(value))
