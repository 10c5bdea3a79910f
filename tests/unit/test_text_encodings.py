"""The encoding of texts in base64, as editors and programs save them."""

import base64

import pytest

from anthropic_proxy.engine.text_encodings import read_base64_text
from anthropic_proxy.errors import InvalidRequest
from tests.support.tables import in_one_test

WORDS = "Der Schlüssel ist 4711.\r\n"
RUSSIAN = "Ключ: 4711"
CHINESE = "钥匙 4711"


@in_one_test
@pytest.mark.parametrize(
    ("text", "codec", "charset", "found"),
    [
        *((WORDS, codec, "", "utf-8") for codec in ("utf-8", "utf-8-sig")),
        *((WORDS, codec, "", "utf-16-le") for codec in ("utf-16", "utf-16-le")),
        (WORDS, "utf-16-be", "", "utf-16-be"),
        *((WORDS, codec, "", "utf-32-le") for codec in ("utf-32", "utf-32-le")),
        (WORDS, "utf-32-be", "", "utf-32-be"),
        *((WORDS, codec, "", "cp1252") for codec in ("cp1252", "latin-1")),
        ("“Quoted” für 1 €", "cp1252", "iso-8859-1", "cp1252"),
        *((text, codec, "", codec) for text in (RUSSIAN, CHINESE) for codec in ("utf-16-le", "utf-16-be")),
        (RUSSIAN, "koi8-r", "KOI8-R", "koi8-r"),
        (RUSSIAN, "cp866", "ibm866", "cp866"),
        (CHINESE, "gb18030", "gb18030", "gb18030"),
        ("鑰匙 4711", "big5", "Big5", "big5"),
        ("鍵 4711", "shift_jis", "Shift_JIS", "shift_jis"),
        ("鍵 4711", "iso2022_jp", "iso-2022-jp", "iso2022_jp"),
        ("\x1b[1mfett\x1b[0m", "utf-8", "", "utf-8"),
        ("\x1b[1mgrün\x1b[0m", "cp1252", "", "cp1252"),
        ("a\x00bcdefg", "utf-8", "", "utf-8"),
        ("", "utf-8", "utf-16", "utf-8"),
        ("only ASCII letters", "utf-8", "utf-16le", "utf-8"),
        ("my key is sk-secret-4711 \x01", "utf-8", "utf-16le", "utf-8"),
        ("also für alle", "utf-8", "punycode", "utf-8"),
        ("also für alle", "cp1252", "punycode", "cp1252"),
        ("also für alle", "cp1252", "no-charset", "cp1252"),
    ],
)
def test_a_text_is_read_in_its_encoding(text: str, codec: str, charset: str, found: str) -> None:
    data = text.encode(codec)
    read = read_base64_text(base64.b64encode(data).decode(), charset)
    assert read is not None
    assert (read[0], read[1].codec, read[1].encode(text)) == (text, found, data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("a2V5IDQ3MTE", "key 4711"),
        ("a2V5\r\nIDQ3\r\nMTE=\r\n", "key 4711"),
        ("a2V5IDQ3MTE=a2V5IDQ3MTI=", "key 4711key 4712"),
        (f"{'YWFh' * 8}=" * 1_200, "a" * 24 * 1_200),
        (f"{'YWFh' * 16}YQ==" * 1_200, "a" * 49 * 1_200),
        ("aa=" * 7 + "aa=a", "i" * 8),
        ("8J-UkSA_", "🔑 ?"),
        ("8J+UkSA/", "🔑 ?"),
        ("a2V5IDQ3MTEh?a", "key 4711!"),
        ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAY=", None),
        ("!!!", None),
        ("My key is 4711-4712.", None),
        ("a text, and no base64", None),
    ],
)
def test_damaged_base64_is_read_as_other_programs_read_it(data: str, expected: str | None) -> None:
    read = read_base64_text(data)
    assert (None if read is None else read[0]) == expected


@pytest.mark.parametrize("piece", ["Q=", "YQ==", "aa=", "Q=\n", "YWE=", "=a"])
def test_base64_in_too_many_pieces_is_refused(piece: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_base64_text(piece * 1_000 + "a")
    size, most = 1_000 * len(piece) + 1, 8 + (1_000 * (len(piece.strip())) + 1) // 32
    assert str(raised.value) == (
        f"A document of {size:,} characters in base64 has padding (`=`) in more than {most} places within its data. "
        "Encode the document as a whole."
    )
