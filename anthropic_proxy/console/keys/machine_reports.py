"""Which managed settings the machines of a person have. Each tells it when it asks for them, at a start of Claude Code
and once an hour, and in each request if the settings have `CLAUDE_CODE_GATEWAY_HINT_HEADERS`. The store has the last
report of each machine for a month.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.plugins import Store

_SECONDS = 30 * 86_400.0
_MAX_MACHINES = 20
_MAX_CHARACTERS = 100


class MachineReport(Struct, frozen=True):
    machine: str
    """Id of the sign-in. "": a virtual key, which several machines may use."""
    at: float
    """Time in seconds since the epoch."""
    program: str
    """Program and version of the client: `claude-code/2.1.332`."""
    held: str
    """Checksum of the settings on the machine, before an answer with others. "": it had none."""
    sent: str = ""
    """Checksum of the settings that the proxy has sent last. "": as before."""

    def describe(self) -> str:
        """Return `3facd639, up to date, claude-code/2.1.332`."""
        held, sent = (version.removeprefix("sha256:")[:8] for version in (self.held, self.sent))
        state = f"{held}, up to date" if held == sent else f"{held or 'none'}, sent {sent or 'nothing'}"
        return f"{state}, {self.program}" if self.program else state


async def store_report(store: Store, key_id: str, report: MachineReport) -> None:
    """Raises `StoreUnavailable`."""
    known = await read_reports(store, key_id)
    others = [known_report for known_report in known if known_report.machine != report.machine]
    before = next((known_report for known_report in known if known_report.machine == report.machine), report)
    fields = {name: getattr(report, name)[:_MAX_CHARACTERS] for name in ("program", "held")}
    fields["sent"] = report.sent or before.sent
    if not report.held and before.held == report.sent:  # `claude -p` applies some settings without storing them
        fields["held"] = before.held
    reports = [msgspec.structs.replace(report, **fields), *others][:_MAX_MACHINES]
    await store.put(_name(key_id), msgspec.json.encode(reports).decode(), _SECONDS)


async def read_reports(store: Store, key_id: str) -> Sequence[MachineReport]:
    """The latest first. Raises `StoreUnavailable`."""
    text = await store.get(_name(key_id))
    try:
        return [] if text is None else decode_json(text, list[MachineReport])
    except InvalidJson:  # of another version
        return []


def _name(key_id: str) -> str:
    return f"managed-settings/{key_id}"
