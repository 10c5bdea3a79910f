"""The running server: settings, HTTP, endpoints, workers, shared limits, telemetry."""
