"""Limits and features of models that the doctor observed, which the proxy uses from its next start or reload."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from msgspec import structs

from anthropic_proxy.console.doctor.findings import Diagnosis
from anthropic_proxy.engine.providers.catalog import LearnedModel, store_learned_models
from anthropic_proxy.engine.providers.hosts import build_server_name
from anthropic_proxy.engine.providers.model_facts import ModelCapabilities
from anthropic_proxy.engine.providers.provider_models import MODEL_LIST


def store_facts(data_directory: Path, diagnoses: Sequence[Diagnosis]) -> int:
    """Store the limits and features of models that the doctor observed. Return the number of models that a proxy then
    uses in another way. A model without any is stored too: the command `code` then does not propose to examine it.

    Raises `TimeoutError` if another run stores its facts at this time, and `OSError`.
    """
    today, examined = date.today(), list[tuple[ModelCapabilities, LearnedModel]]()
    for diagnosis in diagnoses:
        if diagnosis.problem is not None or diagnosis.backend.target.provider.uses_installed_models:
            continue  # Ollama reports these values itself
        learned = build_learned_model(diagnosis, today)
        used = diagnosis.backend.target.capabilities
        if diagnosis.limits_source == MODEL_LIST and not used.known:  # the proxy reads the list itself
            used = structs.replace(learned, accepts_images=None, efforts=()).apply(used)
        examined.append((used, learned))
    if examined:
        store_learned_models(data_directory, [learned for _, learned in examined], today)
    return sum(learned.apply(used) != used for used, learned in examined)


def build_learned_model(diagnosis: Diagnosis, today: date) -> LearnedModel:
    images = diagnosis.state_of("images")
    # the probe of images is a streamed request, which a server without streaming rejects for another reason
    is_unknown = images == "untested" or diagnosis.state_of("streaming") == "unsupported"
    accepts_images = None if is_unknown else images != "unsupported"
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
