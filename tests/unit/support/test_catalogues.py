"""The comparison of the facts about models with the catalogues of others."""

from datetime import UTC, datetime

from tests.facts.catalogues import Claim, Vendor, compare, load_accepted

TODAY = datetime(2026, 11, 28, 12, tzinfo=UTC)


def differences(model: str, **values: object) -> list[str]:
    return [str(each) for each in compare(Claim("other 1.0", "openai", model, values), Vendor("openai", TODAY))]


def test_only_what_differs_is_named() -> None:
    assert differences("gpt-6.2-sol", window=1_050_000, max_input=922_000, images=True, input=2.0, output=10.0) == []
    assert differences("gpt-6.2-sol", window=400_000, efforts=frozenset({"low"}), retired_on="2030-01-01") == [
        "openai/gpt-6.2-sol retired_on 2030-01-01 (here nothing)",
        "openai/gpt-6.2-sol window 400,000 (here 1,050,000)",
        "openai/gpt-6.2-sol efforts low (here low medium high xhigh max)",
    ]
    assert differences("another-model", window=1) == []


def test_a_model_that_has_ended_needs_only_its_date() -> None:
    assert differences("gpt-5.2-codex", window=1, retired_on="2026-07-23") == []
    assert differences("gpt-5.2-codex", window=1, retired_on="2026-07-24") == [
        "openai/gpt-5.2-codex retired_on 2026-07-24 (here 2026-07-23)"
    ]


def test_an_acceptance_names_catalogue_model_fact_and_both_values() -> None:
    accepted = load_accepted()
    assert all(accepted.values())
    assert {source for source, _ in accepted} == {"pi-ai", "litellm"}
    for window, is_accepted in ((272_000, True), (273_000, False)):
        (difference,) = compare(
            Claim("pi-ai 1.6.0", "openai", "gpt-6.2-sol", {"window": window}), Vendor("openai", TODAY)
        )
        assert (difference.key in accepted) is is_accepted
        assert difference._replace(source="litellm 1.0").key not in accepted
        assert difference._replace(here=1).key not in accepted
