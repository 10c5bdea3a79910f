"""The page at `/` as a browser receives it, over a socket."""

import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

from anthropic_proxy import __version__
from tests.support.fakes.openai_chat.server import KEY
from tests.support.provider_lists import list_unset_names
from tests.support.server_process import Proxy, running_proxy

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
OWN_KEY = "own-0123456789abcdef"


class Text(HTMLParser):
    """Text of a page, one line per block, and its elements and attributes."""

    BLOCKS = frozenset({"p", "tr", "li", "h1", "h2", "pre", "header", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self._text: list[str] = []
        self._hidden = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attributes
        self._hidden = tag in ("style", "title")
        self._text.append("\n" if tag in self.BLOCKS else "" if tag == "wbr" else " ")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._text.append(data.replace("\n", " "))

    @property
    def lines(self) -> list[str]:
        return [" ".join(line.split()) for line in "".join(self._text).splitlines() if line.strip()]


def links(page: Text) -> list[str | None]:
    return [value for name, value in page.attributes if name == "href"]


def test_a_browser_receives_mapping_health_and_the_command(settings: dict[str, str], tmp_path: Path) -> None:
    fallbacks = "".join(f"FALLBACK_{tier}=openai/gpt-4.1-mini\n" for tier in ("SONNET", "OPUS", "FABLE"))
    (tmp_path / ".env").write_text(f"BIG_MODEL=openai/gpt-4.1\n{fallbacks}")
    with running_proxy(tmp_path, settings) as proxy:
        client = proxy.client(headers=BROWSER)
        response = client.get("/")
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert response.headers["vary"] == "accept"
        page = Text(response.text)
        assert page.lines == [
            f"anthropic-proxy {__version__} ✓ 1 provider ready",
            "This server accepts the Anthropic Messages API and sends each request to a model provider.",
            "See it",
            "One request, its way, and its cost",
            "Use it",
            "anthropic-proxy code",
            f"ANTHROPIC_BASE_URL={proxy.url} ANTHROPIC_AUTH_TOKEN=local claude",
            "Mapping",
            "haiku → openai/gpt-4.1-mini SMALL_MODEL, default",
            "sonnet, opus … → openai/gpt-4.1",
            "then openai/gpt-4.1-mini BIG_MODEL, .env line 1",
            "Health",
            "✓ openai",
            f"– not set: {' '.join(list_unset_names('openai', 'ollama', 'anthropic'))}",
            "Links",
            "Dashboard",
            "Health as JSON",
            "Models as JSON",
            "Metrics for Prometheus",
            "Documentation: each error, its cause and remedy, and docs/index.md of the repository: first steps, "
            "providers, clients, settings.",
        ]
        assert f"…{KEY[-4:]}" not in response.text  # a style may have these four digits in a color
        assert [client.get(str(link)).status_code for link in links(page)] == [200] * 6
        head = client.head("/")
        assert (head.content, head.headers["content-length"]) == (b"", str(len(response.content)))


def test_the_policy_permits_the_style_sheet_alone(proxy: Proxy) -> None:
    response = proxy.client(headers=BROWSER).get("/")
    style = re.search(r"<style>(.*?)</style>", response.text, re.DOTALL)
    digest = b64encode(sha256(style[1].encode()).digest()).decode()
    assert response.headers["content-security-policy"] == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert "color-scheme: light dark" in style[1]
    page = Text(response.text)
    assert {"script", "img", "link", "iframe", "form"}.isdisjoint(page.elements)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("style", "src")]


def test_a_program_receives_json(proxy: Proxy) -> None:
    for accept in ("*/*", "application/json", "text/html;q=0"):
        response = proxy.client(headers={"accept": accept}).get("/")
        assert response.headers["content-type"] == "application/json"
        assert list(response.json()) == ["message"]


def test_names_of_models_and_hosts_are_escaped(settings: dict[str, str], tmp_path: Path) -> None:
    name = "openai/<img/src=x/onerror=alert(1)>&\"'"
    with running_proxy(tmp_path, {**settings, "BIG_MODEL": name, "ALLOW_UNAUTHENTICATED": "true"}) as proxy:
        page = Text(proxy.client(headers=BROWSER).get("/", headers={"host": "<b>.localhost"}).text)
        assert "img" not in page.elements
        assert "b" not in page.elements
        assert any(f"→ {name}" in line for line in page.lines)


def test_a_missing_key_is_shown_with_its_remedy(settings: dict[str, str], tmp_path: Path) -> None:
    with running_proxy(tmp_path, {**settings, "BIG_MODEL": "groq/openai/gpt-oss-120b"}) as proxy:
        lines = Text(proxy.client(headers=BROWSER).get("/").text).lines
        assert lines[0] == f"anthropic-proxy {__version__} ✕ 1 problem"
        remedy = "Set it in .env and reload the proxy, or in the environment and start it again."
        assert f"✕ groq has no key: GROQ_API_KEY is not set. {remedy}" in lines


def test_without_a_provider_the_page_describes_the_demo(tmp_path: Path) -> None:
    with running_proxy(tmp_path, {"OLLAMA_API_BASE": "http://127.0.0.1:9"}) as proxy:
        lines = Text(proxy.client(headers=BROWSER).get("/").text).lines
        assert lines[0] == f"anthropic-proxy {__version__} ! the demo replies"
        assert [line.rpartition(" ")[2] for line in lines if line.endswith((" init", " code"))] == ["init", "code"]
        assert "! No provider is chosen, so the demo replies: it streams and calls tools, but has no model." in lines


def test_only_trusted_addresses_see_the_setup(settings: dict[str, str], tmp_path: Path) -> None:
    with running_proxy(tmp_path, {**settings, "PROXY_API_KEY": OWN_KEY, "ALLOW_UNAUTHENTICATED": "true"}) as proxy:
        client = proxy.client(headers=BROWSER)
        local = Text(client.get("/").text)
        assert "✓ openai" in local.lines
        assert links(local) == ["/tour", "/dashboard", "/health", "/help/errors"]
        for foreign in (
            {"host": "evil.example"},
            {"x-forwarded-for": "203.0.113.9"},
            {"origin": "https://evil.example"},
        ):
            page = Text(client.get("/", headers=foreign).text)
            assert "Health" not in page.lines
            assert page.lines[-6] == "Use it"
            assert page.lines[-5].endswith("ANTHROPIC_AUTH_TOKEN='one of PROXY_API_KEY' claude")
            assert links(page) == ["/tour", "/dashboard", "/health", "/help/errors"]


def test_the_page_of_errors_links_each_kind_and_ends_each_sentence(settings: dict[str, str], tmp_path: Path) -> None:
    with running_proxy(tmp_path, settings) as proxy:
        html = proxy.client(headers=BROWSER).get("/help/errors").text
    kinds = re.findall(r'<section id="([^"]+)">', html)
    frequent, every = (re.findall(r'href="#([^"]+)"', part) for part in re.findall(r"<nav.*?</nav>", html, re.DOTALL))
    assert every == kinds
    assert set(frequent) <= set(re.findall(r'<article id="([^"]+)">', html))
    remedies = re.findall(r"<b>Remedy\.</b> (.*?)</p>", html)
    assert [remedy for remedy in remedies if remedy.endswith((";", ",", ":"))] == []
