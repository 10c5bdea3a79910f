"""A reload of the settings applies to persons that are signed in from Claude Code, on all instances."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2 as httpx

from tests.support.fakes.oidc import FakeProvider, running_provider
from tests.support.process_checks import reload, rewrite
from tests.support.server_process import Proxy, running_proxy
from tests.support.sign_in import SECRET, Browser, Device, list_sign_in_settings
from tests.support.waiting import wait_for

ADMIN_KEY = "admin-canary0123456789abcdef01234567"
NO_GROUP = (
    "ann@example.com may not use Claude Code, because none of the groups of the user gives access. Ask an "
    "administrator of the proxy for access."
)
NO_GROUP_KEY = (
    "The key 'laptop' is rejected, because none of the groups of its owner gives access any more. Ask an "
    "administrator of the proxy for access."
)

SIGN_IN = "[sign_in]\nkeys_per_person = 2\n"


class Company:
    """Instances with one database and one folder of settings."""

    def __init__(self, directory: Path, provider: FakeProvider, instances: list[Proxy]) -> None:
        self.directory = directory
        self.provider = provider
        self.instances = instances
        self.admin = instances[0].client(headers={"x-api-key": ADMIN_KEY})

    def change_groups(self, text: str) -> list[str]:
        return rewrite(self.directory / "anthropic-proxy.toml", SIGN_IN + text, *self.instances)

    def change_environment(self, text: str) -> list[str]:
        return rewrite(self.directory / ".env", text, *self.instances)

    def at(self, device: Device, number: int) -> Device:
        """The same device, whose requests a load balancer sends to another instance."""
        copy = Device(self.instances[number])
        copy.tokens = device.tokens
        return copy

    def find_key(self, name: str) -> dict[str, object]:
        listed = self.admin.get("/admin/keys").json()["data"]
        return next(one for one in listed if one["name"] == name)


@contextmanager
def running_company(directory: Path, groups: str, number: int = 1, **changes: str) -> Iterator[Company]:
    (directory / "anthropic-proxy.toml").write_text(SIGN_IN + groups)
    with running_provider() as provider, ExitStack() as stack:
        provider.offers_refresh = True
        provider.user |= {"groups": ["developers"]}
        settings = {
            **list_sign_in_settings(provider),
            "ADMIN_API_KEY": ADMIN_KEY,
            "SERVE_DEMO": "true",
            "LOG_LEVEL": "info",
            "DATABASE_URL": f"sqlite:///{directory}/ledger.sqlite3",
            **changes,
        }
        settings = {name: value for name, value in settings.items() if value}
        instances: list[Proxy] = []
        for _ in range(number):
            instances.append(stack.enter_context(running_proxy(directory, settings)))
            settings["DASHBOARD_URL"] = instances[0].url
        provider.redirect_uri = f"{instances[0].url}/dashboard/oidc/callback"
        yield Company(directory, provider, instances)
        assert provider.problems == []


def table(name: str, *lines: str) -> str:
    return "\n".join((f"[sign_in.groups.{name}]", 'team = "build"', *lines, ""))


def show(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()
    return answer.status_code, body["error"]["message"] if "error" in body else ""


def send_with_key(proxy: Proxy, key: str) -> tuple[int, str]:
    body = {"model": "demo/demo", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
    return show(proxy.client(headers={"x-api-key": key}).post("/v1/messages", json=body))


def test_limits_of_a_group_apply_without_a_refresh_on_all_instances(tmp_path: Path) -> None:
    with running_company(tmp_path, table("developers", "requests_per_minute = 60"), number=2) as company:
        first = Device(company.instances[0])
        first.sign_in()
        second = company.at(first, 1)
        assert [device.send().status_code for device in (first, second, first, second)] == [200] * 4
        refreshes = company.provider.refreshes
        limits = table("developers", "requests_per_minute = 1", 'budgets = ["5USD/day"]')
        assert company.change_groups(limits) == ["Settings reloaded: sign_in changed."] * 2
        wait_for(lambda: company.find_key("ann@example.com")["requests_per_minute"] == 1)
        wait_for(lambda: [device.send().status_code for device in (first, second)] == [429, 429])
        assert company.find_key("ann@example.com")["team"] == "build"
        company.change_groups(table("developers", "requests_per_minute = 60").replace("build", "core"))
        wait_for(lambda: [device.send().status_code for device in (first, second)] == [200, 200])
        wait_for(lambda: company.find_key("ann@example.com")["team"] == "core")
        assert company.provider.refreshes == refreshes
        entries = company.admin.get("/admin/audit").json()["data"]
        changes = [each for each in entries if each["actor"] == "settings ([sign_in.groups])"]
        assert [each["action"] for each in changes] == ["change key"] * 2, "one entry for each change"


def test_a_person_without_a_table_is_refused_until_the_settings_have_it_again(tmp_path: Path) -> None:
    with running_company(tmp_path, table("developers")) as company:
        proxy, device = company.instances[0], Device(company.instances[0])
        token = device.sign_in()["access_token"]
        bearer = proxy.client(headers={"authorization": f"Bearer {token}"})
        key = bearer.post("/admin/keys", json={"name": "laptop"}).json()["key"]
        wait_for(lambda: send_with_key(proxy, key)[0] == 200)
        company.change_groups(table("others"))
        wait_for(lambda: show(device.send()) == (403, NO_GROUP))
        wait_for(lambda: send_with_key(proxy, key) == (401, NO_GROUP_KEY))
        company.change_groups(table("developers"))
        wait_for(lambda: device.send().status_code == 200)
        wait_for(lambda: send_with_key(proxy, key)[0] == 200)
        company.change_groups(table("others"))
        refused = device.refresh()
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
        wait_for(lambda: device.send().status_code == 401)


def test_changed_groups_apply_at_a_restart_too(tmp_path: Path) -> None:
    with running_company(tmp_path, table("developers")) as company:
        Device(company.instances[0]).sign_in()
        (tmp_path / "anthropic-proxy.toml").write_text(table("developers", "requests_per_minute = 7"))
        settings = {"VIRTUAL_KEYS": "true", "ADMIN_API_KEY": ADMIN_KEY, "SIGN_IN_SECRET": SECRET}
        settings |= {name: value for name, value in list_sign_in_settings(company.provider).items() if value}
        settings |= {"DATABASE_URL": f"sqlite:///{tmp_path}/ledger.sqlite3", "SERVE_DEMO": "true"}
        with running_proxy(tmp_path, settings) as later:
            company.admin = later.client(headers={"x-api-key": ADMIN_KEY})
            wait_for(lambda: company.find_key("ann@example.com")["requests_per_minute"] == 7)


def test_a_reload_enables_and_disables_the_sign_in(tmp_path: Path) -> None:
    with running_company(tmp_path, table("developers"), SIGN_IN_SECRET="") as company:
        proxy, device = company.instances[0], Device(company.instances[0])
        off = (404, "SIGN_IN_SECRET is not set, so nobody signs in here.")
        assert show(device.client.get("/.well-known/oauth-authorization-server")) == off
        assert show(device.client.post("/oauth/device_authorization", data={"surface": "x"})) == off
        assert device.client.get("/device").status_code == 404
        changed = company.change_environment(f"SIGN_IN_SECRET={SECRET}\n")
        assert changed == ["Settings reloaded: SIGN_IN_SECRET changed."]
        device.sign_in()
        assert device.send().status_code == 200
        assert "next start" not in proxy.log
        company.change_environment("")
        assert device.send().status_code == 401
        assert show(device.client.get("/.well-known/oauth-authorization-server")) == off
        assert show(device.refresh()) == off


def test_what_a_reload_cannot_change_is_said_by_the_reload(tmp_path: Path) -> None:
    with running_company(
        tmp_path,
        table("developers"),
        SIGN_IN_SECRET="",
        VIRTUAL_KEYS="",
        PROXY_API_KEY="proxy-canary0123456789abcdef01234567",
    ) as one:
        (tmp_path / ".env").write_text(f"SIGN_IN_SECRET={SECRET}\nVIRTUAL_KEYS=true\nLEDGER_DAYS=7\n")
        line = reload(one.instances[0], "will take effect at the next start")
        assert line == "! VIRTUAL_KEYS and LEDGER_DAYS will take effect at the next start."


def test_a_reload_does_not_enable_what_would_be_open_to_everybody(tmp_path: Path) -> None:
    with running_proxy(tmp_path, {"SERVE_DEMO": "true", "DATABASE_URL": f"sqlite:///{tmp_path}/l.sqlite3"}) as proxy:
        (tmp_path / ".env").write_text(
            "VIRTUAL_KEYS=true\nOIDC_ISSUER=http://127.0.0.1:9\nOIDC_CLIENT_ID=proxy\n", encoding="utf-8"
        )
        line = reload(proxy, "The current settings stay active")
        assert line == (
            "✕ The current settings stay active. OIDC_ISSUER is set, but clients need no key, so they read all "
            "requests without a sign-in. Set PROXY_API_KEY too, or set VIRTUAL_KEYS=true and start the proxy again."
        )


def test_a_rotation_of_the_secret_ends_no_sign_in_that_has_begun(tmp_path: Path) -> None:
    with running_company(tmp_path, table("developers"), SIGN_IN_SECRET="") as company:
        company.change_environment(f"SIGN_IN_SECRET={SECRET}\n")
        proxy, signed_in, waiting = company.instances[0], Device(company.instances[0]), Device(company.instances[0])
        signed_in.sign_in()
        browser, begun = Browser(proxy), waiting.begin()
        at_provider = browser.follow(browser.confirm(begun["user_code"]))
        company.change_environment(f"SIGN_IN_SECRET=a-new-canary-of-32-characters-or-more,{SECRET}\n")
        assert signed_in.send().status_code == 200
        assert browser.decide(browser.client.get(at_provider)).status_code == 200
        assert waiting.poll().status_code == 200
        renewed = signed_in.refresh()
        assert renewed.status_code == 200
        old, new = signed_in.tokens["access_token"], renewed.json()["access_token"]
        company.change_environment("SIGN_IN_SECRET=a-new-canary-of-32-characters-or-more\n")
        assert [signed_in.send(token).status_code for token in (old, new)] == [401, 200]
        assert signed_in.refresh().json()["error"] == "invalid_grant", "the refresh token is of the old secret"
