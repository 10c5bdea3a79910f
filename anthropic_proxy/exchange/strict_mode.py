"""`require_lossless`: rejects a request in fidelity mode `strict` if its target can serve it only with losses."""

from anthropic_proxy.errors import UnsupportedFeature
from anthropic_proxy.messages.fidelity import FidelityReport
from anthropic_proxy.routing.router import Target

_LISTED = 20
"""Maximum number of lost fields that the error message lists."""


def require_lossless(report: FidelityReport, target: Target) -> None:
    """In fidelity mode `strict`, raise `UnsupportedFeature` if the upstream request loses fields of the client request.

    The message names the lost fields. In other modes, do nothing.
    """
    losses = report.lossy_notes()
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
