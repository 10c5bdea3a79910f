"""A pytest plugin that hides the settings of the developer: variables, and settings files of the checkout.

A `.env` that `init` wrote, or a broken one, would otherwise change what tests see. The tests run in an empty folder,
which is also the one that the program reads its settings from.
"""

import os
import tempfile

import pytest

from anthropic_proxy.gateway.settings.place import CONFIG_VARIABLE

_folder = pytest.StashKey["tempfile.TemporaryDirectory[str]"]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Change the folder in each process that runs tests. The paths of the command line have been read by then."""
    folder = session.config.stash[_folder] = tempfile.TemporaryDirectory()
    os.environ[CONFIG_VARIABLE] = folder.name
    os.chdir(folder.name)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _folder in config.stash:
        os.chdir(config.rootpath)
        config.stash[_folder].cleanup()
