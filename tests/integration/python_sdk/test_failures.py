"""Each failure is the exception that the SDK has for it."""

from collections.abc import Iterator

import anthropic
import pytest

from tests.support.sdk import MODEL, open_sdk, text_of, user_messages
from tests.support.server_process import Proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[anthropic.Anthropic]:
    with open_sdk(base_url=proxy.url, api_key="the-clients-own", max_retries=0) as client:
        yield client


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("unauthorized", anthropic.APIStatusError, "OPENAI_API_KEY"),
        ("forbidden", anthropic.APIStatusError, "not supported"),
        ("missing", anthropic.BadRequestError, "does not exist"),
        ("rate after=30", anthropic.RateLimitError, "Rate limit reached"),
        ("quota", anthropic.PaymentRequiredError, "quota"),
        ("server", anthropic.InternalServerError, "had an error"),
        ("overloaded", anthropic.OverloadedError, "overloaded"),
        ("unavailable", anthropic.ServiceUnavailableError, ""),
        ("gateway", anthropic.InternalServerError, ""),
        ("overflow", anthropic.BadRequestError, r"prompt is too long: \d+ tokens > 1047576 maximum"),
        ("reset", anthropic.InternalServerError, ""),
        ("error pieces=0", anthropic.InternalServerError, "had an error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_the_answer_is_its_own_exception(
    client: anthropic.Anthropic, fault: str, error: type[anthropic.APIStatusError], words: str, stream: bool
) -> None:
    with pytest.raises(anthropic.APIStatusError, match=words or None) as caught:
        client.messages.create(model=MODEL, max_tokens=50, messages=user_messages(f"hi [fault:{fault}]"), stream=stream)
    assert type(caught.value) is error
    assert caught.value.body["type"] == "error"  # type: ignore[index]
    assert caught.value.request_id.startswith("req_")
    assert "openai" in caught.value.message.lower() or "prompt is too long" in caught.value.message


@pytest.mark.parametrize("fault", ["cut pieces=5", "torn pieces=5", "error pieces=5"])
def test_a_failure_within_the_answer_is_raised_after_what_came(client: anthropic.Anthropic, fault: str) -> None:
    came: list[str] = []

    def read() -> None:
        asked = user_messages(f"Count to 50 [fault:{fault}]")
        with client.messages.stream(model=MODEL, max_tokens=200, messages=asked) as stream:
            for piece in stream.text_stream:
                came.append(piece)  # noqa: PERF402  # what came before the failure is what counts

    with pytest.raises(anthropic.APIStatusError) as caught:
        read()
    assert "".join(came) == "1 2 3 4"
    assert caught.value.body["error"]["type"] == "api_error"  # type: ignore[index]


def test_the_sdks_own_retry_ends_well(proxy: Proxy) -> None:
    with open_sdk(base_url=proxy.url, api_key="x", max_retries=2) as client:
        asked = user_messages("Say exactly: at last [fault:server times=2]")
        assert text_of(client.messages.create(model=MODEL, max_tokens=50, messages=asked)).startswith("at last")
