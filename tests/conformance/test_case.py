"""`messages-conformance --case`: the request of a bug report, sent to another server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from messages_conformance.__main__ import main
from tests.support.conformance import MESSAGE, reply, serve

BODY: dict[str, Any] = {"model": "mine", "max_tokens": 5, "messages": [{"role": "user", "content": "xxxxx"}]}
SENT: list[Any] = []


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server that replies with a message to the model `m`, and with a text to others."""

    def answer(handler: Any, body: Any) -> None:
        SENT.append(body)
        content = MESSAGE if body["model"] == "m" else {"error": "no"}
        reply(handler, json.dumps(content).encode(), status=200 if content is MESSAGE else 400)

    with serve(answer) as address:
        yield address


def test_both_replies_are_shown(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "case.toml").write_text('title = "200, stream, end_turn"\n', "utf-8")
    (tmp_path / "request.json").write_text(json.dumps(BODY), "utf-8")
    (tmp_path / "expected_events.sse").write_text(
        'event: message_start\ndata: {"type":"message_start","message":{"content":[]}}\n\n'
        'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":'
        '{"type":"tool_use","id":"toolu_1","name":"Read","input":{}}}\n\n'
        'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"xx"}}\n\n',
        "utf-8",
    )
    assert main([url, "--case", str(tmp_path), "--model", "m"]) == 0
    assert SENT[-1] == {**BODY, "model": "m"}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "200, stream, end_turn"
    assert [line.split("  ")[0] for line in lines[2:]] == ["outcome", "blocks", "stop reason", "rules"]
    assert lines[2].split() == ["outcome", "200", "stream,", "then", "api_error", "200", "message"]
    assert lines[3].split() == ["blocks", "tool_use", "Read", "text"]
    assert lines[5].split() == ["rules", "6", "violated", "kept"]


def test_what_is_wrong_here_is_the_exit_status(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "request.json").write_text(json.dumps(BODY), "utf-8")
    assert main([url, "--case", str(tmp_path)]) == 1
    assert SENT[-1] == BODY
    shown = capsys.readouterr().out
    assert "\noutcome      ?            400\n" in shown
    assert shown.endswith("\n✕ error: the body is no error of the Messages API\n")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("request.json", None, "{folder}/request.json does not exist"),
        ("request.json", "[]", "{folder}/request.json has no JSON object"),
        ("case.toml", "title", "{folder}/case.toml is no TOML: "),
    ],
)
def test_a_wrong_case(
    name: str, content: str | None, message: str, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "request.json").write_text(json.dumps(BODY), "utf-8")
    (tmp_path / name).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / name).write_text(content, "utf-8")
    assert main([url, "--case", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"messages-conformance: {message.format(folder=tmp_path)}")


def test_what_a_server_repeats_is_shown_without_key_and_controls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESSAGES_API_KEY", "key-of-the-user")
    (tmp_path / "request.json").write_text(json.dumps(BODY), "utf-8")

    def answer(handler: Any, _: Any) -> None:
        reply(handler, json.dumps({**MESSAGE, "content": [{"type": "\x1b[2J key-of-the-user"}]}).encode())

    with serve(answer) as address:
        assert main([address, "--case", str(tmp_path), "--model", "m"]) == 0
    assert "\nblocks       ?            \\u001b[2J $MESSAGES_API_KEY\n" in capsys.readouterr().out


def test_the_form_of_a_reply_is_judged_by_the_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "request.json").write_text(json.dumps(BODY), "utf-8")
    call = {"type": "tool_use", "id": 7, "name": "n", "input": {}}
    wrong = {**MESSAGE, "role": "user", "content": [call], "usage": {"input_tokens": 1, "output_tokens": -1}}
    with serve(lambda handler, _: reply(handler, json.dumps(wrong).encode())) as address:
        assert main([address, "--case", str(tmp_path), "--model", "m"]) == 1
    assert capsys.readouterr().out.splitlines()[6:] == [
        "✕ message: $.role: 'assistant' was expected",
        "✕ message: $.content[0].id: 7 is not of type 'string'",
        "✕ message: $.usage.output_tokens: -1 is less than the minimum of 0",
    ]
