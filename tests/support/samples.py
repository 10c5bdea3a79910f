"""A pytest plugin: of a large table, each run takes a sample, and the merge tier takes the rest.

`@pytest.mark.sample(3)` leaves a third of the cases of a test in each run, and marks the others `merge`. A digest of
their names decides, so that the sample has rows of each kind, and is the same in each run.
"""

import zlib
from collections import defaultdict

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tables = defaultdict[str, list[pytest.Item]](list)
    for item in items:
        if item.get_closest_marker("sample"):
            tables[item.nodeid.partition("[")[0]].append(item)
    for cases in tables.values():
        (parts,) = next(cases[0].iter_markers("sample")).args
        cases.sort(key=lambda case: zlib.crc32(case.nodeid.encode()))
        for case in cases[-(-len(cases) // parts) :]:
            case.add_marker(pytest.mark.merge)
