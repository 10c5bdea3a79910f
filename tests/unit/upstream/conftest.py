import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fakes.azure import ManagedIdentity
from tests.support.fakes.server import RequestLog, new_application, serving


@pytest.fixture(params=["asyncio", "uvloop"])  # the second is what a started server has
def each_event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    if request.param == "asyncio":
        return asyncio.DefaultEventLoopPolicy()
    uvloop = pytest.importorskip("uvloop", reason="platform: no uvloop")
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


@pytest.fixture
def no_aws_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the credentials of this machine. Those in the folder of the test are used."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> Iterator[ManagedIdentity]:
    stand_in = ManagedIdentity()
    with serving(new_application(stand_in.answer, RequestLog())) as running:
        for variable, value in stand_in.variables(running.url).items():
            monkeypatch.setenv(variable, value)
        yield stand_in
