"""Pictures of Claude Code at the proxy of a company, from an empty home to the sign-out: in dist/pictures, and three of
them in docs/pictures.

A person works at one of four instances. Test servers replace the providers and the identity provider.
"""

import json
import os
import re
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import trustme

from tests.e2e.claude import find_claude
from tests.e2e.company import ADMIN_KEY, TwoPartReply
from tests.site.pages import DOCS
from tests.site.recordings import run_on_terminal
from tests.site.terminal_drawing import draw
from tests.site.tmux import Tmux, running_in_tmux
from tests.support.fakes.anthropic import KEY as ANTHROPIC_KEY
from tests.support.fakes.anthropic import new_anthropic
from tests.support.fakes.oidc import running_provider
from tests.support.fakes.openai_chat import KEY as OPENAI_KEY
from tests.support.fakes.server import serving
from tests.support.paths import ROOT
from tests.support.server_process import Proxy, running_proxy
from tests.support.sign_in import Browser, list_sign_in_settings
from tests.support.waiting import wait_for

ADDRESS = "https://proxy.example.org"
"""Address in the pictures, in place of that of the test."""
LABELS = {
    "sign-in-code": "Claude Code: the code of a sign-in, and the address of the page that confirms it",
    "budget-notice": "Claude Code: reply of an OpenAI model, and the notice that 77% of the budget is used",
    "budget-used-up": "Claude Code: the budget is used up, until when, and where to ask for more",
}
"""Name of a picture of the documentation → its description."""
_EMAIL = "ann@example.com"
_ROWS = 26
_INSTANCES = 4
_DOLLAR_MODEL = "openai/gpt-4.1-nano"
_TABLES = """
[sign_in]
notice = "Only for work at Example Ltd."
contact = "https://go.example.org/limits"
token_minutes = 5

[sign_in.groups."*"]
team = "build"
budgets = ["20USD/day"]

[prices."openai/*"]
input = 2
cache_read = 0.5
output = 8

# a cent for each word
[prices."openai/gpt-4.1-nano"]
input = 0
output = 10000

[prices."anthropic/*"]
input = 3
cache_read = 0.3
cache_write = 3.75
output = 15
"""
_STATUS_LINE = """\
python3 -c 'import json, sys; s = json.load(sys.stdin)
print("%s · session $%.2f" % (s["model"]["display_name"], s["cost"]["total_cost_usd"]))'"""


class Company:
    """Four instances with one database, and the machine of a person."""

    def __init__(self, folder: Path, instances: Sequence[Proxy], database_url: str) -> None:
        self.instances = instances
        self.home = folder / "home"
        self.project = self.home / "shop"
        self.pictures: dict[str, list[str]] = {}
        self._folder = folder
        self._port = instances[0].url.rpartition(":")[2]
        self._database_url = database_url
        (self.home / ".claude").mkdir(parents=True)
        self.project.mkdir()
        settings = {
            "forceLoginMethod": "gateway",
            "forceLoginGatewayUrl": instances[0].url,
            "statusLine": {"type": "command", "command": _STATUS_LINE},
        }
        (self.home / ".claude/settings.json").write_text(json.dumps(settings))
        nowhere = "http://127.0.0.1:9"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TMPDIR": str(self.home),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "TZ": "UTC",
            "BROWSER": "/bin/true",
            "DISABLE_AUTOUPDATER": "1",
            "HTTPS_PROXY": nowhere,
            "HTTP_PROXY": nowhere,
            "NO_PROXY": "127.0.0.1,localhost",
            "NODE_EXTRA_CA_CERTS": str(folder / "authority.pem"),
        }

    @property
    def saved(self) -> dict[str, Any]:
        """The sign-in as Claude Code stores it."""
        stored: dict[str, Any] = json.loads((self.home / ".claude/.credentials.json").read_text())
        return stored["enterpriseGateway"]

    @contextmanager
    def open(self, *options: str) -> Iterator[Tmux]:
        command = (str(find_claude()), *options)
        with running_in_tmux(command, self.project, self.environment, _ROWS) as screen:
            yield screen

    def keep(self, name: str, lines: Sequence[str]) -> None:
        shown = "\n".join(lines).replace(self.instances[0].url, ADDRESS)
        for found, replacement in ((self.project, "~/shop"), (self.home, "~"), (self._folder, "/etc/ssl")):
            shown = shown.replace(str(found), replacement)
        shown = re.sub(rf"127\.0\.0\.1(:{self._port})?(?!:9\b)", ADDRESS.partition("://")[2], shown)
        self.pictures.setdefault(name, shown.splitlines())

    def spend(self, cents: int) -> None:
        """Use a part of the budget, as another program of the person does."""
        client = self.instances[0].client(headers={"authorization": f"Bearer {self.saved['jwt']}"})
        message = {"role": "user", "content": f"Count to {cents}"}
        body = {"model": _DOLLAR_MODEL, "max_tokens": 4000, "messages": [message]}
        answer = client.post("/v1/messages", json=body)
        assert answer.status_code == 200, answer.text

    def administer(self, *words: str) -> list[str]:
        """Run a command of the administrator. Return it with its output."""
        settings = {"DATABASE_URL": self._database_url}
        return [f"$ anthropic-proxy {' '.join(words)}", *run_on_terminal(words, self._folder, settings)]


def record_company(folder: Path) -> Mapping[str, Sequence[str]]:
    """Return the lines of each picture, in the order of the session."""
    reply = TwoPartReply("The first half of the reply,\n\n", "and the second half.")
    with _running_company(folder, reply) as company:
        _sign_in(company)
        _work(company)
        _refresh(company, reply)
        _reach_limit(company)
        _revoke(company)
        _sign_out(company)
        return company.pictures


@contextmanager
def _running_company(folder: Path, reply: TwoPartReply) -> Iterator[Company]:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "proxy.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    authority.cert_pem.write_to_path(folder / "authority.pem")
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    (folder / "anthropic-proxy.toml").write_text(_TABLES)
    with ExitStack() as stack:
        openai = stack.enter_context(serving(reply.application))
        anthropic = stack.enter_context(serving(new_anthropic()))
        provider = stack.enter_context(running_provider())
        provider.offers_refresh = True
        settings = {
            **list_sign_in_settings(provider),
            "ADMIN_API_KEY": ADMIN_KEY,
            "DATABASE_URL": f"sqlite:///{folder}/ledger.sqlite3",
            "OPENAI_API_KEY": OPENAI_KEY,
            "OPENAI_BASE_URL": f"{openai.url}/v1",
            "ANTHROPIC_API_KEY": ANTHROPIC_KEY,
            "ANTHROPIC_UPSTREAM_URL": anthropic.url,
            "PREFERRED_PROVIDER": "openai",
            "BIG_MODEL": "gpt-4.1",
            "DASHBOARD_URL": "https://127.0.0.1:{port}",
            "TLS_CERT_FILE": str(folder / "proxy.pem"),
            "TLS_KEY_FILE": str(folder / "key.pem"),
        }
        instances = [stack.enter_context(running_proxy(folder, settings, trusted=trusted))]
        provider.redirect_uri = f"{instances[0].url}/dashboard/oidc/callback"
        settings["DASHBOARD_URL"] = instances[0].url
        instances += [
            stack.enter_context(running_proxy(folder, settings, trusted=trusted)) for _ in range(_INSTANCES - 1)
        ]
        yield Company(folder, instances, settings["DATABASE_URL"])


def _sign_in(company: Company) -> None:
    with company.open() as screen:
        company.keep("first-start", screen.wait_for("Choose the text style"))
        screen.press("Enter")
        company.keep("sign-in-address", screen.wait_for("Enter to connect"))
        screen.press("Enter")
        company.keep("sign-in-trust", screen.wait_for("Certificate fingerprint", "❯ No"))
        _choose(screen, "Up")
        _confirm(company, screen)
        company.keep("sign-in-done", screen.wait_for("Press Enter to continue"))
        screen.press("Enter")
        screen.wait_for("Security notes")
        screen.press("Enter")
        screen.wait_for("❯ No, exit")
        _choose(screen, "Down")
        company.keep("signed-in", screen.wait_for("Cloud gateway", "❯"))


def _confirm(company: Company, screen: Tmux) -> None:
    """Confirm the code in a browser, and the account in Claude Code."""
    company.keep("sign-in-code", screen.wait_for("Code:", "Waiting for sign-in"))
    code = next(line.split()[-1] for line in screen.text.splitlines() if "Code:" in line)
    url = f"{company.instances[0].url}/device?user_code={code}"
    page = Browser(company.instances[0]).approve({"user_code": code, "verification_uri_complete": url})
    assert page.status_code == 200, page.text
    company.keep("sign-in-account", screen.wait_for(_EMAIL, "❯ No"))
    _choose(screen, "Up")


def _choose(screen: Tmux, key: str) -> None:
    """Choose Yes where No is the default."""
    screen.press(key)
    screen.wait_for("❯ Yes")
    screen.press("Enter")


def _work(company: Company) -> None:
    with company.open() as screen:
        screen.wait_for("❯")
        screen.type("Run the command `echo 12 tests passed`")
        company.keep("work-on-openai", _wait_for_cost(screen, "The command said"))
        screen.type("/status")
        company.keep("status", screen.wait_for("Gateway account"))
        screen.press("Escape")
        wait_for(lambda: screen.text, lambda text: "Gateway account" not in text)
        screen.settle()
        screen.type("/usage")
        company.keep("usage", screen.wait_for("spent today"))
    with company.open("--model", "anthropic/claude-sonnet-5-5") as screen:
        screen.wait_for("❯")
        screen.type("Say exactly: this reply is a relay from Anthropic")
        company.keep("work-on-relay", _wait_for_cost(screen, "● this reply"))


def _reach_limit(company: Company) -> None:
    with company.open() as screen:
        screen.wait_for("❯")
        company.spend(1_520)
        screen.type("Say exactly: the first prompt of the afternoon")
        company.keep("budget-notice", screen.wait_for("● the first", "of your usage credits"))
        _await_no_notice(screen)
        company.spend(370)
        screen.type("Say exactly: the second prompt")
        company.keep("budget-notice-95", screen.wait_for("● the second", "of your usage credits"))
        _await_no_notice(screen)
        company.spend(200)
        screen.type("Say exactly: the third prompt")
        company.keep("budget-used-up", screen.wait_for("has used up its budget"))
    with company.open() as screen:
        screen.wait_for("❯")
        screen.type("/usage")
        company.keep("usage-used-up", screen.wait_for("spent today"))


def _wait_for_cost(screen: Tmux, words: str) -> list[str]:
    """Return the screen when it shows `words`, and the status line an amount."""
    wait_for(lambda: screen.text, lambda text: words in text and "session $" in text and "session $0.00" not in text)
    return screen.settle()


def _await_no_notice(screen: Tmux) -> None:
    """A notice that comes while another one is shown is dropped."""
    wait_for(lambda: screen.text, lambda text: "of your usage credits" not in text)


def _refresh(company: Company, reply: TwoPartReply) -> None:
    with company.open() as screen:
        screen.wait_for("❯")
        screen.type(reply.PROMPT)
        wait_for(reply.is_streaming.is_set)
        company.keep("refresh-before", screen.wait_for("The first half"))
        token = company.saved["jwt"]
        words = ("-p", "Say exactly: a program beside it has refreshed the sign-in")
        beside = subprocess.run(
            (str(find_claude()), *words), cwd=company.project, env=company.environment, capture_output=True, check=True
        )
        assert company.saved["jwt"] != token, beside.stdout
        reply.may_end.set()
        company.keep("refresh-after", screen.wait_for("and the second half."))
        screen.type("Say exactly: the next prompt has the new token")
        company.keep("refresh-next-prompt", screen.wait_for("● the next prompt"))


def _revoke(company: Company) -> None:
    with company.open() as screen:
        screen.wait_for("❯")
        company.keep("revoked-on-one-instance", _revoke_on_second(company))
        screen.type("Say exactly: after the sign-out")
        company.keep("revoked-in-the-client", screen.wait_for("Please run /login"))
        screen.type("/login")
        screen.wait_for("Enter to connect")
        screen.press("Enter")
        _confirm(company, screen)
        company.keep("signed-in-again", screen.wait_for("Press Enter to continue"))


def _revoke_on_second(company: Company) -> list[str]:
    """End the sign-in at the second instance. Return what it answers, and when each instance refuses the token."""
    path = f"/admin/sign-ins/{_EMAIL}/sign-out"
    headers = {"authorization": f"Bearer {company.saved['jwt']}"}
    clients = [instance.client(headers=headers) for instance in company.instances]
    assert [client.get("/v1/models").status_code for client in clients] == [200] * len(clients)
    seconds: dict[int, float] = {}
    start = time.monotonic()
    ended = company.instances[1].client(headers={"x-api-key": ADMIN_KEY}).post(path)

    def ask() -> bool:
        for number, client in enumerate(clients, start=1):
            if number not in seconds and client.get("/v1/models").status_code == 401:
                seconds[number] = time.monotonic() - start
        return len(seconds) == len(clients)

    wait_for(ask)
    refused = [f"instance {number}: 401 after {seconds[number]:.1f} s" for number in sorted(seconds)]
    ids = ", ".join(one["id"] for one in ended.json()["data"])
    return [f"$ curl -X POST -H 'x-api-key: …' https://instance-2{path}", f"{ended.status_code}: {ids}", "", *refused]


def _sign_out(company: Company) -> None:
    with company.open() as screen:
        screen.wait_for("❯")
        screen.type("/logout")
        screen.wait_for("logged out")
        company.keep("signed-out", [*screen.settle(), "", *company.administer("keys", "sign-ins")])


def write_pictures() -> None:
    target = ROOT / "dist/pictures"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Claude Code may still end
        recorded = record_company(Path(folder))
    for number, (name, lines) in enumerate(recorded.items(), start=1):
        drawn = draw(lines, LABELS.get(name, f"Claude Code: {name.replace('-', ' ')}"))
        (target / f"company-{number:02}-{name}.svg").write_text(drawn, "utf-8")
        if name in LABELS:
            (DOCS / f"pictures/{name}.svg").write_text(drawn, "utf-8")


if __name__ == "__main__":
    write_pictures()
