"""A pytest plugin: the fixtures of a module are made anew if an earlier test of the module runs after a later one.

With several processes, one that has run the last tests of a module may take over some of those before them. They would
find what the later tests have left, such as requests in a ledger, which no other order of the tests shows.
"""

import pytest

_PLACE = pytest.StashKey[int]()


def pytest_collection_finish(session: pytest.Session) -> None:
    for place, item in enumerate(session.items):
        item.stash[_PLACE] = place


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is not None and nextitem.stash[_PLACE] < item.stash[_PLACE]:
        item.session._setupstate.teardown_exact(item.session)  # type: ignore[arg-type]  # it keeps what this node needs
