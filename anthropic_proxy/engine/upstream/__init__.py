"""All outgoing connections of the proxy. No other package opens any."""
