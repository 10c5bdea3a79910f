"""`scripts/ci.py catalogues` compares the facts about models with the newest public catalogues of other projects.

It downloads `@earendil-works/pi-ai` (npm) and `litellm` (PyPI) from the package registries into a temporary folder, and
reads the price list of the installed `genai-prices`. A line of its output is

- a model of a catalogue that no row states, or a vendor of a catalogue that is no vendor here;
- a fact that differs, or that the catalogue states and the row does not: window, output limit, images, efforts, price,
  end, whether the model always thinks and whether a call can be forced;
- a price of our tables that the price list has by now;
- an entry of `accepted.toml` that accepts no difference, or that would also accept that a fact which is stated here is
  missing.

`accepted.toml` has the differences that stay, each with its reason. A catalogue is a claim: before a fact changes, look
at the page of the vendor.

The exit status is 1 if there is a line, or if a package has another shape than today. If a package cannot be
downloaded, it says so, and that is no line. `--all` prints the accepted differences too.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from anthropic_proxy.engine.efforts import EFFORTS
from anthropic_proxy.engine.providers import PROVIDERS, Host, Provider, find_registry
from anthropic_proxy.engine.providers.lookup import find_vendor
from anthropic_proxy.engine.providers.model_facts import (
    FACTS,
    ModelCapabilities,
    find_table_capabilities,
    load_retired_models,
)
from anthropic_proxy.engine.routing.targets import _merge_dialect, _pick_wire
from anthropic_proxy.engine.wires.dialect import BaseDialect
from anthropic_proxy.gateway.prices.price_list import PriceList, find_price
from anthropic_proxy.gateway.settings import load_settings
from tests.facts.__main__ import download
from tests.facts.accepted import Accepted, load_accepted

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
    "kimi-coding": "kimi_code",
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
    "baseten": "baseten",
    "sambanova": "sambanova",
    "xiaomi_mimo": "xiaomi",
}
_MILLION = Decimal(1_000_000)
_OTHER_SHAPES = (ValueError, LookupError, TypeError, AttributeError, OSError, tarfile.TarError, zipfile.BadZipFile)
"""Errors if a package has another shape than today, for example if it has no file at a path."""


class NotDownloaded(Exception):
    """The package registry does not answer."""


class Claim(NamedTuple):
    """What a catalogue states about a model."""

    source: str
    """Catalogue and version: `litellm 1.110.2`."""
    vendor: str
    """A provider or host here, or a vendor of the catalogue that is none (`model` is then "")."""
    model: str
    values: Mapping[str, Any]
    """Fact → value: `window`, `max_input`, `max_output`, `images`, `pdf`, `tools`, `efforts`, `default_effort`,
    `thinking_always_on`, `forced_tool` (a call can be forced), the prices `input`, `output` and `cache_read`,
    `retired_on`. Facts that it does not state are missing.
    """


class Difference(NamedTuple):
    source: str
    vendor: str
    model: str
    fact: str
    here: object
    there: object

    def __str__(self) -> str:
        name = f"{self.vendor}/{self.model}".removesuffix("/")
        return f"{name} {self.fact} {_show(self.there)} (here {_show(self.here)})"


Facts = Mapping[str, object]
"""Fact → value, as in `Claim.values`. For a fact that differs by API it is a tuple with the value of each."""
NO_FACTS: Facts = {"images": False, "pdf": False, "tools": True, "efforts": (frozenset(),)}
"""What a row without any fact states."""


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
        self.today = today
        self.table = found.models_table or found.name

    def find_facts(self, model: str) -> Facts | None:
        """Return what the row of the model states. None: no row has its limits."""
        facts = find_table_capabilities(self.table, model)
        if not facts.known:
            return None
        dialects = [_merge_dialect(config, model) for config in self.host.wires.values()]
        limits = {
            "window": facts.context_window,
            "max_input": facts.effective_max_input,
            "max_output": facts.max_output,
            "default_effort": facts.default_effort,
        }
        used = self.host.wires[_pick_wire(self._row, model, self._settings)]
        levels = tuple(_list_efforts(dialect, facts) for dialect in dialects)
        always_thinks = [_thinks_always(dialect, facts) for dialect in dialects]
        return {
            **{fact: value for fact, value in limits.items() if value is not None},
            "images": facts.accepts_images,
            "pdf": facts.accepts_pdf,
            "tools": facts.tools,
            "efforts": levels if _list_efforts(_merge_dialect(used, model), facts) else NO_FACTS["efforts"],
            "thinking_always_on": tuple(value for value in always_thinks if value is not None),
            "forced_tool": tuple(dialect.accepts_forced_tool != "never" for dialect in dialects),
            **self._find_prices(model),
        }

    def find_retirement(self, model: str) -> str:
        retired = load_retired_models(self.table).get(model)
        return retired.retired_on if retired is not None else ""

    def _find_prices(self, model: str) -> dict[str, float]:
        price = self._prices.find(self._row, model, self.today)
        if price is None:
            return {}
        base = price.base
        own_cache_price = {} if base.cache_read == base.input else {"cache_read": float(base.cache_read)}
        return {"input": float(base.input), "output": float(base.output), **own_cache_price}


def _list_efforts(dialect: BaseDialect, facts: ModelCapabilities) -> frozenset[str]:
    """Return the levels that are sent, and `none` if a type of `thinking` means it."""
    if getattr(dialect, "effort_form", "") == "omit":
        return frozenset()
    names = dict(getattr(dialect, "effort_names", ()))
    levels = {names.get(level, level) for level in facts.efforts}
    if levels and dialect.thinking_forms:
        levels = levels - {"none"} if dialect.thinks_always else levels | {"none"}
    return frozenset(levels)


def _thinks_always(dialect: BaseDialect, facts: ModelCapabilities) -> bool | None:
    """None: neither the types of `thinking` nor the levels of the model are known."""
    if dialect.thinking_forms:
        return dialect.thinks_always
    return "none" not in facts.efforts if facts.efforts else None


def read_pi_ai(folder: Path) -> Iterator[Claim]:
    """Raises `NotDownloaded`, or one of `_OTHER_SHAPES`."""
    command = ("npm", "pack", "--silent", f"{PI_AI}@latest")
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NotDownloaded(f"npm: {error}") from None
    if done.returncode:
        raise NotDownloaded(f"npm: {done.stderr.strip()[-200:]}")
    archive = folder / done.stdout.split()[-1]
    with tarfile.open(archive) as package:
        package.extractall(folder / "pi-ai", filter="data")
    root = folder / "pi-ai/package"
    source = f"pi-ai {json.loads((root / 'package.json').read_bytes())['version']}"
    for file in sorted((root / "dist/providers/data").glob("[!.]*.json")):
        vendor = _PI_NAMES.get(file.stem)
        groups = json.loads(file.read_bytes())
        if vendor is None:
            yield Claim(source, file.stem, "", {"models": file.read_bytes().count(b'"type":"chat"')})
            continue
        for row in (row for group in groups.values() for row in group.values() if row["type"] == "chat"):
            cost = row["cost"]
            values = {
                "window": row["contextWindow"],
                "max_output": row["maxTokens"],
                "images": "image" in row["input"],
                **({"input": cost["input"], "output": cost["output"]} if cost["input"] else {}),
                **({"cache_read": cost["cacheRead"]} if cost["cacheRead"] else {}),
            }
            levels = row.get("thinkingLevelMap", {})
            if levels and row.get("compat", {}).get("supportsReasoningEffort", True):
                stated = {"off": "none", "low": "low", "medium": "medium", "high": "high", **levels}  # sent as it is
                values["efforts"] = frozenset(sent for sent in stated.values() if sent is not None)
            elif "off" in levels:
                values["thinking_always_on"] = levels["off"] is None
            yield Claim(source, vendor, row["id"], values)


def read_litellm(folder: Path) -> Iterator[Claim]:
    """Raises `NotDownloaded`, or one of `_OTHER_SHAPES`."""
    wheel = download("litellm", folder)
    if wheel is None:
        raise NotDownloaded("the package index does not answer")
    name, version = Path(str(wheel.filename)).name.split("-")[:2]
    source = f"{name} {version}"
    rows = json.loads(wheel.read("litellm/model_prices_and_context_window_backup.json"))
    others = Counter[str]()
    for key, row in rows.items():
        if row.get("mode") not in ("chat", "responses") or key == "sample_spec":
            continue
        vendor = _LITELLM_NAMES.get(row["litellm_provider"])
        if vendor is None:
            others[row["litellm_provider"]] += 1
            continue
        model = key.removeprefix(f"{row['litellm_provider']}/").removeprefix("vertex_ai/")
        if vendor == "fireworks" and "/" not in model:
            model = f"accounts/fireworks/models/{model}"  # litellm adds this to short names
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
            "pdf": row.get("supports_pdf_input"),
            "tools": row.get("supports_function_calling"),
            "default_effort": row.get("default_reasoning_effort"),
            "thinking_always_on": row.get("thinking_always_on"),
            "forced_tool": row.get("supports_forced_tool_use"),
            "retired_on": row.get("deprecation_date"),
            **{fact: round(float(Decimal(str(amount)) * _MILLION), 6) for fact, amount in prices.items() if amount},
        }
        if levels := row.get("reasoning_effort_levels"):
            values["efforts"] = frozenset(levels)
        yield Claim(source, vendor, model, {fact: value for fact, value in values.items() if value is not None})
    for other, count in sorted(others.items()):
        yield Claim(source, other, "", {"models": count})


def compare(claim: Claim, vendor: Vendor) -> Iterator[Difference]:
    """Yield the differences of a model: a fact that differs or is missing here, or that it has no row."""
    found, retired_on = vendor.find_facts(claim.model), vendor.find_retirement(claim.model)
    return _find_differences(claim, found, retired_on, str(vendor.today.date()))


def find_hidden_differences(claim: Claim, vendor: Vendor) -> Iterator[Difference]:
    """Yield the differences that there were if the row of a model, its facts or its end were deleted here."""
    found, retired_on = vendor.find_facts(claim.model), vendor.find_retirement(claim.model)
    today = str(vendor.today.date())
    if found is not None:
        yield from _find_differences(claim, None, retired_on, today)
        yield from _find_differences(claim, NO_FACTS, retired_on, today)
    if "retired_on" in claim.values:
        yield from _find_differences(claim, found, "", today)


def _find_differences(claim: Claim, here: Facts | None, retired_on: str, today: str) -> Iterator[Difference]:
    there = dict(claim.values)
    ends = there.pop("retired_on", "")
    if ends and ends != retired_on:
        yield Difference(claim.source, claim.vendor, claim.model, "retired_on", retired_on, ends)
    if (retired_on or ends or "9") <= today:
        return  # one that has ended needs only its date
    if here is None:
        stated = ", ".join(f"{fact} {_show(value)}" for fact, value in there.items())
        yield Difference(claim.source, claim.vendor, claim.model, "row", None, stated)
        return
    for fact, value in there.items():
        known = here.get(fact)
        if value not in known if isinstance(known, tuple) else value != known:
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


class Catalogue(NamedTuple):
    read: Callable[[Path], Iterator[Claim]]
    vendors: Collection[str]
    """Providers and hosts here that it has."""
    facts: Collection[str]
    """What it states."""


_LIMITS_AND_PRICES = ("max_output", "images", "efforts", "thinking_always_on", "input", "output", "cache_read")
CATALOGUES = {
    "pi-ai": Catalogue(read_pi_ai, _PI_NAMES.values(), (*_LIMITS_AND_PRICES, "window")),
    "litellm": Catalogue(
        read_litellm,
        _LITELLM_NAMES.values(),
        (*_LIMITS_AND_PRICES, "max_input", "pdf", "tools", "default_effort", "forced_tool", "retired_on"),
    ),
}


def find_lines(
    claims: Iterable[Claim], accepted: Accepted, today: datetime, *, shows_all: bool = False
) -> Iterator[str]:
    """Yield what differs or is missing here by the claims. `shows_all`: accepted differences too."""
    vendors: dict[str, Vendor] = {}
    for claim in claims:
        catalogue = claim.source.partition(" ")[0]
        if not claim.model:
            differences = [Difference(claim.source, claim.vendor, "", "models", None, claim.values["models"])]
            hidden = []
        else:
            vendor = vendors.get(claim.vendor) or vendors.setdefault(claim.vendor, Vendor(claim.vendor, today))
            differences = [*compare(claim, vendor)]
            hidden = [one for one in find_hidden_differences(claim, vendor) if str(one) not in map(str, differences)]
        for difference in differences:
            acceptance = accepted.accept(catalogue, str(difference))
            if acceptance is None:
                yield f"{claim.source}: {difference}"
            elif shows_all:
                yield f"accepted, {claim.source}: {difference} ({acceptance.reason})"
        for difference in hidden:
            if (acceptance := accepted.find(catalogue, str(difference))) is not None:
                yield f"accepted.toml: {acceptance.text!r} would hide that this is missing here: {difference}"


def find_losses(claims: Sequence[Claim], name: str, catalogue: Catalogue) -> Iterator[str]:
    """Yield the vendors and facts that a catalogue has no longer, so that they are compared with nothing."""
    found = {claim.vendor for claim in claims if claim.model}
    stated = {fact for claim in claims for fact in claim.values}
    yield from (f"{name}: has no models of {vendor} any more" for vendor in catalogue.vendors if vendor not in found)
    yield from (f"{name}: states no {fact} any more" for fact in catalogue.facts if fact not in stated)


def _show(value: object) -> str:
    match value:
        case tuple():
            return _show(value[-1] if value else None)
        case frozenset():
            return (
                " ".join([*(one for one in EFFORTS if one in value), *sorted(value.difference(EFFORTS))]) or "nothing"
            )
        case bool():
            return str(value)
        case int():
            return f"{value:,}"
        case _:
            return str("nothing" if value in (None, "") else value)


def main(options: Sequence[str], catalogues: Mapping[str, Catalogue] = CATALOGUES) -> int:
    today = datetime.now(UTC).replace(hour=12)  # some prices differ by the hour
    accepted = load_accepted()
    lines: list[str] = []
    read: list[str] = []
    for name, catalogue in catalogues.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                claims = [*catalogue.read(Path(folder))]
            except NotDownloaded as error:
                print(f"{name}: not looked up: {error}")
                continue
            except _OTHER_SHAPES as error:
                lines.append(f"{name}: has another shape: {type(error).__name__}: {error}")
                continue
        read.append(name)
        lines += find_losses(claims, name, catalogue)
        lines += find_lines(claims, accepted, today, shows_all="--all" in options)
        models = [claim for claim in claims if claim.model]
        print(f"{name}: {sum(len(claim.values) for claim in models):,} facts of {len(models):,} models")
    lines += find_needless_prices(today)
    lines += accepted.list_unused(read)
    for line in lines:
        print(line)
    left = sum(not line.startswith("accepted, ") for line in lines)
    print(f"{left} differences without a reason, {len(accepted.used)} with one")
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
