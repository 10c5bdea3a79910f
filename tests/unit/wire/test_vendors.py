"""Vendors: what each does differently has a source with a date, and a golden case that changes without it."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from anthropic_proxy.engine.wires.openai_chat.effort_forms import EFFORT_FORMS
from tests.site.vendors_page import COLUMNS, overview, read_facts
from tests.support.dialect_fields import outcome_of
from tests.support.paths import GOLDEN
from tests.support.vendors import VENDORS_WITHOUT_EXAMPLE, Vendor, cases_of, list_vendors, proven

VENDORS = [vendor for vendor in list_vendors() if vendor.api != "messages"]
"""The relay is compared with official clients (tests/unit/exchange/test_clouds.py), and each has a case."""
SHARED_APIS = {("vertex", "gemini"), ("openai", "responses"), ("openai", "chat"), ("google", "gemini")}
"""APIs of a vendor itself: each field has a case (tests/unit/wire)."""
UNSEEN = {
    "signature_tag": "tests/golden/openai_chat/thinking/thinking_of_another_backend",
    "reasoning_mode": "decides only about other fields",
    "can_reason": "a reset removes what the case has no place for",
    "server_tools": "lists of older models",
    "count_paths": "tests/unit/exchange/test_engine_counts.py",
    "prompt_settings": "tests/unit/exchange/test_prefix_guard.py",
}
"""Fields of which a case of each vendor would show nothing."""
EQUAL_ELSEWHERE = {
    ("deepseek_beta", "reply_schema_form"),  # as for deepseek
    ("groq", "reply_schema_form"),  # masked by reply_schema_exclusive
    ("moonshot", "reply_schema_form"),  # of models without thinking, which are retired
}


def identify(vendor: Vendor) -> str:
    return f"{vendor.name}-{vendor.api}"


@pytest.mark.parametrize("vendor", list_vendors(), ids=identify)
def test_each_claim_has_a_source_and_a_date(vendor: Vendor) -> None:
    assert [claim for claim in vendor.claims() if not (claim.source and claim.read_date.startswith("202"))] == []


def test_each_api_of_a_vendor_has_a_golden_case() -> None:
    without = [vendor for vendor in list_vendors() if not cases_of(vendor.name, vendor.api)]
    assert [identify(vendor) for vendor in without if not vendor.is_for_own_addresses] == []


def test_each_documented_fact_belongs_to_a_vendor_and_a_column_and_has_a_source_and_a_date() -> None:
    names = {vendor.name for vendor in list_vendors()}
    for name, found in read_facts().items():
        assert found.get("searched_on", "2026").startswith("202")
        facts = found.get("facts", {})
        assert set(facts) <= set(COLUMNS[:-1]), name
        assert name in names or not facts
        assert [fact for fact in facts.values() if not (fact[1] and fact[2].startswith("202"))] == []


def test_each_cell_of_the_table_of_vendors_is_filled() -> None:
    assert [row for row in overview() if not all(row)] == []


@pytest.mark.parametrize("vendor", [each for each in VENDORS if (each.name, each.api) not in SHARED_APIS], ids=identify)
def test_each_difference_has_a_golden_case(vendor: Vendor) -> None:
    missing = [
        (claim.pattern, claim.field, claim.value)
        for claim in vendor.claims()
        if not claim.is_shared
        and claim.field not in UNSEEN
        and (vendor.name, claim.field) not in EQUAL_ELSEWHERE
        and claim.value != getattr(vendor.default, claim.field)  # a rule that ends a difference
        and not proven(vendor, claim, outcome_of)
    ]
    assert missing == []


def find_value(body: Any, path: Sequence[str]) -> Any:
    """Return the value of a field. None: the body has no such field."""
    for name in path:
        body = body.get(name) if isinstance(body, dict) else None
    return body


def test_each_switch_of_reasoning_has_a_golden_case_that_switches_it_off() -> None:
    cases = GOLDEN.glob("openai_chat/*/*/expected_upstream_request.json")
    bodies = [json.loads(case.read_bytes())["body"] for case in cases]
    missing = [
        name
        for name, form in EFFORT_FORMS.items()
        if form.switch and form.off not in [find_value(body, form.switch) for body in bodies]
    ]
    assert missing == []


WITHOUT_EXAMPLE = {
    "openai": "its models are those of the provider",
    "azure": "people choose the names of deployments",
    "azure_us": "people choose the names of deployments",
    "azure_cn": "people choose the names of deployments",
    "gemini": "its models are those of the provider `google`",
    "groq": "its models are those of the provider",
    "moonshot": "its models are those of the provider",
    "xai": "its models are those of the provider",
    "local": "people choose the models of their machine",
    "other": "no vendor is known",
    "claude_aws": "its models are those of Anthropic",
    "claude_google_cloud": "its models are those of Anthropic",
}
"""Vendor without `example_model` → reason."""


def test_each_vendor_has_an_example_of_its_models_or_a_reason_for_none() -> None:
    """Without one, no test looks for its price and has a conversation with it."""
    assert {*VENDORS_WITHOUT_EXAMPLE} == WITHOUT_EXAMPLE.keys()
