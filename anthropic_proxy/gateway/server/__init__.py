"""HTTP server for the clients of the proxy: `process` runs it in one process, `http1` implements HTTP/1.1."""
