"""Command `replay`: sends a stored request again through the proxy on this machine, and prints the reply.

With `--check`, it examines a bug report, and sends nothing.
"""

import sys
from pathlib import Path

from anthropic_proxy.cli import EXIT_FAILED
from anthropic_proxy.cli.ask import print_reply
from anthropic_proxy.cli.case_check import check_case
from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.explain import replace_field
from anthropic_proxy.cli.ledger_access import require_stored_body, require_stored_request
from anthropic_proxy.cli.local_proxy import open_proxy
from anthropic_proxy.cli.output import Output
from anthropic_proxy.console.ledger.receipt_queue import EXCHANGE_PATH
from anthropic_proxy.errors import ConfigurationError, join_with_and


def replay(
    request: str | None = None,
    /,
    *,
    last: bool = False,
    model: str | None = None,
    as_json: bool = False,
    check: Path | None = None,
) -> None:
    """Parameters
    ----------
    request
        Id of the stored request, `req_…`, or its number, as in `explain 2`: 2 is the second last one.
    last
        Send the last stored request to a model again.
    model
        Model to request instead of the model in the stored text.
    as_json
        Print the events of the reply as JSON, one per line.
    check
        Folder of a bug report: compare its request to the provider with that of this version, and check its reply.
        Nothing is sent.
    """
    if check is not None:
        if request is not None or last or model is not None or as_json:
            raise ConfigurationError("--check is used alone: replay --check FOLDER.", code="explain-source")
        if not check_case(load_command_settings(is_client=True), check):
            sys.exit(EXIT_FAILED)
        return
    if request is None and not last:
        raise ConfigurationError(
            "REQUEST is missing. Use the id of a stored request, or --last. More:  anthropic-proxy replay --help",
            code="explain-source",
        )
    if request is not None and last:
        raise ConfigurationError(f"--last and {request} exclude each other. Use one of them.", code="explain-source")
    settings = load_command_settings(is_client=True)
    row = require_stored_request(settings, request or "1", path=EXCHANGE_PATH)
    if row.path != EXCHANGE_PATH:
        raise ConfigurationError(
            f"{row.id} is a request to {row.path}. Only requests to {EXCHANGE_PATH} can be sent again.",
            code="not-replayable",
        )
    body = replace_field(require_stored_body(settings, row, "replay"), "stream", True)
    if model is not None:
        body = replace_field(body, "model", model)
    with open_proxy(settings, "replay") as proxy:
        failed = print_reply(proxy, body, as_json=as_json, has_ledger=settings.server_has_ledger())
    if failed is None:
        return
    receipt = failed.receipt
    called = [] if receipt is None else [receipt.provider, *(attempt.provider for attempt in receipt.attempts)]
    for provider in dict.fromkeys(called):
        options = settings.call_options.get(provider)
        if options is not None and options.copied_headers:
            names = join_with_and(sorted(set(options.copied_headers.values())))
            text = f"Headers of clients are not stored, so a call to {provider} has no copy of {names}."
            Output().write_notice(text, "!")
    sys.exit(EXIT_FAILED)
