"""The dashboard over HTTP: pages from real requests, filters, exports, states, sign-in, access of other sites."""

import csv
import html
import io
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from anthropic_proxy.console.dashboard.permissions import NAVIGATION
from anthropic_proxy.console.dashboard.sign_in import FAILED_KEYS
from tests.support.dashboard import HOSTILE, SESSION, ledger_settings, send_requests, wait_for_request
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import WAIT_SECONDS

KEY = "team-key-of-this-proxy-1"
PATHS = [path for _, path, _ in NAVIGATION]
SCRIPT_OR_STYLE = re.compile(r"<script(?![^>]* src=)|<style|<[a-z][^<>]*\s(?:style|on[a-z]+)=|javascript:")
MAX_COMPRESSED_BYTES = 60_000


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    directory = tmp_path_factory.mktemp("dashboard")
    with running_proxy(directory, ledger_settings(directory)) as running:
        yield running


@pytest.fixture(scope="module")
def ids(proxy: Proxy) -> list[str]:
    return send_requests(proxy)


@pytest.fixture(scope="module")
def client(proxy: Proxy, ids: list[str]) -> httpx.Client:
    return proxy.client()


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    directory = tmp_path_factory.mktemp("protected")
    with running_proxy(
        directory, ledger_settings(directory, PROXY_API_KEY=f"{KEY},other-key-of-this-proxy")
    ) as running:
        yield running


def text_of(page: httpx.Response, element: str) -> str:
    found = re.search(rf'<(\w+)[^>]*(?:class="{element}"|(?<=<){element})[^>]*>(.*?)</\1>', page.text, re.DOTALL)
    assert found is not None, element
    return " ".join(re.sub(r"<[^>]+>", "", found[2]).split())


@pytest.mark.parametrize("path", [*PATHS, "/dashboard/requests/{id}", f"/dashboard/session?session={SESSION}"])
def test_a_page_has_no_inline_code_and_escapes_texts_of_clients(
    client: httpx.Client, ids: list[str], path: str
) -> None:
    page = client.get(path.format(id=ids[2]))
    assert page.status_code == 200
    assert SCRIPT_OR_STYLE.findall(page.text) == []
    assert "<img" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'self'; base-uri 'none'; form-action 'self'")
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["content-encoding"] == "gzip"
    assert int(page.headers["content-length"]) < MAX_COMPRESSED_BYTES


def test_the_overview_states_the_result_of_all_requests(client: httpx.Client) -> None:
    page = client.get("/dashboard")
    assert text_of(page, "verdict").startswith("In the last 24 hours 4 of 6 requests succeeded")
    failed = '<p class="wrap">1 request failed at the proxy with 400, invalid request.</p>'
    assert page.text.count(failed) == 2, "one before and one after a request of the client that succeeded"
    assert "1 solved" in page.text
    assert "<b>What to do:</b> Send at least one message with content." in page.text
    assert "messages: at least one message is required" in page.text


def test_charts_of_a_young_ledger_say_when_they_begin(client: httpx.Client) -> None:
    begins = re.compile(r"Charts begin at \d\d:\d\d, because there are no earlier requests\. Times in ")
    assert begins.search(client.get("/dashboard?range=24h").text)
    assert not begins.search(client.get("/dashboard?range=1h").text)


def test_only_a_range_that_has_not_ended_is_live(client: httpx.Client) -> None:
    assert "updates live" in client.get("/dashboard").text
    assert "updates live" not in client.get("/dashboard?range=yesterday").text


def test_a_request_is_found_by_its_id_and_explained(client: httpx.Client, ids: list[str]) -> None:
    found = client.get("/dashboard/requests", params={"q": ids[1]})
    assert re.findall(r'data-id="([^"]+)"', found.text) == [ids[1]]
    page = client.get(f"/dashboard/requests/{ids[1]}")
    assert "<h1>Truncated by the token limit</h1>" in page.text
    assert "docs-site" in page.text
    assert SESSION in page.text
    assert f"anthropic-proxy explain {ids[1]}" in page.text


def test_the_overview_of_a_day_has_at_most_60_kilobytes(client: httpx.Client) -> None:
    page = client.get("/dashboard")
    assert len(page.content) <= 60 * 1024, "before it is compressed"


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("outcome=error", 2),
        ("outcome=truncated&project=docs-site", 2),
        (f"session={SESSION}", 6),
        ("project=nothing", 0),
        ("q=at+least+one", 2),
        ("q=100%25", 0),
        ("from=2020-01-01T00:00Z&to=2020-01-02T00:00Z", 0),
    ],
)
def test_a_filter_selects_requests_and_is_removable(client: httpx.Client, query: str, count: int) -> None:
    page = client.get(f"/dashboard/requests?{query}")
    assert len(re.findall(r'<tr class="go"', page.text)) == count
    assert ("No request matches" in page.text) == (count == 0)
    shown = f"{count} requests" if count else "No requests"
    assert text_of(page, "verdict") in (f"{shown} match the filters.", f"{shown} in this range.")
    if "from=" not in query:
        assert 'aria-label="Remove the filter ' in page.text


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "range=2y",
            "range: &#39;2y&#39; is not allowed; use 1h, 24h, today, yesterday, 7d, 30d, 90d, "
            "or a month such as 2026-11.",
        ),
        ("from=0001-01-02T00:00&to=x", "from: &#39;0001-01-02T00:00&#39; is not between the years 1990 and 2200."),
        ("from=x&to=y", "from: &#39;x&#39; is not a time such as 2026-11-21T10:00Z."),
        ("from=2000-01-02T00:00Z&to=2020-12-31T00:00Z", "to: the range is longer than 400 days."),
        ("from=0001-01-02T00:00Z&to=x", "from: &#39;0001-01-02T00:00Z&#39; is not between the years 1990 and 2200."),
        ("before=x", "before, after: &#39;x&#39; is not a position in the list. Open the page again."),
        (
            "sort=price",
            "sort: &#39;price&#39; is not allowed; use messages, tools, tool-errors, attempts, changes, in,",
        ),
        ("columns=cost,x", "columns: &#39;x&#39; is not allowed; use project, session,"),
        ("sort=-cost&before=1.2", "before, after: &#39;1.2&#39; is not a position in the list. Open the page again."),
        ("format=xml", "format: &#39;xml&#39; is not allowed; use csv or json."),
    ],
)
def test_a_wrong_parameter_gets_a_page_with_the_allowed_values(client: httpx.Client, query: str, message: str) -> None:
    page = client.get(f"/dashboard/requests?{query}")
    assert page.status_code == 400
    assert message in page.text


def test_an_unknown_request_gets_a_page_with_the_reason(client: httpx.Client) -> None:
    page = client.get("/dashboard/requests/req_nothing")
    assert page.status_code == 404
    assert (
        "The ledger has no request with this id. It was deleted, is still running, or belongs to another proxy."
        in page.text
    )


def test_prices_and_the_cost_at_another_model_are_listed(client: httpx.Client) -> None:
    page = client.get("/dashboard/models?at=openai/gpt-4.1&range=7d")
    cells = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr.*?</tr>", page.text, re.DOTALL)]
    assert any(row[:3] == ["demo/", "demo", "free"] for row in cells)
    chosen = re.search(r'<tr class="chosen"><th[^>]*>openai/gpt-4.1</th><td[^>]*>([^<]+)</td>', page.text)
    assert chosen[1].startswith(("$0.0", "<$", "&lt;$"))
    assert '<input type="hidden" name="range" value="7d">' in page.text
    unknown = client.get("/dashboard/models", params={"at": "openai/<b>"}).text
    assert "The price of openai/&lt;b&gt; is unknown. Set it in anthropic-proxy.toml:" in unknown
    assert "nothing is no prefix of a provider." in client.get("/dashboard/models?at=nothing/x").text
    assert "The price of gpt-x is unknown. Add the prefix" in client.get("/dashboard/models?at=gpt-x").text


def test_requests_that_were_not_sent_are_not_served_by_a_model(client: httpx.Client) -> None:
    verdict = text_of(client.get("/dashboard/models"), "verdict")
    served, unsent = map(int, re.findall(r"(\d+) requests", verdict)[:2])
    assert verdict.startswith(f"1 model served {served} requests. {unsent} requests were not sent.")
    assert served == 2 * unsent


def test_the_capabilities_of_the_used_models_are_a_table(client: httpx.Client) -> None:
    page = client.get("/dashboard/providers").text
    rows = dict(re.findall(r'<tr><th scope="row">([^<]+)</th>(.*?)</tr>', page, re.DOTALL))
    assert '<span class="hidden-text">works</span>' in rows["Tools"]
    assert rows.keys() >= {"Images", "Context window, tokens", "Output limit, tokens", "Thinking, levels"}
    assert "demo/<span" in page


@pytest.mark.parametrize("measure", ["", "provider", "tokens", "requests"])
def test_long_ranges_have_a_grid_of_the_week(client: httpx.Client, measure: str) -> None:
    page = client.get(f"/dashboard?range=7d&by={measure}").text
    title = {"": "Tokens", "provider": "Tokens"}.get(measure, measure.capitalize())  # the demo is free
    assert f'<h2 id="week-title">{title} by weekday and hour</h2>' in page
    assert '<h2 id="cached-title">Input read from cache per 5 minutes</h2>' in page
    assert "by weekday and hour" not in client.get(f"/dashboard?by={measure}").text


def test_exports_contain_the_rows_of_the_filter(client: httpx.Client, ids: list[str]) -> None:
    table = client.get("/dashboard/requests?outcome=error&format=csv")
    assert table.headers["content-disposition"] == 'attachment; filename="requests.csv"'
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [row["id"] for row in rows] == [ids[5], ids[2]]
    assert rows[0]["project"] == HOSTILE
    assert [row["id"] for row in client.get("/dashboard/requests?format=json").json()] == ids[::-1]


@pytest.mark.parametrize(
    ("path", "table", "first"),
    [
        ("/dashboard", "usage", {"model": "demo", "requests": "4"}),
        (
            "/dashboard",
            "failures",
            {"status": "400", "requests": "1", "error_type": "invalid_request_error", "solved": "False"},
        ),
        ("/dashboard", "models", {"provider": "demo", "requests": "4", "errors": "0"}),
        ("/dashboard/sessions", "sessions", {"session": SESSION, "requests": "6", "errors": "2", "cost": "0"}),
        (f"/dashboard/session?session={SESSION}", "requests", {"session": SESSION, "project": "checkout-api"}),
        ("/dashboard/requests/{id}", "request", {"id": "{id}", "outcome": "max_tokens"}),
        ("/dashboard/models", "models", {"provider": "demo", "model": "demo"}),
        ("/dashboard/models", "mapping", {"requested": "haiku", "sent_to": "demo/demo"}),
        ("/dashboard/providers", "providers", {"provider": "openai", "state": "unset"}),
        ("/dashboard/settings", "settings", {"setting": "PREFERRED_PROVIDER", "source": "default"}),
    ],
)
def test_every_page_has_its_tables_as_csv_and_json(
    client: httpx.Client, ids: list[str], path: str, table: str, first: dict[str, str]
) -> None:
    address = path.format(id=ids[1])
    expected = {name: value.format(id=ids[1]) for name, value in first.items()}
    separator = "&" if "?" in address else "?"
    text = client.get(f"{address}{separator}format=csv&table={table}")
    assert text.headers["content-disposition"] == f'attachment; filename="{table}.csv"'
    rows = list(csv.DictReader(io.StringIO(text.text)))
    objects = client.get(f"{address}{separator}format=json&table={table}").json()
    assert [list(row) for row in objects] == [list(row) for row in rows]
    assert [one for one in rows if all(one[name] == value for name, value in expected.items())], rows
    page = html.unescape(client.get(address).text)
    assert re.search(rf'href="[^"]*format=csv(&table={table})?" download aria-label="{table} as CSV"', page)


def test_rows_are_sorted_and_columns_chosen_in_the_address(client: httpx.Client, ids: list[str]) -> None:
    page = client.get("/dashboard/requests?sort=-out&columns=session,out&columns=rate")
    shown = re.findall(r'data-id="([^"]+)"', page.text)
    assert sorted(shown) == sorted(ids)
    assert {shown[0], shown[1]} == {ids[0], ids[3]}, "the two requests with the longest replies"
    titles = [re.sub("<[^>]+>", "", cell) for cell in re.findall(r'<th scope="col".*?</th>', page.text)[-6:]]
    assert titles == ["Time", "Session", "Model used", "Outcome", "Out ↓", "Speed"]
    assert 'aria-sort="descending"' in page.text
    assert 'value="-out" selected' in page.text
    exported = client.get("/dashboard/requests?sort=-out&format=json").json()
    assert [row["id"] for row in exported] == shown
    lowest = client.get(f"/dashboard/requests?sort=out&project={HOSTILE}&session={SESSION}")
    assert set(re.findall(r'data-id="([^"]+)"', lowest.text)) == {ids[2], ids[5]}


def test_a_table_that_a_page_does_not_have_is_rejected(client: httpx.Client) -> None:
    page = client.get("/dashboard?format=csv&table=x")
    assert page.status_code == 400
    assert "table: &#39;x&#39; is not allowed; use usage, failures, problems, models." in page.text


def test_paging_follows_every_request_once(proxy: Proxy, client: httpx.Client) -> None:
    sent = {row["id"] for row in client.get("/dashboard/requests?format=json").json()}
    more = proxy.client()
    body = {"model": "claude-haiku-4-5", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
    own = {"x-project": "=HYPERLINK(1)"}
    sent |= {more.post("/v1/messages", json=body, headers=own).headers["request-id"] for _ in range(60)}
    seen: list[str] = []
    for request_id in sent:
        wait_for_request(client, request_id)
    address = "/dashboard/requests"
    while address:
        page = client.get(address)
        seen += re.findall(r'data-id="([^"]+)"', page.text)
        older = re.search(r'href="([^"]+)" rel="next">Older', page.text)
        address = older[1].replace("&amp;", "&") if older else ""
    assert (len(seen), set(seen)) == (len(sent), sent)
    ordered: list[str] = []
    address = "/dashboard/requests?sort=-total"
    while address:
        page = client.get(address)
        ordered += re.findall(r'data-id="([^"]+)"', page.text)
        following = re.search(r'href="([^"]+)" rel="next">Next', page.text)
        address = following[1].replace("&amp;", "&") if following else ""
    durations = {row["id"]: row["duration_seconds"] for row in client.get("/dashboard/requests?format=json").json()}
    assert (len(ordered), set(ordered)) == (len(sent), sent)
    values = [durations[one] for one in ordered]
    assert values == sorted(values, reverse=True)
    assert re.search(r'href="[^"]+" rel="prev">← Previous', page.text)
    formulas = csv.DictReader(io.StringIO(client.get("/dashboard/requests?format=csv").text))
    assert {row["project"] for row in formulas if "HYPERLINK" in row["project"]} == {"'=HYPERLINK(1)"}


def test_static_files_are_kept_by_the_browser(client: httpx.Client) -> None:
    page = client.get("/dashboard")
    addresses = re.findall(r'(?:src|href)="(/dashboard/static/[^"]+)"', page.text)
    assert sorted(address.rpartition(".")[2] for address in addresses) == ["css", "js", "svg"]
    for address in addresses:
        answer = client.get(address)
        assert (answer.status_code, len(answer.content) > 100) == (200, True)
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert client.get("/dashboard/static/dashboard.css").status_code == 404


def test_live_events_report_a_request(client: httpx.Client, proxy: Proxy) -> None:
    with client.stream("GET", "/dashboard/live") as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        lines = response.iter_lines()
        assert next(lines) == "event: snapshot"
        proxy.client().post("/v1/messages", json={"model": "claude-haiku-4-5", "messages": []})
        assert next(line for line in lines if line == "event: request")


@pytest.mark.parametrize(
    "headers", [{"host": "attacker.example"}, {"origin": "https://attacker.example"}, {"sec-fetch-site": "cross-site"}]
)
def test_another_site_reads_nothing_without_a_key(client: httpx.Client, headers: dict[str, str]) -> None:
    answers = [client.get(path, headers=headers) for path in (*PATHS, "/dashboard/live")]
    assert {answer.status_code for answer in answers} == {403}
    assert not any("<html" in answer.text for answer in answers)


def test_pages_name_the_setting_that_disabled_the_ledger(tmp_path: Path) -> None:
    with running_proxy(tmp_path, {"DATABASE_URL": "off"}) as proxy:
        pages = [proxy.client().get(path) for path in PATHS]
    text = "Nothing is stored, because DATABASE_URL is off. Unset DATABASE_URL, or set it to a database."
    assert [(page.status_code, text in page.text) for page in pages] == [(200, True)] * len(PATHS)
    assert "Requests, costs, speed and failures appear here when the ledger can be read." in pages[0].text
    for path, page in zip(PATHS, pages, strict=True):
        assert "Show the last 30 days" not in page.text, path
        assert not re.search("Send one|Start one", page.text), path


def test_a_removed_or_corrupt_database_leaves_the_pages_and_is_reported(tmp_path: Path) -> None:
    with running_proxy(tmp_path, ledger_settings(tmp_path)) as proxy:
        client = proxy.client()
        send_requests(proxy, 1)
        for file in tmp_path.glob("ledger.sqlite3*"):
            file.write_bytes(b"no database" * 1000)
        page = client.get("/dashboard")
        sent = client.post(
            "/v1/messages", json={"model": "x", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        )
    assert (page.status_code, sent.status_code) == (200, 200)
    assert "Requests are still served." in page.text


def test_a_key_signs_in_and_the_session_ends_with_sign_out(protected: Proxy) -> None:
    client = protected.client()
    answer = client.get("/dashboard/requests")
    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/sign-in?next=/dashboard/requests")
    assert client.get("/dashboard/live").status_code == 403
    wrong = client.post("/dashboard/sign-in", data={"key": "wrong", "next": ""})
    assert wrong.status_code == 401
    assert "This is not a key of the proxy. The keys are set by PROXY_API_KEY and ADMIN_API_KEY." in wrong.text
    answer = client.post("/dashboard/sign-in", data={"key": KEY, "next": "/dashboard/requests"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/requests")
    cookie = answer.headers["set-cookie"]
    assert cookie.endswith("; Path=/dashboard; Max-Age=43200; HttpOnly; SameSite=Strict")
    assert KEY not in cookie
    page = client.get("/dashboard")
    token = re.search(r'name="token" value="([^"]+)"', page.text)
    assert client.post("/dashboard/sign-out", data={"token": "wrong"}).status_code == 403
    copied = protected.client(headers={"cookie": cookie.partition(";")[0]})
    assert copied.get("/dashboard").status_code == 200
    assert client.post("/dashboard/sign-out", data={"token": token[1]}).status_code == 303
    assert client.get("/dashboard").status_code == 303
    assert copied.get("/dashboard").status_code == 303


@pytest.mark.parametrize("target", ["https://attacker.example", "//attacker.example", "/dashboard/\\x", "/v1/models"])
def test_sign_in_leads_only_to_the_dashboard(protected: Proxy, target: str) -> None:
    answer = protected.client().post("/dashboard/sign-in", data={"key": KEY, "next": target})
    assert answer.headers["location"] == "/dashboard"


def test_a_form_of_another_site_and_a_changed_cookie_are_rejected(protected: Proxy) -> None:
    client = protected.client()
    foreign = client.post("/dashboard/sign-in", data={"key": KEY}, headers={"origin": "https://attacker.example"})
    assert foreign.status_code == 403
    cookie = client.post("/dashboard/sign-in", data={"key": KEY}).cookies["anthropic_proxy_session"]
    for changed in (f"{cookie}x", cookie.swapcase(), "", "é", cookie[:-1], "1." * 200):
        answer = httpx.get(
            f"{protected.url}/dashboard",
            headers={"cookie": f"anthropic_proxy_session={changed}".encode()},
            trust_env=False,
            timeout=WAIT_SECONDS,
        )
        assert answer.status_code == 303
    assert protected.client(headers={"x-api-key": KEY}).get("/dashboard").status_code == 200
    assert protected.client(headers={"x-api-key": "wrong"}).get("/dashboard").status_code == 401


def test_the_cookie_is_no_key_of_the_api(protected: Proxy) -> None:
    client = protected.client()
    client.post("/dashboard/sign-in", data={"key": KEY})
    assert client.get("/dashboard").status_code == 200
    assert client.get("/api/requests").status_code == 401
    assert client.get("/v1/models").status_code == 401


def test_sign_ins_of_an_address_are_limited_after_wrong_keys(tmp_path: Path) -> None:
    with running_proxy(tmp_path, {"DATABASE_URL": "off", "PROXY_API_KEY": KEY}) as proxy:
        client = proxy.client()
        answers = [
            client.post("/dashboard/sign-in", data={"key": "wrong"}) for _ in range(FAILED_KEYS.windows[0].maximum + 1)
        ]
        correct = client.post("/dashboard/sign-in", data={"key": KEY})
        header = proxy.client(headers={"x-api-key": KEY}).get("/dashboard")
    assert [answer.status_code for answer in answers] == [401] * FAILED_KEYS.windows[0].maximum + [429]
    text = r"Several sign-ins from your address have failed\. Wait \d+ s, then try again\."
    assert re.search(text, answers[-1].text)
    assert 0 < int(answers[-1].headers["retry-after"]) <= 67
    assert correct.status_code == 429, "otherwise more keys could be tried"
    assert header.status_code == 200


@pytest.mark.parametrize(
    ("target", "body", "status", "message"),
    [
        ("/dashboard/sign-in", "a=1&" * 21 + "key=x", 400, "The form has more than 20 fields. Open /dashboard again."),
        ("/dashboard/nothing/here", None, 404, "The dashboard has no page &#39;/dashboard/nothing/here&#39;."),
        ("/dashboard/sign-in", "key=x&next=%", 401, "This is not a key of the proxy."),
    ],
)
def test_an_error_of_the_client_is_a_page(
    protected: Proxy, target: str, body: str | None, status: int, message: str
) -> None:
    answer = protected.client().request(
        "GET" if body is None else "POST", target, content=body, headers={"origin": protected.url}
    )
    assert answer.status_code == status
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert message in answer.text


def test_a_page_accepts_a_thousand_parameters(proxy: Proxy) -> None:
    answer = proxy.client().get(f"/dashboard/requests?{'x=1&' * 1_000}outcome=error")
    assert answer.status_code == 200
    assert "Remove the filter Outcome: failed" in answer.text


@pytest.mark.parametrize(
    "target",
    [
        "/dashboard/requests?outcome=error&project=a%2Fb%3F%23%25+%C3%A9&q=x",
        "/dashboard/session?session=a%2Fb",
        "/dashboard/models?x=%C3%A9&range=7d",
    ],
)
def test_sign_in_keeps_path_and_query(protected: Proxy, target: str) -> None:
    client = protected.client()
    form = client.get(target, follow_redirects=True)
    field = re.search(r'name="next" value="([^"]*)"', form.text)
    answer = client.post("/dashboard/sign-in", data={"key": KEY, "next": field[1].replace("&amp;", "&")})
    assert answer.status_code == 303
    assert answer.headers["location"] == target
