"""SIGN_IN_SECRET is replaced while persons work and sign in, at four instances that read it at different times."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.support.fakes.oidc import running_provider
from tests.support.process_checks import rewrite
from tests.support.server_process import Proxy, running_proxy
from tests.support.sign_in import SECRET, Device, list_sign_in_settings
from tests.support.waiting import wait_for

NEW = "sign-in-canary-fedcba9876543210fedcba9876543210"


class Balancer:
    """Sends each request to the next instance, as a load balancer without memory does."""

    def __init__(self, instances: Sequence[Proxy]) -> None:
        self.instances = instances
        self._number = count()

    def client(self, **options: Any) -> httpx.Client:
        return self.instances[0].client(transport=_Transport(self), **options)

    def find_next(self) -> httpx.URL:
        return httpx.URL(self.instances[next(self._number) % len(self.instances)].url)


class _Transport(httpx.HTTPTransport):
    def __init__(self, balancer: Balancer) -> None:
        super().__init__()
        self._balancer = balancer

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        target = self._balancer.find_next()
        request.url = request.url.copy_with(host=target.host, port=target.port)
        return super().handle_request(request)


class Company:
    def __init__(self, files: Mapping[str, Path], instances: Sequence[Proxy]) -> None:
        self._files = files
        self.instances = instances
        self.balancer: Any = Balancer(instances)

    def sign_in(self) -> Device:
        """Each of its requests, and of the browser, is answered by another instance than the one before."""
        device = Device(self.balancer)
        device.sign_in()
        return device

    def work(self, device: Device) -> None:
        """Refresh and send at each instance, and with the tokens of each instance at the others."""
        for _ in self.instances:
            refreshed = wait_for(lambda: _refresh(device))
            assert refreshed.status_code == 200, refreshed.text
            tokens = refreshed.json()["access_token"], device.tokens["access_token"]
            device.tokens = {**device.tokens, "access_token": tokens[0]}
            for token in tokens:
                answer = device.send(token)
                assert answer.status_code == 200, answer.text

    def replace(self, secrets: str, order: Callable[[Sequence[Proxy]], Iterator[Proxy]], devices: list[Device]) -> None:
        """Let the instances read the setting in this order, while the devices work and another one signs in."""
        changed = "Settings reloaded: SIGN_IN_SECRET changed."
        for instance in order(self.instances):
            with ThreadPoolExecutor(4) as threads:
                running: list[Future[Any]] = [threads.submit(self.work, device) for device in devices]
                running.append(threads.submit(lambda: self.work(self.sign_in())))
                content = f"SIGN_IN_SECRET={secrets}\n"
                assert rewrite(self._files[instance.url], content, instance) == [changed]
                for work in running:
                    work.result()


def _refresh(device: Device) -> httpx.Response | None:
    """None: the device has to repeat it, because the instance, or the one that asks the provider, is too busy."""
    answer = device.refresh()
    return None if answer.status_code == 503 else answer


@contextmanager
def running_company(directory: Path) -> Iterator[Company]:
    with running_provider() as provider, ExitStack() as stack:
        provider.offers_refresh = True
        settings = {
            **list_sign_in_settings(provider),
            "SERVE_DEMO": "true",
            "LOG_LEVEL": "info",
            "DATABASE_URL": f"sqlite:///{directory}/ledger.sqlite3",
        }
        del settings["SIGN_IN_SECRET"]
        files: dict[str, Path] = {}
        instances: list[Proxy] = []
        for number in range(4):
            file = directory / str(number) / ".env"
            file.parent.mkdir()
            file.write_text(f"SIGN_IN_SECRET={SECRET}\n")
            instances.append(stack.enter_context(running_proxy(file.parent, settings)))
            files[instances[-1].url] = file
            settings["DASHBOARD_URL"] = instances[0].url
        provider.redirect_uri = f"{instances[0].url}/dashboard/oidc/callback"
        yield Company(files, instances)
        assert provider.problems == []


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((f"{NEW},{SECRET}",), id="the-new-one-comes-first"),
        pytest.param((f"{SECRET},{NEW}", f"{NEW},{SECRET}"), id="the-new-one-comes-behind"),
    ],
)
def test_nobody_is_signed_out_while_the_instances_replace_the_secret(steps: Sequence[str], tmp_path: Path) -> None:
    with running_company(tmp_path) as company:
        old = company.sign_in()
        for secrets, order in zip(steps, (iter, reversed), strict=False):
            company.replace(secrets, order, [old])
        new = company.sign_in()
        company.work(old)
        company.replace(NEW, reversed, [new])
        company.work(new)
        assert [old.refresh().status_code for _ in company.instances] == [400] * 4, "too early for this device"
