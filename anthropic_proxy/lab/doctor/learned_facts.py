"""Limits and features of models that the doctor observed, in the format of a file that the proxy reads at its start.

`list_learned_models` returns them.
"""

from collections.abc import Sequence
from datetime import date

from anthropic_proxy.lab.doctor.findings import Diagnosis
from anthropic_proxy.routing.catalog import LearnedModel
from anthropic_proxy.routing.router import build_server_name


def list_learned_models(diagnoses: Sequence[Diagnosis], today: date) -> list[LearnedModel]:
    """Return the limits and features of models that the doctor observed.

    `today` is stored as the date of the observation.
    """
    # without models of Ollama, which reports these values itself
    return [
        learned
        for diagnosis in diagnoses
        if diagnosis.problem is None
        and not diagnosis.backend.target.provider.uses_installed_models
        and (learned := _learn(diagnosis, today)) is not None
    ]


def _learn(diagnosis: Diagnosis, today: date) -> LearnedModel | None:
    images = diagnosis.state_of("images")
    # the probe of images is a streamed request, which a server without streaming rejects for another reason
    is_unknown = images == "untested" or diagnosis.state_of("streaming") == "unsupported"
    accepts_images = None if is_unknown else images != "unsupported"
    facts = (diagnosis.context_window, diagnosis.max_output, *diagnosis.efforts)
    if not any(facts) and accepts_images is None:
        return None
    reasons = [diagnosis.limits_source]
    if accepts_images is False:
        reasons.append(diagnosis.outcomes["images"].reason)
    target = diagnosis.found_target
    return LearnedModel(
        server=build_server_name(target.provider, target.base_url),
        model=target.model,
        observed_on=today,
        evidence="; ".join(filter(None, reasons)) or "observed by probes",
        context_window=diagnosis.context_window,
        max_output=diagnosis.max_output,
        accepts_images=accepts_images,
        efforts=tuple(diagnosis.efforts),
    )
