"""Proxies of the environment are for the outside world: a server on this machine is never asked through one."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

_environment = threading.Lock()


def server_at(url: str) -> SplitResult | None:
    """The parts of an address, None where it has no host, or a port that there cannot be."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.hostname else None


def is_loopback(url: str) -> bool:
    """Whether the address is this machine's own: localhost, 127.0.0.0/8 or ::1."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def direct(url: str) -> Iterator[None]:
    """Clients that are made inside reach `url` without a proxy where it is this machine's, whatever they are.

    For a library that makes its own clients and takes no option: the environment says so for as long as that takes,
    which no client for another address minds.
    """
    if not is_loopback(url):
        yield
        return
    with _environment:
        before = os.environ.get("no_proxy")
        os.environ["no_proxy"] = f"{getproxies().get('no', '')},{urlsplit(url).hostname}".lstrip(",")
        try:
            yield
        finally:
            del os.environ["no_proxy"]
            if before is not None:
                os.environ["no_proxy"] = before
