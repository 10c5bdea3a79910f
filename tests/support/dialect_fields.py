"""Check that a wire's `Dialect` fields are needed: each names a proof, and a scenario that changes without it."""

import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from msgspec import structs

from anthropic_proxy.errors import ProxyError
from tests.support.golden_runner import GoldenCase, find_cases
from tests.support.paths import ROOT, TESTS


def scenarios_of(wire: ModuleType) -> list[Path]:
    return find_cases(wire.__name__.split(".")[-1])


def proofs_of(wire: ModuleType) -> dict[str, set[str]]:
    source = Path(wire.__file__ or "").with_name("dialect.py").read_text(encoding="utf-8")
    fields = re.findall(r'^    (\w+): .*?\n    """(.*?)"""', source, re.DOTALL | re.MULTILINE)
    found = {field: re.search(r"Proven by: (.*?)\.\s*$", " ".join(text.split())) for field, text in fields}
    return {field: set(proof[1].replace(" ", "").split(",")) if proof else set() for field, proof in found.items()}


def missing_proofs(wire: ModuleType) -> dict[str, set[str]]:
    """Return the fields that name no proof, one that does not exist, or only cases without their folder."""
    files = [*TESTS.rglob("test_*.py"), *TESTS.glob("golden_texts/*/*.txt")]
    modules = {path.relative_to(ROOT).as_posix() for path in files}
    cases = scenarios_of(wire)
    existing = {folder.relative_to(TESTS).as_posix() for folder in cases} | {folder.name for folder in cases} | modules
    named = proofs_of(wire)
    unproven = {field: set() for field in set(wire.Dialect.__annotations__) - set(named)}
    unproven |= {field: names - existing for field, names in named.items() if names - existing}
    return unproven | {field: names for field, names in named.items() if not any("/" in name for name in names)}


def changes_a_scenario(wire: ModuleType, field: str) -> bool:
    """Return True if some scenario has another result when the field is reset to the default of the wire's vendor."""
    default = getattr(wire.Dialect(), field)
    for scenario in _load_scenarios(wire):
        target = scenario.target
        if isinstance(target.dialect, wire.Dialect) and getattr(target.dialect, field) != default:
            before = outcome_of(scenario)
            changed = structs.replace(target.dialect, **{field: default})
            scenario.change_target(structs.replace(target, dialect=changed))
            after = outcome_of(scenario)
            scenario.change_target(target)
            if after != before:
                return True
    return False


@cache
def _load_scenarios(wire: ModuleType) -> list[GoldenCase]:
    return [GoldenCase(folder) for folder in scenarios_of(wire)]


def outcome_of(scenario: GoldenCase) -> Any:
    try:
        request = scenario.upstream_request()
    except ProxyError as error:  # a refusal is an outcome too
        return repr(error)
    return request, scenario.play([scenario.upstream or b""])
