"""Mutual TLS with roles in the certificates; plain HTTP is for loopback only.

Each side verifies the other's chain against the job's own authority, and its URI name
(`contract.env.identity`) right after the handshake, before any of its data is read. Certificate
files are read again when they change.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

from trainyard_trainer.contract.env import TLS_DIR, Role, identity

FILES: Final = ("ca.crt", "tls.crt", "tls.key")


def names(certificate: Any) -> set[str]:
    """The URI names in a peer certificate as `ssl` parses it; empty without one."""
    found = (certificate or {}).get("subjectAltName", ())
    return {value for kind, value in found if kind == "URI"}


def _check(certificate: Any, allowed: Collection[str], group: str) -> None:
    """Raise unless the peer has one of the allowed names, or the name of a member of `group`."""
    found = names(certificate)
    if not found & set(allowed) and not any(group == name.rpartition("/")[0] for name in found):
        who = ", ".join(sorted(found)) or "a certificate without a name"
        raise ssl.SSLCertVerificationError(f"the peer is {who}, not {' or '.join(allowed)}")


def _restrict_peers(context: ssl.SSLContext, allowed: Collection[str], group: str) -> None:
    """Have handshakes by `context`, in asyncio and blocking, fail unless the peer is allowed."""

    class CheckedObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            _check(self.getpeercert(), allowed, group)

    class CheckedSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            _check(self.getpeercert(), allowed, group)

    context.sslobject_class = CheckedObject
    context.sslsocket_class = CheckedSocket


@dataclass(slots=True, kw_only=True)
class Credentials:
    """A process's certificate, key and authority, and the SSL contexts made from them."""

    namespace: str
    job: str
    directory: str = TLS_DIR
    _stamp: tuple[int, ...] = ()
    _contexts: dict[bool, ssl.SSLContext] = field(default_factory=dict)

    @property
    def exist(self) -> bool:
        """Whether there are certificates; without them only loopback is allowed."""
        return all(os.path.exists(os.path.join(self.directory, name)) for name in FILES)

    def peer(self, role: Role, member: str = "") -> str:
        """The URI name of a peer of this job in `role`, as `member` of it where that is given."""
        return identity(self.namespace, self.job, role, member)

    def server(self) -> ssl.SSLContext:
        """A context that accepts any role of this job; new handshakes use renewed files."""

        def renew(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            connection.context = self._context(server=True)

        outer = self._make(server=True)
        outer.sni_callback = renew  # Called for each handshake, with a server name or without.
        return outer

    def client(self) -> ssl.SSLContext:
        """A context that accepts only this job's coordinator."""
        return self._context(server=False)

    def _context(self, *, server: bool) -> ssl.SSLContext:
        paths = [os.path.join(self.directory, name) for name in FILES]
        stamp = tuple(value for s in map(os.stat, paths) for value in (s.st_mtime_ns, s.st_ino))
        if stamp != self._stamp:
            self._contexts.clear()
            self._stamp = stamp
        if server not in self._contexts:
            self._contexts[server] = self._make(server=server)
        return self._contexts[server]

    def _make(self, *, server: bool) -> ssl.SSLContext:
        authority, certificate, key = (os.path.join(self.directory, name) for name in FILES)
        purpose = ssl.Purpose.CLIENT_AUTH if server else ssl.Purpose.SERVER_AUTH
        context = ssl.create_default_context(purpose, cafile=authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        if not server:
            # The pod's address changes with each attempt; the URI name identifies the peer better.
            context.check_hostname = False
        context.load_cert_chain(certificate, key)
        allowed = Role if server else (Role.COORDINATOR,)
        # Parties have names of their own: a server accepts each of them, a client none.
        group = self.peer(Role.PARTY) if server else ""
        _restrict_peers(context, [self.peer(role) for role in allowed], group)
        return context


def is_loopback(host: str) -> bool:
    """Whether `host` can only be this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
