"""Exchanges as texts for people: the request as a command line without its key, the reply shortened."""

import re
import shlex

from messages_conformance.client import Exchange, Request
from messages_conformance.trial import KEY_VARIABLE

_KEY_HEADERS = {"x-api-key": f"${KEY_VARIABLE}", "authorization": f"Bearer ${KEY_VARIABLE}"}
"""Header with a secret → what is shown instead."""
_SECRET_NAME = re.compile("auth|cookie|key|secret|token", re.IGNORECASE)
_MAX_SHOWN = 2000
"""Maximum number of characters of a body that are shown."""
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def write_curl(request: Request, url: str) -> str:
    """Return a request as a command line, without its key."""
    words = ["curl", "-isSN"]
    if request.method != "POST":
        words += ["-X", request.method]
    words.append(shlex.quote(url + request.path))
    for name, value in request.headers:
        shown = _KEY_HEADERS.get(name.lower()) or ("…" if _SECRET_NAME.search(name) else None)
        words += ["-H", f'"{name}: {shown}"' if shown else shlex.quote(f"{name}: {value}")]
    if request.body is not None:
        words += ["--data-binary", shlex.quote(request.body.decode("utf-8", "replace"))]
    return " ".join(words)


def describe_reply(exchange: Exchange) -> str:
    """Return status, content type and body of a reply, the body shortened."""
    if not exchange.status:
        return exchange.failure or "none"
    head = f"{exchange.status} {exchange.header('content-type') or 'without a content type'}"
    body = exchange.body.decode("utf-8", "replace").strip()
    return f"{head}\n{_shorten(body)}" + (f"\n({exchange.failure})" if exchange.failure else "")


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}… ({len(text) - _MAX_SHOWN} more characters)"


def escape_unprintable(text: str) -> str:
    """Return the text with escapes for what a server could do to a terminal or a file: controls, half characters."""
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
