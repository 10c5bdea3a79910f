"""The official TypeScript SDK: each case is a small program in `typescript/` that prints the received values."""

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.npm import install
from tests.support.fakes.openai_chat import new_openai
from tests.support.fakes.server import Exchange, Running, serving
from tests.support.pdf import write_pdf
from tests.support.pictures import paint
from tests.support.refused_proxies import REFUSALS, refusing
from tests.support.server_process import Proxy
from tests.support.shared_servers import every_kind
from tests.support.waiting import wait_for
from tests.support.wires import EVERY_KIND, RELAY, Upstream, standing, standing_blind, standing_described

VERSION, ZOD = "1.10.0", "zod@4.6.7"
CASES = Path(__file__).parent / "typescript"
TIMEOUT_SECONDS = 120


@pytest.fixture(scope="session")
def sdk() -> Path:
    return install("@anthropic-ai/sdk", VERSION, ZOD) / "@anthropic-ai" / "sdk"


def run_case(name: str, sdk: Path, proxy: Proxy, **more: str) -> dict[str, Any]:
    done = subprocess.run(
        ["node", str(CASES / f"{name}.mjs")],
        env={"PATH": os.environ["PATH"], "SDK": str(sdk), "BASE_URL": proxy.url} | more,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def test_create(sdk: Path, wire: Upstream) -> None:
    seen = run_case("create", sdk, wire.proxy)
    assert (seen["text"], seen["model"], seen["stop"]) == ("good day ☀", "claude-sonnet-5-5", "end_turn")
    assert seen["id"].startswith("msg_")
    assert seen["request"].startswith("req_")
    assert seen["usage"]["output_tokens"] > 0


def test_stream(sdk: Path, wire: Upstream) -> None:
    seen = run_case("stream", sdk, wire.proxy)
    assert seen["joined"] == seen["text"] == " ".join(str(number) for number in range(1, 41))
    assert seen["pieces"] > 3
    assert seen["stop"] == "end_turn"
    kinds = [kind for kind in seen["kinds"] if kind != "ping"]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_events_of_the_helper(sdk: Path, wire: Upstream) -> None:
    answer = run_case("events", sdk, wire.proxy)
    seen, blocks = answer["seen"], answer["blocks"]
    assert [seen[name] for name in ("connect", "message", "finalMessage", "end")] == [1, 1, 1, 1]
    assert seen["contentBlock"] == len(blocks)
    assert blocks[-2:] == ["tool_use", "tool_use"]
    assert answer["inputs"] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert seen["inputJson"] >= 2
    assert ("thinking" in blocks) == bool(wire.kind.thoughts)


def test_tools(sdk: Path, wire: Upstream) -> None:
    seen = run_case("tools", sdk, wire.proxy)
    assert seen["stop"] == "tool_use"
    assert seen["inputs"] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert seen["text"] == "Oslo: snow; Rome: sun"


def test_the_tool_runner(sdk: Path, wire: Upstream) -> None:
    """It asks for a conversation that the server keeps, and resends all of it when the answer is that none is kept."""
    seen = run_case("runner", sdk, wire.proxy)
    assert seen["sums"] == [[3, 4], [7, 5]] * 2
    assert seen["texts"] == ["The sum is 12."] * 2
    assert len(wire.exchanges) == 6


def test_answers_and_tools_in_the_shape_of_a_type(sdk: Path, wire: Upstream) -> None:
    seen = run_case("shapes", sdk, wire.proxy)
    assert seen["whole"] == seen["streamed"]
    assert set(seen["whole"]) == {"name", "inhabitants", "rivers"}
    assert (seen["steps"], seen["sum"]) == (["tool_use", "tool_use", "end_turn"], "The sum is 12.")


def test_raw_responses_time_limits_and_retries(sdk: Path, wire: Upstream) -> None:
    seen = run_case("raw", sdk, wire.proxy, PIECES=str(wire.kind.first_block))
    assert (seen["text"], seen["slow"]) == ("1 2 3 4 5", "timed out")
    assert seen["again"].startswith("1 2 3 4 5")
    assert seen["request"] == seen["header"]
    assert seen["request"].startswith("req_")
    left = [exchange for exchange in wire.exchanges if "[fault:stall" in json.dumps(exchange.body)]
    assert_left(left[0])


def test_errors_become_their_classes(sdk: Path, proxy: Proxy) -> None:
    expected = {
        "unauthorized": ("APIError", 424, "invalid_request_error"),
        "forbidden": ("APIError", 424, "invalid_request_error"),
        "missing": ("BadRequestError", 400, "policy_blocked"),  # the model is a setting's, not the client's
        "rate after=30": ("RateLimitError", 429, "rate_limit_error"),
        "server": ("InternalServerError", 500, "api_error"),
        "overloaded": ("OverloadedError", 529, "overloaded_error"),
        "overflow": ("BadRequestError", 400, "invalid_request_error"),
    }
    answer = run_case("errors", sdk, proxy)
    seen = answer["seen"]
    for fault, (kind, status, name) in expected.items():
        for stream in ("false", "true"):
            error = seen[f"{fault} {stream}"]
            assert (error["kind"], error["status"], error["type"]) == (kind, status, name)
            assert error["request"].startswith("req_")
    assert seen["no max_tokens"]["kind"] == "BadRequestError"
    assert seen["cut"]["type"] == "api_error"
    assert answer["came"] == "1 2 3 4"


@pytest.mark.parametrize("name", REFUSALS)
def test_what_refuses_the_proxy_is_called_once(sdk: Path, server: Path, name: str) -> None:
    refusal = REFUSALS[name]
    kind = {400: "BadRequestError", 402: "PaymentRequiredError", 424: "APIError"}[refusal.status]
    with refusing(name, server) as provider:
        seen = run_case("statuses", sdk, provider.proxy)["seen"]
        assert seen == [[kind, refusal.status, refusal.error_type]] * 2
        assert (provider.count_requests(), provider.count_calls()) == (2, 2 * refusal.calls)


def test_counting_and_listing(sdk: Path, wire: Upstream) -> None:
    seen = run_case("listing", sdk, wire.proxy)
    assert seen["counted"] > 5
    assert seen["paged"] == seen["whole"]
    assert seen["one"] == seen["whole"][-1]
    assert wire.exchanges == []


def test_a_client_that_aborts_ends_the_call_to_the_provider(sdk: Path, proxy: Proxy, openai: Running) -> None:
    assert run_case("abort", sdk, proxy) == {"kind": "aborted"}
    assert_left(openai.journal.exchanges[0])


CITIES = ("Oslo", "Rome", "Bern", "Kyiv", "Riga")


@every_kind
def test_results_and_inputs_of_old_calls_are_cleared(sdk: Path, wire: Upstream) -> None:
    check_cleared(run_case("context_editing", sdk, wire.proxy), wire, is_native=wire.kind.has_native_features)


def test_the_proxy_clears_for_a_server_with_the_messages_api_that_does_not(sdk: Path, other_server: Upstream) -> None:
    seen = run_case("context_editing", sdk, other_server.proxy)
    check_cleared(seen, other_server, is_native=False)
    assert not any("context_management" in body for body in other_server.bodies)


def check_cleared(seen: dict[str, Any], wire: Upstream, *, is_native: bool) -> None:
    assert seen["texts"] == ["1 2 3"] * 3
    whole, streamed, none = seen["applied"]
    assert whole == streamed
    assert [(edit["type"], edit["cleared_tool_uses"]) for edit in whole] == [("clear_tool_uses_20250919", 3)]
    assert (none, seen["unasked"]) == ([], None)
    before, *after = seen["input"]
    assert all(before - tokens > 1_000 for tokens in after)
    calls = [
        [(one.call.arguments.get("city"), one.text.startswith(city)) for one, city in zip(results, CITIES, strict=True)]
        for results in (
            [one for turn in conversation.turns for one in turn.results] for conversation in wire.conversations
        )
    ]
    complete = [(city, True) for city in CITIES]
    cleared = [*[(None, False)] * 3, *complete[3:]]
    assert calls == [complete, cleared, cleared, complete]
    if is_native:
        assert [("context_management" in body, "get_weather" in str(body)) for body in wire.bodies] == [
            (False, True),
            *[(True, True)] * 3,
        ]
    else:
        original, edited = seen["counted"]
        assert original - edited > 1_000


@every_kind
def test_the_thinking_of_earlier_turns_is_removed(sdk: Path, wire: Upstream) -> None:
    seen = run_case("thinking_turns", sdk, wire.proxy)
    applied = [["clear_thinking_20251015", 2]] if seen["thinks"] else []
    assert seen["applied"] == [applied, applied]
    before, *edited = [
        [thought for turn in conversation.turns for thought in turn.thoughts]
        for conversation in wire.conversations[-3:]
    ]
    kept = [sum(thought in before for thought in thoughts) for thoughts in edited]  # Gemini needs one for each call
    assert kept == [len(before) // 3] * 2
    assert seen["thinks"] == bool(before)


@every_kind
def test_quotations_have_their_places(sdk: Path, wire: Upstream) -> None:
    seen = run_case("citations", sdk, wire.proxy)
    sky = {
        "type": "char_location",
        "cited_text": "The sky is blue.",
        "document_index": 0,
        "document_title": "Nature",
        "file_id": None,
        "start_char_index": 20,
        "end_char_index": 36,
    }
    sea = {
        "type": "search_result_location",
        "cited_text": "The sea is blue.",
        "search_result_index": 0,
        "source": "https://example.org/sea",
        "title": "The sea",
        "start_block_index": 0,
        "end_block_index": 1,
    }
    expected = [["The ", []], ["sky", [sky]], [" and ", []], ["the sea", [sea]], [" are.", []]]
    assert seen["whole"] == seen["streamed"] == expected
    assert seen["quoted"] == [["The sky is blue.", 1], ["The sea is blue.", 1]]
    if wire.kind.has_native_features:
        assert "[2] The sky is blue." not in json.dumps(wire.bodies)
    else:
        assert all("[2] The sky is blue." in json.dumps(body) for body in wire.bodies)
        assert seen["refused"] == {
            "kind": "BadRequestError",
            "status": 400,
            "message": "messages.0.content.3.citations: each document of a request must have citations enabled, or "
            "none; messages.0.content.0 has, and messages.0.content.3 has not",
        }


LIMIT, SUMMARY = "Never write to the disk", "The user said first: Never write to the disk."
RAIN = "Rain and wind. " * 200
WHOLE = ["content_block_start", "content_block_stop"]


@every_kind
def test_a_summary_takes_the_place_of_a_conversation(sdk: Path, wire: Upstream) -> None:
    """The helper has its event `compaction` from a delta, which a signed block does not have."""
    check_summaries(run_case("compaction", sdk, wire.proxy), wire, is_native=wire.kind.has_native_features)


def check_summaries(seen: dict[str, Any], wire: Upstream, *, is_native: bool) -> None:
    for name, stop in (
        ("within", "end_turn"),
        ("paused", "compaction"),
        ("atOnce", "compaction"),
    ):
        is_signed, goes_on = name == "atOnce", name == "within"
        whole, streamed, events = (seen[name][one] for one in ("whole", "streamed", "events"))
        assert (whole["types"], whole["stop"]) == (streamed["types"], streamed["stop"])
        assert (whole["types"][: 1 if goes_on else None], whole["stop"]) == (["compaction"], stop)
        assert whole["block"]["content"] == streamed["block"]["content"] == SUMMARY
        assert events["blocks"] == [streamed["block"]]
        assert bool(whole["block"].get("signature")) == bool(streamed["block"].get("signature")) == is_signed
        assert events["compaction"] == ([] if is_signed else [SUMMARY])
        if not goes_on:
            deltas = [] if is_signed else ["compaction_delta"]
            assert events["kinds"] == [WHOLE[0], *deltas, WHOLE[1]]
        for reply in (whole, streamed):
            (kind, read, written), *left = reply["iterations"]
            assert kind == "compaction"
            assert read > 50_000
            assert written > 0
            assert [one[0] for one in left] == (["message"] if goes_on else [])
            assert reply["top"] == (left[0][1:] if left else [0, 0])
            assert all(tokens < 1_000 for _, tokens, _ in left)
            assert reply["applied"] == (None if is_signed else [])
        assert seen[name]["later"] == "Dry"
    read = [[turn.text for turn in conversation.turns] for conversation in wire.conversations]
    if is_native:
        asked, *later = wire.bodies[6:]
        assert asked["compaction"] == {"type": "summarize"}
        assert LIMIT in read[-1][0]
        assert [RAIN in str(body) for body in later] == [True, False]
    else:
        # within: summary and reply, twice; paused and at once: the summary, twice; each with a later request
        assert [any(RAIN in text for text in texts) for texts in read] == [
            *(True, False, True, False, False),
            *(True, True, False),
            *(True, True, False),
        ]
        assert all(any(LIMIT in text for text in texts) for texts in read)


def test_the_proxy_summarizes_for_a_server_with_the_messages_api_that_does_not(
    sdk: Path, other_server: Upstream
) -> None:
    seen = run_case("compaction", sdk, other_server.proxy)
    check_summaries(seen, other_server, is_native=False)
    assert seen["atOnce"]["whole"]["block"]["signature"].startswith("px1.compaction.")
    asked = ["between <summary> and </summary>" in str(body) for body in other_server.bodies]
    assert asked == [True, False, True, False, False, *[True, True, False] * 2]
    assert not any("'compaction'" in str(body) or "compact_2026" in str(body) for body in other_server.bodies)


@pytest.fixture(scope="module", params=EVERY_KIND)
def reading(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """Yield a model that reads no PDF, or the relay to one that does."""
    stand = standing if request.param == RELAY else standing_blind
    with stand(request.param, tmp_path_factory.mktemp(request.param)) as upstream:
        yield upstream
        assert "Traceback" not in upstream.proxy.log


def test_a_pdf_is_read(sdk: Path, reading: Upstream, tmp_path: Path) -> None:
    file = tmp_path / "deed.pdf"
    file.write_bytes(write_pdf("Deed of the walrus.", "Signed by Ada."))
    is_native = reading.kind.has_native_features
    seen = run_case("documents", sdk, reading.proxy, PDF=str(file), **({"READS_PDF": "yes"} if is_native else {}))
    assert seen["texts"] == ["1 2 3"] * 3
    assert reading.breaches() == []
    sent = [json.dumps(body, ensure_ascii=False) for body in reading.bodies]
    if is_native:
        assert all(base64.b64encode(file.read_bytes()).decode() in body for body in sent)
        return
    pages = '<page number=\\"1\\">\\nDeed of the walrus.\\n</page>\\n<page number=\\"2\\">\\nSigned by Ada.\\n</page>'
    assert [pages in body for body in sent] == [True] * 3 + [False]
    assert "[2] Signed by Ada." in sent[3]
    page = {
        "type": "page_location",
        "cited_text": "Signed by Ada.",
        "document_index": 0,
        "document_title": "deed.pdf",
        "file_id": None,
        "start_page_number": 2,
        "end_page_number": 3,
    }
    assert seen["cited"] == [["It is ", []], ["signed", [page]], [".", []]]
    assert seen["refused"] == [True, "messages.0.content.0.pdf.source.base64.data: The PDF specified was not valid."]


@pytest.fixture(scope="module")
def eyes() -> Iterator[Running]:
    """The provider that describes."""
    with serving(new_openai()) as running:
        yield running


@pytest.fixture(scope="module", params=EVERY_KIND)
def described(
    request: pytest.FixtureRequest, eyes: Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Upstream]:
    """Yield a model that does not see, whose pictures another one describes."""
    with standing_described(request.param, tmp_path_factory.mktemp(request.param), eyes) as upstream:
        yield upstream
        assert "Traceback" not in upstream.proxy.log


def test_pictures_are_described_for_a_model_that_does_not_see(sdk: Path, described: Upstream, eyes: Running) -> None:
    start = len(eyes.journal.exchanges)
    colors = {"YELLOW": (255, 255, 0), "PURPLE": (128, 0, 128)}
    pictures = {name: base64.b64encode(paint(color)).decode() for name, color in colors.items()}
    seen = run_case("images", sdk, described.proxy, **pictures)
    exchanges = eyes.journal.exchanges[start:]
    assert [breach for exchange in exchanges for breach in exchange.breaches] == described.breaches() == []
    assert seen["texts"][:2] == ["yellow"] * 2
    shown = [json.dumps(exchange.body) for exchange in exchanges]
    assert [[picture in body for picture in pictures.values()] for body in shown] == [[True, False], [False, True]]
    bodies = [json.dumps(body) for body in described.bodies]
    words = [[f"\\n{color}\\n</image_description>" in body for color in ("yellow", "purple")] for body in bodies]
    assert words == [[True, False], [True, False], [False, True]]
    assert not any(picture in body for picture in pictures.values() for body in bodies)
    assert seen["counted"] > 0


def assert_left(exchange: Exchange) -> None:
    """Hold that the provider's own caller has gone."""
    assert wait_for(lambda: exchange.outcome, lambda outcome: outcome != "open") == "cancelled"
