"""The comparison of the facts about models with the catalogues of others."""

from datetime import UTC, date, datetime

from tests.facts.catalogues import Acceptance, Claim, Vendor, compare, load_accepted

TODAY = datetime(2026, 11, 28, 12, tzinfo=UTC)


def differences(model: str, **values: object) -> list[str]:
    return [str(each) for each in compare(Claim("other 1.0", "openai", model, values), Vendor("openai", TODAY))]


def test_only_what_differs_is_named() -> None:
    assert differences("gpt-6.2-sol", window=1_050_000, max_input=922_000, images=True, input=2.0, output=10.0) == []
    assert differences("gpt-6.2-sol", window=400_000, efforts=frozenset({"low"}), retired_on="2030-01-01") == [
        "retired_on 2030-01-01 (here nothing)",
        "window 400,000 (here 1,050,000)",
        "efforts low (here low medium high xhigh max)",
    ]
    assert differences("another-model", window=1) == []


def test_a_model_that_has_ended_needs_only_its_date() -> None:
    assert differences("gpt-5.2-codex", window=1, retired_on="2026-07-23") == []
    assert differences("gpt-5.2-codex", window=1, retired_on="2026-07-24") == [
        "retired_on 2026-07-24 (here 2026-07-23)"
    ]


def test_an_acceptance_has_a_reason_and_covers_its_models_facts_and_source() -> None:
    accepted = load_accepted()
    assert all(each.reason and each.day <= date(2099, 1, 1) and each.facts for each in accepted)
    (difference,) = compare(Claim("pi-ai 1.0", "openai", "gpt-6.2-sol", {"window": 1}), Vendor("openai", TODAY))
    row = Acceptance("google/* openai/gpt-6*", ["window"], "pi-ai", "why", date(2026, 11, 28))
    assert row.covers(difference)
    assert not row._replace(facts=["images"]).covers(difference)
    assert not row._replace(source="litellm").covers(difference)
    assert not row._replace(models="openai/gpt-5*").covers(difference)
