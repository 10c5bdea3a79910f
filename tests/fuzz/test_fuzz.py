"""Inputs that failed once, and the seeds with a few mutations: none fails now."""

from pathlib import Path
from random import Random

import pytest

from tests.fuzz.findings import KEPT, find_breach
from tests.fuzz.mutations import Mutator
from tests.fuzz.targets import TARGETS

MUTATIONS = 300


KEPT_INPUTS = sorted(file for file in KEPT.glob("*/*") if file.is_file())


@pytest.mark.parametrize("file", KEPT_INPUTS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_broke_something_does_so_no_more(file: Path) -> None:
    assert find_breach(TARGETS[file.parent.name].check, file.read_bytes()) is None


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_breaks_a_promise(name: str) -> None:
    target, random = TARGETS[name], Random(name)
    seeds = list(target.seeds())
    mutator = Mutator(seeds, target.headlines)
    made = [mutator.mutate(random.choice(seeds), random) for _ in range(MUTATIONS)]
    breaches = {data: breach for data in [*seeds, *made] if (breach := find_breach(target.check, data))}
    assert not breaches
