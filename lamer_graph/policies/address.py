"""Addresses of servers: what is a server's address, where its routes are, and which never go through a proxy.

What must stay true: the path of an address is the server's business and is kept (`/v1beta/openai`); `/v1` stands in
where none is given. A server on this machine is spoken to directly, whatever proxies the environment names.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx2

from lamer_graph.errors import ConfigError


class Address(NamedTuple):
    """`api` has the chat routes below it, `root` the server's others (vLLM's `/tokenize`); `shown` is for error texts,
    without user and password; `trust_env` says whether proxies of the environment count."""

    api: str
    root: str
    shown: str
    trust_env: bool


def read_address(base_url: str) -> Address:
    """Take an OpenAI-style base URL apart. Raises ConfigError for a malformed one."""
    try:
        parts = urlsplit(base_url)
        _ = parts.port, httpx2.URL(base_url)
    except (ValueError, httpx2.InvalidURL):
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        shown = re.sub(r"//[^/]*@", "//", base_url)[:100]
        raise ConfigError(f"policy address must look like http://host:port/v1, not {shown!r}")
    api = base_url.rstrip("/")
    if not parts.path.strip("/"):
        api += "/v1"
    root = api.removesuffix("/v1")
    shown = root.replace(f"{parts.netloc.rpartition('@')[0]}@", "") if "@" in parts.netloc else root
    return Address(api, root, shown, not is_this_machine(parts.hostname))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it: all of 127.0.0.0/8, ::1 and localhost."""
    if host.rstrip(".").lower() == "localhost" or host.rstrip(".").lower().endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


def is_this_machine(host: str) -> bool:
    """Whether a client that connects to it stays on this machine: loopback, or a server's "every interface"."""
    return is_loopback(host) or host in ("0.0.0.0", "::")
