"""HTTP server for the clients of the proxy: connections, authentication, request limits, endpoints, responses.

`process` runs the server in one process, `http1` implements HTTP/1.1 on client connections, and `endpoints` contains
the functions for the URL paths.
"""
