"""HTTP server for clients: connections, authentication, request limits, endpoints, responses, server processes."""
