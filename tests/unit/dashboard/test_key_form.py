"""The page Keys: each change of a key with preview and confirmation, and every refusal by role, token or value."""

import html
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import pytest

from anthropic_proxy.app import App
from tests.support.dashboard import HOSTILE
from tests.support.ledger import destroy_ledger
from tests.support.sign_in import store_sign_in
from tests.support.virtual_keys import Response, running_app, send
from tests.support.waiting import wait_for_async

ADMIN, PROXY = "admin-0123456789", "pk-0123456789"
EDIT = "/dashboard/keys/edit"
ASKED = {"model": "demo/demo", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
NOT_ALLOWED = "Keys can be changed after a sign-in with a key of ADMIN_API_KEY."


class Browser:
    """A browser without script: it keeps cookies, and sends the fields of the last page with a form."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._cookies: dict[str, str] = {}
        self.fields: dict[str, str] = {}

    async def get(self, path: str) -> str:
        return text_of(await self.send("GET", path))

    async def post(self, path: str, **fields: str) -> str:
        return text_of(await self.send("POST", path, urlencode(fields).encode()))

    async def submit(self, **fields: str) -> str:
        """Send the form of the last page, with some fields changed."""
        return await self.post(EDIT, **{**self.fields, **fields})

    async def send(self, method: str, path: str, body: bytes | None = None) -> Response:
        cookie = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        headers = {"cookie": cookie} if cookie else {}
        response = await send(self._app, method, path, body, **headers)
        if found := response.headers.get("set-cookie"):
            name, _, value = found.partition(";")[0].partition("=")
            self._cookies[name] = value
        pattern = r'<(?:input|select)[^>]* name="([^"]+)"(?: value="([^"]*)")?'
        form = text_of(response).partition('action="/dashboard/keys/edit"')[2].partition("</form>")[0]
        if form:
            self.fields = {name: html.unescape(value) for name, value in re.findall(pattern, form)}
        return response


def text_of(response: Response) -> str:
    return response.body.decode()


def problem(page: str) -> str:
    """Return the error on a page."""
    found = re.search(r'role="alert">.*?</span> (.*?)</p>', page) or re.search(r'"verdict">(.*?)</p>', page)
    assert found is not None, page
    return html.unescape(found[1])


def sections(page: str) -> list[str]:
    """Return the names of the pages in the navigation."""
    return re.findall(r'data-key="\w">(?:<[^>]*>)*(\w+)</a>', page.replace(' aria-current="page"', ""))


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with running_app(tmp_path, ADMIN_API_KEY=ADMIN, PROXY_API_KEY=PROXY) as app:
        yield app


@pytest.fixture
async def browser(app: App) -> Browser:
    """Return a browser that has signed in with an admin key."""
    return await sign_in(app, ADMIN)


async def sign_in(app: App, key: str) -> Browser:
    browser = Browser(app)
    assert (await browser.send("POST", "/dashboard/sign-in", urlencode({"key": key}).encode())).status == 303
    return browser


async def create(browser: Browser, label: str, **fields: str) -> tuple[str, str]:
    """Create a key by its form. Return its id and its text."""
    await browser.get(f"{EDIT}?action=create")
    await browser.submit(label=label, **fields)
    page = await browser.submit()
    assert f"Key {label} is created." in html.unescape(page)
    id_, text = re.search(r"/dashboard/keys/(key_\w+)", page), re.search(r"<code>(sk-ap-\w+)</code>", page)
    assert id_ is not None
    assert text is not None
    return id_[1], text[1]


async def accepts(app: App, key: str) -> bool:
    """Wait until the proxy has read a key. Return True if it is accepted."""
    response = await wait_for_async(
        lambda: send(app, "GET", "/v1/models", x_api_key=key),
        lambda response: (
            response.status == 200 or not response.message.startswith("The key is not a key of this proxy.")
        ),
    )
    return response.status == 200


async def test_a_key_is_created_after_a_preview_and_shown_once(app: App, browser: Browser) -> None:
    await browser.get(f"{EDIT}?action=create")
    fields = {"label": "ci", "team": "build", "models": "claude-*, demo/*", "rpm": "60", "budget": "50USD/month"}
    preview = await browser.submit(**fields, expires="2099-12-30")
    lines = re.findall(r'<span class="added">(.*?)</span>', preview)
    assert lines == [
        "+ label: ci",
        "+ team: build",
        "+ expires_at: 2099-12-31T00:00:00Z",
        "+ models: claude-*, demo/*",
        "+ requests_per_minute: 60",
        "+ budgets: $50.00 per month",
    ]
    assert "No virtual keys yet." in await browser.get("/dashboard/keys")
    await browser.get(f"{EDIT}?action=create")
    await browser.submit(**fields)
    page = await browser.submit()
    (text,) = re.findall(r"<code>(sk-ap-\w+)</code>", page)
    assert f"ANTHROPIC_AUTH_TOKEN={text}" in page
    assert await accepts(app, text)
    assert problem(await browser.submit()) == (
        "A key with the label 'ci' exists. Use another label, or rotate that key."
    )
    listed = await browser.get("/dashboard/keys")
    assert "1 key: 1 active." in listed
    assert "$0.00 of $50.00 per month" in listed
    audit = await browser.get("/dashboard/keys/audit")
    assert "create key" in audit
    assert re.search(r"dashboard \((admin )?key \d\)", audit)
    for page in (listed, audit, await browser.get("/dashboard/keys?format=json")):
        assert text[6:46] not in page


async def test_a_key_is_changed_rotated_and_revoked(app: App, browser: Browser) -> None:
    id_, old = await create(browser, "ci", rpm="60", owner="ada")
    await browser.get(f"{EDIT}?action=change&target={id_}")
    assert (browser.fields["rpm"], browser.fields["owner"]) == ("60", "ada")
    preview = await browser.submit(rpm="", routes="cheap", owner="grace")
    assert re.findall(r'<span class="(added|removed)">(.*?)</span>', preview) == [
        *[("removed", "- owner: ada"), ("added", "+ owner: grace")],
        ("added", "+ routes: cheap"),
        ("removed", "- requests_per_minute: 60"),
    ]
    assert "anthropic-proxy.toml has no route &#39;cheap&#39;, so no request matches it." in preview
    assert "Key ci is changed." in await browser.submit()
    page = await browser.get(f"/dashboard/keys/{id_}")
    assert "grace" in page
    await browser.get(f"{EDIT}?action=rotate&target={id_}")
    await browser.submit(overlap="1h")
    confirmation = browser.fields
    rotated = await browser.submit()
    (new,) = re.findall(r"<code>(sk-ap-\w+)</code>", rotated)
    assert await accepts(app, new)
    assert await accepts(app, old)
    assert problem(await browser.post(EDIT, **confirmation)) == (
        "The values have changed since the preview. Nothing was changed. Open the form again."
    )
    await browser.get(f"{EDIT}?action=revoke&target={id_}")
    await browser.submit()
    assert "Key ci is revoked." in await browser.submit()
    assert "1 revoked" in await browser.get("/dashboard/keys")
    actions = re.findall(r'a-change nowrap">(.*?)</td>', await browser.get(f"/dashboard/keys/{id_}"))
    assert actions == ["revoke key", "rotate key", "change key", "create key"]


async def test_limits_of_a_team_are_changed(browser: Browser) -> None:
    await create(browser, "ci", team="build")
    await browser.get(f"{EDIT}?action=team&target=build")
    await browser.submit(budget="5USD/day,2000000tokens/month", concurrency="4")
    assert "Team build is changed." in await browser.submit()
    listed = await browser.get("/dashboard/keys")
    assert "$0.00 of $5.00 per day" in listed
    assert "4 at a time" in listed
    await browser.get(f"{EDIT}?action=team&target=build")
    assert browser.fields["budget"] == "5USD/day,2000000tokens/month"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label": ""}, "The label is ''. Use another one: local, admin, doctor and key 1 have a meaning."),
        ({"rpm": "many"}, 'rpm is "many". Use a whole number above 0, or none: no limit.'),
        ({"routes": "a*"}, "routes contains 'a*'. Use names of [[routes]] in anthropic-proxy.toml."),
        *(
            (
                {"expires": text},
                f'expires is "{text}". Use a duration such as 30d, a date such as 2026-12-31, or never.',
            )
            for text in ("soon", "500000w")  # no date is so far away
        ),
        (
            {"budget": "5"},
            'The budget is "5". Use an amount and a period, such as 50USD/month, 20USD/week, 5USD/day, '
            "2000000tokens/day or 100USD/total; then, if it is not for all models, for and a pattern; and soft, if it "
            "only warns: 20USD/day for claude-opus-* soft.",
        ),
    ],
)
async def test_an_invalid_value_is_named_and_nothing_is_stored(
    browser: Browser, fields: dict[str, str], message: str
) -> None:
    await browser.get(f"{EDIT}?action=create")
    response = await browser.send("POST", EDIT, urlencode({**browser.fields, "label": "ci", **fields}).encode())
    assert (response.status, problem(text_of(response))) == (400, message)
    assert "No virtual keys yet." in await browser.get("/dashboard/keys")


async def test_a_key_of_the_proxy_may_only_read(app: App, browser: Browser) -> None:
    id_, _ = await create(browser, "ci")
    token = browser.fields["token"]
    reader = await sign_in(app, PROXY)
    listed = await reader.get("/dashboard/keys")
    assert "ci" in listed
    assert NOT_ALLOWED in listed
    assert "action=create" not in listed
    for path in (f"{EDIT}?action=create", f"{EDIT}?action=revoke&target={id_}"):
        response = await reader.send("GET", path)
        assert (response.status, problem(text_of(response))) == (403, NOT_ALLOWED)
    revocation = urlencode({"token": token, "action": "revoke", "target": id_, "before": "x"}).encode()
    assert (await reader.send("POST", EDIT, revocation)).status == 403
    foreign = await browser.send("POST", EDIT, urlencode({"token": "x", "action": "revoke", "target": id_}).encode())
    assert (foreign.status, problem(text_of(foreign))) == (
        403,
        "The form is not of this session. Open /dashboard again.",
    )
    stranger = await Browser(app).send("GET", f"{EDIT}?action=create")
    assert (stranger.status, stranger.headers["location"]) == (303, "/dashboard/sign-in?next=/dashboard/keys")
    assert "1 active" in await browser.get("/dashboard/keys")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"PROXY_API_KEY": PROXY},
            "Keys can be changed after a sign-in with a key of ADMIN_API_KEY, which is not set. Set it in .env.",
        ),
        (
            {"PROXY_API_KEY": PROXY, "ADMIN_API_KEY": ADMIN, "DASHBOARD_EDITING": "false"},
            "DASHBOARD_EDITING is false, so the dashboard changes no keys.",
        ),
    ],
)
async def test_the_reason_of_a_refusal_is_shown(tmp_path: Path, settings: dict[str, str], message: str) -> None:
    async with running_app(tmp_path, **settings) as app:
        browser = await sign_in(app, settings.get("ADMIN_API_KEY", PROXY))
        assert message in await browser.get("/dashboard/keys")
        response = await browser.send("GET", f"{EDIT}?action=create")
        assert (response.status, problem(text_of(response))) == (403, message)


async def test_an_unreadable_database_is_stated_on_every_page(tmp_path: Path) -> None:
    async with running_app(tmp_path, ADMIN_API_KEY=ADMIN) as app:
        browser = await sign_in(app, ADMIN)
        destroy_ledger(tmp_path)
        listed = await browser.get("/dashboard/keys")
        assert "The keys cannot be read." in listed
        assert "file is not a database. Requests are still served." in listed
        assert "The audit log cannot be read." in await browser.get("/dashboard/keys/audit")
        for path, start in (
            ("/dashboard/keys/key_1", "The ledger cannot be read: file is not a database"),
            (f"{EDIT}?action=create", "Nothing was changed. The ledger cannot store requests: corrupt"),
        ):
            response = await browser.send("GET", path)
            assert response.status == 503
            assert problem(text_of(response)).startswith(start)
            assert sections(text_of(response)) == sections(listed)


async def test_without_virtual_keys_there_is_no_page(tmp_path: Path) -> None:
    async with running_app(tmp_path, VIRTUAL_KEYS="false", PROXY_API_KEY=PROXY) as app:
        browser = await sign_in(app, PROXY)
        assert 'href="/dashboard/keys"' not in await browser.get("/dashboard")
        assert (await browser.send("GET", "/dashboard/keys")).status == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", EDIT, 400),
        ("GET", f"{EDIT}?action=none", 400),
        ("GET", f"{EDIT}?action=change&target=key_none", 404),
        ("GET", f"{EDIT}?action=team", 400),
        ("GET", "/dashboard/keys/key_none", 404),
        ("GET", "/dashboard/keys?sort=none", 400),
        ("GET", "/dashboard/keys/audit?before=none", 400),
        ("GET", "/dashboard/requests/req_none", 404),
        ("GET", "/dashboard/requests/req_none/images/1", 404),
        ("GET", "/dashboard/session?session=none", 404),
        ("GET", "/dashboard/costs?range=none", 400),
        ("GET", "/dashboard/settings/edit?name=NONE", 400),
        ("GET", "/dashboard/static/none.css", 404),
        ("GET", "/dashboard/none", 404),
        ("POST", EDIT, 403),
        ("POST", "/dashboard/settings/edit", 403),
        ("POST", "/dashboard/providers/doctor", 403),
        ("POST", "/dashboard/sign-out", 403),
    ],
)
async def test_an_error_keeps_the_navigation(browser: Browser, method: str, path: str, status: int) -> None:
    navigation = sections(await browser.get("/dashboard/keys"))
    response = await browser.send(method, path, b"" if method == "POST" else None)
    assert (response.status, sections(text_of(response))) == (status, navigation)


async def test_the_navigation_names_each_page(browser: Browser) -> None:
    pages = ["Overview", "Requests", "Sessions", "Costs", "Models", "Providers", "Activity", "Keys", "Settings"]
    assert sections(await browser.get("/dashboard/keys")) == pages


async def test_a_form_with_too_many_fields_keeps_the_navigation(browser: Browser) -> None:
    await browser.get(f"{EDIT}?action=create")
    navigation = sections(await browser.get("/dashboard/keys"))
    page = await browser.post(EDIT, **browser.fields, **{f"field{number}": "1" for number in range(20)})
    assert (problem(page), sections(page)) == ("The form has more than 20 fields. Open /dashboard again.", navigation)


async def test_keys_are_searched_sorted_and_exported(app: App, browser: Browser) -> None:
    id_, text = await create(browser, HOSTILE, budget="1000tokens/day")
    await create(browser, "zebra", owner="Zoë", team="build")
    assert await accepts(app, text)
    assert (await send(app, "POST", "/v1/messages", ASKED, x_api_key=text)).status == 200

    async def labels(query: str) -> list[str]:
        page = await browser.get(f"/dashboard/keys{query}")
        assert HOSTILE not in page
        return [html.unescape(label) for label in re.findall(r'/dashboard/keys/key_\w+">(.*?)</a>', page)]

    assert await labels("") == [HOSTILE, "zebra"]
    assert await labels("?q=ZO%C3%8B") == await labels("?q=build") == ["zebra"]
    assert await labels(f"?q={id_}") == [HOSTILE]
    assert await labels(f"?q={id_[-6:]}") == []
    assert await labels("?sort=-used") == [HOSTILE, "zebra"]
    assert await labels("?sort=used") == ["zebra", HOSTILE]
    assert await labels("?by=revoked") == []
    assert problem(await browser.get("/dashboard/keys?by=old")) == (
        "by: 'old' is not allowed; use active, inactive, unreadable, expired, revoked."
    )
    first, second = msgspec.json.decode((await browser.send("GET", "/dashboard/keys?format=json")).body)
    assert (first["label"], first["budgets"], second["team"]) == (HOSTILE, ["1000tokens/day"], "build")
    assert re.fullmatch(r"[1-9]\d* tokens of 1,000 tokens per day", first["budgets_used"][0])
    (team,) = msgspec.json.decode((await browser.send("GET", "/dashboard/keys?format=json&table=teams")).body)
    assert (team["team"], team["keys"]) == ("build", 1)
    changes = (await browser.send("GET", "/dashboard/keys/audit?format=csv")).body.decode().splitlines()
    assert len(changes) == 3
    own = await browser.get(f"/dashboard/keys/{id_}")
    assert html.escape(f"/dashboard/requests?key={quote(HOSTILE, safe=':/,')}") in own
    missing = await browser.send("GET", "/dashboard/keys/key_none")
    assert (missing.status, problem(text_of(missing))) == (
        404,
        "There is no virtual key with this id. The page Keys lists all keys, also revoked ones.",
    )


async def test_the_page_lists_signed_in_devices_and_ends_one_after_a_confirmation(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/ledger.sqlite3"
    sign_ins = [store_sign_in(address), store_sign_in(address)]
    async with running_app(tmp_path, ADMIN_API_KEY=ADMIN, DATABASE_URL=address) as app:
        browser = await sign_in(app, ADMIN)
        listed = html.unescape(await browser.get("/dashboard/keys"))
        for shown in ("Sign-ins", "ann@example.org", "claude-code/2.1.332", "192.0.2.1", sign_ins[0].id):
            assert shown in listed
        asked = html.unescape(await browser.get(f"{EDIT}?action=sign-out&target={sign_ins[0].id}"))
        assert "End sign-ins of ann@example.org" in asked
        preview = await browser.submit()
        assert re.findall(r'<span class="removed">(.*?)</span>', preview) == [f"- sign_ins: {sign_ins[0].id}"]
        assert sign_ins[0].id in await browser.get("/dashboard/keys")
        await browser.get(f"{EDIT}?action=sign-out&target={sign_ins[0].id}")
        await browser.submit()
        assert "1 sign-in of ann@example.org is ended." in await browser.submit()
        listed = await browser.get("/dashboard/keys")
        assert (sign_ins[0].id in listed, sign_ins[1].id in listed) == (False, True)
        page = await browser.get(f"/dashboard/keys/{sign_ins[1].key_id}")
        assert ("End sign-ins" in page, "Rotate" in page) == (True, False)
        exported = json.loads(await browser.get("/dashboard/keys?format=json&table=sign-ins"))
        assert [row["id"] for row in exported] == [sign_ins[1].id]


async def test_the_form_of_a_person_makes_and_ends_exceptions(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/ledger.sqlite3"
    store_sign_in(address)
    (tmp_path / "anthropic-proxy.toml").write_text(
        '[sign_in.groups."*"]\nteam = "build"\nbudgets = ["20USD/day"]\nconcurrency = 4\n'
    )
    own = {
        "ADMIN_API_KEY": ADMIN,
        "DATABASE_URL": address,
        "SIGN_IN_SECRET": "a" * 32,
        "OIDC_ISSUER": "https://login.example.org",
        "OIDC_CLIENT_ID": "proxy",
        "DASHBOARD_URL": "https://proxy.example.org",
    }
    async with running_app(tmp_path, **own) as app:
        browser = await sign_in(app, ADMIN)

        async def change(**fields: str) -> list[str]:
            """Return the lines of the preview."""
            await browser.get(f"{EDIT}?action=change&target=ann@example.org")
            preview = await browser.submit(**fields)
            lines = re.findall(r'<span class="(?:added|removed)">(.*?)</span>', preview)
            assert "Key ann@example.org is changed." in await browser.submit()
            return lines

        async def find() -> dict[str, Any]:
            found: dict[str, Any] = (await send(app, "GET", "/admin/keys/ann@example.org", x_api_key=ADMIN)).json
            return found

        await wait_for_async(find, lambda key: key["budgets"])  # the tables are applied beside other work
        await browser.get(f"{EDIT}?action=change&target=ann@example.org")
        assert (browser.fields["budget"], browser.fields["exceptions"]) == ("20USD/day", "")
        assert await change(budget="200USD/month") == [
            "- budgets: $20.00 per day",
            "+ budgets: $200.00 per month",
            "+ exceptions: budgets",
        ]
        (exception,) = (await find())["exceptions"]
        assert (exception["field"], exception["by"]) == ("budgets", "dashboard (admin key 1)")
        shown = html.unescape(await browser.get("/dashboard/keys"))
        assert f"budget (by dashboard (admin key 1), {exception['at']})" in shown
        assert await change(exceptions="") == [
            "- budgets: $200.00 per month",
            "+ budgets: $20.00 per day",
            "- exceptions: budgets",
        ]
        assert (await find())["exceptions"] == []
        changed = await send(
            app, "POST", "/admin/keys/ann@example.org", {"exceptions": ["team"], "concurrency": 9}, x_api_key=ADMIN
        )
        assert [one["field"] for one in changed.json["exceptions"]] == ["team", "concurrency"]
        refused = await send(app, "POST", "/admin/keys/ann@example.org", {"exceptions": ["owner"]}, x_api_key=ADMIN)
        assert (refused.status, refused.message) == (
            400,
            "The exceptions have 'owner'. Use team, cost_center, models, providers, routes, requests_per_minute, "
            "tokens_per_minute, concurrency and budgets.",
        )
