"""A request that names this kind of proxy too often in `CDN-Loop` is a loop."""

import json
from pathlib import Path

import pytest
from msgspec import structs

from anthropic_proxy.engine.exchange.client_side import encode_error_response
from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.passed_proxies import MAX_PASSES, require_no_loop
from anthropic_proxy.engine.routing.routes import CompiledRoutes
from anthropic_proxy.engine.wires.bound_requests import BoundRequest
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.errors import LoopDetected, ProxyError
from tests.support import replies
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.messages import exactly
from tests.support.routes import load_routes
from tests.support.tool_loop import call, calls

NAMES = ["anthropic-proxy", "Anthropic-Proxy", "ANTHROPIC-PROXY ;version=2"]
MESSAGE = (
    f"The request has passed anthropic-proxy {MAX_PASSES + 1} times. The address of a provider leads back to this "
    "proxy: check ANTHROPIC_UPSTREAM_URL and base_url."
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_counts_in_each_spelling(name: str) -> None:
    require_no_loop({"cdn-loop": ", ".join([name] * MAX_PASSES)})
    with pytest.raises(LoopDetected, match=exactly(MESSAGE)):
        require_no_loop({"cdn-loop": ", ".join([name] * (MAX_PASSES + 1))})


@pytest.mark.parametrize("name", ["not-anthropic-proxy", "anthropic-proxy-2", "other;name=anthropic-proxy", ""])
def test_another_name_does_not_count(name: str) -> None:
    require_no_loop({"cdn-loop": ", ".join([name] * 99)})


class Ring:
    """Several processes of a proxy whose providers are the proxy itself, except the provider `real`."""

    def __init__(self, folder: Path, targets: list[str]) -> None:
        tables = "".join(
            f'[providers.{name}]\nbase_url = "http://127.0.0.1:{8100 + number}"\nwire = "messages"\n'
            for number, name in enumerate(targets)
        )
        models = ", ".join(f'"{name}/claude-sonnet-4-5"' for name in targets)
        settings = load_routes(folder, f'{tables}[[routes]]\nname = "r"\ntargets = [{models}]\n')
        self.sent: list[str] = []
        """Name of the provider of each call."""
        self.processes: list[ProxyHarness] = []
        """By the number of passes of the requests that they get."""
        for _ in range(MAX_PASSES + 1):
            proxy = ProxyHarness(lambda *_: FakeResponse(200), env_file=str(folder / ".env"))
            proxy.services = structs.replace(
                proxy.services,
                transports=dict.fromkeys(targets, self._send),
                settings=settings,
                compiled_routes=CompiledRoutes(settings.routes),
            )
            self.processes.append(proxy)

    async def _send(self, bound: BoundRequest) -> FakeResponse:
        self.sent.append(bound.server)
        if bound.server == "real":
            return FakeResponse(200, replies.MESSAGES.whole(replies.Reply(texts=["ok"])))
        headers = bound.request.headers
        sink = RecordingSink()
        try:
            require_no_loop(headers)
            process = self.processes[headers["cdn-loop"].count("anthropic-proxy")]
            await Exchange(process.services, new_client_request(bound.request.body, headers), sink).run()
        except ProxyError as error:
            sink.error = error
        if sink.error is None:
            return FakeResponse(200, sink.stream)
        sent_headers, body = encode_error_response(sink.error, "req_1")
        return FakeResponse(sink.error.status, body, headers=sent_headers)


@pytest.mark.parametrize("number", [1, 2, 4])
async def test_targets_that_lead_back_cost_a_bounded_number_of_calls(tmp_path: Path, number: int) -> None:
    ring = Ring(tmp_path, [f"again-{letter}" for letter in "abcd"[:number]])
    sink = await ring.processes[0].post(stream=False)
    assert len(ring.sent) == number * (MAX_PASSES + 1)
    assert sink.error is not None
    assert (sink.error.status, sink.error.should_retry) == (508, False)


async def test_another_target_serves_the_request_after_one_that_leads_back(tmp_path: Path) -> None:
    ring = Ring(tmp_path, ["again-a", "again-b", "real"])
    sink = await ring.processes[0].post(stream=False)
    assert (sink.error, b'"ok"' in sink.stream) == (None, True)
    assert ring.sent.count("real") == 1
    assert len(ring.sent) == 2 * (MAX_PASSES + 1) + 1


CONTEXT = {
    "v": 1,
    "permission_mode": "auto",
    "live_cwd": "/home/ada/shop",
    "home_dir": "/home/ada",
    "trusted_directories": {
        "primary": {"path": "/home/ada/shop", "resolved": ["/home/ada/shop"]},
        "additional": [],
        "network": [],
    },
    "auto_mode": {"allow": [], "soft_deny": [], "hard_deny": [], "environment": []},
    "restricted": False,
    "classify_all_shell": False,
}


async def test_a_check_of_a_tool_call_names_the_proxies_that_its_cause_has_passed() -> None:
    sent: list[UpstreamRequest] = []
    arguments = {"command": "rm -rf /srv/data"}
    verdict = json.dumps({"rule": "", "verdict": "not_flagged", "explanation": ""})

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        sent.append(request)
        if request.path == "/v1/messages":
            return FakeResponse(200, replies.MESSAGES.whole(replies.Reply(texts=[verdict])))
        return FakeResponse(200, *calls(call("Bash", **arguments)))

    settings = {"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_WIRE": "chat", "ANTHROPIC_API_KEY": "sk-ant-0123456789"}
    address = {
        "ANTHROPIC_UPSTREAM_URL": "http://127.0.0.1:8082",
        "AUTO_MODE_MODEL": "haiku",
        "MODEL_HAIKU": "anthropic/claude-haiku-4-5",
    }
    proxy = ProxyHarness(upstream, PREFERRED_PROVIDER="openai", **settings, **address)
    sink = await proxy.post(
        headers={"cdn-loop": "anthropic-proxy, other"},
        safeguards=[{"type": "dangerous_tool_use", "classifier_context": CONTEXT}],
        tools=[{"name": "Bash", "input_schema": {"type": "object"}}],
        stream=True,
    )
    assert b"not_flagged" in sink.stream
    message, check = sent
    assert "cdn-loop" not in message.headers
    assert check.headers["cdn-loop"] == "anthropic-proxy, other, anthropic-proxy"
