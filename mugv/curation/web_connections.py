"""Sessions whose every connection is shown to its owner before anything is sent on it, and how near an address is."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from requests import Session

FAR, PRIVATE, LOOPBACK, NEAR = range(4)
"""Of the internet, of a private network, of this machine, link-local (where clouds serve a machine's own secrets)."""
Seen = Callable[[socket.socket, bool], None]
"""Called with each new connection, and whether it goes to the server itself and not to a proxy. May raise."""


def scope_of(host: str) -> int | None:
    """FAR, PRIVATE, LOOPBACK or NEAR; None for a name that only a name server knows."""
    if host == "localhost" or host.endswith(".localhost"):
        return LOOPBACK
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None) or address
    if inner.is_link_local:
        return NEAR
    if inner.is_loopback or inner.is_unspecified:
        return LOOPBACK
    return FAR if inner.is_global and not inner.is_multicast else PRIVATE


def new_session(seen: Seen) -> Session:
    """Proxies, certificates and .netrc as the environment says; no retries, nothing compressed."""
    import requests

    from mugv import __version__

    session = requests.Session()
    session.headers.update({"User-Agent": f"mugv/{__version__}", "Accept-Encoding": "identity"})
    for scheme in ("http://", "https://"):
        session.mount(scheme, _adapter(seen))
    return session


def _adapter(seen: Seen) -> Any:
    from requests.adapters import HTTPAdapter
    from urllib3 import ProxyManager

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
            super().init_poolmanager(*arguments, **named)
            self.poolmanager.pool_classes_by_scheme = _pools(seen, direct=True)

        def proxy_manager_for(self, *arguments: Any, **named: Any) -> Any:
            manager = super().proxy_manager_for(*arguments, **named)
            if isinstance(manager, ProxyManager):
                manager.pool_classes_by_scheme = _pools(seen, direct=False)
            return manager

    return Adapter()


def _pools(seen: Seen, direct: bool) -> dict[str, type]:
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            made = super()._new_conn()
            seen(made, direct)
            return made

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            made = super()._new_conn()
            seen(made, direct)
            return made

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
