"""The matrix of docs/guide/matrix.md equals the behavior of the code, and each of its cells is proven."""

import re

import pytest

from tests.matrix.backends import BACKENDS
from tests.matrix.cells import Feature, features, wire_name
from tests.matrix.page import PAGE, written_page
from tests.matrix.proofs import RELAY, find_cell, load_proofs, place_of, proof_of
from tests.matrix.sources import CLAIMS, is_sourced, load_sources
from tests.support.paths import GOLDEN, ROOT


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == written_page(), "python3 scripts/ci.py matrix --write, and read what changes"


@pytest.mark.parametrize("feature", features(), ids=lambda feature: feature.name)
def test_every_cell_is_proven(feature: Feature) -> None:
    cells = {backend.title: (find_cell(feature, backend), backend) for backend in BACKENDS}
    unproven = [
        f"{title}: {cell.fate}"
        for title, (cell, backend) in cells.items()
        if cell is not None and cell.fate != "hint" and not proof_of(feature, backend, cell)
    ]
    assert unproven == [], f"write a scenario of that language with proves = [{feature.name!r}]"


def test_no_proof_contradicts_a_cell() -> None:
    by_name = {feature.name: feature for feature in features()}
    for name, proofs in load_proofs().items():
        assert name in by_name, f"{proofs[0].name} proves {name!r}, which features.toml does not have"
        feature = by_name[name]
        for proof in proofs:
            there, target = proof.cell_of(feature), proof.scenario.target
            assert there is not None, f"{proof.name} has no {name}, which it is said to prove"
            if feature.is_of_replies:
                continue
            cells = [(backend.target(), find_cell(feature, backend)) for backend in BACKENDS]
            fates = {cell.fate for at, cell in cells if cell is not None and wire_name(at) == wire_name(target)}
            shared = {cell.fate for _, cell in cells if cell is not None and cell.shared and there.shared}
            assert there.fate in fates | shared, f"{proof.name} proves that {name} is {there.fate}, which no cell says"
            if {"capabilities", "dialect"} & proof.scenario.fields.keys():
                continue  # it stands for a model or a server that is not the matrix's
            same = [cell for at, cell in cells if place_of(at) == place_of(target) and at.model == target.model]
            assert all(cell is not None and cell.fate in (there.fate, "hint") for cell in same), (
                f"{proof.name} proves that {name} is {there.fate}; the matrix has {same[0]} for the same model"
            )


def test_named_proofs_exist() -> None:
    assert (GOLDEN / RELAY / "case.toml").exists()
    for feature in features():
        for test in feature.tests.values():
            file, _, name = test.partition("::")
            start = f"# {name.replace('_', ' ').capitalize()}" if file.endswith(".txt") else f"def {name}("
            assert start in (ROOT / file).read_text("utf-8"), f"{feature.name} names {test}"


def test_sources_name_backends_and_features_and_have_a_page_and_a_date() -> None:
    names, titles = {feature.name for feature in features()}, {backend.title for backend in BACKENDS}
    for source in load_sources():
        assert set(source.backends) <= titles
        assert {*source.accepts, *source.lacks} <= names
        assert source.page
        assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?", source.read)


def test_a_claim_about_a_backend_without_a_source_reads_not_known() -> None:
    rows = {feature.title: feature for feature in features()}
    cells = [line.split(" | ") for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    seen = 0
    for title, *marks in ((first.removeprefix("| "), *others) for first, *others in cells):
        feature = rows.get(title)
        for backend, mark in zip(BACKENDS, marks, strict=True) if feature else ():
            cell = find_cell(feature, backend) if feature else None
            if feature and cell is not None and cell.fate in CLAIMS:
                seen += 1
                assert ("?" in mark) is not is_sourced(feature, backend, cell), f"{title} at {backend.title}: {mark}"
    assert seen > 500
