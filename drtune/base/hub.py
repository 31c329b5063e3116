"""Whether a hub can be asked, found out at once: its own client would try for half a minute, or a minute."""

import ssl
import urllib.error
import urllib.request

SECONDS = 5.0
"""Longest wait for the first answer."""


def silence_of(endpoint: str) -> str:
    """Why a hub cannot be asked; empty where it answers, be it with a refusal."""
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=SECONDS).close()
    except OSError as fault:
        reason = getattr(fault, "reason", fault)
        if not isinstance(fault, urllib.error.HTTPError) and not isinstance(reason, ssl.SSLError):
            return str(reason)
    return ""
