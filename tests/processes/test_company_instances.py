"""Persons that are signed in from Claude Code, at several instances with one database."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.fakes.oidc import FakeProvider, running_provider
from tests.support.server_process import Proxy, running_proxy
from tests.support.sign_in import Device, list_sign_in_settings
from tests.support.waiting import wait_for

ADMIN_KEY = "admin-canary0123456789abcdef01234567"


class Fleet(NamedTuple):
    instances: Sequence[Proxy]
    provider: FakeProvider


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory: Path = tmp_path_factory.mktemp("instances")
    with ExitStack() as stack:
        provider = stack.enter_context(running_provider())
        provider.offers_refresh = True
        settings = {
            **list_sign_in_settings(provider),
            "ADMIN_API_KEY": ADMIN_KEY,
            "SERVE_DEMO": "true",
            "LOG_LEVEL": "warning",
            "DATABASE_URL": f"sqlite:///{directory}/ledger.sqlite3",
        }
        instances = [stack.enter_context(running_proxy(directory, settings))]
        provider.redirect_uri = f"{instances[0].url}/dashboard/oidc/callback"
        settings["DASHBOARD_URL"] = instances[0].url
        instances += [stack.enter_context(running_proxy(directory, settings)) for _ in range(3)]
        yield Fleet(instances, provider)
        assert provider.problems == []


def list_copies(fleet: Fleet, device: Device) -> list[Device]:
    """The same device, whose requests a load balancer sends to each instance."""
    copies = [Device(instance) for instance in fleet.instances]
    for copy in copies:
        copy.tokens = device.tokens
    return copies


def test_a_device_that_signed_in_at_one_instance_works_at_all_and_is_ended_on_all(fleet: Fleet) -> None:
    device = Device(fleet.instances[0])
    device.sign_in()
    copies = list_copies(fleet, device)
    assert [copy.send().status_code for copy in copies] == [200] * 4
    admin = fleet.instances[1].client(headers={"x-api-key": ADMIN_KEY})
    ended = admin.post("/admin/sign-ins/ann@example.com/sign-out")
    assert len(ended.json()["data"]) == 1
    wait_for(lambda: [copy.send().status_code for copy in copies] == [401] * 4)
    assert [copy.refresh().status_code for copy in copies] == [400] * 4


def test_instances_ask_the_provider_once_for_refreshes_at_the_same_time(fleet: Fleet) -> None:
    device = Device(fleet.instances[0])
    device.sign_in()
    before = fleet.provider.refreshes
    fleet.provider.may_refresh.clear()
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(copy.refresh) for copy in list_copies(fleet, device)]
        wait_for(lambda: fleet.provider.refreshes > before)
        fleet.provider.may_refresh.set()
        answers = [each.result() for each in waiting]
    assert [answer.status_code for answer in answers] == [200] * 4
    # the provider replaces its token at each use, and accepts each one once
    assert fleet.provider.refreshes <= before + 4
    assert [copy.refresh().status_code for copy in list_copies(fleet, device)] == [200] * 4
