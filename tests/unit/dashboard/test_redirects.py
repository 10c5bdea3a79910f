"""Where a browser goes after the sign-in: to a page of the dashboard, whatever the link says that led to the form."""

from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.console.dashboard.web import MAX_TARGET_CHARACTERS, resolve_redirect_path

OVERVIEW = "/dashboard"
LONGEST = "/dashboard/" + "x" * (MAX_TARGET_CHARACTERS - len("/dashboard/"))


@pytest.mark.parametrize(
    "target",
    ["/dashboard", "/dashboard?range=7d", "/dashboard/keys", "/dashboard/requests?model=a%2Fb&team=ü", LONGEST],
)
def test_a_page_of_the_dashboard_is_opened(target: str) -> None:
    assert resolve_redirect_path(target) == target


@pytest.mark.parametrize(
    "target",
    [
        "",
        "/",
        "/v1/messages",
        "/dashboards",
        "dashboard/keys",
        "//other.example/dashboard/",
        "https://other.example/dashboard/",
        "javascript:alert(1)//dashboard/",
        "\\\\other.example\\dashboard",
        "/dashboard\\..\\\\other.example",
        "/dashboard/\\other.example",  # browsers read a backslash as a slash
        "/dashboard/?next=a\\b",
        "/dashboard/\r\nset-cookie: a=b",
        "/dashboard/\t/other.example",
        "/dashboard/\x00",
        LONGEST + "x",
    ],
)
def test_any_other_address_is_replaced_by_the_overview(target: str) -> None:
    assert resolve_redirect_path(target) == OVERVIEW


PARTS = st.sampled_from(
    ["/dashboard", "/", "\\", "//", "..", "?", "#", ":", "@", "https:", "other.example", "\t", "\n"]
)


@given(st.lists(PARTS, max_size=8).map("".join))
def test_a_browser_never_leaves_the_server(target: str) -> None:
    followed = urlsplit(urljoin("http://proxy.example/dashboard/sign-in", resolve_redirect_path(target)))
    assert (followed.scheme, followed.netloc) == ("http", "proxy.example")
    assert "\\" not in followed.geturl()
