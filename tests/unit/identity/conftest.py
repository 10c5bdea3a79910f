from collections.abc import Iterator

import pytest

from tests.support.device_sign_in import REDIRECT_URI
from tests.support.fakes.oidc import FakeProvider, running_provider


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with running_provider() as provider:
        provider.redirect_uri = REDIRECT_URI
        provider.offers_refresh = True
        yield provider
        assert provider.problems == []
