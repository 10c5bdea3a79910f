"""`scripts/ci.py catalogues` compares the facts about models with the newest public catalogues of other projects.

It downloads `@earendil-works/pi-ai` (npm) and `litellm` (PyPI) from the package registries into a temporary folder, and
reads the price list of the installed `genai-prices`. It prints each difference in windows, output limits, images,
efforts, prices and retirements for which `accepted.toml` has no reason, and the prices of our tables that the list has
by now. A catalogue is a claim: before a fact changes, look at the page of the vendor.

The exit status is always 0, because others publish what they want. `--all` prints the accepted differences too.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from anthropic_proxy.engine.efforts import EFFORTS
from anthropic_proxy.engine.providers import PROVIDERS, Host, Provider, find_registry
from anthropic_proxy.engine.providers.lookup import find_vendor
from anthropic_proxy.engine.providers.model_facts import FACTS, ModelCapabilities, find_table_capabilities
from anthropic_proxy.engine.routing.targets import _merge_dialect
from anthropic_proxy.gateway.prices.price_list import PriceList, find_price
from anthropic_proxy.gateway.settings import load_settings
from tests.facts.__main__ import download

ACCEPTED = Path(__file__).with_name("accepted.toml")
PI_AI = "@earendil-works/pi-ai"
_PI_NAMES = {
    "openai": "openai",
    "google": "google",
    "google-vertex": "vertex",
    "groq": "groq",
    "moonshotai": "moonshot",
    "xai": "xai",
    "anthropic": "anthropic",
    "mistral": "mistral",
    "minimax": "minimax",
    "zai": "zai",
    "deepseek": "deepseek",
    "fireworks": "fireworks",
    "together": "together",
    "cerebras": "cerebras",
    "baseten": "baseten",
    "xiaomi": "xiaomi",
    "nvidia": "nvidia",
}
"""Vendor in `pi-ai` → provider or host here."""
_LITELLM_NAMES = {
    "openai": "openai",
    "gemini": "google",
    "vertex_ai-language-models": "vertex",
    "groq": "groq",
    "moonshot": "moonshot",
    "xai": "xai",
    "anthropic": "anthropic",
    "mistral": "mistral",
    "minimax": "minimax",
    "zai": "zai",
    "deepseek": "deepseek",
    "fireworks_ai": "fireworks",
    "together_ai": "together",
    "cerebras": "cerebras",
    "dashscope": "dashscope",
    "deepinfra": "deepinfra",
    "novita": "novita",
}
_MILLION = Decimal(1_000_000)
_OTHER_SHAPES = (ValueError, LookupError, TypeError, AttributeError)
"""Errors if a package has another shape than today."""


class Claim(NamedTuple):
    """What a catalogue states about a model."""

    source: str
    """Catalogue and version: `litellm 1.110.2`."""
    vendor: str
    model: str
    values: Mapping[str, Any]
    """Fact → value: `window`, `max_input`, `max_output`, `images`, `efforts`, `input`, `output`, `cache_read`,
    `retired_on`. Facts that it does not state are missing."""


class Difference(NamedTuple):
    source: str
    vendor: str
    model: str
    fact: str
    here: object
    there: object

    def __str__(self) -> str:
        return f"{self.vendor}/{self.model} {self.fact} {_show(self.there)} (here {_show(self.here)})"

    @property
    def key(self) -> tuple[str, str]:
        """Catalogue without its version, and the difference with both values."""
        return self.source.partition(" ")[0], str(self)


class Vendor:
    """A provider or host, and what is known here about its models."""

    def __init__(self, name: str, today: datetime) -> None:
        row = next((row for row in PROVIDERS if row.name == name), None)
        found = row or find_vendor(name, PROVIDERS)
        assert found is not None, name
        self.host: Host = found
        base = row or PROVIDERS.find("openai")
        variables = {} if row is not None else {str(base.base_url_variable): found.base_url}
        self._settings = load_settings(variables, PROVIDERS, env_file=None)
        self._row: Provider = find_registry(self._settings).find(base.name)
        self._prices = PriceList(self._settings)
        self._today = today
        self.table = found.models_table or found.name

    def find_capabilities(self, model: str) -> ModelCapabilities | None:
        """None: no row has the limits of the model."""
        facts = find_table_capabilities(self.table, model)
        return facts if facts.known else None

    def list_efforts(self, model: str, facts: ModelCapabilities) -> list[frozenset[str]]:
        """Return the levels that are sent to the vendor over each API, without `none` and `minimal`."""
        asked = [level for level in facts.efforts if level not in ("none", "minimal")]
        dialects = (_merge_dialect(config, model) for config in self.host.wires.values())
        names = (dict(getattr(dialect, "effort_names", ())) for dialect in dialects)
        return [frozenset(renamed.get(level, level) for level in asked) for renamed in names]

    def find_retirement(self, model: str) -> str:
        retired = self.host.retired_models.get(model)
        return retired.retired_on if retired is not None else ""

    def find_prices(self, model: str) -> dict[str, Decimal]:
        price = self._prices.find(self._row, model, self._today)
        if price is None:
            return {}
        return {"input": price.base.input, "output": price.base.output, "cache_read": price.base.cache_read}


def read_pi_ai(folder: Path) -> Iterator[Claim]:
    """Raises `OSError`, `tarfile.TarError` or one of `_OTHER_SHAPES`."""
    done = subprocess.run(
        ["npm", "pack", "--silent", f"{PI_AI}@latest"], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OSError(f"npm: {done.stderr.strip()[-200:]}")
    archive = folder / done.stdout.split()[-1]
    with tarfile.open(archive) as package:
        package.extractall(folder / "pi-ai", filter="data")
    root = folder / "pi-ai/package"
    source = f"pi-ai {json.loads((root / 'package.json').read_bytes())['version']}"
    for name, vendor in _PI_NAMES.items():
        groups = json.loads((root / f"dist/providers/data/{name}.json").read_bytes())
        for row in (row for group in groups.values() for row in group.values() if row["type"] == "chat"):
            cost = row["cost"]
            values = {
                "window": row["contextWindow"],
                "max_output": row["maxTokens"],
                "images": "image" in row["input"],
                **({"input": cost["input"], "output": cost["output"]} if cost["input"] else {}),
                **({"cache_read": cost["cacheRead"]} if cost["cacheRead"] else {}),
            }
            if levels := row.get("thinkingLevelMap"):  # a level that it does not have is sent as it is
                stated = {level: sent for level, sent in levels.items() if level != "off"}
                usual = {level for level in ("low", "medium", "high") if level not in stated}
                values["efforts"] = frozenset({*usual, *(sent for sent in stated.values() if sent in EFFORTS)})
            yield Claim(source, vendor, row["id"], values)


def read_litellm(folder: Path) -> Iterator[Claim]:
    """Raises `OSError`, `zipfile.BadZipFile` or one of `_OTHER_SHAPES`."""
    wheel = download("litellm", folder)
    if wheel is None:
        raise OSError("the package index does not answer")
    name, version = Path(str(wheel.filename)).name.split("-")[:2]
    rows = json.loads(wheel.read("litellm/model_prices_and_context_window_backup.json"))
    for key, row in rows.items():
        vendor = _LITELLM_NAMES.get(row.get("litellm_provider", ""))
        if vendor is None or row.get("mode") != "chat":
            continue
        model = key.removeprefix(f"{row['litellm_provider']}/").removeprefix("vertex_ai/")
        limits = row.get("max_input_tokens"), row.get("max_output_tokens")
        prices = {
            "input": row.get("input_cost_per_token"),
            "output": row.get("output_cost_per_token"),
            "cache_read": row.get("cache_read_input_token_cost"),
        }
        values = {
            "max_input": limits[0],
            # most rows without an output limit repeat the input limit
            **({} if limits[0] == limits[1] else {"max_output": limits[1]}),
            "images": row.get("supports_vision", False),
            "retired_on": row.get("deprecation_date"),
            **{fact: round(float(Decimal(str(amount)) * _MILLION), 6) for fact, amount in prices.items() if amount},
        }
        if levels := row.get("reasoning_effort_levels"):
            values["efforts"] = frozenset(levels)
        yield Claim(
            f"{name} {version}", vendor, model, {fact: value for fact, value in values.items() if value is not None}
        )


def compare(claim: Claim, vendor: Vendor) -> Iterator[Difference]:
    """Yield the differences of a model that has a row here. One that has ended needs only its date."""
    facts = vendor.find_capabilities(claim.model)
    retired_on = vendor.find_retirement(claim.model)
    there = dict(claim.values)
    ends = there.pop("retired_on", "")
    if facts is None and not retired_on:
        return
    if ends and ends != retired_on:
        yield Difference(claim.source, claim.vendor, claim.model, "retired_on", retired_on, ends)
    if facts is None or (retired_on or ends or "9") <= str(date.today()):
        return
    prices = vendor.find_prices(claim.model)
    here = {
        "window": facts.context_window,
        "max_input": facts.effective_max_input,
        "max_output": facts.max_output,
        "images": facts.accepts_images,
        "efforts": (efforts := vendor.list_efforts(claim.model, facts))[-1],
        **{fact: float(amount) for fact, amount in prices.items()},
    }
    for fact, value in there.items():
        known = here.get(fact)
        if fact == "efforts" and (not facts.efforts or value - {"none", "minimal"} in efforts):
            continue
        if fact == "cache_read" and known == here.get("input"):
            known = None  # no price of its own is known
        if known != value:
            yield Difference(claim.source, claim.vendor, claim.model, fact, known, value)


def find_needless_prices(today: datetime) -> Iterator[str]:
    """Yield the prices of our tables that the installed price list has by now."""
    for name in sorted({*_PI_NAMES.values(), *_LITELLM_NAMES.values()}):
        vendor = Vendor(name, today)
        prices = FACTS.file.find_prices(vendor.table)
        for kind in ("models", "corrections") if prices is not None else ():
            for model, table in getattr(prices, kind).items():
                listed = find_price(vendor.host.price_url or vendor.host.base_url, model, today)
                if listed is None:
                    continue
                is_equal = (float(listed.base.input), float(listed.base.output)) == (table.input, table.output)
                if is_equal or kind == "models":
                    how = "equal" if is_equal else "different"
                    yield f"[{name}.prices] {kind}.{model!r} is in {listed.source}: {how}"


def load_accepted() -> dict[tuple[str, str], str]:
    """Return catalogue and difference, as it is printed → reason. Raises `KeyError` for an entry that is not complete,
    and `ValueError` for a difference that stands twice.
    """
    accepted: dict[tuple[str, str], str] = {}
    for entry in tomllib.loads(ACCEPTED.read_text("utf-8"))["accepted"]:
        for text in entry["differences"]:
            key = entry["source"], text
            if key in accepted:
                raise ValueError(f"{text} stands twice")
            accepted[key] = f"{entry['reason']}, {entry['date']}"
    return accepted


def _show(value: object) -> str:
    if isinstance(value, frozenset):
        return " ".join(level for level in EFFORTS if level in value)
    return f"{value:,}" if type(value) is int else str("nothing" if value in (None, "") else value)


def main(options: Sequence[str]) -> int:
    today = datetime.now(UTC).replace(hour=12)  # some prices differ by the hour
    accepted = load_accepted()
    used = set[tuple[str, str]]()
    vendors: dict[str, Vendor] = {}
    readers: Mapping[str, Callable[[Path], Iterator[Claim]]] = {"pi-ai": read_pi_ai, "litellm": read_litellm}
    left = 0
    for name, read in readers.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                claims = [*read(Path(folder))]
            except (*_OTHER_SHAPES, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
                print(f"{name}: not looked up: {type(error).__name__}: {error}")
                continue
        compared = 0
        for claim in claims:
            vendor = vendors.setdefault(claim.vendor, Vendor(claim.vendor, today)) if claim.vendor else None
            assert vendor is not None
            compared += len(claim.values)
            for difference in compare(claim, vendor):
                reason = accepted.get(difference.key)
                if reason is None:
                    left += 1
                    print(f"{claim.source}: {difference}")
                    continue
                used.add(difference.key)
                if "--all" in options:
                    print(f"accepted, {claim.source}: {difference} ({reason})")
        print(f"{claims[0].source if claims else name}: {compared:,} facts of {len(claims):,} models")
    for line in find_needless_prices(today):
        print(line)
    for key in accepted:
        if key not in used:
            print(f"accepted.toml: no difference any more: {': '.join(key)}")
    print(f"{left} differences without a reason, {len(used)} with one")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
