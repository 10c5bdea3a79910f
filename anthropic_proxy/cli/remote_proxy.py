"""Commands `login` and `logout`, and the proxy of a company at which the user has signed in.

The sign-in is that of Claude Code (gateway protocol): a person confirms a code in the browser. Its tokens are in a file
that only the user reads.
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import Meta, Struct, structs

from anthropic_proxy.cli.output import Output
from anthropic_proxy.cli.proxy_client import MAX_ERROR_CHARACTERS, send_request
from anthropic_proxy.console.keys.administration import KeyCommand, KeyOutcome
from anthropic_proxy.console.keys.descriptions import decode_key, encode_fields
from anthropic_proxy.console.keys.queries import Spending, decode_spending
from anthropic_proxy.console.keys.virtual_keys import KeyState, VirtualKey
from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.engine.platforms.program import COMMANDS_USER_AGENT
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import copy_environment
from anthropic_proxy.gateway.settings.files import read_text, replace_file
from anthropic_proxy.gateway.settings.place import find_user_folder
from anthropic_proxy.gateway.settings.values import is_safe_address
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable

_DISCOVERY_PATH = "/.well-known/oauth-authorization-server"
_KEYS_PATH = "/admin/keys"
_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_MARGIN_SECONDS = 60.0
"""Time before the end of an access token from which it is replaced."""
_PENDING = "authorization_pending"
_SLOWER_SECONDS = 5.0
"""Seconds by which the interval of a device that waits grows after another error (RFC 8628, section 3.5)."""
_PASSING = (_PENDING, "slow_down", "temporarily_unavailable")
"""Errors after which the same request may succeed."""

T = TypeVar("T")


class SignInFile(Struct, frozen=True):
    """Content of the file with the tokens."""

    address: str
    """Base URL of the proxy, without a slash at the end."""
    token_endpoint: str
    revocation_endpoint: str
    refresh_token: str
    access_token: str
    expires_at: float


_Address = Annotated[str, Meta(max_length=2_000)]
_Token = Annotated[str, Meta(max_length=16_384, pattern="^[!-~]*$")]
_YEARS = 10 * 366 * 86_400.0


class _Endpoints(Struct):
    device_authorization_endpoint: _Address
    token_endpoint: _Address
    revocation_endpoint: _Address


class _Device(Struct):
    device_code: _Token
    user_code: Annotated[str, Meta(min_length=1, max_length=100, pattern="^[ -~]*$")]
    verification_uri: _Address
    verification_uri_complete: _Address = ""
    expires_in: Annotated[float, Meta(gt=0, le=86_400)] = 600.0
    interval: Annotated[float, Meta(ge=0, le=3_600)] = 5.0
    login_notice: Annotated[str, Meta(max_length=2_000)] = ""

    @property
    def link(self) -> str:
        return self.verification_uri_complete or self.verification_uri


class _Tokens(Struct):
    access_token: Annotated[_Token, Meta(min_length=1)]
    refresh_token: _Token = ""
    expires_in: Annotated[float, Meta(ge=0, le=_YEARS)] = 0.0


class _OAuthError(Struct):
    error: Annotated[str, Meta(max_length=100)]
    error_description: str = ""


class _ApiError(Struct):
    message: str


class _ErrorBody(Struct):
    """An error in Anthropic's form."""

    error: _ApiError


class _KeyList(Struct):
    data: list[Any]


class _NewKey(Struct):
    key: _Token = ""
    """Text (secret) of a created or rotated key. "": it was changed otherwise."""


class _SpentKey(Struct):
    spending: list[Any]


class _Failure(Exception):
    def __init__(self, error: str, text: str, *, passes: bool = False) -> None:
        """`passes`: the same request may succeed later."""
        super().__init__(error)
        self.error = error
        self.text = text
        self.passes = passes or error in _PASSING


def login(address: str, /) -> None:
    """Parameters
    ----------
    address
        Address of the proxy: https://proxy.example.org.
    """
    base = address.rstrip("/")
    output = Output()
    file = _find_file()
    if not is_safe_address(base):
        raise ConfigurationError(
            f'The address is "{address[:200]}". Use the https:// address of the proxy. http:// is for this machine.',
            code="remote-proxy",
        )
    try:
        endpoints = _call("GET", f"{base}{_DISCOVERY_PATH}", _Endpoints)
        device = _post(endpoints.device_authorization_endpoint, {"surface": "command"}, _Device)
        _require_safe_address(device.link)
        if device.login_notice:
            output.write_notice(device.login_notice)
        output.write_line(f"Open {device.link}")
        output.write_line(f"and compare the code: {device.user_code}")
        sys.stdout.flush()  # a program that reads the link waits for it
        tokens = _wait_for_tokens(endpoints, device)
    except _Failure as error:
        raise ConfigurationError(f"{base} does not sign in: {error.text}", code="remote-proxy") from None
    stored = SignInFile(
        address=base,
        token_endpoint=endpoints.token_endpoint,
        revocation_endpoint=endpoints.revocation_endpoint,
        refresh_token=tokens.refresh_token,
        access_token=tokens.access_token,
        expires_at=time.time() + tokens.expires_in,
    )
    _store(file, stored)
    output.write_notice(f"Signed in at {base}. Your keys there:  anthropic-proxy keys list", "✓")


def logout() -> None:
    """End the sign-in on the proxy, and delete its file."""
    file = _find_file()
    output = Output()
    stored = _read(file)
    if stored is None:
        output.write_notice("You are not signed in at a proxy.")
        return
    try:
        _post(stored.revocation_endpoint, {"token": stored.refresh_token}, Any)
    except _Failure as error:
        output.write_notice(f"{stored.address} could not end the sign-in: {error.text}", "!")
    file.unlink(missing_ok=True)
    output.write_notice(f"Signed out at {stored.address}.", "✓")


class RemoteProxy:
    """The proxy at which the user has signed in."""

    def __init__(self, file: Path, stored: SignInFile) -> None:
        self._file = file
        self._stored = stored

    @property
    def address(self) -> str:
        return self._stored.address

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Raises `ConfigurationError` with the message of the proxy."""
        token = self._find_token()
        data = b"" if body is None else msgspec.json.encode(body)
        try:
            return _call(method, f"{self.address}{path}", Any, {"authorization": f"Bearer {token}"}, data)
        except _Failure as error:
            # the text is for Claude Code, whose user it asks to type a command of it
            text = error.text.replace("  /login", f"  anthropic-proxy login {self.address}")
            raise ConfigurationError(f"{self.address}: {text}", code="remote-proxy") from None

    def _find_token(self) -> str:
        stored = self._stored
        if time.time() < stored.expires_at - _MARGIN_SECONDS:
            return stored.access_token
        form = {"grant_type": "refresh_token", "refresh_token": stored.refresh_token}
        try:
            tokens = _post(stored.token_endpoint, form, _Tokens)
        except _Failure as error:
            if error.passes:
                raise ConfigurationError(
                    f"The sign-in at {stored.address} cannot be refreshed at the moment: {error.text}",
                    code="remote-proxy",
                ) from None
            cause = error.text.removesuffix("Sign in again.").rstrip()
            raise ConfigurationError(
                f"The sign-in at {stored.address} cannot be refreshed: {cause} Sign in again:  anthropic-proxy "
                f"login {stored.address}",
                code="remote-proxy",
            ) from None
        self._stored = structs.replace(
            stored,
            access_token=tokens.access_token,
            refresh_token=tokens.refresh_token or stored.refresh_token,
            expires_at=time.time() + tokens.expires_in,
        )
        _store(self._file, self._stored)
        return tokens.access_token

    def list_keys(self) -> list[tuple[VirtualKey, KeyState]]:
        reply = self.request("GET", f"{_KEYS_PATH}?limit=1000")
        with self._decoding():
            return [decode_key(row) for row in msgspec.convert(reply, _KeyList).data]

    def place_key(self, target: str) -> str:
        """Return the path of a key. `target`: label or id."""
        return f"{_KEYS_PATH}/{quote(target, safe='')}"

    def find_key(self, target: str) -> tuple[VirtualKey, KeyState, Sequence[Spending]]:
        """Return a key with its state and the used amounts of its budgets."""
        reply = self.request("GET", self.place_key(target))
        with self._decoding():
            spending = [decode_spending(encoded) for encoded in msgspec.convert(reply, _SpentKey).spending]
            return *decode_key(reply), spending

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        try:
            yield
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"{self.address}: Its reply is not valid: {error}.", code="remote-proxy") from None

    def execute(self, command: KeyCommand) -> KeyOutcome:
        path = self.place_key(command.target) if command.target else _KEYS_PATH
        path += f"/{command.action}" if command.action in ("rotate", "revoke") else ""
        reply = self.request("POST", path, encode_fields(command.fields))
        with self._decoding():
            key, state = decode_key(reply)
            new = msgspec.convert(reply, _NewKey)
        verb = {"create": "created", "change": "changed", "rotate": "rotated", "revoke": "revoked"}[command.action]
        sentence = f"Key {key.label} is {verb}."
        return KeyOutcome(key=key, state=state, text=new.key, changes={}, sentence=sentence)


def find_remote_proxy() -> RemoteProxy | None:
    """None: the user has not signed in."""
    file = _find_file()
    stored = _read(file)
    return None if stored is None else RemoteProxy(file, stored)


def _wait_for_tokens(endpoints: _Endpoints, device: _Device) -> _Tokens:
    interval = max(device.interval, 1.0)
    end = time.monotonic() + device.expires_in
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(interval, left))
        form = {"grant_type": _DEVICE_GRANT, "device_code": device.device_code}
        try:
            return _post(endpoints.token_endpoint, form, _Tokens)
        except _Failure as error:
            if not error.passes:
                raise
            interval += 0.0 if error.error == _PENDING else _SLOWER_SECONDS
    raise _Failure("expired_token", "Nobody has confirmed the code in time.")


def _find_file() -> Path:
    folder = find_user_folder(copy_environment())
    if folder is None:
        raise ConfigurationError("The environment names no home directory. Set HOME.", code="remote-proxy")
    return folder / "sign-in.json"


def _read(file: Path) -> SignInFile | None:
    text = read_text(file)
    if not text:
        return None
    try:
        return decode_json(text, SignInFile)
    except InvalidJson as error:
        raise ConfigurationError(
            f"{file} is not valid: {error}. Sign in again:  anthropic-proxy login ADDRESS", code="remote-proxy"
        ) from None


def _store(file: Path, stored: SignInFile) -> None:
    try:
        os.makedirs(file.parent, mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{file.parent} cannot be created: {describe_os_error(error)}.", code="remote-proxy"
        ) from None
    replace_file(file, msgspec.json.encode(stored).decode(), has_keys=True)


def _post(url: str, form: Mapping[str, str], kind: type[T]) -> T:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return _call("POST", url, kind, headers, urlencode(form).encode())


def _call(method: str, url: str, kind: type[T], headers: Mapping[str, str] | None = None, body: bytes = b"") -> T:
    """Return the JSON object of a reply, as an object of the type `kind`. A redirect is not followed.

    Raises `_Failure`.
    """
    _require_safe_address(url)
    try:
        status, data = send_request(method, url, {"user-agent": COMMANDS_USER_AGENT, **(headers or {})}, body)
    except OSError as error:
        raise _Failure("", f"The connection failed: {describe_os_error(error)}.", passes=True) from None
    except ValueError as error:
        raise _Failure("", f"The connection failed: {error}.") from None
    if status == HTTPStatus.OK:
        try:
            value = decode_json(data or b"{}", dict[str, Any])
            return msgspec.convert(value, kind)
        except (InvalidJson, msgspec.ValidationError) as error:
            raise _Failure("", f"Its reply is not valid: {error}.") from None
    passes = status >= 500
    for form in (_ErrorBody, _OAuthError):
        with suppress(InvalidJson):
            raise _build_failure(cast("_ErrorBody | _OAuthError", decode_json(data, form)), passes=passes)
    raise _Failure("", f"It answered {urlsplit(url).path} with HTTP {status}.", passes=passes)


def _build_failure(reply: _ErrorBody | _OAuthError, *, passes: bool) -> _Failure:
    if isinstance(reply, _ErrorBody):
        return _Failure("", escape_unprintable(reply.error.message[:MAX_ERROR_CHARACTERS]), passes=passes)
    text = reply.error_description[:MAX_ERROR_CHARACTERS] or f"{reply.error}."
    return _Failure(reply.error, escape_unprintable(text), passes=passes)


def _require_safe_address(url: str) -> None:
    """Raises `_Failure` for an address of a server to which no token may be sent, and that no browser should open."""
    if not (is_safe_address(url) and url.isascii() and url.isprintable() and " " not in url):
        raise _Failure("", f"It names the address {escape_unprintable(url[:200])}, which is not https://.")
