"""Certificates that the servers behind one host name present, without a check of who issued them."""

import asyncio
import hashlib
import ssl
from collections.abc import Mapping

from anthropic_proxy.engine.upstream.http.names import NAMES

_CONNECT_SECONDS = 5.0
_MAX_ADDRESSES = 32


async def read_fingerprints(host: str, port: int) -> Mapping[str, str | OSError]:
    """Return IP address → SHA-256 of its certificate in hexadecimal digits, or the error of the connection. Raises
    `OSError` if the host name is unknown.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent

    async def read(address: str) -> str | OSError:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                _, writer = await asyncio.open_connection(address, port, ssl=context, server_hostname=host)
        except TimeoutError:
            return OSError("no answer")
        except OSError as error:  # also of TLS
            return error
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return hashlib.sha256(certificate or b"").hexdigest()

    infos = await NAMES.find_addresses(host, port)
    addresses = list(dict.fromkeys(str(info[4][0]) for info in infos))[:_MAX_ADDRESSES]
    found = await asyncio.gather(*map(read, addresses))
    return dict(zip(addresses, found, strict=True))
