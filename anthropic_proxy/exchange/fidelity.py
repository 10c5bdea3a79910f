"""The policy `strict`: what a target could only do with losses is refused before it is sent."""

from anthropic_proxy.errors import UnsupportedFeature
from anthropic_proxy.messages.notes import Report
from anthropic_proxy.routing.router import Target

_LISTED = 20
"""Losses that a refusal lists."""


def expect_no_loss(report: Report, target: Target) -> None:
    """Raise `UnsupportedFeature` that names every field that would be lost, where the policy forbids that."""
    losses = report.losses()
    if not losses:
        return
    listed = "; ".join(f"{note.field}: {note.reason}" for note in losses[:_LISTED])
    more = f"; and {len(losses) - _LISTED} more" if len(losses) > _LISTED else ""
    raise UnsupportedFeature(
        f"{target.provider.prefix}/{target.model} would lose {listed}{more}. FIDELITY=strict refuses that. Leave it "
        "out of the request, choose another backend, or allow it with FIDELITY=best-effort (FIDELITY_<TIER> for one "
        "tier)."
    )
