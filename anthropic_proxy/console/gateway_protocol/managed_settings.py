"""`GET /managed/settings`: the settings that each machine with Claude Code asks for at its start, and once an hour.

Claude Code does not start if the answer is an error, so that nothing here may fail: settings that cannot be generated
are left out. The answer contains no secret, and whoever edits its tables can run programs on all machines.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from anthropic_proxy.console.gateway_protocol.generated_settings import GeneratedSettings
from anthropic_proxy.console.keys.limits import Scope
from anthropic_proxy.console.keys.machine_reports import MachineReport
from anthropic_proxy.errors import PermissionDenied, ProxyError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.sign_in_tables import EVERYBODY
from anthropic_proxy.plugins import Client, Gateway, RouteRequest, RouteResponse

PATH = "/managed/settings"


async def serve_managed_settings(
    request: RouteRequest,
    gateway: Gateway[Settings],
    scopes: Sequence[Scope],
    generated_settings: GeneratedSettings,
    note_machine: Callable[[MachineReport], None],
) -> RouteResponse:
    """`scopes`: the key and its team. `note_machine` stores which settings the machine has. Raises `PermissionDenied`
    for a key that may use no model: Claude Code then tells its user to ask the company.
    """
    try:
        generated = await generated_settings.find(gateway, [scope.rules for scope in scopes])
    except ProxyError:
        raise
    except Exception as error:  # noqa: BLE001  # a defect must not stop all clients
        gateway.log_warning_each_time(
            f"Managed settings were sent without those of the proxy: {type(error).__name__}: {error}"
        )
        generated = {}
    if generated.get("availableModels") == []:
        raise PermissionDenied(
            f"{scopes[0].describe()} allows no model of Claude Code.",
            remedy=f"Another list:  {scopes[0].format_change_command('--models LIST')}",
            wish="models",
            code="key-models",
        )
    settings = merge_settings(generated, find_group_settings(request.client, gateway.settings.managed_settings))
    checksum = calculate_checksum(settings)
    headers = {"etag": f'"{checksum}"', "cache-control": "no-store"}
    held = request.headers.get("if-none-match", "").strip().removeprefix("W/").strip('"')
    if request.client.key_id:
        program = request.headers.get("user-agent", "")
        note_machine(MachineReport(request.client.sign_in, time.time(), program, held, checksum))
    if held == checksum:
        return RouteResponse(status=HTTPStatus.NOT_MODIFIED, headers=headers)
    body = {"uuid": checksum, "checksum": checksum, "settings": settings}
    return RouteResponse(headers={**headers, "content-type": "application/json"}, body=msgspec.json.encode(body))


def find_group_settings(client: Client, tables: Mapping[str, Mapping[str, object]]) -> Mapping[str, object]:
    """Return the first table that names a group of the person, the team of the key, or everybody."""
    names = {*client.groups, client.team, EVERYBODY}
    return next((table for group, table in tables.items() if group in names), {})


def merge_settings(generated: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with those of a table over the generated ones. Tables in both are merged in the same way;
    any other value, also a list, is replaced.
    """
    merged = dict(generated)
    for name, value in table.items():
        before = merged.get(name)
        both = isinstance(before, dict) and isinstance(value, dict)
        merged[name] = merge_settings(before or {}, value) if both else value
    return merged


def calculate_checksum(settings: Mapping[str, Any]) -> str:
    """Return the checksum as Claude Code 2.1.332 calculates it: numbers have the form of JavaScript."""
    text = json.dumps(_to_script_numbers(settings), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _to_script_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _to_script_numbers(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_script_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
