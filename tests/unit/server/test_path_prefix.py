"""The path of `DASHBOARD_URL` in requests and responses."""

import gzip

import pytest

from anthropic_proxy.console.dashboard.web import compress_response
from anthropic_proxy.gateway.permissions import PLACES
from anthropic_proxy.gateway.server.path_prefix import add_prefix, remove_prefix
from anthropic_proxy.gateway.settings.values import OWN_PATHS
from anthropic_proxy.plugins import RouteRequest, RouteResponse


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/proxy", "/"),
        ("/proxy/", "/"),
        ("/proxy/v1/messages", "/v1/messages"),
        ("/proxy/proxy", "/proxy"),
        ("/proxyv1", "/proxyv1"),
        ("/v1/messages", "/v1/messages"),
        ("/", "/"),
    ],
)
def test_the_path_is_removed_from_requests(path: str, expected: str) -> None:
    assert remove_prefix(path, "/proxy") == expected


def test_links_redirects_and_cookies_get_the_path() -> None:
    html = b'<a href="/a" title="/b">=&#34;/c</a><a href="//x"><a href="#d"><a href="https://e/f"><form action="/g">'
    headers = {
        "content-type": "text/html; charset=utf-8",
        "location": "/dashboard?next=/dashboard",
        "refresh": "0; url=/dashboard",
        "set-cookie": ["a=/b; Path=/dashboard; HttpOnly", "c=d; path=/"],
        "x-path": "/kept",
    }
    expected = html.replace(b'"/a"', b'"/proxy/a"').replace(b'"/g"', b'"/proxy/g"')
    for size in (0, 2_000):  # only long pages are compressed
        page = RouteResponse(headers=headers, body=html + b" " * size)
        request = RouteRequest(path="/", headers={"accept-encoding": "gzip"}, path_prefix="/proxy")
        found = add_prefix(compress_response(request, page), "/proxy")
        assert isinstance(found.body, bytes)
        assert (gzip.decompress(found.body) if size else found.body) == expected + b" " * size
        assert {name: found.headers[name] for name in headers} == {
            **headers,
            "location": "/proxy/dashboard?next=/dashboard",
            "refresh": "0; url=/proxy/dashboard",
            "set-cookie": ["a=/b; Path=/proxy/dashboard; HttpOnly", "c=d; path=/proxy/"],
        }


@pytest.mark.parametrize("address", ["https://login.example.org/", "//example.org/"])
def test_other_hosts_and_other_bodies_are_not_changed(address: str) -> None:
    response = RouteResponse(headers={"content-type": "application/json", "location": address}, body=b' href="/a"')
    assert add_prefix(response, "/proxy") == response


def test_no_path_of_the_proxy_begins_like_one_of_a_reverse_proxy() -> None:
    assert {place.path.split("/")[1] for place in PLACES} - {"", ".well-known"} == OWN_PATHS
