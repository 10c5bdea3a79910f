"""Search for the dialect of a server: the set of fields that describe how the server deviates from its API.

`DialectSearch.run_probe` sends a probe, a request that tests one feature. If the probe fails, it is repeated with other
values of dialect fields. `send_with_change` sends a probe with changed fields, unless this API lacks one of them.
`adopt_change` keeps the changed fields for later probes. `use_wire` selects another API of the provider.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import structs

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.lab.doctor.findings import Diagnosis, Evidence, EvidenceKind, Outcome, State
from anthropic_proxy.lab.doctor.probe_runner import ProbeResult, ProbeRunner, UpstreamExchange
from anthropic_proxy.lab.doctor.probes import Probe
from anthropic_proxy.log import escape_unprintable
from anthropic_proxy.redaction import redact_secrets
from anthropic_proxy.routing.catalog import ModelCapabilities
from anthropic_proxy.routing.router import Target, switch_wire
from anthropic_proxy.settings import Settings
from anthropic_proxy.wire.contract import BaseDialect
from anthropic_proxy.wire.failures import decode_error_body

MAX_EXCERPT_CHARACTERS = 160
"""Maximum characters of a server's error message that the report quotes."""
_TEMPORARY = (408, 429, 500, 502, 503, 504, 529)
"""HTTP statuses of errors that may have another cause than the request, such as load."""
_REASON = re.compile(r"support|unknown|unexpected|unrecognized|invalid|not (?:allowed|permitted|accepted)|reject", re.I)
"""Pattern of error messages that name the cause of a rejection. Another error with status 500 may be accidental."""


class DialectSearch:
    """Search for the deviations of one server from its API (its dialect), by probes with one model.

    `target` has the dialect found so far.
    """

    def __init__(self, runner: ProbeRunner, diagnosis: Diagnosis, settings: Settings) -> None:
        self._runner = runner
        self._diagnosis = diagnosis
        self._settings = settings
        self._secrets = settings.reveal_all_secrets()
        backend = diagnosis.backend
        self.target: Target = structs.replace(
            backend.target,
            capabilities=ModelCapabilities(
                efforts=backend.target.capabilities.efforts, default_effort=backend.target.capabilities.default_effort
            ),
        )

    @property
    def searches_dialect(self) -> bool:
        """True if failed probes are repeated with changes, to find the deviations of this server from its API.

        Usually, this is only necessary for unknown servers. The deviations of known servers are part of the proxy.
        """
        return self._diagnosis.backend.searches_dialect or bool(self._diagnosis.wire)

    async def run_probe(self, probe: Probe) -> ProbeResult:
        """Send `probe` (a test request), store if its feature is supported, and return the result.

        If the probe fails, it may be repeated with other values of dialect fields.
        """
        result = await self._runner.send(self.target, probe.body)
        problem = probe.check(result)
        if problem and self._may_be_accidental(result):
            result = await self._runner.send(self.target, probe.body)
            problem = probe.check(result)
        self._apply_adaptations(probe, result)
        if problem and self._may_search(probe, result):
            result, problem = await self._try_candidates(probe, result, problem)
        self._diagnosis.outcomes[probe.name] = self._judge(probe, result, problem)
        return result

    async def send_with_change(self, probe: Probe, change: Mapping[str, object]) -> ProbeResult | None:
        """Send `probe` with other values of dialect fields, and return the result without storing it.

        None: the dialect of this API lacks one of the fields.
        """
        dialect = change_dialect(self.target.dialect, change)
        if dialect is None:
            return None
        return await self._runner.send(structs.replace(self.target, dialect=dialect), probe.body)

    def adopt_change(
        self,
        probe: Probe,
        change: Mapping[str, object],
        failed: ProbeResult,
        result: ProbeResult,
        *,
        effect: str = "",
    ) -> None:
        """Keep changed values of dialect fields for all later probes, and store the reason for the report.

        `failed` is the result of `probe` without the change, and `result` is the result with it. `effect` describes
        the improvement. An empty `effect` means that `probe` fails without the change.
        """
        dialect = change_dialect(self.target.dialect, change)
        if dialect is not None and dialect != self.target.dialect:
            self._record(probe, dialect, failed, result, kind="improvement" if effect else "required", effect=effect)

    def use_wire(self, name: str) -> bool:
        """Send all later probes by another API (wire) of the provider, such as `chat`.

        Return False if the provider does not have this API, or if it is already used.
        """
        provider = self.target.provider
        switched = switch_wire(self.target, name, self._settings)
        if switched is None or switched.wire is self.target.wire:
            return False
        self.target = structs.replace(switched, capabilities=self.target.capabilities)
        self._diagnosis.wire = f"{provider.env_prefix}_WIRE={name}"
        return True

    def redact(self, text: str, max_characters: int = MAX_EXCERPT_CHARACTERS) -> str:
        """Return `text` on one line, without keys and unprintable characters, and shortened to `max_characters`."""
        text = escape_unprintable(redact_secrets(" ".join(text.split()), self._secrets))
        return text if len(text) <= max_characters else f"{text[: max_characters - 1]}…"

    def describe_rejection(self, exchange: UpstreamExchange) -> str:
        """Return the server's error message for a rejected upstream request, without keys and on one line."""
        fault = decode_error_body(exchange.status, {}, bytes(exchange.response))
        return self.redact(fault.message or fault.excerpt or "no message")

    def _may_be_accidental(self, result: ProbeResult) -> bool:
        """Return True if the server failed with status 500 and its error names no part of the request as cause."""
        rejected = result.first_rejection
        return rejected is not None and rejected.status == 500 and not _REASON.search(self.describe_rejection(rejected))

    def _may_search(self, probe: Probe, result: ProbeResult) -> bool:
        if not self.searches_dialect or not probe.candidates:
            return False
        if result.error is None:
            return probe.tests_effect
        return result.first_rejection is not None or not isinstance(result.error, UpstreamError)

    async def _try_candidates(self, probe: Probe, failed: ProbeResult, problem: str) -> tuple[ProbeResult, str]:
        for change in probe.candidates:
            if change_dialect(self.target.dialect, change) == self.target.dialect:
                continue
            result = await self.send_with_change(probe, change)
            if result is not None and not probe.check(result):
                self.adopt_change(probe, change, failed, result)
                self._apply_adaptations(probe, result)
                return result, ""
        return failed, problem

    def _apply_adaptations(self, probe: Probe, result: ProbeResult) -> None:
        """Use the adaptations of a successful probe for all later probes, so that the server does not reject those."""
        for name in result.adaptations:
            verb, _, value = name.partition(" ")
            if verb == "wire" and (switched := switch_wire(self.target, value, self._settings)) is not None:
                self.target = structs.replace(switched, capabilities=self.target.capabilities)
                return
        dialect = self.target.dialect
        for name in result.adaptations:
            dialect = self.target.wire.apply_adaptation(dialect, name)
        if dialect != self.target.dialect:
            self._record(probe, dialect, result, result, kind="automatic")

    def _record(
        self,
        probe: Probe,
        dialect: BaseDialect,
        failed: ProbeResult,
        result: ProbeResult,
        *,
        kind: EvidenceKind,
        effect: str = "",
    ) -> None:
        before, after = structs.asdict(self.target.dialect), structs.asdict(dialect)
        rejected = failed.first_rejection
        accepted = result.upstream[-1].request if result.upstream else b""
        first = rejected or (failed.upstream[0] if failed.upstream else UpstreamExchange(b""))
        for name, value in after.items():
            if value != before[name]:
                evidence = Evidence(
                    kind=kind,
                    field=name,
                    value=value,
                    previous=before[name],
                    probe=probe.name,
                    sent=self.redact(find_differing_fields(first.request, accepted)),
                    status=rejected.status if rejected else 0,
                    error=self.describe_rejection(rejected) if rejected else effect or self.redact(probe.check(failed)),
                )
                self._diagnosis.evidence.append(evidence)
        self.target = structs.replace(self.target, dialect=dialect)

    def _judge(self, probe: Probe, result: ProbeResult, problem: str) -> Outcome:
        if not problem:
            if probe.proof is not None and (doubt := probe.proof(result)):
                return Outcome(state="untested", detail="accepted", reason=doubt)
            emulated = [note.reason for note in result.notes if note.handling == "emulated"]
            state: State = "emulated" if emulated else "works"
            return Outcome(state=state, reason=self.redact(emulated[0]) if emulated else "")
        rejected = result.first_rejection
        status = rejected.status if rejected else result.last_status
        detail = f"HTTP {status}" if rejected or (result.error and status) else probe.missing_effect
        reason = self.describe_rejection(rejected) if rejected else self.redact(problem)
        is_temporary = isinstance(result.error, UpstreamError) and result.error.status in _TEMPORARY and not rejected
        is_temporary = is_temporary or self._may_be_accidental(result)
        return Outcome(state="untested" if is_temporary else "unsupported", detail=detail, reason=reason)


def change_dialect(dialect: BaseDialect, change: Mapping[str, object]) -> BaseDialect | None:
    """Return a copy of `dialect` with other values of fields. None: this kind of dialect lacks one of the fields.

    `change` maps the name of each changed field to its value.
    """
    known = structs.asdict(dialect)
    if not change.keys() <= known.keys():
        return None
    converted = {
        name: msgspec.convert(value, type(known[name])) if isinstance(known[name], msgspec.Struct) else value
        for name, value in change.items()
    }
    return structs.replace(dialect, **converted)


def find_differing_fields(rejected: bytes, accepted: bytes) -> str:
    """Return the fields of a rejected request body that the accepted body lacks or has with other values.

    They show the probable cause of the rejection. The result is JSON text, in which long values are cut.
    """
    try:
        before, after = json.loads(rejected), json.loads(accepted)
    except ValueError:
        return ""
    differing = [name for name, value in before.items() if name not in after or after[name] != value]
    differing.sort(key=lambda name: name == "messages")  # texts that replace a field are less relevant than the field
    return ", ".join(f'"{name}": {_shorten(_differing_item(before[name], after.get(name)))}' for name in differing)


def _differing_item(value: Any, other: Any) -> Any:
    """Return the first item of the list `value` that is not in the list `other`. For other values: `value` itself."""
    if isinstance(value, list) and isinstance(other, list):
        return next((item for item in value if item not in other), value)
    return value


def _shorten(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_EXCERPT_CHARACTERS // 2 else f"{text[: MAX_EXCERPT_CHARACTERS // 2 - 1]}…"
