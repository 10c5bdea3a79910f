import pytest

from anthropic_proxy.gateway.server.endpoints import prefers_html

CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (CHROME, True),
        ("text/html", True),
        ("TEXT/HTML ; Q=0.1", True),
        ("text/html;level=1;q=0.4, application/json;q=0.4", True),
        ('text/html;note="a,b;q=0";q=1, */*;q=0.1', True),
        (r'text/html;q=0.5;note="a\", */*;b"', True),
        (r'text/html;q=0.5;note="a\", */*', True),
        ('text/html;q=0.5;note="a\\', True),
        ("application/json;q=0.1, text/html;q=0.2, */*", True),
        ("", False),
        ("*/*", False),
        ("text/*", False),
        ("application/json, text/plain, */*", False),
        ("text/html;q=0", False),
        ("text/html;q=0.000, text/plain", False),
        ("text/html;q=0.5, */*", False),
        ("text/html;q=0.5, application/*;q=0.6", False),
        ("text/html;q=0.8, application/json", False),
        ("text/html;q=2", False),
        ("text/html;q=high", False),
        ("text/htmlx, application/text/html", False),
        ('x/y;a="text/html"', False),
    ],
)
def test_html_is_sent_if_its_quality_is_not_below_that_of_json(accept: str, html: bool) -> None:
    assert prefers_html(accept) is html
