"""No request may reach a private address, whatever a name or a redirect says (SSRF)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

# 64:ff9b::/96 (RFC 6052) carries an IPv4 address in its last 32 bits.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class AddressRefused(Exception):
    """The address is private, loopback, link-local, multicast or reserved."""


def is_public(address: str) -> bool:
    """Whether ``address`` (an IP literal) belongs to the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def guard_reactor(reactor: Any) -> None:
    """Make ``reactor.connectTCP`` refuse private addresses.

    Every connection (also TLS, after redirects, and each address a name resolves to) passes here
    with the address it will really dial, so a name cannot change between check and use.
    """
    connect: Callable[..., Any] = reactor.connectTCP

    def guarded(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if not is_public(host):
            raise AddressRefused(
                f"{host} is not a public address; set allow_private_addresses: true to crawl it"
            )
        return connect(host, port, *args, **kwargs)

    reactor.connectTCP = guarded
