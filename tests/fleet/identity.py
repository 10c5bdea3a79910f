"""Identity providers of other people, and a browser that signs in at them: `OidcProvider`, `ProviderBrowser`."""

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx2 as httpx
from joserfc.jwk import RSAKey

from tests.e2e.npm import install
from tests.fleet.programs import Program
from tests.support.server_process import Proxy
from tests.support.sign_in import Browser
from tests.support.waiting import wait_for

OIDC_PROVIDER_VERSION = "9.13.3"
CLIENT_ID = "anthropic-proxy"
PASSWORD = "password-of-a-person-0123456789"
_KEY_ID = "signing"
_MAX_PAGES = 12
"""Pages and redirects of a sign-in at a provider."""


class ProviderRefusal(Exception):
    """The identity provider shows an error in place of a sign-in."""


class OidcProvider:
    """The npm package oidc-provider with its defaults.

    It gives a refresh token only after `prompt=consent`, and states claims only in the user info. It keeps its
    sessions, grants and tokens in memory: a restart forgets them.
    """

    def __init__(self, directory: Path, port: int) -> None:
        self.issuer = f"http://127.0.0.1:{port}"
        self.settings = {
            "OIDC_ISSUER": self.issuer,
            "OIDC_CLIENT_ID": CLIENT_ID,
            "OIDC_CLIENT_SECRET": secrets.token_hex(16),
            "OIDC_SCOPES": "openid email groups",
        }
        self._directory = directory
        self._users: dict[str, Mapping[str, Any]] = {}
        self._redirect_uri = ""
        node = shutil.which("node")
        assert node is not None, "node is needed; it comes with npm"
        module = install("oidc-provider", OIDC_PROVIDER_VERSION) / "oidc-provider" / "lib" / "index.js"
        script = Path(__file__).with_name("oidc_provider.mjs")
        command = [node, str(script), str(module), str(directory / "provider.json")]
        self.program = Program(command, directory, {"PATH": os.environ["PATH"]}, "oidc-provider")

    def start(self, redirect_uri: str) -> None:
        """Start the provider with a new key, which always has the same id."""
        client = {
            "client_id": CLIENT_ID,
            "client_secret": self.settings["OIDC_CLIENT_SECRET"],
            "redirect_uris": [redirect_uri],
            "grant_types": ["authorization_code", "refresh_token"],
        }
        key = RSAKey.generate_key(2048, {"kid": _KEY_ID, "use": "sig", "alg": "RS256"})
        users_file = self._directory / "users.json"
        configuration = {
            "issuer": self.issuer,
            "client": client,
            "jwks": {"keys": [key.as_dict(private=True)]},
            "users_file": str(users_file),
        }
        (self._directory / "provider.json").write_text(json.dumps(configuration), "utf-8")
        self._redirect_uri = redirect_uri
        self._write_users()
        self.program.start()
        wait_for(self._is_reached)

    def add(self, subject: str, address: str, *groups: str) -> None:
        self._users[subject] = {"email": address, "email_verified": True, "groups": groups}
        self._write_users()

    def remove(self, subject: str) -> None:
        """Delete the account of a person."""
        del self._users[subject]
        self._write_users()

    def change_key(self) -> None:
        """Replace the key that signs, under the same id. All sign-ins at this provider end."""
        self.program.stop()
        self.start(self._redirect_uri)

    def _write_users(self) -> None:
        new = self._directory / "users.new"
        new.write_text(json.dumps(self._users), "utf-8")
        new.replace(self._directory / "users.json")

    def _is_reached(self) -> bool:
        try:
            return httpx.get(f"{self.issuer}/.well-known/openid-configuration", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


class ProviderBrowser(Browser):
    """A browser whose person fills in the forms of the identity provider: name, password, consent."""

    def __init__(self, proxy: Proxy, subject: str) -> None:
        super().__init__(proxy)
        self._fields = {"login": subject, "password": PASSWORD}
        self._redirect_uri = f"{proxy.url}/dashboard/oidc/callback"
        self._provider_client = httpx.Client(trust_env=False)

    def follow(self, answer: httpx.Response) -> str:
        """Sign in at the provider, and return the address to which it sends the browser. Raises `ProviderRefusal`."""
        assert answer.status_code == 303, answer.text
        page = answer
        url = httpx.URL(self._redirect_uri)
        for _ in range(_MAX_PAGES):
            if page.has_redirect_location:
                url = page.url.join(page.headers["location"])
                if str(url).startswith(self._redirect_uri):
                    return str(url)
                page = self._provider_client.get(url)
            else:
                page = self._send_form(page)
        raise AssertionError(f"the provider shows page after page: {page.text}")

    def _send_form(self, page: httpx.Response) -> httpx.Response:
        if page.status_code >= 400:
            raise ProviderRefusal(f"{page.status_code} {page.url}: {page.text}")
        form = _Form(page.text)
        assert form.is_complete, f"{page.url} has no form: {page.text}"
        fields = {**form.fields, **{name: value for name, value in self._fields.items() if name in form.fields}}
        return self._provider_client.post(page.url.join(form.action), data=fields)


class _Form(HTMLParser):
    """The first form of a page that is sent by POST."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self.is_complete = False
        self._is_inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag == "form" and attributes.get("method", "").lower() == "post" and not self.is_complete:
            self._is_inside = True
            self.action = attributes.get("action", "")
        elif self._is_inside and tag in ("input", "button") and (name := attributes.get("name")):
            self.fields.setdefault(name, attributes.get("value", ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "form" and self._is_inside:
            self._is_inside, self.is_complete = False, True
