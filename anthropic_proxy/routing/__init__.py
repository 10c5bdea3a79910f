"""Selection of the provider, model and credential that serve a request."""
