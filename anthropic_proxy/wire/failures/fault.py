"""Error bodies in all the shapes that servers give them → one `Fault`."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.redaction import mask_keys
from anthropic_proxy.wire.failures.delays import find_delay
from anthropic_proxy.wire.failures.parameters import find_parameter

_EXCERPT_CHARACTERS = 200
_MESSAGE_CHARACTERS = 8_000
"""Of an upstream's own words: nobody reads more, and every pattern that looks for a cause reads all of it."""


class Fault(Struct, frozen=True, kw_only=True):
    """What an upstream says went wrong."""

    status: int | None = None
    """The HTTP status, or the one that the body names inside a 200; None: not said."""
    message: str = ""
    """The upstream's own words; empty: it had none."""
    codes: frozenset[str] = frozenset()
    """`code`, `type`, `status` and reasons of the body, as they are spelled there."""
    parameter: str | None = None
    """The request parameter named as the cause, in the upstream's spelling."""
    retry_after: float | None = None
    """Whole seconds, 1 to 3,600."""
    stays: bool = False
    """Whether the upstream says that asking again will not help (`x-should-retry: false`, as OpenAI says it)."""
    tokens: int | None = None
    """Prompt tokens, where the body counts them in a field."""
    window: int | None = None
    generation: str | None = None
    """What the model said, where the server could not read it as a tool call (Groq's `failed_generation`)."""
    excerpt: str = ""
    """The beginning of a body that is no error object; for the log only."""


def decode_fault(status: int | None, headers: Mapping[str, str], body: bytes) -> Fault:
    """Read the body of an answer that failed; any bytes will do."""
    try:
        content = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        content = None
    if isinstance(content, dict | list | str):
        fault = read_fault(content, status, headers)
        if fault.message or fault.codes:
            return fault
    text = "".join(character for character in body[:2_000].decode(errors="replace") if character.isprintable())
    excerpt = mask_keys(text[:_EXCERPT_CHARACTERS])
    return Fault(status=status, retry_after=find_delay(headers, None, ""), stays=_stays(headers), excerpt=excerpt)


def _stays(headers: Mapping[str, str]) -> bool:
    return headers.get("x-should-retry", "").strip().lower() == "false"


def read_fault(content: Any, status: int | None, headers: Mapping[str, str]) -> Fault:
    """Read a decoded error: the whole body, or what stood under its `error`.

    Shapes: `{"error": {…}}`, `{"error": "text", "code": …}` (xAI, Ollama), `[{"error": …}]` (Gemini),
    `{"message": …}`, `{"detail": …}` (FastAPI) and plain text.
    """
    while isinstance(content, list) and content:
        content = content[0]
    outer = content if isinstance(content, dict) else {}
    inner = outer.get("error", content)
    error = inner if isinstance(inner, dict) else {"message": inner, "code": outer.get("code")}
    message = _text_of(error)[:_MESSAGE_CHARACTERS]
    code = error.get("code")
    if status in (None, 200):
        status = next((number for number in map(_status, (code, error.get("status_code"))) if number), None)
    return Fault(
        status=status,
        message=mask_keys(message),
        codes=frozenset(_codes_of(error)),
        parameter=_string(error.get("param")) or find_parameter(message),
        retry_after=find_delay(headers, error.get("details"), message),
        stays=_stays(headers),
        tokens=_integer(error.get("n_prompt_tokens")),
        window=_integer(error.get("n_ctx")),
        generation=_string(error.get("failed_generation")),
    )


def _text_of(error: dict[str, Any]) -> str:
    said = _said(error)
    if isinstance(said, dict):
        said = _said(said) or said
    text = said if isinstance(said, str) else _words_of(said)
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    return f"{text}: {raw}" if isinstance(raw, str) and raw else text  # OpenRouter keeps the cause there


def _said(error: dict[str, Any]) -> Any:
    return error.get("message") or error.get("detail") or error.get("msg") or ""


def _words_of(said: Any) -> str:
    """Return in words what a framework found wrong: `[{"loc": ["body", "seed"], "msg": …}]` is `seed: …`.

    The input that it repeats is left out; anything else is shown as it is.
    """
    found = said if isinstance(said, list) else []
    faults = [one for one in found if isinstance(one, dict) and isinstance(one.get("msg"), str)]
    if not faults or len(faults) < len(found):
        return msgspec.json.encode(said).decode()
    return "; ".join(": ".join(filter(None, (_place_of(one.get("loc")), one["msg"]))) for one in faults)


def _place_of(path: Any) -> str:
    steps = [str(step) for step in path] if isinstance(path, list) else []
    return ".".join(steps[1:] if steps[:1] == ["body"] else steps)


def _codes_of(error: dict[str, Any]) -> list[str]:
    codes = [error.get("code"), error.get("type"), error.get("status")]
    inner = error.get("innererror")
    if isinstance(inner, dict):
        codes.append(inner.get("code"))  # Azure
    details = error.get("details")
    if isinstance(details, list):
        codes += [detail.get("reason") for detail in details if isinstance(detail, dict)]  # Google
        codes += [quota for detail in details if isinstance(detail, dict) for quota in _quotas_of(detail)]
    return [code for code in codes if isinstance(code, str) and code]


def _quotas_of(detail: dict[str, Any]) -> list[Any]:
    violations = detail.get("violations")
    return [one.get("quotaId") for one in violations if isinstance(one, dict)] if isinstance(violations, list) else []


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _status(value: Any) -> int | None:
    number = int(value) if isinstance(value, str) and len(value) == 3 and value.isdecimal() else _integer(value)
    return number if number is not None and 400 <= number < 600 else None


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
