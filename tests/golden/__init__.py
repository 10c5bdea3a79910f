"""Golden scenarios: what a client posts, what goes upstream, what comes back, what the client receives."""
