"""The comparison of the facts about models with the catalogues of others."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.engine.providers.model_facts import FACTS, FACTS_FILE, FactsFile, ModelRow, ModelTraits
from tests.facts.accepted import Acceptance, Accepted, load_accepted
from tests.facts.catalogues import (
    CATALOGUES,
    Catalogue,
    Claim,
    Facts,
    NotDownloaded,
    Vendor,
    compare,
    find_lines,
    find_losses,
    main,
)

TODAY = datetime(2026, 11, 28, 12, tzinfo=UTC)
FACTS_TEXT = FACTS_FILE.read_text("utf-8")
LEVELS = frozenset({"low", "high", "max"})
NOTHING = Accepted(())


def differences(model: str, vendor: str = "openai", **values: object) -> list[str]:
    return [str(each) for each in compare(Claim("other 1.0", vendor, model, values), Vendor(vendor, TODAY))]


def test_only_what_differs_is_named() -> None:
    assert differences("gpt-6.2-sol", window=1_050_000, max_input=922_000, images=True, input=2.0, output=10.0) == []
    assert differences("gpt-6.2-sol", window=400_000, efforts=frozenset({"low"}), retired_on="2030-01-01") == [
        "openai/gpt-6.2-sol retired_on 2030-01-01 (here nothing)",
        "openai/gpt-6.2-sol window 400,000 (here 1,050,000)",
        "openai/gpt-6.2-sol efforts low (here low medium high xhigh max)",
    ]


@pytest.mark.parametrize(
    ("vendor", "model", "values", "stated"),
    [
        ("openai", "another-model", {"window": 1}, "window 1"),
        (
            "fireworks",
            "accounts/fireworks/models/brand-new-9",
            {"images": True, "input": 2.0},
            "images True, input 2.0",
        ),
        (
            "minimax",
            "Hailuo-Text-9",
            {"window": 1_000_000, "efforts": LEVELS},
            "window 1,000,000, efforts low high max",
        ),
        # a row for earlier versions assumes its limits, and a row without a window states none
        ("openai", "gpt-6.9-sol", {"window": 1_050_000}, "window 1,050,000"),
        ("fireworks", "accounts/fireworks/models/minimax-m9", {"efforts": LEVELS}, "efforts low high max"),
        # the fallback row holds for it
        ("anthropic", "claude-haiku-9", {"forced_tool": True}, "forced_tool True"),
        ("google", "gemini-9-pro", {"max_output": 65_536}, "max_output 65,536"),
    ],
)
def test_a_model_without_a_row_of_its_own_is_named(vendor: str, model: str, values: Any, stated: str) -> None:
    assert differences(model, vendor, **values) == [f"{vendor}/{model} row {stated} (here nothing)"]


@pytest.mark.parametrize(
    ("vendor", "model", "fact", "value", "shown"),
    [
        ("together", "MiniMaxAI/MiniMax-M3.1-Flash", "efforts", LEVELS, "low high max (here nothing)"),
        ("together", "MiniMaxAI/MiniMax-M3.1-Flash", "thinking_always_on", False, "False (here True)"),
        ("together", "Qwen/Qwen3.8-Flash", "max_output", 65_536, "65,536 (here nothing)"),
        ("nvidia", "minimaxai/minimax-m3", "input", 0.3, "0.3 (here nothing)"),
        ("anthropic", "claude-opus-5-5", "forced_tool", True, "True (here False)"),
        ("anthropic", "claude-opus-5-5", "thinking_always_on", False, "False (here True)"),
        (
            "anthropic",
            "claude-opus-5",
            "efforts",
            frozenset({"none", "low"}),
            "none low (here none low medium high xhigh max)",
        ),
        ("anthropic", "claude-haiku-4-5", "thinking_always_on", True, "True (here False)"),
        ("openai", "gpt-4o", "default_effort", "low", "low (here nothing)"),
        ("openai", "gpt-4o", "tools", False, "False (here True)"),
        ("xai", "grok-4.7", "pdf", True, "True (here False)"),
        ("groq", "openai/gpt-oss-20b", "images", True, "True (here False)"),
    ],
)
def test_a_fact_that_the_row_does_not_state_is_named(
    vendor: str, model: str, fact: str, value: Any, shown: str
) -> None:
    assert differences(model, vendor, **{fact: value}) == [f"{vendor}/{model} {fact} {shown}"]


def test_levels_of_a_row_that_no_request_has_are_missing() -> None:
    row = 'starts = ["kimi-k2.7-code"], '
    facts = FactsFile(FACTS_TEXT.replace(row, f'{row}efforts = ["low", "high", "max"], ', 1))
    with FACTS.trying(facts):
        assert differences("kimi-k2.7-code", "moonshot", efforts=LEVELS) == [
            "moonshot/kimi-k2.7-code efforts low high max (here nothing)"
        ]


def test_a_model_that_has_ended_needs_only_its_date() -> None:
    assert differences("gpt-5.2-codex", window=1, retired_on="2026-07-23") == []
    assert differences("gpt-5.2-codex", window=1, retired_on="2026-07-24") == [
        "openai/gpt-5.2-codex retired_on 2026-07-24 (here 2026-07-23)"
    ]
    assert differences("another-model", window=1, retired_on="2026-07-24") == [
        "openai/another-model retired_on 2026-07-24 (here nothing)"
    ]


def test_a_vendor_that_is_none_here_is_named() -> None:
    claim = Claim("pi-ai 9.9", "new-host", "", {"models": 12})
    assert [*find_lines([claim], NOTHING, TODAY)] == ["pi-ai 9.9: new-host models 12 (here nothing)"]
    accepted = Accepted([Acceptance("pi-ai", "new-host models * (here nothing)", "no host here")])
    assert [*find_lines([claim], accepted, TODAY)] == []
    assert [*find_lines([claim], accepted, TODAY, shows_all=True)] == [
        "accepted, pi-ai 9.9: new-host models 12 (here nothing) (no host here)"
    ]


def test_what_a_catalogue_has_no_longer_is_named() -> None:
    claims = [Claim("litellm 1.0", vendor, "a", {"images": True}) for vendor in CATALOGUES["litellm"].vendors]
    facts = [f"litellm: states no {fact} any more" for fact in CATALOGUES["litellm"].facts if fact != "images"]
    assert [*find_losses(claims, "litellm", CATALOGUES["litellm"])] == facts
    assert [*find_losses(claims[1:], "litellm", CATALOGUES["litellm"])] == [
        "litellm: has no models of openai any more",
        *facts,
    ]


def test_an_acceptance_names_catalogue_model_fact_and_both_values() -> None:
    accepted = load_accepted()
    for window, is_accepted in ((272_000, True), (273_000, False)):
        (difference,) = compare(
            Claim("pi-ai 1.6.0", "openai", "gpt-6.2-sol", {"window": window}), Vendor("openai", TODAY)
        )
        assert (accepted.find("pi-ai", str(difference)) is not None) is is_accepted
        assert accepted.find("litellm", str(difference)) is None
        assert accepted.find("pi-ai", str(difference._replace(here=1))) is None


def test_an_acceptance_that_accepts_nothing_is_named() -> None:
    entries = [
        Acceptance("litellm", text, "a reason")
        for text in ("openai/old-* row *", "openai/new-* row *", "openai/b row images True (here nothing)")
    ]
    accepted = Accepted([*entries, Acceptance("pi-ai", "openai/c row *", "a reason")])
    claims = [Claim("litellm 1.0", "openai", "old-9", {"images": True})]
    assert [*find_lines(claims, accepted, TODAY)] == []
    assert [*accepted.list_unused(["litellm"])] == [
        "accepted.toml: no difference any more: litellm: openai/b row images True (here nothing)",
        "accepted.toml: no difference any more: litellm: openai/new-* row *",
    ]
    with pytest.raises(ValueError, match=r"openai/new-\* row \* stands twice"):
        Accepted([*entries, entries[1]])


@pytest.mark.parametrize(
    ("pattern", "missing"),
    [
        ("openai/gpt-6* row *", "row window 1,050,000, images True, input 2.0 (here nothing)"),
        ("openai/gpt-6* window * (here nothing)", "window 1,050,000 (here nothing)"),
        ("openai/* images True *", "images True (here False)"),
        ("openai/gpt-6.2-sol input 2.0 (here nothing)", "input 2.0 (here nothing)"),
        ("openai/gpt-5* row *", ""),
    ],
)
def test_an_acceptance_may_not_hide_that_a_stated_fact_is_missing(pattern: str, missing: str) -> None:
    accepted = Accepted([Acceptance("pi-ai", pattern, "too wide")])
    claim = Claim("pi-ai 1.0", "openai", "gpt-6.2-sol", {"window": 1_050_000, "images": True, "input": 2.0})
    assert [*find_lines([claim], accepted, TODAY)] == [
        f"accepted.toml: {pattern!r} would hide that this is missing here: openai/gpt-6.2-sol {missing}"
    ] * bool(missing)


def test_an_acceptance_may_not_hide_that_an_announced_end_is_missing() -> None:
    accepted = Accepted([Acceptance("litellm", "openai/* retired_on *", "too wide")])
    claim = Claim("litellm 1.0", "openai", "gpt-5.2-codex", {"retired_on": "2026-07-23"})
    assert [*find_lines([claim], accepted, TODAY)] == [
        "accepted.toml: 'openai/* retired_on *' would hide that this is missing here: "
        "openai/gpt-5.2-codex retired_on 2026-07-23 (here nothing)"
    ]


def read_claims(*claims: Claim | Exception) -> Callable[[Path], Iterator[Claim]]:
    def read(folder: Path) -> Iterator[Claim]:
        for claim in claims:
            if isinstance(claim, Exception):
                raise claim
            yield claim

    return read


@pytest.mark.parametrize(
    ("claims", "status", "output"),
    [
        ((Claim("own 1.0", "xai", "grok-4.7", {"images": True}),), 0, ["own: 1 facts of 1 models"]),
        (
            (Claim("own 1.0", "xai", "grok-4.7", {"images": False}),),
            1,
            ["own: 1 facts of 1 models", "own 1.0: xai/grok-4.7 images False (here True)"],
        ),
        ((NotDownloaded("no network"),), 0, ["own: not looked up: no network"]),
        ((FileNotFoundError("package.json"),), 1, ["own: has another shape: FileNotFoundError: package.json"]),
        ((KeyError("mode"),), 1, ["own: has another shape: KeyError: 'mode'"]),
        ((), 1, ["own: 0 facts of 0 models", "own: has no models of xai any more", "own: states no images any more"]),
    ],
)
def test_the_command_fails_for_each_line(
    claims: tuple[Claim | Exception, ...], status: int, output: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main((), {"own": Catalogue(read_claims(*claims), ["xai"], ["images"])}) == status
    assert capsys.readouterr().out.splitlines() == [
        *output,
        f"{sum('facts of' not in line and 'looked up' not in line for line in output)} differences without a reason, "
        "0 with one",
    ]


# Each row and each fact of a row is missed by a catalogue that states it

COMPARED = {
    "context_window": "window",
    "max_input": "max_input",
    "max_output": "max_output",
    "efforts": "efforts",
    "default_effort": "default_effort",
    "accepts_images": "images",
    "accepts_pdf": "pdf",
    "tools": "tools",
}
"""Field of `ModelRow` → fact of a catalogue."""
TRAITS = {"thinking_forms": "thinking_always_on", "accepts_forced_tool": "forced_tool"}
_ROW = re.compile(r'^    \{ starts = \["([^"]+)".*\},\n', re.MULTILINE)


def test_each_field_of_a_row_is_compared() -> None:
    about_the_row = {"id_prefixes", "covers_newer_versions", "source", "read_date"}
    assert set(ModelRow.__struct_fields__) - about_the_row == set(COMPARED)
    assert set(ModelTraits.__struct_fields__) - {"ids", "source", "read_date"} == set(TRAITS)
    assert {*COMPARED.values(), *TRAITS.values()} <= {fact for one in CATALOGUES.values() for fact in one.facts}


def claim_what_is_stated(vendor: Vendor, model: str, facts: Facts) -> Claim:
    values = {fact: value[-1] if isinstance(value, tuple) else value for fact, value in facts.items() if value != ()}
    return Claim("other 1.0", vendor.host.name, model, values)


def list_deletions(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield for each row, and each fact of it: a model, the field ("" for the row), and the facts without it."""
    for row in _ROW.finditer(text):
        yield row[1], "", text[: row.start()] + text[row.end() :]
        for field in COMPARED:
            shorter = re.sub(rf', {field} = (?:\[[^\]]*\]|"[^"]*"|[\w_]+)', "", row[0])
            if shorter != row[0]:
                yield row[1], field, text[: row.start()] + shorter + text[row.end() :]


@pytest.mark.parametrize("name", ["anthropic", "fireworks", "mistral", "together"])
def test_a_deleted_row_and_a_deleted_fact_are_missed(name: str) -> None:
    vendor = Vendor(name, TODAY)
    begin = FACTS_TEXT.index(f"\n[{name}]\n")
    table = FACTS_TEXT[begin : FACTS_TEXT.index("\n[", begin + len(name) + 4)]
    unseen = []
    for model, field, shorter in list_deletions(table):
        stated = vendor.find_facts(model)
        if stated is None or vendor.find_retirement(model):
            continue  # a row without a window, or a model that needs only its date
        claim = claim_what_is_stated(vendor, model, stated)
        assert [*compare(claim, vendor)] == []
        with FACTS.trying(FactsFile(FACTS_TEXT.replace(table, shorter))):
            if not [*compare(claim, vendor)]:
                unseen.append(f"{model} {field}")
    assert unseen == []
