"""Addresses that a model or a client makes the proxy fetch: none of this machine or its network is reached."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tests.attacks.buyer import KEY_SETTINGS, Attempts, Buyer
from tests.attacks.lab import Attack, Row, ordinary
from tests.attacks.upstream import UpstreamCall, reply_text, respond
from tests.faults.client import Answer
from tests.support.replies import Reply as Content
from tests.support.waiting import wait_for

_LOCAL = (
    *("https://127.0.0.1:{p}/", "https://localhost:{p}/", "https://127.1:{p}/", "https://2130706433:{p}/"),
    *("https://0x7f000001:{p}/", "https://0x7f.0.0.1:{p}/", "https://017700000001:{p}/", "https://0:{p}/"),
    *("https://0.0.0.0:{p}/", "https://[::1]:{p}/", "https://[::]:{p}/", "https://[::ffff:127.0.0.1]:{p}/"),
    *("https://[::ffff:7f00:1]:{p}/", "https://[64:ff9b::7f00:1]:{p}/", "https://[2002:7f00:1::]:{p}/"),
    *(
        "https://[fe80::1%25lo]:{p}/",
        "https://[::127.0.0.1]:{p}/",
        "https://127.0.0.1.:{p}/",
        "https://localhost.:{p}/",
    ),
    *("https://LOCALHOST:{p}/", "HTTPS://127.0.0.1:{p}/", "https://ip6-localhost:{p}/", "https://a.localhost:{p}/"),
    *(
        "https://example.com@127.0.0.1:{p}/",
        "https://127.0.0.1:{p}#@example.com/",
        "https://127.0.0.1:{p}?@example.com",
    ),
    *("https://127.0.0.1:{p}\\@example.com/", "https://example.com:443@127.0.0.1:{p}/", "https:127.0.0.1:{p}/"),
    *("http://127.0.0.1:{p}/", "http://localhost:{p}/", "//127.0.0.1:{p}/", "ws://127.0.0.1:{p}/"),
    *("ftp://127.0.0.1:{p}/", "gopher://127.0.0.1:{p}/_x", "file:///etc/passwd", "https://①②⑦.⓪.⓪.①:{p}/"),
    *("https://127。0。0。1:{p}/", "https://loca%6chost:{p}/", "https://127.0.0.1%00.example.com:{p}/"),
    *(
        " https://127.0.0.1:{p}/",
        "https://127.0.0.1:{p}/\r\nx-a: b",
        "https://127.0.0.1\t:{p}/",
        "ht\ntps://127.0.0.1:{p}/",
    ),
    *("https://{h}:{p}/", "https://127.255.255.254:{p}/", "https://127.0.0.1:0{p}/", "https://１２７.0.0.1:{p}/"),
    *("https://169.254.169.254/latest", "https://metadata.google.internal/", "https://[fd00:ec2::254]/", "https:///x"),
)


@contextmanager
def counting() -> Iterator[tuple[int, list[str]]]:
    """Yield a port of this machine, and who has connected."""
    seen: list[str] = []
    listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, address = listener.accept()
                seen.append(str(address))
                connection.close()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], seen
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _fetch(attack: Attack) -> list[Answer]:
    attempts = Attempts()
    buyer = Buyer(attack)
    with counting() as (port, seen):
        socket.create_connection(("127.0.0.1", port)).close()
        socket.create_connection(("::1", port)).close()
        wait_for(lambda: len(seen), lambda number: number == 2)
        for form in _LOCAL:
            url = form.replace("{p}", str(port)).replace("{h}", socket.gethostname())
            for way, body in _list_ways(url).items():
                seen.clear()
                attack.upstream.reply = _asking(url) if way == "a call of the model" else reply_text("All is well.")
                answer = buyer.post({**ordinary("ollama/llama3", f"Read {url}"), **body})
                attempts.check(f"{way}, {form!r}", not seen and answer.status_code < 500, (seen, answer.text[:200]))
        roles = {message.get("role") for call in attack.upstream.calls for message in call.body.get("messages", ())}
        attempts.check("a control: the model got a result", "tool" in roles, roles)
    return attempts.finish(attack)


def _list_ways(url: str) -> dict[str, dict[str, Any]]:
    def content(kind: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": [{"type": kind, "source": {"type": "url", "url": url}}]}]}

    return {
        "a call of the model": {"tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]},
        "an image": content("image"),
        "a document": content("document"),
    }


def _asking(url: str) -> Any:
    def answer(call: UpstreamCall) -> bytes:
        form = call.protocol.replies
        has_result = any(message.get("role") == "tool" for message in call.body.get("messages", ()))
        names = [tool["function"]["name"] for tool in call.body.get("tools", ())]
        calls = [] if has_result or not names else [("call_1", names[0], [json.dumps({"url": url})])]
        content = Content(texts=() if calls else ["well"], calls=calls)
        if not call.streaming:
            return respond(form.whole(content))
        kind = "application/x-ndjson" if call.protocol.framing == "ndjson" else "text/event-stream"
        return respond(b"".join(form.stream(content)), kind)

    return answer


FETCHES: tuple[Row, ...] = (
    Row(
        name="fetches: addresses of this machine and its network",
        run=_fetch,
        settings={**KEY_SETTINGS, "FETCH_URLS": "true"},
    ),
)
