"""Settings in the dashboard: a preview, the written file with a backup, the reload, and every refusal."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.support.server_process import Proxy, running_proxy

KEY = "team-key-of-this-proxy-1"
OLD_KEY, NEW_KEY = "sk-old-key-of-the-test-0001", "sk-new-key-of-the-test-9999"
FILE = f"# mine\nBIG_MODEL=gpt-4o\nOPENAI_API_KEY={OLD_KEY}\n#OTHER_API_KEY=sk-commented-out\n"
EDIT = "/dashboard/settings/edit"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings")


@pytest.fixture(scope="module")
def proxy(directory: Path) -> Iterator[Proxy]:
    with running_proxy(directory, {"DATABASE_URL": "off", "FIDELITY": "strict"}) as running:
        yield running


@pytest.fixture
def folder(directory: Path) -> Path:
    (directory / ".env").write_text(FILE, encoding="utf-8")
    return directory


def field(page: httpx.Response, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page.text)
    assert found is not None, page.text
    return found[1]


def propose(client: httpx.Client, name: str, value: str) -> tuple[httpx.Response, dict[str, str]]:
    """Return the preview of a change, and the fields that write it."""
    token = field(client.get(EDIT, params={"name": name}), "token")
    fields = {"token": token, "name": name, "value": value}
    page = client.post(EDIT, data=fields)
    if 'name="before"' in page.text:
        fields["before"] = field(page, "before")
    if 'name="repeat"' in page.text:
        fields["repeat"] = field(page, "repeat")
    return page, fields


def test_a_change_is_shown_then_written_and_used(folder: Path, proxy: Proxy) -> None:
    client = proxy.client()
    page, fields = propose(client, "BIG_MODEL", "openai/o3")
    assert '<span class="removed">- BIG_MODEL=gpt-4o</span>' in page.text
    assert '<span class="added">+ BIG_MODEL=openai/o3</span>' in page.text
    assert (folder / ".env").read_text("utf-8") == FILE
    written = client.post(EDIT, data=fields)
    assert (written.status_code, written.headers["location"]) == (303, f"{EDIT}?name=BIG_MODEL&saved=now")
    assert (folder / ".env").read_text("utf-8") == FILE.replace("gpt-4o", "openai/o3")
    assert (folder / ".env.bak").read_text("utf-8") == FILE
    assert os.name == "nt" or (folder / ".env.bak").stat().st_mode & 0o077 == 0
    page = client.get(written.headers["location"])
    assert "openai/o3, set in .env line 2" in page.text
    assert "Written to .env. The previous file is .env.bak. New requests use the value." in page.text
    again = client.post(EDIT, data={**fields, "value": "openai/o1"})
    assert again.status_code == 400
    assert "Another change of .env was written after this preview, so BIG_MODEL was not written." in again.text


TABLES = '# rules\n[auto_mode]  # ours\nmodel = "openai/gpt-4.1"  # the small one\ndeny = ["x"]\n'


def test_a_field_of_a_table_is_changed_in_its_file(folder: Path, proxy: Proxy) -> None:
    client, file, name = proxy.client(), folder / "anthropic-proxy.toml", "model of [auto_mode]"
    file.write_text(TABLES, encoding="utf-8")
    file.chmod(0o640)
    page, fields = propose(client, name, "openai/gpt-5")
    assert "Change of anthropic-proxy.toml</h2>" in page.text
    assert '<span class="removed">- model = &#34;openai/gpt-4.1&#34;</span>' in page.text
    assert '<span class="added">+ model = &#34;openai/gpt-5&#34;</span>' in page.text
    assert file.read_text("utf-8") == TABLES
    written = client.post(EDIT, data=fields)
    assert (written.status_code, "saved=now" in written.headers["location"]) == (303, True)
    assert file.read_text("utf-8") == TABLES.replace("gpt-4.1", "gpt-5")
    assert (folder / "anthropic-proxy.toml.bak").read_text("utf-8") == TABLES
    assert os.name == "nt" or file.stat().st_mode & 0o777 == 0o640
    assert os.name == "nt" or (folder / "anthropic-proxy.toml.bak").stat().st_mode & 0o077 == 0
    assert (folder / ".env").read_text("utf-8") == FILE
    shown = client.get(written.headers["location"]).text
    assert "openai/gpt-5, set in anthropic-proxy.toml line 3" in shown.replace("~/", "")
    text = "Written to anthropic-proxy.toml. The previous file is anthropic-proxy.toml.bak. New requests use the value."
    assert text in shown
    removed, fields = propose(client, name, "")
    assert "added" not in removed.text
    assert client.post(EDIT, data=fields).status_code == 303
    assert file.read_text("utf-8") == '# rules\n[auto_mode]  # ours\n# the small one\ndeny = ["x"]\n'
    file.unlink()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "mode of [auto_mode]",
            "sometimes",
            "auto_mode.mode is &#34;sometimes&#34;. Use &#34;check&#34;, &#34;client&#34; or &#34;off&#34;. Set in "
            "anthropic-proxy.toml, line 2.",
        ),
        (
            "timeout of [auto_mode]",
            "0",
            "auto_mode.timeout is &#34;0&#34;. Use a number above 0 and up to 86,400. Set in anthropic-proxy.toml, "
            "line 2.",
        ),
        ("deny of [auto_mode]", "x", "&#39;deny of [auto_mode]&#39; cannot be changed here."),
        ("url of [price_list]", "https://x.example", "&#39;url of [price_list]&#39; cannot be changed here."),
        ("admins of [sign_in]", "all", "&#39;admins of [sign_in]&#39; cannot be changed here."),
    ],
)
def test_a_wrong_value_of_a_field_and_a_rule_of_access_are_not_written(
    folder: Path, proxy: Proxy, name: str, value: str, message: str
) -> None:
    client = proxy.client()
    token = field(client.get(EDIT, params={"name": "BIG_MODEL"}), "token")
    page = client.post(EDIT, data={"token": token, "name": name, "value": value})
    assert page.status_code == 400
    assert message in page.text
    assert not (folder / "anthropic-proxy.toml").exists()


def test_a_field_whose_old_name_is_set_is_not_changed(folder: Path) -> None:
    (folder / ".env").write_text("AUTO_MODE=client\n", encoding="utf-8")
    with running_proxy(folder, {"DATABASE_URL": "off"}) as running:
        page = running.client().get("/dashboard/settings").text
        refused = running.client().get(EDIT, params={"name": "mode of [auto_mode]"})
    assert 'aria-label="Change mode of [auto_mode]"' not in page
    assert 'aria-label="Change timeout of [auto_mode]"' in page
    assert "&#39;mode of [auto_mode]&#39; cannot be changed here." in refused.text


def test_a_setting_with_a_model_proposes_models_with_their_prices(folder: Path) -> None:
    settings = {"DATABASE_URL": "off", "OPENAI_API_KEY": OLD_KEY}
    with running_proxy(folder, settings) as running:
        page = running.client().get(EDIT, params={"name": "BIG_MODEL"}).text
        other = running.client().get(EDIT, params={"name": "LOG_LEVEL"}).text
    found = dict(re.findall(r'<option value="([^"]+)">([^<]*)</option>', page))
    assert found["openai/gpt-4.1"] == "$2.00 in, $8.00 out, per million tokens"
    assert ('list="models"' in page, "<datalist" in other) == (True, False)


def test_a_key_is_replaced_and_never_shown(folder: Path, proxy: Proxy) -> None:
    client = proxy.client()
    page, fields = propose(client, "OPENAI_API_KEY", NEW_KEY)
    assert "OPENAI_API_KEY=…9999" in page.text
    other = client.post(EDIT, data={**fields, "value": f"{NEW_KEY}x"})
    assert "The two keys differ. Nothing was written. Enter the new key again." in other.text
    written = client.post(EDIT, data=fields)
    assert (folder / ".env").read_text("utf-8") == FILE.replace(OLD_KEY, NEW_KEY)
    pages = [page, other, client.get(written.headers["location"]), client.get("/dashboard/settings")]
    assert [secret for one in pages for secret in (OLD_KEY, NEW_KEY, "commented-out") if secret in one.text] == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LOG_LEVEL", "loud", "LOG_LEVEL is &#34;loud&#34;. Use debug, info, warning or error. Set in .env, line 5."),
        ("UPSTREAM_TIMEOUT", "soon", "UPSTREAM_TIMEOUT is &#34;soon&#34;. Use a number of seconds above 0"),
        ("BIG_MODEL", "a\nPROXY_API_KEY=x", "BIG_MODEL: use one line of at most 1000 characters."),
    ],
)
def test_a_wrong_value_is_explained_and_not_written(
    folder: Path, proxy: Proxy, name: str, value: str, message: str
) -> None:
    page, _ = propose(proxy.client(), name, value)
    assert page.status_code == 400
    assert message in page.text
    assert (folder / ".env").read_text("utf-8") == FILE


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "PROXY_API_KEY", "ALLOW_UNAUTHENTICATED", "FIDELITY", "NOTHING"])
def test_addresses_access_rules_and_the_environment_cannot_be_changed(proxy: Proxy, name: str) -> None:
    client = proxy.client()
    token = field(client.get(EDIT, params={"name": "BIG_MODEL"}), "token")
    page = client.post(EDIT, data={"token": token, "name": name, "value": "x"})
    assert page.status_code == 400
    assert f"&#39;{name}&#39; cannot be changed here." in page.text


def test_a_form_without_the_token_of_the_page_is_rejected(folder: Path, proxy: Proxy) -> None:
    client = proxy.client()
    fields = {"name": "BIG_MODEL", "value": "openai/o3", "before": "x"}
    assert client.post(EDIT, data={**fields, "token": "x"}).status_code == 403
    client.get(EDIT, params={"name": "BIG_MODEL"})
    assert client.post(EDIT, data={**fields, "token": "x"}).status_code == 403
    own = {"token": client.cookies["anthropic_proxy_form"], **fields}
    assert client.post(EDIT, data=own, headers={"origin": "https://attacker.example"}).status_code == 403
    assert (folder / ".env").read_text("utf-8") == FILE


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"DASHBOARD_EDITING": "false"}, "DASHBOARD_EDITING is false, so the dashboard changes no settings."),
        (
            {"ALLOW_UNAUTHENTICATED": "true"},
            "Settings can be changed in a browser on this machine, or after a sign-in with a key of PROXY_API_KEY.",
        ),
    ],
)
def test_a_browser_without_permission_reads_the_reason(folder: Path, settings: dict[str, str], message: str) -> None:
    with running_proxy(folder, {"DATABASE_URL": "off", **settings}) as proxy:
        client = proxy.client()
        listed = client.get("/dashboard/settings")
        answers = [client.get(EDIT, params={"name": "BIG_MODEL"}), client.post(EDIT, data={"name": "BIG_MODEL"})]
    assert message in listed.text
    assert EDIT not in listed.text
    assert [(answer.status_code, message in answer.text) for answer in answers] == [(403, True)] * 2


def test_a_signed_in_browser_changes_a_setting_of_all_workers(folder: Path) -> None:
    command = ("-m", "anthropic_proxy", "serve", "--workers", "2")
    with running_proxy(folder, {"DATABASE_URL": "off", "PROXY_API_KEY": KEY}, command) as proxy:
        client = proxy.client()
        assert client.post(EDIT, data={"name": "BIG_MODEL", "value": "openai/o3"}).status_code == 403
        client.post("/dashboard/sign-in", data={"key": KEY, "next": ""})
        _, fields = propose(client, "BIG_MODEL", "openai/o3")
        written = client.post(EDIT, data=fields)
        assert written.headers["location"] == f"{EDIT}?name=BIG_MODEL&saved=now"
        page = client.get(written.headers["location"])
    assert "openai/o3, set in .env line 2" in page.text
