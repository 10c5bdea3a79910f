"""Golden scenarios: the client request, the upstream request, the upstream response, and the client response."""
