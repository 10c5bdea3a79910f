"""Lines of commands on a terminal."""

import pytest

from anthropic_proxy.cli.output import wrap_text


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("  It fits.", ["  It fits."]),
        ("  It is longer than the line.", ["  It is longer than", "  the line."]),
        ("✕ It is longer than the line.", ["✕ It is longer than", "  the line."]),
        ("  \x1b[33m!\x1b[0m It is longer than it.", ["  \x1b[33m!\x1b[0m It is longer", "    than it."]),
        ("  Next:  run it", ["  Next:  run it"]),
        ("  Send a request:  ask it", ["  Send a request:", "  ask it"]),
        ("  Send one:  anthropic-proxy ask hello", ["  Send one:", "  anthropic-proxy ask hello"]),
        ("  \x1b[2mIt is longer than it.\x1b[0m", ["  \x1b[2mIt is longer than", "  it.\x1b[0m"]),
        ("  averyveryverylongwordofachosenname", ["  averyveryverylongwordofachosenname"]),
        ("", [""]),
    ],
)
def test_text_is_wrapped_between_words_but_not_in_a_command(text: str, lines: list[str]) -> None:
    assert wrap_text(text, 20) == lines
    assert wrap_text(text, None) == [text]
