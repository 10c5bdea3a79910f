"""`replay --check`: what this version does with the request of a bug report (`report`). Nothing is sent."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anthropic_proxy.cli.explain import build_shown_url, dry_run_request
from anthropic_proxy.cli.output import Output, read_input
from anthropic_proxy.engine.exchange.dry_run import DryRun
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable
from messages_conformance.case import MAX_FILE_BYTES, REQUEST_FILE, Case, read_case
from messages_conformance.rows import SuiteError

UPSTREAM_FILE = "expected_upstream_request.json"
"""File of a case with the request to the provider."""
_SHOWN_HEADERS = frozenset(("accept", "anthropic-beta", "anthropic-version", "content-type"))
"""Headers of a request to a provider whose value is no secret and names no user."""
_NO_ADDRESS = "http://upstream.invalid"
_MAX_SHOWN = 40
"""Maximum number of printed differences."""
_MAX_VALUE = 80
"""Maximum number of characters of a printed value."""
_MISSING = object()


def encode_upstream_request(result: DryRun, *, keeps_address: bool = False) -> Mapping[str, Any] | None:
    """Return the request to the provider as in the file of a case. None: nothing would be sent."""
    sent = result.recorded
    if sent is None:
        return None
    request = sent.request
    fields: dict[str, Any] = {
        "method": request.method,
        "url": build_shown_url(sent.base_url if keeps_address else _NO_ADDRESS, request.path),
        "headers": {name: value if name in _SHOWN_HEADERS else "…" for name, value in request.headers.items()},
        "body": json.loads(request.body),
    }
    if notes := result.receipt.notes:
        fields["notes"] = [f"{note.handling} {note.field}: {note.reason}" for note in notes]
    return fields


def check_case(settings: Settings, folder: Path) -> bool:
    """Print the reply in a case, and how its request to the provider differs from that of this version.

    Return True if the reply violates no rule and nothing differs. Raises `ConfigurationError`.
    """
    try:
        case = read_case(folder)
    except SuiteError as error:
        raise ConfigurationError(f'"{folder}" cannot be read: {error}.', code="file-not-read") from None
    output = Output()
    output.write_line(escape_unprintable(case.title or folder.name))
    is_right = _write_reply(output, case)
    model = f"{case.provider}/{case.model}" if case.provider and case.model else None
    content = read_input(folder / REQUEST_FILE, MAX_FILE_BYTES)
    result = dry_run_request(settings, content, REQUEST_FILE, model).result
    if (refusal := result.error) is not None:
        output.write_line(f"  {output.mark('✕')} refused here: {refusal.status} {escape_unprintable(refusal.message)}")
    expected = _read_expected(folder / UPSTREAM_FILE)
    if expected is None:
        output.write_line(f"  The case has no {UPSTREAM_FILE}.")
        return is_right
    differences = [*_find_differences(_without_base(expected, result), encode_upstream_request(result))]
    for difference in differences[:_MAX_SHOWN]:
        output.write_line(f"  {output.mark('✕')} {escape_unprintable(difference)}")
    if len(differences) > _MAX_SHOWN:
        output.write_line(f"  {len(differences) - _MAX_SHOWN:,} more differences")
    if not differences:
        output.write_line(f"  {output.mark('✓')} this version sends the same request to the provider")
    return is_right and not differences


def _write_reply(output: Output, case: Case) -> bool:
    """Return True if the reply in the case violates no rule."""
    reply = case.reply
    if reply is None:
        return True
    details = "; ".join(filter(None, (reply.outcome, reply.blocks, reply.stop_reason)))
    output.write_line(f"  reply in the case: {escape_unprintable(details)}")
    for violation in reply.violations:
        output.write_line(f"  {output.mark('✕')} {escape_unprintable(violation)}")
    return not reply.violations


def _read_expected(file: Path) -> Any:
    """None: the case does not have it."""
    if not file.exists():
        return None
    content = read_input(file, MAX_FILE_BYTES)
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise ConfigurationError(f'"{file}" cannot be read: it is not valid JSON.', code="file-not-read") from None


def _without_base(expected: Any, result: DryRun) -> Any:
    """Return a request of a case without the address of its provider, if its path is that of the request here."""
    url = expected.get("url") if isinstance(expected, dict) else None
    path = "" if result.recorded is None else result.recorded.request.path
    if not isinstance(url, str) or not path or not url.endswith(path):
        return expected
    return {**expected, "url": _NO_ADDRESS + path}


def _find_differences(there: Any, here: Any, place: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for name in {**there, **here}:
            inner = f"{place}.{name}".lstrip(".")
            yield from _find_differences(there.get(name, _MISSING), here.get(name, _MISSING), inner)
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for number, (before, after) in enumerate(zip(there, here, strict=True)):
            yield from _find_differences(before, after, f"{place}.{number}")
    elif there != here:
        yield f"{place}: {_shorten(there)} in the case, {_shorten(here)} here"


def _shorten(value: Any) -> str:
    if value is _MISSING:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}…"
