"""Page Requests and page Models: a search for a request id, and the speed of each model of each provider."""

from pathlib import Path

from anthropic_proxy.console.dashboard.models import build_models_page
from anthropic_proxy.console.dashboard.requests import build_requests_page, list_exported_requests
from anthropic_proxy.gateway.settings import Settings
from tests.support.ledger import NOON, new_receipt, reading, running_ledger
from tests.support.page_context import build_context


async def test_a_request_id_is_found_outside_the_range(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    old = new_receipt(1, started_at=NOON - 40 * 86_400)
    with running_ledger(settings) as ledger:
        await ledger.record(old, new_receipt(2))
        ledger.wait_written(2)
    with reading(settings) as engine, engine.connect() as connection:
        for text, ids in ((old.request_id, [old.request_id]), ("req_unknown00", [])):
            query = {"q": [text], "provider": ["groq"]}
            context = build_context("/dashboard/requests", connection, settings, query, now=NOON)
            assert [row.id for row in list_exported_requests(context)] == ids
            page = build_requests_page(context)
            assert (len(page["rows"]), page["older"], page["newer"]) == (len(ids), "", "")


async def test_models_of_two_providers_have_their_own_speed(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    with running_ledger(settings) as ledger:
        await ledger.record(
            new_receipt(1, provider="openai", model="gpt-4.1", first_token_seconds=0.2),
            new_receipt(2, provider="azure", model="gpt-4.1", first_token_seconds=30.0),
        )
        ledger.wait_written(2)
    with reading(settings) as engine, engine.connect() as connection:
        context = build_context("/dashboard/models", connection, settings)
        speeds = {row["provider"]: row["p50"] for row in build_models_page(context)["rows"]}
    assert speeds == {"openai": "0.20 s", "azure": "31.0 s"}
