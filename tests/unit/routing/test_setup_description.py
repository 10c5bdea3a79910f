"""Description of the providers for plugins: open circuits and keys in cooldown."""

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.routing.health import FAILURES_TO_OPEN, MIN_OPEN_SECONDS, CircuitBreakers
from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.gateway.readiness import describe_setup
from anthropic_proxy.gateway.settings import load_settings


def test_a_provider_is_described_with_its_circuit_and_cooldowns() -> None:
    settings = load_settings({"GROQ_API_KEY": "key-one,key-two"}, PROVIDERS, env_file=None)
    breakers = CircuitBreakers(clock=lambda: 100.0)
    credentials = Credentials(settings, clock=lambda: 100.0)
    before = {one.name: one for one in describe_setup(settings, Catalog(), breakers, credentials).providers}
    assert (before["groq"].open_seconds, before["groq"].cooldowns, before["groq"].key_count) == (0.0, [], 2)
    for _ in range(FAILURES_TO_OPEN):
        breakers.record_failure("groq api.groq.com", UpstreamError("groq returned HTTP 503.", status=503))
    credentials.start_cooldown("key-two", 30.0)
    found = {one.name: one for one in describe_setup(settings, Catalog(), breakers, credentials).providers}
    groq = found["groq"]
    assert (groq.open_seconds, groq.failure) == (MIN_OPEN_SECONDS, "groq returned HTTP 503.")
    assert (groq.cooldowns, groq.key_count) == ([30.0], 2)
    assert (found["openai"].open_seconds, found["openai"].failure) == (0.0, "")
