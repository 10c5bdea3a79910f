"""One variable of `.env` gets another value; comments, line ends and all other lines stay."""

import pytest

from anthropic_proxy.gateway.settings.env_writer import update_env_text

TEXT = "# models\nBIG_MODEL=gpt-4o\n\nexport SMALL_MODEL='a b' # quoted\nBIG_MODEL=gpt-4.1\n# end"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("BIG_MODEL", "o3", TEXT.replace("gpt-4.1", "o3")),  # the last line counts
        ("SMALL_MODEL", "it's", TEXT.replace("'a b' # quoted", r"'it\'s'")),
        ("SMALL_MODEL", "", TEXT.replace("\nexport SMALL_MODEL='a b' # quoted\n", "\n")),
        ("LOG_LEVEL", "debug", f"{TEXT}\nLOG_LEVEL=debug\n"),
        ("LOG_LEVEL", "", TEXT),
    ],
)
def test_one_line_changes(name: str, value: str, expected: str) -> None:
    assert update_env_text(TEXT, name, value) == expected


def test_line_ends_of_windows_stay() -> None:
    assert update_env_text("A=1\r\nB=2\r\nC=3\r\n", "B", "5") == "A=1\r\nB=5\r\nC=3\r\n"
    assert update_env_text("A=1\r\n", "B", "5") == "A=1\r\nB=5\r\n"
