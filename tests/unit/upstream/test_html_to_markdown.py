"""An HTML page as a model reads it."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from anthropic_proxy.engine.upstream.html_to_markdown import MAX_HTML_CHARACTERS, convert_html
from tests.support.golden_texts import Check


def read(html: str) -> str:
    return convert_html(html, "https://example.com/cheese/brie.html").markdown


def test_golden_pages(golden: Check) -> None:
    def show(given: str) -> str:
        reading = convert_html(given, "https://example.com/cheese/brie.html")
        return f"title: {reading.title}\n{reading.markdown}"

    golden("html", show)


def test_a_page_that_is_too_long_is_marked_as_cut() -> None:
    text = read("<p>brie</p>" * (MAX_HTML_CHARACTERS // 10))
    assert text.endswith("brie\n\n[the page goes on]")
    assert len(text) < MAX_HTML_CHARACTERS


def test_addresses_do_not_make_a_page_longer_than_it_is() -> None:
    base = "https://example.com/" + "x" * 4000 + "/"
    length = len(read(f'<base href="{base}">' + '<a href="y">z</a> ' * 20_000))
    assert length < 2_000_000


def test_only_the_first_base_of_a_page_counts_and_a_long_one_is_ignored() -> None:
    assert (
        read('<base target="_top"><base href="/a/"><base href="b/"><a href="y">z</a>') == "[z](https://example.com/a/y)"
    )
    assert read(f'<base href="/{"a/" * 2_000}"><a href="y">z</a>') == "[z](https://example.com/cheese/y)"


@pytest.mark.parametrize(
    "piece",
    ["<div>", "<b>", "<ul><li>", "<a href=x>y", "<blockquote>z", "<table><tr><td>", "<pre>", "<", "<!--", "&", "<svg>"],
)
@pytest.mark.sample(3)
def test_depth_costs_nothing(piece: str) -> None:
    length = len(read(piece * 20_000))
    assert length < 40 * 20_000


_tags = some.sampled_from(
    ["p", "div", "ul", "li", "a href=x", "b", "pre", "table", "tr", "td", "h2", "main", "title", "br"]
)
_pieces = some.one_of(_tags.map("<{}>".format), _tags.map(lambda tag: f"</{tag.split()[0]}>"), some.text(max_size=8))


@given(some.one_of(some.lists(_pieces, max_size=40).map("".join), some.text()))
def test_any_text_is_read(html: str) -> None:
    reading = convert_html(html, "https://example.com/")
    assert "\n\n\n" not in reading.markdown


@given(some.lists(some.text("abcäé", min_size=1, max_size=8), min_size=1, max_size=10))
def test_no_word_is_lost(words: list[str]) -> None:
    assert read("".join(f"<p>{word}</p>" for word in words)).split("\n\n") == words
