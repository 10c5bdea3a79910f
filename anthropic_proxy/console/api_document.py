"""`GET /api/openapi.json`: the paths below `/api` and `/admin` that the server has, as an OpenAPI document."""

from functools import partial

import msgspec

from anthropic_proxy.console.ledger.reader_threads import ReaderThreads
from anthropic_proxy.console.openapi import Schema, build_json_response, build_openapi
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Plugin, Route, RouteRequest, RouteResponse

PATH = "/api/openapi.json"
_ABOUT = "Stored requests and sums of usage. The access rules are those of the Messages API."
_SCIM = "People and groups below /scim/v2 have the form of RFC 7643 and 7644, which /scim/v2/Schemas describes."


def open_plugin(settings: Settings) -> Plugin:
    threads = ReaderThreads()

    async def respond(request: RouteRequest) -> RouteResponse:
        build = partial(build_document, has_keys=settings.virtual_keys, has_budgets=bool(settings.budgets))
        document = await threads.run(request.client.payer, build)
        return build_json_response(msgspec.json.encode(document))

    return Plugin(routes=[Route(path=PATH, respond=respond)], stop=threads.stop)


def build_document(*, has_keys: bool = True, has_budgets: bool = True) -> Schema:
    """`has_keys`: with virtual keys. `has_budgets`: with `BUDGET`."""
    from anthropic_proxy.console.ledger import api as ledger  # noqa: PLC0415  # loads SQLAlchemy
    from anthropic_proxy.console.session_models import api as session_models  # noqa: PLC0415

    paths = {**ledger.build_paths(), **session_models.build_paths()}
    schemas = {**ledger.build_schemas(), **session_models.build_schemas()}
    if has_budgets:
        from anthropic_proxy.console.keys import own_budget  # noqa: PLC0415  # only if it is used

        paths |= own_budget.build_paths()
    if has_keys:
        from anthropic_proxy.console.keys import api as keys  # noqa: PLC0415  # only if it is used

        paths |= keys.build_paths()
        schemas |= keys.build_schemas()
    about = f"{_ABOUT} {_SCIM}" if has_keys else _ABOUT
    return build_openapi("usage ledger", about, paths, schemas, needs_key=False)
