"""TLS settings for clients of the fakes, which speak HTTP without TLS on loopback."""

import ssl

NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts no certificate. An HTTP client with the certificates of all public authorities needs 25 ms to open."""
