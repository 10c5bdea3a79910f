"""Facts about models: each has a source and a date, and applies to the right models."""

import re
from typing import Any

import msgspec
import pytest

from anthropic_proxy.engine.providers import PROVIDERS, find_registry
from anthropic_proxy.engine.providers.lookup import list_vendors
from anthropic_proxy.engine.providers.model_facts import ModelRow, load_model_rows
from anthropic_proxy.engine.providers.registry import Host, ModelRule, RetiredModel, WireConfig
from anthropic_proxy.gateway.settings import load_settings
from tests.support.tables import in_one_test
from tests.support.vendors import MODEL_TABLES

HOSTS = [host for row in PROVIDERS for host in row.hosts]
OWNERS: list[Host] = [*PROVIDERS, *HOSTS]
WIRE_CONFIGS = [wire_config for owner in OWNERS for wire_config in owner.wires.values()]
RETIRED = [(model, end) for owner in OWNERS for model, end in owner.retired_models.items()]
ROWS = [(table, row) for table in MODEL_TABLES for row in load_model_rows(table)]
DATE = re.compile(r"20\d\d-(0[1-9]|1[0-2])(-([0-2]\d|3[01]))?")


@in_one_test
@pytest.mark.parametrize(("table", "row"), ROWS, ids=[f"{table}-{row.id_prefixes[:1]}" for table, row in ROWS])
def test_every_row_has_a_source_and_a_date(table: str, row: Any) -> None:
    assert row.source, table
    assert DATE.fullmatch(row.read_date), f"{table} {row.id_prefixes}: {row.read_date!r} is no date"


@pytest.mark.parametrize("missing", ["source", "read"])
def test_a_row_without_a_source_or_a_date_cannot_be_loaded(missing: str) -> None:
    given = {"starts": ["x"], "context_window": 1, "source": "example.org", "read": "2026-11"}
    with pytest.raises(msgspec.ValidationError, match=missing):
        msgspec.convert({name: value for name, value in given.items() if name != missing}, ModelRow)


@in_one_test
@pytest.mark.parametrize("wire_config", WIRE_CONFIGS, ids=range(len(WIRE_CONFIGS)))
def test_every_rule_for_models_has_a_source_and_a_date(wire_config: WireConfig) -> None:
    for rule in wire_config.model_rules:
        assert isinstance(rule, ModelRule)
        assert rule.source, rule.pattern
        assert DATE.fullmatch(rule.read_date), f"{rule.pattern}: {rule.read_date!r} is no date"


@pytest.mark.parametrize("vendor", list_vendors(PROVIDERS), ids=lambda host: host.name)
def test_every_vendor_has_a_source_and_a_date_and_is_selected_by_its_address(vendor: Host) -> None:
    assert vendor.source
    assert DATE.fullmatch(vendor.read_date)
    assert vendor.title
    assert vendor.key_variable
    assert vendor.docs_url.startswith("https://")
    assert vendor.keys_url.startswith("https://")
    settings = load_settings({"OPENAI_BASE_URL": vendor.base_url}, PROVIDERS, env_file=None)
    assert find_registry(settings).find("openai").host.name == vendor.name


@in_one_test
@pytest.mark.parametrize(("model", "end"), RETIRED, ids=[model for model, _ in RETIRED])
def test_every_end_of_a_model_has_a_source_and_a_date(model: str, end: RetiredModel) -> None:
    assert end.source, model
    assert DATE.fullmatch(end.read_date)
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", end.retired_on)
