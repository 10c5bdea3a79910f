"""The door: HTTP in and out. Knows neither a provider nor a wire."""
