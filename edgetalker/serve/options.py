"""Where a server listens and whom it lets in; the same for HTTP, WebSocket and gRPC."""

from __future__ import annotations

import hmac
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgetalker.engines.errors import InputError, OptionError
from edgetalker.runtime.web.admission import is_loopback

__all__ = ["Address", "Door", "address"]


@dataclass(frozen=True)
class Address:
    """Host and port of a listening socket; port 0 is any that is free."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address(text: str) -> Address:
    """Parse `host:port`, `[::1]:port` or `port`. Raises OptionError."""
    host, _, port = text.rpartition(":")
    name = host[1:-1] if host[:1] == "[" and host[-1:] == "]" else host
    # int() refuses numbers of thousands of digits, and isdigit() takes letters such as a small two.
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else -1
    if not 0 <= number <= 65535 or re.search(r"[\[\]\s/]", name) or (":" in name and name == host):
        raise OptionError(f"address `{text}`; host:port was wanted", hint="such as 127.0.0.1:8080, or [::1]:8080")
    return Address(name or "127.0.0.1", number)


@dataclass(frozen=True)
class Door:
    """Who is let in, and how much.

    token: what a client must show, as `Authorization: Bearer …` or `?token=…`. origins: web pages of other origins that
    may connect. hosts: further names that it may be reached under (behind a proxy). connections: most at a time.
    message: bytes of a message. rate: control messages a second and connection. idle: seconds without a message after
    which a connection that plays nothing is closed. cert, key: PEM files for TLS.
    """

    token: str = ""
    origins: Sequence[str] = ()
    hosts: Sequence[str] = ()
    connections: int = 256
    message: int = 1 << 18
    rate: float = 200.0
    idle: float = 60.0
    cert: Path | None = None
    key: Path | None = None

    def check(self, *addresses: Address) -> None:
        """Raise OptionError for an address that other machines reach and that has no token."""
        if (self.cert is None) != (self.key is None):
            raise OptionError("TLS takes a certificate and its key", hint="--tls-cert FILE --tls-key FILE")
        for where in addresses:
            if not where.loopback and not self.token:
                raise OptionError(
                    f"listening on {where} would let everybody on the network in",
                    hint="--token-file FILE, or 127.0.0.1",
                )

    def admits(self, token: str) -> bool:
        """Return whether the token is the right one, in a time that does not tell how much of it is."""
        return not self.token or hmac.compare_digest(token.encode(), self.token.encode())

    def tls(self) -> ssl.SSLContext | None:
        """Return a server's TLS context. Raises InputError for files that are no certificate and key."""
        if self.cert is None or self.key is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            raise InputError(
                f"{self.cert}, {self.key}: {error}", hint="PEM files of a certificate and its key"
            ) from None
        return context
