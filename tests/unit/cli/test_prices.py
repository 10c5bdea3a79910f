"""Command `prices update`: a newer price list is stored, and the changed prices of configured models are printed."""

from datetime import date
from pathlib import Path

from anthropic_proxy.gateway.prices.updates import format_date
from tests.support.command_line import OPENAI, run_command
from tests.support.price_list import build_price_list, list_providers


def test_the_changed_prices_of_configured_models_are_printed_and_used(tmp_path: Path) -> None:
    today = date.today()  # the list of the package is older on each day
    content = build_price_list(today.isoformat(), input_mtok=3, cache_read_mtok=0.25)
    (tmp_path / "list.json").write_bytes(content)
    providers = list_providers(today.isoformat(), {})
    count = sum(len(provider["models"]) for provider in providers)
    updated = run_command("prices", "update", "--from", "list.json", directory=tmp_path)
    assert (updated.returncode, updated.stdout.splitlines(), updated.stderr.splitlines()) == (
        0,
        [
            "Model\tOld $/M in / cached / out\tNew",
            "openai/gpt-4.1-mini\t$0.40   $0.10   $1.60\tunknown",
            "openai/gpt-4.1\t$2.00   $0.50   $8.00\t$3.00   $0.25   $8.00",
        ],
        [
            f"  ✓ Stored the prices of {count:,} models of {len(providers)} providers, dated {format_date(today)}, "
            "from list.json.",
            "  Configured models with changed prices: 2, unchanged: 0. A running proxy uses the new prices for its "
            "next requests. Stored costs do not change.",
        ],
    )
    (tmp_path / "list.json").write_bytes(content[:-1])
    rejected = run_command("prices", "update", "--from", "list.json", directory=tmp_path)
    assert (rejected.returncode, rejected.stdout) == (1, "")
    assert rejected.stderr.startswith(
        "  ✕ The price list list.json is not used: it is no JSON, or is incomplete. The prices in use stay: "
        "genai-prices updated "
    )


def test_an_unreachable_or_older_list_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_bytes(build_price_list("2026-01-20", input_mtok=3))
    older = run_command("prices", "update", "--from", "list.json", directory=tmp_path)
    assert (older.returncode, older.stdout) == (0, "")
    assert older.stderr.startswith(
        "  ! The price list list.json is not used: it is of 20 Jan 2026, older than the prices in use. The prices in "
        "use stay: genai-prices "
    )
    url = "http://127.0.0.1:9/prices.json"
    failed = run_command("prices", "update", directory=tmp_path, settings={**OPENAI, "PRICE_UPDATE_URL": url})
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith(
        f"  ✕ The price list {url} is not used: no server responds at http://127.0.0.1:9 (connection refused). The "
        "prices in use stay: genai-prices "
    )
    assert not list(tmp_path.rglob("prices.json"))
