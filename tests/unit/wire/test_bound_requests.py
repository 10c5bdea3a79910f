"""What a transport accepts. Each comment `type: ignore` is an error of mypy that must stay; an unused one fails."""

from typing import get_args

import pytest
from msgspec import structs

from anthropic_proxy.engine.wires import bound_requests
from anthropic_proxy.engine.wires.bound_requests import (
    ALL_SERVERS,
    WEB,
    BoundRequest,
    ClientOrigin,
    ServerName,
    Transport,
)
from anthropic_proxy.engine.wires.operator_origin import OperatorOrigin
from anthropic_proxy.engine.wires.purposes import OperatorPurpose
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.errors import InternalError

REQUEST = UpstreamRequest(path="/x", body=b"{}")
URL = "http://inhouse.test/v1"
ORIGIN = ClientOrigin("message", "req_1", "key local", frozenset({("inhouse", "qwen3")}), frozenset({"searxng"}))


@pytest.mark.parametrize(
    ("server", "model", "place"),
    [
        ("openai", "gpt-4.1", "openai/gpt-4.1"),
        ("inhouse", "another", "inhouse/another"),
        ("inhouse", "", "inhouse"),
        ("brave", "", "brave"),
        (WEB, "", "web"),
        ("searxng", "qwen3", "searxng/qwen3"),
        ("", "", "an unnamed server"),
    ],
)
def test_a_place_that_the_origin_does_not_allow_is_refused(server: str, model: str, place: str) -> None:
    with pytest.raises(InternalError) as caught:
        BoundRequest(ORIGIN, URL, REQUEST, server=server, model=model)
    assert caught.value.message == f"The message of req_1 must not be sent to {place}."
    allowed = BoundRequest(ORIGIN, URL, REQUEST, server="inhouse", model="qwen3")
    with pytest.raises(InternalError):
        structs.replace(allowed, server=server, model=model)


def test_a_further_purpose_has_the_places_of_its_request() -> None:
    search = structs.replace(ORIGIN, purpose="web_search")
    assert BoundRequest(search, URL, REQUEST, server="searxng").origin is search
    with pytest.raises(InternalError) as caught:
        BoundRequest(search, URL, REQUEST, server="brave")
    assert caught.value.message == "The web_search of req_1 must not be sent to brave."


@pytest.mark.parametrize("purpose", get_args(OperatorPurpose))
def test_the_operator_names_the_purpose(purpose: OperatorPurpose) -> None:
    assert BoundRequest(OperatorOrigin(purpose), URL, REQUEST).origin == OperatorOrigin(purpose)


def test_all_servers_beside_the_providers_are_known() -> None:
    assert {*get_args(ServerName)} == ALL_SERVERS


async def send_unbound(send: Transport) -> None:
    """Never called: mypy must find an error in each line."""
    bound_requests.OperatorOrigin("plugin")  # type: ignore[attr-defined]  # the contract is about its module
    await send(URL, REQUEST, None)  # type: ignore[call-arg, arg-type]
    await send(REQUEST)  # type: ignore[arg-type]
    await send(BoundRequest(URL, REQUEST))  # type: ignore[call-arg, arg-type]
    await send(BoundRequest(None, URL, REQUEST))  # type: ignore[arg-type]
    await send(BoundRequest("req_1", URL, REQUEST))  # type: ignore[arg-type]
    await send(BoundRequest(OperatorOrigin("client"), URL, REQUEST))  # type: ignore[arg-type]
    await send(BoundRequest(ClientOrigin("doctor", "req_1", "key local", ()), URL, REQUEST))  # type: ignore[arg-type]
