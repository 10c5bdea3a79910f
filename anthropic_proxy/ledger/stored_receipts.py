"""Conversion of stored requests to receipts, the records of requests, so that commands can print them.

`to_receipt` returns the receipt for one row of the ledger. `list_notes` and `list_failed_attempts` decode columns with
JSON texts.
"""

import msgspec

from anthropic_proxy.ledger.receipt_queue import EXCHANGE_PATH
from anthropic_proxy.ledger.request_queries import StoredRequest
from anthropic_proxy.ledger.units import MICROSECONDS
from anthropic_proxy.messages.fidelity import FidelityNote, FidelityReport
from anthropic_proxy.plugins import Client, Receipt

_decode_texts = msgspec.json.Decoder(list[str]).decode
_decode_notes = msgspec.json.Decoder(list[FidelityNote]).decode


def list_failed_attempts(row: StoredRequest) -> list[str]:
    """Return the failed calls to providers in the stored request `row`, as provider and HTTP status: `groq 429`."""
    return _decode_texts(row.failed_attempts) if row.failed_attempts else []


def list_notes(row: StoredRequest) -> list[FidelityNote]:
    """Return the notes of the stored request `row` about fields that were approximated, emulated or dropped."""
    return _decode_notes(row.notes) if row.notes else []


def to_receipt(row: StoredRequest) -> Receipt:
    """Return the receipt (record) of the stored request `row`.

    Fields that the ledger does not store have their default values.
    """
    fidelity = FidelityReport()
    fidelity.add_notes(list_notes(row))
    return Receipt(
        request_id=row.id,
        client=Client(name=row.key_label),
        started_at=row.started_at / MICROSECONDS,
        method=row.method or ("POST" if row.path == EXCHANGE_PATH else "–"),
        path=row.path,
        requested_model=row.requested_model,
        provider=row.provider,
        prefix=row.prefix,
        model=row.model,
        route=row.route,
        route_reason=row.route_reason,
        tool_count=row.tool_count,
        message_count=row.message_count,
        tool_results=row.tool_results,
        tool_errors=row.tool_errors,
        stream=row.stream,
        input_tokens=row.input_tokens,
        cache_read_tokens=row.cache_read_tokens,
        cache_write_tokens=row.cache_write_tokens,
        cache_write_1h_tokens=row.cache_write_1h_tokens,
        output_tokens=row.output_tokens,
        thinking_tokens=row.thinking_tokens,
        first_token_seconds=None if row.first_token is None else row.first_token / MICROSECONDS,
        duration_seconds=row.duration / MICROSECONDS,
        status=row.status,
        outcome=row.outcome,
        error_type=row.error_type,
        error=row.error,
        failed_attempts=list_failed_attempts(row),
        fidelity=fidelity,
    )
