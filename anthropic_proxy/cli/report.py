"""Command `report`: writes one stored exchange as a folder, for a bug report.

The folder has the files of a case (`messages_conformance.case`): the request, what the client got, and what this
version sends to the provider for this request. Without `--texts`, they contain the structure only.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from msgspec import Struct

from anthropic_proxy import __version__
from anthropic_proxy.cli.case_check import UPSTREAM_FILE, encode_upstream_request
from anthropic_proxy.cli.case_structure import Structure, outline_model, outline_type
from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.explain import dry_run_request
from anthropic_proxy.cli.ledger_access import read_stored_texts, require_stored_request
from anthropic_proxy.cli.output import Output
from anthropic_proxy.cli.questions import open_questions
from anthropic_proxy.console import formats
from anthropic_proxy.console.ledger.contents import StoredContent
from anthropic_proxy.console.ledger.receipt_queue import EXCHANGE_PATH
from anthropic_proxy.console.ledger.records import StoredRequest
from anthropic_proxy.console.ledger.request_queries import list_failed_attempts
from anthropic_proxy.engine.exchange.dry_run import DryRun
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.files import format_toml_value
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable
from anthropic_proxy.secrets import new_redactor, redact_json_value
from messages_conformance.case import CASE_FILE, ERROR_FILE, EVENTS_FILE, MESSAGE_FILE, REQUEST_FILE
from messages_conformance.events import EventReader

_LAST = "last"
_ADDRESS = compile_later(r"\b(https?)://[^/\s\"'<>]+")
_LONG_RUN = compile_later(r"(?:x{41,}|A{41,})")


def report(
    request: str,
    /,
    *,
    texts: bool = False,
    address: bool = False,
    to: Path | None = None,
    yes: bool = False,
) -> None:
    """Parameters
    ----------
    request
        `LAST`, the id of a stored request, `req_…`, or its number, as in `explain 2`: 2 is the second last one.
    texts
        Keep the texts of the request, of the reply and of errors. Keys are masked, and what inspectors hide stays
        hidden.
    address
        Keep the address of the provider.
    to
        New folder. By default `report-` with the id of the request, in the present folder.
    yes
        Write the files without a question.
    """
    settings = load_command_settings()
    row = require_stored_request(settings, "1" if request.lower() == _LAST else request, path=EXCHANGE_PATH)
    if row.path != EXCHANGE_PATH:
        raise ConfigurationError(
            f"{row.id} is a request to {row.path}. Only requests to {EXCHANGE_PATH} can be reported.",
            code="not-replayable",
        )
    stored = read_stored_texts(settings, row, "report")
    folder = to or Path(f"report-{row.id}")
    try:
        files = _CaseWriter(settings, row, stored, keeps_texts=texts, keeps_address=address).build_files()
    except RecursionError:
        raise ConfigurationError(f"The text of {row.id} is nested too deeply.", code="explain-source") from None

    output = Output()
    for name, content in files.items():
        output.write_line(output.paint(f"{name} ({formats.plural(len(content.encode()), 'byte')})", "title"))
        shown = _LONG_RUN.sub(lambda run: f"{run[0][:8]}… ({len(run[0]):,} characters)", content)
        for line in shown.splitlines():
            output.write_line(f"  {escape_unprintable(line)}")
        output.write_line()
    if not texts:
        output.write_line("The files contain the structure: no texts, only names that the API defines, other ids.")
    question = f"Write these {len(files)} files to {folder}?"
    if not yes and not open_questions(output).confirm(question, default=False, instead="--yes"):
        output.write_line("Nothing was written.")
        return
    _write_folder(folder, files)
    output.write_line(f"{output.mark('✓')} {folder}: only you can read it")
    output.write_step("Check it here", f"anthropic-proxy replay --check {folder}", "nothing is sent")


class _CaseWriter(Struct, eq=False, dict=True):
    settings: Settings
    row: StoredRequest
    stored: Mapping[str, StoredContent]
    keeps_texts: bool = False
    keeps_address: bool = False

    @cached_property
    def _redact(self) -> Callable[[str], str]:
        return new_redactor(self.settings.reveal_all_secrets())

    @cached_property
    def _structure(self) -> Structure:
        return Structure()

    def build_files(self) -> Mapping[str, str]:
        """Return name → content."""
        request_text = _to_text(self._convert(json.loads(self.stored["request"].data)))
        result = self._translate(request_text)
        files = {CASE_FILE: self._describe(result), REQUEST_FILE: request_text}
        if (sent := self._encode_sent(result)) is not None:
            files[UPSTREAM_FILE] = sent
        return {**files, **self._convert_reply()}

    def _convert(self, value: Any) -> Any:
        redacted = redact_json_value(value, self._redact)
        if not self.keeps_texts:
            return self._structure.outline(redacted)
        is_error = isinstance(redacted, dict) and redacted.get("type") == "error"
        return redact_json_value(redacted, self._hide_address) if is_error else redacted

    def _convert_events(self, events: Sequence[Any]) -> Sequence[Any]:
        if self.keeps_texts:
            return [self._convert(event) for event in events]
        return self._structure.outline_stream(redact_json_value(events, self._redact))

    @cached_property
    def _model(self) -> str:
        return self.row.model if self.keeps_texts else outline_model(self.row.model)

    def _translate(self, request: str) -> DryRun:
        row = self.row
        model = f"{row.prefix or row.provider}/{self._model}" if row.model else None
        return dry_run_request(self.settings, request.encode(), REQUEST_FILE, model).result

    def _encode_sent(self, result: DryRun) -> str | None:
        """Return what this version sends to the provider. None: it sends nothing."""
        sent = encode_upstream_request(result, keeps_address=self.keeps_address)
        return None if sent is None else _to_text(redact_json_value(sent, self._redact))

    def _convert_reply(self) -> Mapping[str, str]:
        reply = self.stored.get("reply")
        if reply is None or reply.is_cut:
            return {}
        if reply.data.startswith((b"event:", b"data:")):
            reader = EventReader()
            reader.feed(0, reply.data + b"\n\n")
            events = self._convert_events([event.data for event in reader.events])
            names = (event.name if self.keeps_texts else outline_type(event.name) for event in reader.events)
            frames = [
                f"event: {name}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"
                for name, event in zip(names, events, strict=True)
            ]
            return {EVENTS_FILE: "".join(frames)}
        try:
            body = self._convert(json.loads(reply.data))
        except ValueError:
            return {}
        if self.row.status == 200:
            return {MESSAGE_FILE: _to_text(body)}
        return {ERROR_FILE: _to_text({"status": self.row.status, "headers": {}, "body": body})}

    def _describe(self, result: DryRun) -> str:
        row = self.row
        kind = "stream" if row.stream else "message"
        error_type = row.error_type if self.keeps_texts else outline_type(row.error_type)
        ended = f"{row.status} {error_type}".rstrip()
        reply = self.stored.get("reply")
        error = result.error
        fields: Mapping[str, Any] = {
            "title": f"{ended}, {kind}, {row.outcome}",
            "source": f"anthropic-proxy report, version {__version__}, {datetime.now(UTC).date()}",
            "provider": row.prefix or row.provider,
            "model": self._model,
        }
        facts: Mapping[str, Any] = {
            "outcome": row.outcome,
            "status": row.status,
            "error_type": error_type,
            "error_code": row.error_code,
            "error": self._hide_address(row.error) if self.keeps_texts else "",
            "failed_attempts": list_failed_attempts(row),
            "learned": json.loads(row.adaptations or "[]") if self.keeps_texts else [],  # it names fields of the client
            "input_tokens": row.all_input_tokens,
            "output_tokens": row.output_tokens,
            "milliseconds": row.duration // 1000,
            "inspected": bool(row.inspections),
            "reply_is_cut": reply is not None and reply.is_cut,
            "refused_here": f"{error.status} {error.error_type}" if error else "",
        }
        lines = [f"{name} = {format_toml_value(value)}" for name, value in fields.items() if value]
        lines += ["", "[report]", *(f"{name} = {format_toml_value(value)}" for name, value in facts.items() if value)]
        return "\n".join(lines) + "\n"

    def _hide_address(self, text: str) -> str:
        """Errors name the address of a provider."""
        return text if self.keeps_address else _ADDRESS.sub(r"\1://upstream.invalid", text)


def _write_folder(folder: Path, files: Mapping[str, str]) -> None:
    try:
        folder.mkdir(mode=0o700)
        for name, content in files.items():
            with open(folder / name, "x", encoding="utf-8", opener=partial(os.open, mode=0o600), newline="\n") as file:
                file.write(content)
    except FileExistsError:
        reason = "it exists"
    except OSError as error:
        reason = describe_os_error(error)
    else:
        return
    raise ConfigurationError(f"--to: {folder} cannot be written: {reason}.", code="report-not-written")


def _to_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"
