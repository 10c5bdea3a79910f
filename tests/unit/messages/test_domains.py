"""`allowed_domains` and `blocked_domains` of the web tools."""

import pytest

from anthropic_proxy.messages.server_blocks import domain_names, is_url_allowed


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        (
            "example.com",
            "https://example.com https://EXAMPLE.com./a https://docs.example.com/b https://a.b.example.com:8443/",
            "https://example.org https://badexample.com https://example.com.evil.test https://evil.test/example.com",
        ),
        ("docs.example.com", "https://docs.example.com/", "https://example.com https://api.example.com/"),
        (
            "example.com/blog",
            "https://example.com/blog https://example.com/blog/post-1 https://www.example.com/blog/?q",
            "https://example.com https://example.com/blogs https://example.com/blog/../admin",
        ),
        ("example.com/*", "https://example.com https://example.com/a/b", "https://example.org/a"),
        (
            "example.com/*/articles",
            "https://example.com/en/articles https://example.com/a/b/articles/7",
            "https://example.com/articles https://example.com/en/other",
        ),
        ("bücher.example", "https://bücher.example/ https://xn--bcher-kva.example/", "https://bucher.example/"),
    ],
)
def test_a_domain_means_its_subdomains_and_what_is_below_its_path(entry: str, inside: str, outside: str) -> None:
    for url in inside.split():
        assert is_url_allowed(url, [entry], [])
        assert not is_url_allowed(url, [], [entry])
    for url in outside.split():
        assert not is_url_allowed(url, [entry], [])
        assert is_url_allowed(url, [], [entry])


def test_without_domains_every_address_passes() -> None:
    assert is_url_allowed("https://example.com/", [], [])


@pytest.mark.parametrize("url", ["https://example.com\\@good.test/", "https://", "https://[::1", "https://a b/"])
def test_an_address_that_two_readers_may_read_differently_passes_nowhere(url: str) -> None:
    assert not is_url_allowed(url, ["good.test"], [])
    assert not is_url_allowed(url, [], ["example.com"])


@pytest.mark.parametrize("path", ["/%62log/1", "/x/../blog/1", "//blog/1", "/blog/%2e%2e/other"])
def test_another_spelling_of_a_path_does_not_get_past_a_block(path: str) -> None:
    assert not is_url_allowed(f"https://example.com{path}", [], ["example.com/blog"])


@pytest.mark.parametrize(
    "entry",
    ["https://example.com", "*.example.com", "ex*.com", "", "example.com/*/a/*", "example.com?q", "a b", "a.test:80"],
)
def test_what_is_no_domain_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match=r"is not a (domain|host)"):
        is_url_allowed("https://example.com/", [entry], [])


def test_hosts_are_listed_once() -> None:
    assert domain_names(["example.com/a", "example.com/b", "example.org"]) == ["example.com", "example.org"]
