"""`require_lossless`: in fidelity mode `strict`, rejects a request that the provider can serve only with losses."""

from anthropic_proxy.errors import UnsupportedFeature
from anthropic_proxy.messages.fidelity import FidelityReport
from anthropic_proxy.routing.router import Target

_LISTED = 20
"""Maximum number of lost fields that the error message lists."""


def require_lossless(report: FidelityReport, target: Target) -> None:
    """Raise `UnsupportedFeature` in mode `strict` if the upstream request drops fields of the client request."""
    losses = report.list_rejected_losses()
    if not losses:
        return
    listed = "; ".join(f"{note.field}: {note.reason}" for note in losses[:_LISTED])
    more = f"; and {len(losses) - _LISTED} more" if len(losses) > _LISTED else ""
    raise UnsupportedFeature(
        f"{target.provider.prefix}/{target.model} would lose {listed}{more}. FIDELITY=strict rejects this. "
        "Remove it from the request, choose another backend, or allow it with FIDELITY=best-effort "
        "(FIDELITY_<TIER> for one "
        "tier)."
    )
