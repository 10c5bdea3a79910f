"""Lines of commands on a terminal."""

import pytest

from anthropic_proxy.cli.output import wrap_text


@pytest.mark.parametrize(
    ("text", "indent", "lines"),
    [
        ("  It fits.", None, ["  It fits."]),
        ("  It is longer than the line.", None, ["  It is longer than", "  the line."]),
        ("✕ It is longer than the line.", 2, ["✕ It is longer than", "  the line."]),
        ("  Next:  run it", None, ["  Next:  run it"]),
        ("  Send a request:  ask it", None, ["  Send a request:", "  ask it"]),
        ("  Send one:  anthropic-proxy ask hello", None, ["  Send one:", "  anthropic-proxy ask hello"]),
        ("  \x1b[2mIt is longer than it.\x1b[0m", None, ["  \x1b[2mIt is longer than", "  it.\x1b[0m"]),
        ("  averyveryverylongwordofachosenname", None, ["  averyveryverylongwordofachosenname"]),
        ("", None, [""]),
    ],
)
def test_text_is_wrapped_between_words_but_not_in_a_command(text: str, indent: int | None, lines: list[str]) -> None:
    assert wrap_text(text, 20, indent) == lines
    assert wrap_text(text, None, indent) == [text]
