"""Which fields of a request a virtual key reads."""

from anthropic_proxy.gateway.server.request_views import MEMBER_FIELDS
from anthropic_proxy.plugins import Receipt

HIDDEN = {
    "adaptations": "what the server of the provider has rejected",
    "attempts": "addresses and errors of providers",
    "base_url": "address of a provider",
    "blocks": "for pages, which read the ledger",
    "cost": "`LoggedRequest.cost` has it",
    "fidelity": "notes can name settings",
    "inspections": "rules of the company, which would help to avoid them",
    "limit_headers": "headers of the response, which the client has",
    "message_count": "the client knows its request",
    "message_id": "the client knows its reply",
    "plain_form": "header of the response, which the client has",
    "remedy": "what an administrator would do",
    "route": "name of a setting",
    "route_reason": "name of a setting",
    "tool_count": "the client knows its request",
    "tool_errors": "the client knows its request",
    "tool_results": "the client knows its request",
    "tool_times": "the client has sent them",
    "trace": "for the traces of the company",
    "upstream_excerpt": "page of a gateway, which can name servers",
}
"""Field of a receipt that a virtual key does not read → reason."""


def test_each_field_of_a_request_is_read_by_virtual_keys_or_has_a_reason() -> None:
    """A new field demands a decision, because it can have facts about the server."""
    assert {*Receipt.__struct_fields__} - {*MEMBER_FIELDS} == HIDDEN.keys()
