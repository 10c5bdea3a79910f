"""Commands `login` and `logout`, and the proxy of a company at which the user has signed in.

The sign-in is that of Claude Code (gateway protocol): a person confirms a code in the browser. Its tokens are in a file
that only the user reads.
"""

import os
import sys
import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.cli.output import Output
from anthropic_proxy.cli.proxy_client import send_request
from anthropic_proxy.console.keys.administration import KeyCommand, KeyOutcome
from anthropic_proxy.console.keys.descriptions import decode_key, decode_state, encode_fields
from anthropic_proxy.console.keys.virtual_keys import KeyState, VirtualKey
from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.engine.platforms.program import COMMANDS_USER_AGENT
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import copy_environment
from anthropic_proxy.gateway.settings.files import read_text, replace_file
from anthropic_proxy.gateway.settings.place import find_user_folder
from anthropic_proxy.gateway.settings.values import is_safe_address

_DISCOVERY_PATH = "/.well-known/oauth-authorization-server"
_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_MARGIN_SECONDS = 60.0
"""Time before the end of an access token from which it is replaced."""
_WAITING = {"authorization_pending": 0.0, "slow_down": 5.0}
"""Error of a device that waits → seconds by which its interval grows (RFC 8628, section 3.5)."""


class SignInFile(Struct, frozen=True):
    """Content of the file with the tokens."""

    address: str
    """Base URL of the proxy, without a slash at the end."""
    token_endpoint: str
    revocation_endpoint: str
    refresh_token: str
    access_token: str
    expires_at: float


class _Endpoints(Struct):
    device_authorization_endpoint: str
    token_endpoint: str
    revocation_endpoint: str


class _Device(Struct):
    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str = ""
    expires_in: float = 600.0
    interval: float = 5.0
    login_notice: str = ""


class _Tokens(Struct):
    access_token: str
    refresh_token: str = ""
    expires_in: float = 0.0


class _Failure(Exception):
    def __init__(self, error: str, text: str) -> None:
        super().__init__(error)
        self.error = error
        self.text = text


def login(address: str, /) -> None:
    """Parameters
    ----------
    address
        Address of the proxy: https://proxy.example.org.
    """
    base, output, file = address.rstrip("/"), Output(), _find_file()
    if not is_safe_address(base):
        raise ConfigurationError(
            f'The address is "{address[:200]}". Use the https:// address of the proxy. http:// is for this machine.',
            code="remote-proxy",
        )
    try:
        endpoints = msgspec.convert(_call("GET", f"{base}{_DISCOVERY_PATH}"), _Endpoints)
        device = msgspec.convert(_post(endpoints.device_authorization_endpoint, {"surface": "command"}), _Device)
        if device.login_notice:
            output.write_notice(device.login_notice)
        output.write_line(f"Open {device.verification_uri_complete or device.verification_uri}")
        output.write_line(f"and compare the code: {device.user_code}")
        sys.stdout.flush()  # a program that reads the link waits for it
        tokens = _wait_for_tokens(endpoints, device)
    except (_Failure, msgspec.ValidationError) as error:
        reason = error.text if isinstance(error, _Failure) else f"Its reply is not valid: {error}."
        raise ConfigurationError(f"{base} does not sign in: {reason}", code="remote-proxy") from None
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
    file, output = _find_file(), Output()
    stored = _read(file)
    if stored is None:
        output.write_notice("You are not signed in at a proxy.")
        return
    try:
        _post(stored.revocation_endpoint, {"token": stored.refresh_token})
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
        token, data = self._find_token(), b"" if body is None else msgspec.json.encode(body)
        try:
            return _call(method, f"{self.address}{path}", {"authorization": f"Bearer {token}"}, data)
        except _Failure as error:
            raise ConfigurationError(f"{self.address}: {error.text}", code="remote-proxy") from None

    def _find_token(self) -> str:
        stored = self._stored
        if time.time() < stored.expires_at - _MARGIN_SECONDS:
            return stored.access_token
        form = {"grant_type": "refresh_token", "refresh_token": stored.refresh_token}
        try:
            tokens = msgspec.convert(_post(stored.token_endpoint, form), _Tokens)
        except (_Failure, msgspec.ValidationError) as error:
            reason = error.text if isinstance(error, _Failure) else f"Its reply is not valid: {error}."
            raise ConfigurationError(
                f"The sign-in at {stored.address} cannot be refreshed: {reason} Sign in again:  anthropic-proxy login "
                f"{stored.address}",
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
        rows = self.request("GET", "/admin/keys?limit=1000")["data"]
        return [(decode_key(row), decode_state(row)) for row in rows]

    def execute(self, command: KeyCommand) -> KeyOutcome:
        place = f"/{quote(command.target, safe='')}" if command.target else ""
        path = f"/admin/keys{place}" + (f"/{command.action}" if command.action in ("rotate", "revoke") else "")
        reply = self.request("POST", path, encode_fields(command.fields))
        key = decode_key(reply)
        verb = {"create": "created", "change": "changed", "rotate": "rotated", "revoke": "revoked"}[command.action]
        sentence = f"Key {key.label} is {verb}."
        return KeyOutcome(key=key, state=decode_state(reply), text=reply.get("key", ""), changes={}, sentence=sentence)


def find_remote_proxy() -> RemoteProxy | None:
    """None: the user has not signed in."""
    file = _find_file()
    stored = _read(file)
    return None if stored is None else RemoteProxy(file, stored)


def _wait_for_tokens(endpoints: _Endpoints, device: _Device) -> _Tokens:
    interval, end = max(device.interval, 1.0), time.monotonic() + device.expires_in
    while time.monotonic() < end:
        time.sleep(interval)
        form = {"grant_type": _DEVICE_GRANT, "device_code": device.device_code}
        try:
            return msgspec.convert(_post(endpoints.token_endpoint, form), _Tokens)
        except _Failure as error:
            if error.error not in _WAITING:
                raise
            interval += _WAITING[error.error]
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


def _post(url: str, form: Mapping[str, str]) -> Any:
    return _call("POST", url, {"content-type": "application/x-www-form-urlencoded"}, urlencode(form).encode())


def _call(method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Any:
    """Return the JSON value of a reply. A redirect is not followed. Raises `_Failure`."""
    if not is_safe_address(url):
        raise _Failure("", f"It names the address {url[:200]}, which is not https://.")
    try:
        status, data = send_request(method, url, {"user-agent": COMMANDS_USER_AGENT, **(headers or {})}, body)
    except OSError as error:
        raise _Failure("", f"The connection failed: {describe_os_error(error)}.") from None
    except ValueError as error:
        raise _Failure("", f"The connection failed: {error}.") from None
    try:
        value: Any = decode_json(data) if data else {}
    except InvalidJson:
        value = None
    if status == HTTPStatus.OK and isinstance(value, dict):
        return value
    found = value.get("error") if isinstance(value, dict) else None
    if isinstance(found, dict):  # Anthropic's form
        raise _Failure("", str(found.get("message", ""))[:2_000])
    if isinstance(found, str):  # OAuth's form
        raise _Failure(found[:100], str(value.get("error_description") or f"{found[:100]}."))
    raise _Failure("", f"It answered {urlsplit(url).path} with HTTP {status}.")
