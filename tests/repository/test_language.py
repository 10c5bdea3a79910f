"""Names and sentences of the package follow the word list, and the checks find what they should."""

import pytest

from tests.language import names_use_standard_terms, sentences_name_their_subject
from tests.support.paths import ROOT

PACKAGE = ROOT / "anthropic_proxy"
CHECKED: tuple[str, ...] = (
    "app.py",
    "cli.py",
    "errors.py",
    "exchange/",
    "log/",
    "messages/",
    "metrics/",
    "platforms/",
    "plugins.py",
    "redaction.py",
    "routing/",
    "server/",
    "services.py",
    "settings/",
    "startup.py",
    "upstream/",
    "wire/",
    "workers/",
)
"""Beginnings of paths below the package that are checked."""


def test_checked_packages_use_standard_terms() -> None:
    findings = []
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE).as_posix()
        if relative.startswith(CHECKED):
            name = relative.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            source = path.read_text("utf-8")
            found = (*names_use_standard_terms(name, source), *sentences_name_their_subject(source))
            findings += [f"{relative}:{line}: {text}" for line, text in found]
    assert findings == []


@pytest.mark.parametrize("folder", ["tests", "bench"])
def test_sentences_outside_the_package_name_their_subject(folder: str) -> None:
    findings = [
        f"{path.relative_to(PACKAGE.parent).as_posix()}:{line}: {text}"
        for path in sorted((PACKAGE.parent / folder).rglob("*.py"))
        for line, text in sentences_name_their_subject(path.read_text("utf-8"))
    ]
    assert findings == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("server.desk", ""),
        ("server.utils", ""),
        ("wire.x", "MOST_BYTES = 1"),
        ("wire.x", "def tell(): ..."),
        ("wire.x", "def f(told): ..."),
        ("wire.x", "class DataHandler: ..."),
        ("wire.x", "x.longestRun = 1\nself.longestRun = 1"),
        ("wire.x", "for rest in y: ..."),
        ("wire.x", "import a as voice"),
        ("exchange.x", "class Part: ..."),
        ("exchange.x", "page = 1"),
    ],
)
def test_a_rejected_name_is_found(module: str, source: str) -> None:
    assert list(names_use_standard_terms(module, source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("wire.gemini.frames", "class Part: ..."),
        ("upstream.web_fetch.fetcher", "page = 1"),
        ("wire.x", "data = params = 1"),
        ("wire.x", "x.said = 1"),
        ("wire.x", "restart = already = department = 1"),
    ],
)
def test_an_allowed_name_passes(module: str, source: str) -> None:
    assert not list(names_use_standard_terms(module, source))


@pytest.mark.parametrize(
    "source",
    [
        '"""What the provider sends."""',
        'def f():\n    """Tell the client."""',
        "class A:\n    x: int\n    '''Whoever waits.'''",
        "x = 1  # nobody reads it",
        "# it says so\nx = 1",
    ],
)
def test_a_clause_in_place_of_a_name_is_found(source: str) -> None:
    assert list(sentences_name_their_subject(source))


@pytest.mark.parametrize(
    "source",
    [
        '"""Return the reply."""',
        'def f():\n    """Raise if the body has `said`."""',
        "x = 'nobody'  # the text \"nobody\" is a field value",
    ],
)
def test_a_plain_sentence_passes(source: str) -> None:
    assert not list(sentences_name_their_subject(source))
