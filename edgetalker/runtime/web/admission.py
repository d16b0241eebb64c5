"""Who may talk to a server of ours: the same rules for the WebSocket sink, the viewer's page and `edgetalker serve`.

A browser says in `Host` which name it used (RFC 9110 7.2) and in `Origin` which page asks (RFC 6454). A foreign page
can reach a server on loopback, also under a name of its own that it lets point there (DNS rebinding); it cannot choose
what `Host` and `Origin` say, and it does not know the token.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from edgetalker.engines.errors import InputError
from edgetalker.engines.files import read_text

if TYPE_CHECKING:
    from websockets.datastructures import Headers

__all__ = ["Admission", "host_names", "is_loopback", "origins", "read_token"]

_log = logging.getLogger("edgetalker.outputs")
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#\s@]+)/?", re.IGNORECASE)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
TOLD = 8
"""Different refusals that are told in full; further ones are only counted."""


class Admission:
    """Decides on each request, and tells what it refused, once for each reason.

    name: what messages call the server. token: what must be asked for ("" for none). origins: further pages that may
    connect. hosts: further names that it may be reached under. public: it may be reached by any address. named: only
    known names may be used, which protects what needs no token. add: how whoever started the server lets a client in,
    with places for the option and its value. note: called at each refusal with its kind: "bad
    request", "wrong host", "wrong origin" or what `turn_away` was given.
    """

    def __init__(
        self,
        name: str,
        *,
        token: str = "",
        origins: Iterable[str] = (),
        hosts: Iterable[str] = (),
        public: bool = False,
        named: bool = False,
        add: str = "{}={}",
        note: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self.name = name
        self._token, self._hosts = token.encode(), frozenset(hosts)
        self._origins = frozenset(map(_normal, origins))
        self._public, self._named, self._add, self._note = public, named, add, note
        self._told: set[str] = set()

    def refusal(self, headers: Headers) -> tuple[int, str] | None:
        """Return status and text for a request under a foreign name or from a foreign page; None lets it through."""
        given = headers.get_all("Host")
        if len(given) != 1 or len(headers.get_all("Origin")) > 1:
            return self.turn_away(400, "one Host and at most one Origin are wanted", reason="bad request")
        host = _host(given[0])
        if self._named and not self._knows(host):
            why = f"it was asked for as `{given[0]}`; add {self._add.format('allow', host)} if that is right"
            return self.turn_away(403, why, reason="wrong host")
        origin = headers.get("Origin")
        if origin is not None and not self._welcome(origin, host):
            why = f"a page of `{origin}` asked; add {self._add.format('origin', origin)} if it may"
            return self.turn_away(403, why, reason="wrong origin")
        return None

    def knows_token(self, target: str, authorization: str = "") -> bool:
        """Return whether a request carries the token, if one is wanted: in its target, percent-decoded (RFC 3986 2.1),
        or as `Authorization: Bearer …` (RFC 6750).

        A `+` may mean itself or, as forms have it, a space. The time it takes says nothing about the token.
        """
        given = next((part[6:] for part in target.partition("?")[2].split("&") if part.startswith("token=")), "")
        shown = authorization.removeprefix("Bearer ").encode("utf-8", "surrogateescape")
        told = unquote_to_bytes(given), unquote_to_bytes(given.replace("+", " ")), shown
        fits = [hmac.compare_digest(it, self._token) for it in told]
        return not self._token or any(fits)

    def turn_away(self, status: int, why: str, *, reason: str) -> tuple[int, str]:
        """Count a refusal of a kind, tell it if it is new, and return it."""
        self._note(reason)
        if why not in self._told and len(self._told) < TOLD:
            self._told.add(why)
            _log.warning("%s turned a client away: %s", self.name, why)
        return status, why + "\n"

    def _knows(self, host: str) -> bool:
        return host in self._hosts or is_loopback(host) or (self._public and _address(host) is not None)

    def _welcome(self, origin: str, host: str) -> bool:
        own = _normal(origin)
        if own in self._origins:
            return True
        scheme, _, rest = own.partition("://")
        if scheme not in ("http", "https"):
            return False
        page = _host(rest)
        if is_loopback(page) or (self._named and page in self._hosts):
            return True
        # Under a name of its own a foreign page can reach us, too: then the names we know or the token keep it out.
        return page == host and (self._named or bool(self._token))


def is_loopback(host: str) -> bool:
    """Return whether a name or an address means this machine only."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _host(text: str) -> str:
    """Return the name in `name:port`, `[address]:port` or either without a port, in lower case."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](:\d*)?", text)
    return bracketed[1].lower() if bracketed else text.partition(":")[0].lower()


def _normal(origin: str) -> str:
    """Return an origin as browsers write it: lower case, no slash at the end, no port that its scheme implies."""
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        return origin
    scheme, rest = match[1].lower(), match[2]
    if scheme in _DEFAULT_PORTS:
        rest = rest.lower().removesuffix(_DEFAULT_PORTS[scheme])
    return f"{scheme}://{rest}"


def _words(value: Any) -> list[str]:
    return value.split(",") if isinstance(value, str) else list(map(str, value)) if isinstance(value, list) else [""]


def origins(value: Any) -> tuple[str, ...]:
    """Read serialized origins (RFC 6454 6.2): scheme://host[:port] of any scheme, or null."""
    words = _words(value)
    if not all(word == "null" or _ORIGIN.fullmatch(word) for word in words):
        raise ValueError("wants origins such as https://example.org, tauri://localhost or null, with commas between")
    return tuple(map(_normal, words))


def host_names(value: Any) -> tuple[str, ...]:
    """Read names that a server may be reached under."""
    words = _words(value)
    if not all(re.fullmatch(r"[A-Za-z0-9.:_-]+", word) for word in words):
        raise ValueError("wants host names such as kiosk.local, with commas between")
    return tuple(word.lower() for word in words)


def read_token(path: Path) -> str:
    """Return the word that a file holds. Raises InputError when it cannot be read, or is too short to be a secret."""
    make = f"python3 -c 'import secrets; print(secrets.token_urlsafe(24))' > {path}"
    try:
        token = read_text(path, 1 << 12).strip()
    except (OSError, ValueError) as error:
        raise InputError(f"token file {path}: {getattr(error, 'strerror', None) or error}", hint=make) from None
    if len(token) < 16 or not token.isprintable() or " " in token:
        raise InputError(f"token file {path}: one word of at least 16 characters was wanted", hint=make)
    return token
