"""HTTP server for the clients of the proxy: connections, authentication, request limits, endpoints, responses.

`process` runs the server in one process. `http1` has the connections, and `endpoints` the URL paths.
"""
