"""Command `lint-stream`: violations of an event stream, one per line, and the exit status."""

import json
from pathlib import Path

import pytest

from tests.support.command_line import run_command
from tests.support.provider_replies.messages import MESSAGE_STREAMS

VALID = next(iter(MESSAGE_STREAMS.values()))
INVALID = b"""event: message_start
data: {"type":"message_start","message":{"type":"message","role":"assistant","id":"msg_1","model":"m",\
"content":[],"stop_reason":null,"usage":{"input_tokens":1,"output_tokens":0}}}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}

: a comment
event: pong
data: {"type":"ping"}

"""


def test_a_valid_stream_has_status_0(tmp_path: Path) -> None:
    (tmp_path / "reply.sse").write_bytes(VALID)
    ended = run_command("lint-stream", "reply.sse", directory=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        0,
        f"✓ {VALID.count(b'data:')} events, no violations\n",
        "",
    )


def test_each_violation_has_line_event_and_rule(tmp_path: Path) -> None:
    (tmp_path / "reply.sse").write_bytes(INVALID)
    ended = run_command("lint-stream", "reply.sse", directory=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        1,
        "reply.sse:5: block-index: event 2: index 1 instead of 0\n"
        'reply.sse:9: frame: event 3: the field event is "pong", the type in the data "ping"\n'
        "reply.sse:9: end: the stream ends without message_stop or error\n"
        "✕ 3 violations in 3 events\n",
        "",
    )


def test_a_program_reads_json_from_standard_input(tmp_path: Path) -> None:
    ended = run_command("lint-stream", "-", "--json", directory=tmp_path, stdin=INVALID.decode()[:-1])
    report = json.loads(ended.stdout)
    assert (ended.returncode, report["file"], report["valid"], report["events"]) == (1, "-", False, 2)
    assert report["violations"][1] == {
        "rule": "frame",
        "message": "the stream ends inside a frame",
        "event": 0,
        "line": 9,
    }


def test_line_numbers_count_all_line_ends(tmp_path: Path) -> None:
    stream = INVALID.replace(b"\n", b"\r\n").decode()
    ended = run_command("lint-stream", "-", directory=tmp_path, stdin=stream)
    assert ended.stdout.startswith("standard input:5: block-index: event 2: index 1 instead of 0\n")


def test_repeated_violations_of_one_kind_are_counted(tmp_path: Path) -> None:
    delta = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{}}\n\n'
    stream = INVALID.partition(b"\n\n")[0] + b"\n\n" + b"".join(delta % number for number in range(80))
    ended = run_command("lint-stream", "-", directory=tmp_path, stdin=stream.decode())
    assert ended.stdout.splitlines() == [
        *(
            f"standard input:{line}: block-order: event {event}: content_block_delta while no block is open"
            for event, line in ((2, 5), (3, 8), (4, 11))
        ),
        "standard input:242: end: the stream ends without message_stop or error",
        "standard input: block-order: 77 similar violations not shown",
        "✕ 81 violations in 81 events",
    ]
    report = json.loads(run_command("lint-stream", "-", "--json", directory=tmp_path, stdin=stream.decode()).stdout)
    assert len(report["violations"]) == 81


def test_missing_values_are_shown_as_json(tmp_path: Path) -> None:
    stream = 'event: message_delta\ndata: {"type":null}\n\nevent: pong\ndata: {"type":["x"]}\n\n'
    ended = run_command("lint-stream", "-", directory=tmp_path, stdin=stream)
    assert ended.stdout.splitlines() == [
        "standard input:2: event-type: event 1: the data has no type",
        'standard input:5: event-type: event 2: ["x"] is no event',
        'standard input:5: frame: event 2: the field event is "pong", the type in the data ["x"]',
        "standard input:5: end: the stream has no message_start",
        "✕ 4 violations in 2 events",
    ]


def test_a_missing_file_is_an_error_with_status_2(tmp_path: Path) -> None:
    ended = run_command("lint-stream", "absent.sse", directory=tmp_path)
    message = '✕ "absent.sse" cannot be read: no such file. For standard input, use the name "-".\n'
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n<!DOCTYPE html><p>x", "a web page (HTML). Check the URL of the request."),
        ('{"type": "error", "error": {"message": "no \\u001bkey"}}', "a JSON error: no \\x1bkey"),
        ('{"type": "message"}', "JSON. Set stream to true in the request."),
        (
            'data: {"object":"chat.completion.chunk"}\n\n',
            "chunks of OpenAI Chat Completions, not events of the Messages API.",
        ),
    ],
)
def test_another_reply_than_an_event_stream_is_named(content: str, message: str, tmp_path: Path) -> None:
    ended = run_command("lint-stream", "-", directory=tmp_path, stdin=content)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"✕ standard input is no event stream: it contains {message}\n"
