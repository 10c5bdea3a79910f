"""The Messages API, as a provider behind a gateway."""
