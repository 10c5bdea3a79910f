"""The facts of docs/contributing/plugins.md. tests/processes/test_plugins.py runs its examples."""

import ast
import re

from anthropic_proxy import app
from anthropic_proxy.gateway.server.endpoints import PROBE_PATHS
from anthropic_proxy.gateway.telemetry.requests import MAX_QUEUED_RECEIPTS
from anthropic_proxy.plugins import Receipt
from tests.support.paths import ROOT

PAGE = (ROOT / "docs/contributing/plugins.md").read_text("utf-8")
OTHER_NAMES = {
    "values of a receipt": {"cancelled"},
    "names of the HTTP API": {"count_tokens"},
    "names of other modules": {
        "ClientError",
        "MAX_UPSTREAM_CALLS",
        "PermissionDenied",
        "ProxyError",
        "redact_secrets",
    },
}
"""Names in the tables of the page that the plugin interface does not define."""


def test_the_page_states_the_limits_of_the_code() -> None:
    assert f"{MAX_QUEUED_RECEIPTS:,} receipts" in PAGE
    assert f"{app.SHUTDOWN_GRACE_SECONDS:.0f} s" in PAGE
    assert all(f"`{path}`" in PAGE for path in PROBE_PATHS)


def interface_names() -> set[str]:
    """Return the names of classes, functions, parameters, attributes and fields in the modules of the interface."""
    names = set(Receipt.__struct_fields__)
    for path in (ROOT / "anthropic_proxy/plugins.py", ROOT / "anthropic_proxy/engine/hooks.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.arg):
                names.add(node.arg)
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def test_the_tables_use_the_names_of_the_interface() -> None:
    rows = "\n".join(line for line in PAGE.splitlines() if line.startswith("|"))
    # a name, or a call such as `record(request_id, point, data)`
    codes = re.findall(r"`([A-Za-z_]\w*(?:\([\w, ]*\))?)`", rows)
    names = set(re.findall(r"\w+", " ".join(codes)))
    assert names - interface_names() == set().union(*OTHER_NAMES.values())
