"""A server process as the gateway of a company for Claude Code: settings at any time, and a burst of token counts."""

import asyncio
from pathlib import Path

import aiohttp

from tests.support.fakes.oidc import running_provider
from tests.support.process_checks import reload
from tests.support.server_process import Proxy, running_proxy
from tests.support.sign_in import Device, list_sign_in_settings
from tests.support.waiting import WAIT_SECONDS, wait_for

PATH = "/managed/settings"
ADMIN = "admin-canary0123456789abcdef01234567"
BURST = 34
"""Token counts that `/context` of Claude Code 2.1.332 sends at once."""


def write_days(directory: Path, days: int) -> None:
    (directory / "anthropic-proxy.toml").write_text(f'[managed_settings."*"]\ncleanupPeriodDays = {days}\n')


async def create_key(session: aiohttp.ClientSession) -> dict[str, str]:
    body, headers = {"name": "ann", "requests_per_minute": 1}, {"x-api-key": ADMIN}
    async with session.post("/admin/keys", json=body, headers=headers) as response:
        return {"authorization": f"Bearer {(await response.json())['key']}"}


async def count_tokens(session: aiohttp.ClientSession, bearer: dict[str, str], number: int) -> int:
    body = {"model": "demo/demo", "messages": [{"role": "user", "content": f"Part {number}"}]}
    async with session.post("/v1/messages/count_tokens", json=body, headers=bearer) as response:
        return response.status


async def use(proxy: Proxy, directory: Path) -> None:
    async with aiohttp.ClientSession(proxy.url) as session:
        bearer = await create_key(session)
        async with session.get(PATH, headers=bearer) as first:
            assert (first.status, (await first.json())["settings"]["cleanupPeriodDays"]) == (200, 7)
        held = {**bearer, "if-none-match": first.headers["etag"]}
        async with session.get(PATH, headers=held) as again:
            assert (again.status, await again.read(), again.headers["etag"]) == (304, b"", first.headers["etag"])
            assert "content-length" not in again.headers
        statuses = await asyncio.gather(*(count_tokens(session, bearer, number) for number in range(BURST)))
        assert statuses == [200] * BURST
        write_days(directory, 30)
        reloading = asyncio.create_task(asyncio.to_thread(reload, proxy))
        seen = []
        while not reloading.done() or not seen or seen[-1][0] == 304:
            async with session.get(PATH, headers=held) as polled:
                body = await polled.read()
                seen.append((polled.status, polled.headers["etag"] == first.headers["etag"], body[-3:]))
        await reloading
        # those before the reload, if there are any, and the one after it
        assert {one[:2] for one in seen} <= {(304, True), (200, False)}


def test_settings_are_answered_during_a_reload_and_a_burst_of_counts_is_admitted(tmp_path: Path) -> None:
    write_days(tmp_path, 7)
    settings = {
        "VIRTUAL_KEYS": "true",
        "ADMIN_API_KEY": ADMIN,
        "SERVE_DEMO": "true",
        "DATABASE_URL": f"sqlite:///{tmp_path}/keys.sqlite3",
    }
    with running_proxy(tmp_path, settings) as proxy:
        asyncio.run(asyncio.wait_for(use(proxy, tmp_path), WAIT_SECONDS))


GROUPS = """
[sign_in.groups."*"]
team = "build"
budgets = ["1000000tokens/day"]

[managed_settings.contractors]
cleanupPeriodDays = 7

[managed_settings."*"]
cleanupPeriodDays = 30
"""
STATED = f"sha256:{'5eed' * 16}"


def test_a_signed_in_person_has_the_settings_of_the_group_and_its_machine_is_shown(tmp_path: Path) -> None:
    (tmp_path / "anthropic-proxy.toml").write_text(GROUPS)
    with running_provider() as provider:
        provider.offers_refresh = True
        database = {"DATABASE_URL": f"sqlite:///{tmp_path}/ledger.sqlite3", "ADMIN_API_KEY": ADMIN}
        with running_proxy(tmp_path, {**list_sign_in_settings(provider), **database, "SERVE_DEMO": "true"}) as proxy:
            provider.redirect_uri = f"{proxy.url}/dashboard/oidc/callback"
            user = {"email": "ann@example.com", "email_verified": True, "name": "Ann"}
            found = {}
            for groups in (["contractors", "other"], ["other"]):
                provider.user = {"sub": f"ann {len(groups)}", **user, "groups": groups}
                provider.user["email"] = f"ann{len(groups)}@example.com"
                device = Device(proxy)
                bearer = {"authorization": f"Bearer {device.sign_in()['access_token']}"}
                answer = device.client.get(PATH, headers=bearer)
                found[len(groups)] = answer.status_code, answer.json()["settings"]["cleanupPeriodDays"]
                usage = device.client.get("/api/oauth/usage", headers=bearer)
                assert (usage.status_code, usage.json()["limits"]) == (200, [])
                sent = device.client.post("/v1/metrics", content=b"", headers=bearer)
                assert (sent.status_code, sent.content) == (200, b"")
            assert found == {2: (200, 7), 1: (200, 30)}
            # a request in which the machine states other settings than those that it has just asked for
            hints = {
                "x-claude-code-managed-settings-checksum": STATED,
                "user-agent": "claude-cli/2.1.332 (external, cli)",
            }
            body = {"model": "demo/demo", "max_tokens": 1, "messages": [{"role": "user", "content": "quota"}]}
            asked = device.client.post("/v1/messages", json=body, headers={**bearer, **hints})
            assert asked.headers["anthropic-ratelimit-unified-status"] == "allowed"
            admin = proxy.client(headers={"x-api-key": ADMIN})
            (key,) = [one for one in admin.get("/admin/keys").json()["data"] if one["name"] == "ann1@example.com"]
            pages = proxy.client()
            pages.post("/dashboard/sign-in", data={"key": ADMIN, "next": ""})
            shown = f"{STATED[7:15]}, sent {answer.json()['checksum'][7:15]}, claude-cli/2.1.332"
            wait_for(lambda: pages.get(f"/dashboard/keys/{key['id']}").text, lambda text: shown in text)


ROLES = """
[prices."demo/demo"]
input = 1000
output = 1000

[sign_in.groups.developers]
team = "build"
models = ["demo/*", "claude-haiku-*"]
budgets = ["5USD/day"]

[sign_in.groups.leads]
team = "build"
role = "team admin"
models = ["demo/*", "claude-haiku-*"]
budgets = ["5USD/day"]

[sign_in.groups.viewers]
team = "build"
role = "viewer"
models = ["demo/*", "claude-haiku-*"]
budgets = ["5USD/day"]
"""


def test_people_with_the_same_rules_get_the_same_settings_and_limits_whatever_their_role_is(tmp_path: Path) -> None:
    (tmp_path / "anthropic-proxy.toml").write_text(ROLES)
    with running_provider() as provider:
        provider.offers_refresh = True
        database = {"DATABASE_URL": f"sqlite:///{tmp_path}/ledger.sqlite3", "SERVE_DEMO": "true"}
        with running_proxy(tmp_path, {**list_sign_in_settings(provider), **database}) as proxy:
            provider.redirect_uri = f"{proxy.url}/dashboard/oidc/callback"
            found = []
            for group in ("developers", "leads", "viewers"):
                email = f"{group}@example.com"
                provider.user = {"sub": group, "email": email, "email_verified": True, "groups": [group]}
                device = Device(proxy)
                device.sign_in()
                bearer = {"authorization": f"Bearer {device.tokens['access_token']}"}
                assert device.send().status_code == 200
                body = {"model": "demo/demo", "max_tokens": 1, "messages": [{"role": "user", "content": "quota"}]}
                agent = {"user-agent": "claude-cli/2.1.332 (external, cli)"}
                asked = device.client.post("/v1/messages", json=body, headers={**bearer, **agent})
                assert asked.headers["anthropic-ratelimit-unified-status"] == "allowed"
                usage = device.client.get("/api/oauth/usage", headers=bearer).json()
                assert usage["extra_usage"]["used_credits"] > 0
                (limit,) = usage["limits"]
                managed = device.client.get(PATH, headers=bearer).json()["settings"]
                recent = wait_for(
                    lambda device=device, bearer=bearer: device.client.get(  # type: ignore[misc]
                        "/api/requests/recent", headers=bearer
                    ).json()["finished"],
                    lambda finished: sum(one["is_exchange"] for one in finished) == 2,
                )
                providers = [one["receipt"]["provider"] for one in recent if one["is_exchange"]]
                found.append((usage["extra_usage"], limit["percent"], managed, providers))
            assert found[0] == found[1] == found[2]
            assert found[0][3] == ["demo", ""], "the question about the limits is no call"
