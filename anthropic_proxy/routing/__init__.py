"""Selection of the provider, model and API key for a client request, before the upstream request is built."""
