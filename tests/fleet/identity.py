"""Identity providers of other people, `OidcProvider` and `Canaille`, and a browser that signs in at them."""

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Protocol

import httpx2 as httpx
from joserfc.jwk import RSAKey

from tests.e2e.npm import install
from tests.fleet.clients import send_once
from tests.fleet.programs import Program
from tests.support.server_process import Proxy
from tests.support.sign_in import Browser
from tests.support.waiting import WAIT_SECONDS, wait_for

OIDC_PROVIDER_VERSION = "9.13.3"
CLIENT_ID = "anthropic-proxy"
GROUP = "developers"
"""Group of all persons."""
SIGN_IN_TABLE = """
[sign_in]
scopes = ["openid", "email", "profile", "groups"]
keys_per_person = 3
"""
PASSWORD = "password-of-a-person-0123456789"
_MAX_PAGES = 12
"""Pages and redirects of a sign-in at a provider."""


class ProviderRefusal(Exception):
    """The identity provider shows an error in place of a sign-in."""


class IdentityProvider(Protocol):
    """A provider as a program."""

    settings: Mapping[str, str]
    """Variables of the proxy for it."""
    sign_in_table: str
    """The table `[sign_in]` of the proxy for it."""
    removals: Mapping[str, Callable[[str], None]]
    """Ways to take the access away from a person: name → function of the subject."""
    program: Program

    def start(self, redirect_uri: str) -> None:
        """Start the provider with a new key, which always has the same id."""

    def add(self, subject: str, address: str) -> None:
        """Create the account of a person."""

    def change_key(self) -> None:
        """Replace the key that signs, under the same id."""


class OidcProvider:
    """The npm package oidc-provider with its defaults.

    It gives a refresh token only after `prompt=consent`, and states claims only in the user info. It keeps its
    sessions, grants and tokens in memory: a restart forgets them.
    """

    def __init__(self, directory: Path, port: int) -> None:
        self._issuer = f"http://127.0.0.1:{port}"
        self.settings: Mapping[str, str] = _list_settings(self._issuer)
        self.sign_in_table = SIGN_IN_TABLE
        self.removals: Mapping[str, Callable[[str], None]] = {"account deleted": self._delete}
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
        client = {
            "client_id": CLIENT_ID,
            "client_secret": self.settings["OIDC_CLIENT_SECRET"],
            "redirect_uris": [redirect_uri],
            "grant_types": ["authorization_code", "refresh_token"],
        }
        configuration = {
            "issuer": self._issuer,
            "client": client,
            "jwks": {"keys": [_new_key()]},
            "users_file": str(self._directory / "users.json"),
        }
        (self._directory / "provider.json").write_text(json.dumps(configuration), "utf-8")
        self._redirect_uri = redirect_uri
        self._write_users()
        self.program.start()
        _wait_until_reached(self._issuer)

    def add(self, subject: str, address: str) -> None:
        self._users[subject] = {"email": address, "email_verified": True, "groups": [GROUP]}
        self._write_users()

    def change_key(self) -> None:
        """All sign-ins at this provider end too."""
        self.program.stop()
        self.start(self._redirect_uri)

    def _delete(self, subject: str) -> None:
        del self._users[subject]
        self._write_users()

    def _write_users(self) -> None:
        new = self._directory / "users.new"
        new.write_text(json.dumps(self._users), "utf-8")
        new.replace(self._directory / "users.json")


class Canaille:
    """The Python package Canaille, with its database in a SQLite file. `python`: interpreter of its environment.

    It gives a refresh token with each sign-in, without the scope offline_access. It has no claim `email_verified`: the
    address is in another claim, which users cannot change. The name of a user is the subject.
    """

    def __init__(self, directory: Path, port: int, python: str) -> None:
        self._address = f"127.0.0.1:{port}"
        self._issuer = f"http://{self._address}"
        self.settings: Mapping[str, str] = _list_settings(self._issuer)
        self.sign_in_table = f'{SIGN_IN_TABLE}email_claim = "preferred_username"\n'
        self.removals: Mapping[str, Callable[[str], None]] = {
            "out of the group": self._leave_group,
            "account locked": self._lock,
            "account deleted": self._delete,
        }
        self._directory = directory
        self._members: list[str] = []
        self._program = str(Path(python).with_name("canaille"))
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "CANAILLE_CONFIG": str(directory / "canaille.toml"),
        }
        self.program = Program(
            [self._program, "run", "--bind", self._address], directory, self._environment, "canaille"
        )

    def start(self, redirect_uri: str) -> None:
        self._write_configuration()
        self._run("install")
        client = {
            "client-id": CLIENT_ID,
            "client-secret": self.settings["OIDC_CLIENT_SECRET"],
            "client-name": "Proxy",
            "redirect-uris": redirect_uri,
            "response-types": "code",
            "token-endpoint-auth-method": "client_secret_basic",
        }
        lists = [
            ("grant-types", ("authorization_code", "refresh_token")),
            ("scope", ("openid", "email", "profile", "groups")),
        ]
        repeated = [f"--{name}={value}" for name, values in lists for value in values]
        self._run("create", "client", *(f"--{name}={value}" for name, value in client.items()), *repeated)
        self._run("set", "client", CLIENT_ID, f"--audience={CLIENT_ID}")  # as its page for new clients does
        self.program.start()
        _wait_until_reached(self._issuer)

    def add(self, subject: str, address: str) -> None:
        fields = {"user-name": subject, "family-name": subject, "password": PASSWORD, "emails": address}
        self._run("create", "user", *(f"--{name}={value}" for name, value in fields.items()))
        words = ("set", "group", GROUP) if self._members else ("create", "group", f"--display-name={GROUP}")
        self._members.append(subject)
        self._run(*words, *self._list_members())

    def change_key(self) -> None:
        self.program.stop()
        self._write_configuration()
        self.program.start()
        _wait_until_reached(self._issuer)

    def _leave_group(self, subject: str) -> None:
        self._members.remove(subject)
        self._run("set", "group", GROUP, *self._list_members())

    def _lock(self, subject: str) -> None:
        self._run("set", "user", subject, "--lock-date=2026-01-01T00:00:00+00:00")

    def _delete(self, subject: str) -> None:
        self._members.remove(subject)
        self._run("delete", "user", "--noconfirm", f"--user-name={subject}")

    def _list_members(self) -> list[str]:
        return [f"--members={subject}" for subject in self._members]

    def _write_configuration(self) -> None:
        key = ", ".join(f"{name} = {json.dumps(value)}" for name, value in _new_key().items())
        (self._directory / "canaille.toml").write_text(
            f'''\
SECRET_KEY = "secret-of-the-sessions-0123456789"
SERVER_NAME = "{self._address}"
PREFERRED_URL_SCHEME = "http"
[CANAILLE_SQL]
DATABASE_URI = "sqlite:///{self._directory}/canaille.sqlite3"
[CANAILLE_OIDC]
ACTIVE_JWKS = [{{{key}}}]
[CANAILLE_OIDC.USERINFO_MAPPING]
PREFERRED_USERNAME = "{{{{ user.preferred_email }}}}"
[CANAILLE.ACL.DEFAULT]
WRITE = ["password"]
''',
            "utf-8",
        )

    def _run(self, *words: str) -> None:
        done = subprocess.run(
            [self._program, *words],
            cwd=self._directory,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"


def _list_settings(issuer: str) -> Mapping[str, str]:
    return {
        "OIDC_ISSUER": issuer,
        "OIDC_CLIENT_ID": CLIENT_ID,
        "OIDC_CLIENT_SECRET": secrets.token_hex(16),
    }


def _new_key() -> dict[str, Any]:
    key = RSAKey.generate_key(2048, {"kid": "signing", "use": "sig", "alg": "RS256"})
    return {**key.as_dict(private=True)}


def _wait_until_reached(issuer: str) -> None:
    def is_reached() -> bool:
        try:
            return send_once("GET", f"{issuer}/.well-known/openid-configuration").status_code == 200
        except httpx.TransportError:
            return False

    wait_for(is_reached)


class ProviderBrowser(Browser):
    """A browser whose person fills in the forms of the identity provider: name, password, consent."""

    def __init__(self, proxy: Proxy, subject: str) -> None:
        super().__init__(proxy)
        self._fields = {"login": subject, "password": PASSWORD, "answer": "accept"}
        self._redirect_uri = f"{proxy.url}/dashboard/oidc/callback"
        self._provider_client = httpx.Client(trust_env=False, timeout=WAIT_SECONDS)

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
        raise ProviderRefusal(f"the provider shows page after page: {page.text}")

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
