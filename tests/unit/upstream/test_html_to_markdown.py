"""An HTML page as a model reads it."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from anthropic_proxy.engine.upstream.html_to_markdown import MAX_HTML_CHARACTERS, convert_html

PAGE = """<!doctype html><html><head><title> Cheese
  &amp; wine </title><style>p { color: red }</style></head><body>
<nav><a href="/">Home</a></nav>
<h1>Brie <em>de</em> Meaux</h1>
<p>Soft, <b>white</b>;   see <a href="../wine?a=1&amp;b=2#c">which
<i>wine</i></a>.<br>Made of <code>milk</code>.
<ul><li>one<li>two<ul><li>inner <b></b></ul><li><p>three</p></ul>
<ol><li>first</li><li>second</li></ol>
<pre><code>def brie():
    return "soft"
</code></pre>
<blockquote><p>Cheese is</p><p>milk's leap</p></blockquote>
<table><tr><th>Name<th>Price</tr><tr><td>Brie<td>4 <b>€</b></table>
<p><img src="brie.png" alt="A wheel"><img src="pixel.gif">
<script>alert("no")</script><div hidden>secret</div><p style="display: none">nor this<p aria-hidden="true">nor this</p>
<p><a href="javascript:alert(1)">script</a> <a href="#top">up</a><hr>
<a href="https://example.org"><div>All of it</div></a></body></html>"""
TEXT = """\
# Brie *de* Meaux

Soft, **white**; see [which *wine*](https://example.com/wine?a=1&b=2#c).
Made of `milk`.

- one
- two
  - inner
- three

1. first
2. second

```
def brie():
    return "soft"
```

> Cheese is
>
> milk's leap

Name | Price
--- | ---
Brie | 4 **€**

![A wheel](https://example.com/cheese/brie.png)

script up

---

All of it"""


def read(html: str) -> str:
    return convert_html(html, "https://example.com/cheese/brie.html").markdown


def test_a_page_reads_as_people_see_it() -> None:
    reading = convert_html(PAGE, "https://example.com/cheese/brie.html")
    assert reading.title == "Cheese & wine"
    assert reading.markdown == TEXT


def test_what_stands_in_main_is_the_page() -> None:
    long = "Brie is soft. " * 20
    assert read(f"<div>Menu</div><main><h1>Brie</h1>{long}</main><footer>2026</footer>") == f"# Brie\n\n{long.strip()}"
    assert read("<div>Menu</div><main>loading</main><p>Brie") == "Menu\n\nloading\n\nBrie"


def test_links_are_resolved_against_the_base_of_the_page() -> None:
    assert read('<base href="https://other.test/x/"><a href="y">z</a>') == "[z](https://other.test/x/y)"


def test_a_page_that_is_too_long_is_marked_as_cut() -> None:
    text = read("<p>brie</p>" * (MAX_HTML_CHARACTERS // 10))
    assert text.endswith("brie\n\n[the page goes on]")
    assert len(text) < MAX_HTML_CHARACTERS


def test_addresses_do_not_make_a_page_longer_than_it_is() -> None:
    base = "https://example.com/" + "x" * 4000 + "/"
    length = len(read(f'<base href="{base}">' + '<a href="y">z</a> ' * 20_000))
    assert length < 2_000_000


@pytest.mark.parametrize(
    "piece",
    ["<div>", "<b>", "<ul><li>", "<a href=x>y", "<blockquote>z", "<table><tr><td>", "<pre>", "<", "<!--", "&", "<svg>"],
)
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
