"""Work for texts of clients in rules, headers, queries, forms and telemetry, which grows with their size at most."""

import base64
import gzip
import json
from collections.abc import Callable, Mapping
from typing import Any

from tests.attacks.buyer import KEY_SETTINGS, Attempts, Buyer
from tests.attacks.lab import Attack, Row, ordinary
from tests.attacks.upstream import reply_text
from tests.faults.client import Answer

_MODEL = "openai/gpt-4.1"
_PATTERNS: Mapping[str, list[str]] = {
    "20 stars": ["*a" * 20 + "*b"],
    "120 stars": ["*a" * 120 + "*b"],
    "stars only": ["*" * 250 + "b"],
    "question marks and stars": ["?*" * 100 + "b"],
    "brackets": ["[a-z]*" * 30 + "b"],
    "an open bracket": ["[" * 200],
    "1,000 patterns": [f"*a*{number}*a*b" for number in range(1_000)],
}
_NAMES = ("a" * 200, "a" * 60_000, "aab" * 20_000 + "c", "/" * 60_000, "openai/" * 8_000, "[1m]" * 10_000)
_LONG_NUMBER = b'{"alg":%b}' % (b"9" * 30_000)
_DEEP = "[" * 200_000
_HEADERS: Mapping[str, dict[str, str]] = {
    "10,000 betas": {"anthropic-beta": ",".join(f"b{number}" for number in range(6_000))},
    "commas as betas": {"anthropic-beta": "," * 50_000},
    "addresses": {"x-forwarded-for": ", ".join(["10.0.0.1"] * 5_000)},
    "false addresses": {"x-forwarded-for": "," * 50_000},
    "members of Forwarded": {"forwarded": "for=1;" * 8_000},
    "a long session": {"x-claude-code-session-id": "s" * 50_000},
    "a long agent": {"x-claude-code-agent-id": "s" * 50_000},
    "an escaped project": {"x-project": "%41" * 16_000},
    "a half escaped project": {"x-project": "%" * 50_000},
    "a long program": {"user-agent": "claude-cli/" * 4_000},
    "a trace state": {"traceparent": f"00-{'1' * 32}-{'1' * 16}-01", "tracestate": "a=b," * 12_000},
    "a false trace": {"traceparent": "0" * 50_000},
    "cookies": {"cookie": "a=b; " * 10_000},
    "one cookie of quotes": {"cookie": 'a="' + "\\" * 50_000},
    "a token of points": {"authorization": "Bearer " + "a." * 25_000},
    "a token with a deep head": {
        "authorization": f"Bearer {base64.urlsafe_b64encode(b'[' * 30_000).decode()}.{'a' * 100}.{'b' * 100}"
    },
    "a token with a long number": {"authorization": f"Bearer {base64.urlsafe_b64encode(_LONG_NUMBER).decode()}.a.b"},
    "blanks before a key": {"authorization": "Bearer" + " " * 50_000 + "x"},
    "Basic": {"authorization": "Basic " + "QUFB" * 12_000},
    "types": {"content-type": "application/json; " + "a=b; " * 10_000},
    "accepted forms": {"accept": "text/html;q=0.1, " * 3_000},
    "accepted encodings": {"accept-encoding": "gzip;q=0.1, " * 4_000},
    "ranges": {"range": "bytes=" + "0-1," * 12_000},
}
_FIELDS: Mapping[str, dict[str, Any]] = {
    "a user id of sessions": {"metadata": {"user_id": "_session_" * 100_000}},
    "a user id of lists": {"metadata": {"user_id": _DEEP}},
    "a user id of objects": {"metadata": {"user_id": '{"session_id":' * 50_000}},
    "100,000 stop sequences": {"stop_sequences": [f"s{number}" for number in range(100_000)]},
    "a long stop sequence": {"stop_sequences": ["ab" * 500_000]},
    "nested stop sequences": {"stop_sequences": ["a" * size for size in range(1, 1_500)]},
    "20,000 tools": {"tools": [{"name": f"t{number}", "input_schema": {"type": "object"}} for number in range(20_000)]},
    "20,000 tools of one name": {"tools": [{"name": "t", "input_schema": {"type": "object"}}] * 20_000},
    "tools that differ behind 64 characters": {
        "tools": [{"name": "t" * 70 + str(number), "input_schema": {"type": "object"}} for number in range(5_000)]
    },
    "a long choice": {"tool_choice": {"type": "tool", "name": "t" * 1_000_000}},
    "a system text of marks": {
        "system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}] * 20_000
    },
    "a text that ends with marks of a block": {
        "messages": [{"role": "user", "content": "</block>" * 100_000}],
        "stop_sequences": ["</block>"],
    },
    "reminders": {"messages": [{"role": "user", "content": "<system-reminder>" * 60_000}]},
    "commands of Claude Code": {"messages": [{"role": "user", "content": "<command-name>" * 60_000}]},
    "results without calls": {
        "messages": [
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": f"t{n}"} for n in range(20_000)]}
        ]
    },
}
_SECRETS: Mapping[str, str] = {
    "beginnings of private keys": "-----BEGIN RSA PRIVATE KEY-----\n" * 30_000,
    "one private key without an end": "-----BEGIN RSA PRIVATE KEY-----\n" + "A" * 1_000_000,
    "beginnings of keys": "sk-" * 300_000,
    "a key without an end": "sk-" + "a" * 1_000_000,
    "digits": "4111 1111 1111 1111 " * 50_000,
    "one number": "4" * 1_000_000,
    "dashes and digits": "4-" * 500_000,
    "bearer": "Bearer " * 140_000,
    "false placeholders": "REDACTED_KEY_0123456789abcdef" * 30_000,
    "beginnings of placeholders": "REDACTED_" * 100_000,
    "an own pattern": "C-" * 500_000,
}


def _write_rules(attack: Attack) -> list[Answer]:
    """Patterns of rules and names of models; queries; bodies of the administration."""
    attempts = Attempts()
    for name, patterns in _PATTERNS.items():
        try:
            buyer = Buyer(attack, f"of {name}", models=patterns)
        except AssertionError as error:
            attempts.check(f"patterns, {name}", '"error"' in str(error), error)
            continue
        for model in _NAMES:
            answer = buyer.post(ordinary(model))
            attempts.check(f"patterns, {name}, {model[:9]} × {len(model)}", answer.status_code < 500, answer.text)
    buyer = Buyer(attack, "usual")
    admin = buyer.admin
    many = [{"amount": 1, "unit": "usd", "period": "day"}] * 50_000
    for name, data in {
        "budgets": json.dumps({"name": "a", "budgets": many}).encode(),
        "models": json.dumps({"name": "a", "models": ["a"] * 100_000}).encode(),
        "a long name": json.dumps({"name": "a" * 1_000_000}).encode(),
        "a deep body": _DEEP.encode(),
        "a deep field": b'{"name":"a","models":' + _DEEP.encode(),
        "a long number": b'{"name":"a","requests_per_minute":' + b"9" * 500_000 + b"}",
        "a long exponent": b'{"name":"a","budgets":[{"amount":1e999999999,"unit":"usd","period":"day"}]}',
        "100,000 members": b"{" + b",".join(b'"a%d":1' % n for n in range(100_000)) + b"}",
    }.items():
        answer = admin.post("/admin/keys", content=data, headers={"content-type": "application/json"})
        attempts.check(f"administration, {name}", 400 <= answer.status_code < 500, answer.text[:200])
    for path in ("/api/usage", "/api/requests", "/admin/keys", "/admin/audit", "/v1/models"):
        for name, query in {
            "a pattern": "model=" + "*a" * 3_000,
            "parts of a pattern": "q=" + "%25_" * 3_000,
            "members": "&".join(f"a{number}=1" for number in range(4_000)),
            "a repeated member": "model=a&" * 4_000,
            "a large number": "limit=" + "9" * 20_000,
            "a false id": "after_id=" + "a" * 20_000,
            "groups": "by=" + ",".join(["model"] * 4_000),
        }.items():
            client = buyer.client if path.startswith("/v1") else admin
            answer = client.get(f"{path}?{query}")
            attempts.check(f"query of {path}, {name}", answer.status_code < 500, answer.text[:200])
    return attempts.finish(attack)


def _write_headers(attack: Attack) -> list[Answer]:
    """Headers, fields and telemetry."""
    attempts = Attempts()
    buyer = Buyer(attack, "usual")
    attack.upstream.reply = reply_text("All is well.")
    for name, headers in _HEADERS.items():
        for path in ("/v1/messages", "/api/requests/recent"):
            send: Callable[..., Any] = buyer.client.get if path.startswith("/api") else buyer.client.post
            fields = {} if path.startswith("/api") else {"json": ordinary(_MODEL)}
            answer = send(path, headers={key: value.strip() for key, value in headers.items()}, **fields)
            attempts.check(f"header, {name}, {path}", answer.status_code < 500, answer.text[:200])
    for name, body in _FIELDS.items():
        answer = buyer.post({**ordinary(_MODEL), **body})
        attempts.check(f"field, {name}", answer.status_code < 500, answer.text[:200])
    bomb = gzip.compress(b'{"resourceLogs":[' + b" " * 200_000_000)
    for name, data, encoding in (
        ("a bomb", bomb, "gzip"),
        ("a bomb of bombs", gzip.compress(bomb * 20), "gzip"),
        (
            "deep values",
            b'{"resourceLogs":[{"resource":{"attributes":[{"key":"a","value":' + b'{"arrayValue":' * 40_000,
            "",
        ),
        ("attributes", json.dumps(_attributes(9_000)).encode(), ""),
        ("a deep message", b"\x0a\xff\xff\x7f" * 200_000, ""),
    ):
        headers = {"content-encoding": encoding} if encoding else {}
        kind = "application/x-protobuf" if data.startswith(b"\x0a") else "application/json"
        answer = buyer.client.post("/v1/logs", content=data, headers={"content-type": kind, **headers})
        attempts.check(f"telemetry, {name}", answer.status_code < 500, answer.text[:200])
    return attempts.finish(attack)


def _attributes(number: int) -> dict[str, Any]:
    pairs = [{"key": f"user.{index}", "value": {"stringValue": "x"}} for index in range(number)]
    return {"resourceLogs": [{"resource": {"attributes": pairs}}]}


def _inspect(attack: Attack) -> list[Answer]:
    """Texts that look like beginnings of secrets, in requests and replies."""
    attempts = Attempts()
    buyer = Buyer(attack, "usual")
    for name, text in _SECRETS.items():
        attack.upstream.reply = reply_text("All is well.")
        answer = buyer.post(ordinary(_MODEL, text))
        # more than 10,000 redactions of a request are a failure of the inspector
        attempts.check(f"request, {name}", answer.status_code in (200, 503), answer.text[:200])
        attack.upstream.reply = reply_text(text[:200_000], fragments=200)
        answer = buyer.post({**ordinary(_MODEL), "stream": True})
        attempts.check(f"reply, {name}", answer.status_code < 500 and "message_stop" in answer.text, answer.text[-200:])
    return attempts.finish(attack)


_INSPECTORS = """
[[inspectors]]
name = "secrets"
type = "patterns"
detect = ["keys", "card-numbers"]
patterns = { "customer number" = 'C-\\d{8}' }
reads = ["requests", "replies", "tool descriptions"]
"""

WORK: tuple[Row, ...] = (
    Row(name="work: patterns, queries and bodies of the administration", run=_write_rules, settings=KEY_SETTINGS),
    Row(
        name="work: headers, fields and telemetry",
        run=_write_headers,
        settings={**KEY_SETTINGS, "OTEL_EXPORTER_OTLP_ENDPOINT": "{upstream}", "OTEL_TRACES_EXPORTER": "none"},
        input_mib=2,
    ),
    Row(
        name="work: texts like secrets",
        run=_inspect,
        settings=KEY_SETTINGS,
        configuration=_INSPECTORS,
        input_mib=1,
    ),
)
