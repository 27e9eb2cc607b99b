"""Redirects of a download that are followed: to other servers, not to this machine or to its files."""

import http.client
import ipaddress
import socket
import urllib.parse
import urllib.request
from typing import IO

from his4mae_jax.errors import UserError


def is_own(host: str | None) -> bool:
    """Whether a host is this machine, or has an address that networks keep for themselves (also clouds' metadata)."""
    try:
        found = {info[4][0].partition("%")[0] for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False  # the connection says what is wrong with it
    addresses = [ipaddress.ip_address(address) for address in found]
    return any(not (getattr(a, "ipv4_mapped", None) or a).is_global for a in addresses)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:  # fmt: skip
        """Follows a redirect, or raises `UserError`: who answers for a public server must not reach private ones."""
        before, after = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if after.hostname != before.hostname and is_own(after.hostname) and not is_own(before.hostname):
            raise UserError(
                f"{req.full_url}: the server redirects to {newurl}, an address of this network; not followed"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> http.client.HTTPResponse | None:
        """Says which address is not followed: urllib refuses file: itself, with its own words."""
        target = urllib.parse.urljoin(req.full_url, headers.get("location") or headers.get("uri") or "")
        if urllib.parse.urlsplit(target).scheme not in ("http", "https"):
            raise UserError(f"{req.full_url}: the server redirects to {target}, which is no web address; not followed")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


open_url = urllib.request.build_opener(_Redirects).open  # in place of `urllib.request.urlopen`
