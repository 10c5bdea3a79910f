"""Settings that every test may rely on: how many examples a property is tried with, and when garbage is collected.

The change and the merge tier try the same examples in each run, so that a run fails by what has changed. The nightly
tier tries new ones: `HYPOTHESIS_PROFILE=thorough` selects 1,000 in place of 25.
"""

import gc
import os

import pytest
from hypothesis import HealthCheck, settings

# No deadline: a test may never depend on how fast the machine is.
settings.register_profile(
    "default", max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=1000, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


pytest_plugins = [
    "tests.support.clocks",
    "tests.support.developer_settings",
    "tests.support.failure_reports",
    "tests.support.program_in_path",
    "tests.support.progress",
    "tests.support.golden_texts",
    "tests.support.memory_folder",
    "tests.support.module_order",
    "tests.support.samples",
    "tests.support.shared_compilation",
    "tests.support.skip_reasons",
    "tests.support.time_limit",
    "tests.support.worker_reports",
]


gc.disable()  # until the tests are collected, which leaves hardly any garbage: a third of the time was collections


def pytest_collection_finish() -> None:
    """Exempt the collected tests from garbage collections, several of which would last longer than a test."""
    gc.freeze()
    gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the expectations of tests/golden; read the diff as code"
    )
