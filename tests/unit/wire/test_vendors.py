"""Vendors: what each does differently has a source with a date, and a golden case that changes without it."""

import pytest

from anthropic_proxy.engine.providers.open_models import UNKNOWN
from tests.support.dialect_fields import outcome_of
from tests.support.vendors import Vendor, list_vendors, proven

VENDORS = [vendor for vendor in list_vendors() if vendor.api != "messages"]
"""The relay is compared with official clients (tests/unit/exchange/test_clouds.py) and by the cases of each vendor."""
SHARED_APIS = {("vertex", "gemini"), ("openai", "responses"), ("openai", "chat"), ("google", "gemini")}
"""APIs of a vendor itself: each field has a case (tests/unit/wire)."""
UNSEEN = {
    "signature_tag": "tests/golden/openai_chat/thinking/thinking_of_another_backend",
    "reasoning_mode": "decides only about other fields",
    "can_reason": "a reset removes what the case has no place for",
    "server_tools": "lists of older models",
    "count_paths": "tests/unit/exchange/test_engine_counts.py",
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


@pytest.mark.parametrize("vendor", [each for each in VENDORS if (each.name, each.api) not in SHARED_APIS], ids=identify)
def test_each_difference_has_a_golden_case(vendor: Vendor) -> None:
    like_unknown = {name: getattr(UNKNOWN, name) for name in UNKNOWN.__struct_fields__} if vendor.api == "chat" else {}
    missing = [
        (claim.pattern, claim.field, claim.value)
        for claim in vendor.claims()
        if not claim.is_shared
        and claim.field not in UNSEEN
        and (vendor.name, claim.field) not in EQUAL_ELSEWHERE
        and like_unknown.get(claim.field, ...) != claim.value
        and not proven(vendor, claim, outcome_of)
    ]
    assert missing == []
