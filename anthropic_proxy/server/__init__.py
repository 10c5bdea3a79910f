"""HTTP server: authentication, request limits, endpoints, responses. Independent of providers and wires."""
