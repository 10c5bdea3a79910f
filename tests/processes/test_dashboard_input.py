"""The dashboard with malformed input: queries, forms, cookies and paths get a page with the reason, never a 500."""

import re
import socket
from collections.abc import Iterator
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anthropic_proxy.console.dashboard.browser_sessions import SESSION_COOKIE
from anthropic_proxy.console.dashboard.plugin import PAGES
from tests.support.dashboard import ledger_settings, wait_for_request
from tests.support.raw_http import Answer, read_answer
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import WAIT_SECONDS

KEY = "team-key-of-this-proxy-1"
PARAMETERS = (
    *("range", "from", "to", "outcome", "provider", "model", "requested", "project", "session", "key", "notes"),
    *("q", "by", "sort", "before", "after", "format", "columns", "next", "other"),
)
TIMES = ("0001-01-01T00:00Z", "9999-12-31T23:59Z", "2200-12-31T00:00Z", "2026-11-21T10:00Z", "1990-01-01T00:00Z")
VALUES = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["", "1", "-1", "csv", "json", "1h", "90d", "é/?#%", "\0", "9" * 30, "1.req_x", "x" * 400, *TIMES]),
)
TEXT_BYTES = st.text(max_size=30).map(lambda text: text.encode("utf-8", "replace"))
HEADER_BYTES = st.binary(max_size=30).map(lambda text: re.sub(rb"[\x00-\x1f\x7f]", b"", text).strip())
EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    directory = tmp_path_factory.mktemp("dashboard-input")
    with running_proxy(directory, ledger_settings(directory)) as running:
        yield running


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    directory = tmp_path_factory.mktemp("dashboard-input-key")
    with running_proxy(directory, {"PROXY_API_KEY": KEY}) as running:
        yield running


def send(proxy: Proxy, target: bytes, *, method: bytes = b"GET", headers: bytes = b"", body: bytes = b"") -> Answer:
    """Send a request with exactly these bytes and return the answer."""
    host = proxy.url.removeprefix("http://")
    head = b"%b %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n%b" % (method, target, host.encode(), headers)
    if method == b"POST":
        head += b"Content-Length: %d\r\n" % len(body)
    name, _, port = host.partition(":")
    with socket.create_connection((name, int(port)), timeout=WAIT_SECONDS) as connection:
        connection.sendall(head + b"\r\n" + body)
        received = b""
        while piece := connection.recv(65_536):
            received += piece
    return read_answer(received)


@EXAMPLES
@given(
    path=st.sampled_from([*PAGES]),
    pairs=st.lists(st.tuples(st.sampled_from(PARAMETERS), VALUES), max_size=5),
    raw=TEXT_BYTES,
)
def test_any_query_gets_a_page_or_the_reason(proxy: Proxy, path: str, pairs: list[tuple[str, str]], raw: bytes) -> None:
    address = f"{path.format(id='req_x')}?{urlencode(pairs, errors='replace')}&".encode() + quote(raw).encode()
    answer = send(proxy, address)
    assert answer.status in (200, 400, 404), answer.body
    assert answer.status == 200 or b'<p class="verdict">' in answer.body


@EXAMPLES
@given(segments=st.lists(TEXT_BYTES, min_size=1, max_size=3))
def test_any_path_gets_a_page_or_the_reason(proxy: Proxy, segments: list[bytes]) -> None:
    path = b"/dashboard/" + b"/".join(quote(segment, safe="").encode() for segment in segments)
    answer = send(proxy, path)
    assert answer.status in (200, 303, 400, 404), answer.body


@EXAMPLES
@given(
    name=st.sampled_from([b"Cookie", b"Accept-Encoding", b"Origin", b"Sec-Fetch-Site", b"User-Agent", b"Referer"]),
    value=HEADER_BYTES,
    cookie=HEADER_BYTES,
)
def test_any_header_gets_a_page_or_the_reason(protected: Proxy, name: bytes, value: bytes, cookie: bytes) -> None:
    own = SESSION_COOKIE.name.encode()
    headers = b"%b: %b\r\nX-Other: %b=%b\r\n" % (name, value, own, cookie)
    assert send(protected, b"/dashboard/requests?x=1", headers=headers).status == 303
    headers = b"Cookie: a=%b; %b=%b; anthropic_proxy_theme=%b\r\n" % (value, own, cookie, cookie)
    assert send(protected, b"/dashboard", headers=headers).status == 303


@EXAMPLES
@given(
    path=st.sampled_from([b"/dashboard/sign-in", b"/dashboard/sign-out"]),
    body=st.one_of(
        st.binary(max_size=60),
        st.lists(st.tuples(st.sampled_from(["key", "next", "token", "x"]), VALUES), max_size=14).map(
            lambda pairs: urlencode(pairs, errors="replace").encode()
        ),
    ),
    origin=HEADER_BYTES,
)
def test_any_form_gets_a_page_with_the_reason(protected: Proxy, path: bytes, body: bytes, origin: bytes) -> None:
    for headers in (b"", b"Origin: %b\r\n" % origin):
        answer = send(protected, path, method=b"POST", headers=headers, body=body)
        assert answer.status in (400, 401, 403, 413, 429), answer.body
        assert answer.status == 413 or b"<h1" in answer.body


@pytest.mark.parametrize("name", ["a/b", "..", ".", "what?", "a#b", "100%", "two words", "été", "a&b=c", "+", "%2e"])
def test_names_of_any_characters_are_links_to_their_pages(proxy: Proxy, name: str) -> None:
    client = proxy.client()
    body = {"model": f"demo/{name}", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    own = {b"x-project": name.encode(), b"x-claude-code-session-id": name.encode()}
    sent = client.post("/v1/messages", json=body, headers=own).headers["request-id"]
    wait_for_request(client, sent)
    shown = client.get(f"/dashboard/requests/{sent}").text
    session = re.search(r'<a href="(/dashboard/session\?[^"]*)"', shown)
    project = re.search(r'<a href="(/dashboard/requests\?project=[^"]*)"', shown)
    assert session is not None
    assert project is not None
    model = client.get("/dashboard/requests", params={"requested": f"demo/{name}"})
    pages = [client.get(link[1].replace("&amp;", "&")) for link in (session, project)]
    assert [f"/dashboard/requests/{sent}" in page.text for page in (*pages, model)] == [True] * 3
