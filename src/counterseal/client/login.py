"""Gets a person's OIDC token from a development stack's issuer (resource owner password grant, loopback TLS).

Production clients bring a token from their own identity provider; this is for `counterseal dev`, demo and tests.
"""

import http.client
import ssl
import urllib.parse

from counterseal.canonical import parse_strict
from counterseal.client.profile import Profile
from counterseal.errors import InputInvalid, NotCanonical, TokenInvalid
from counterseal.rpc.status import PeerUnavailable

TIMEOUT_SECONDS = 10.0


def password_login(profile: Profile, username: str) -> str:
    """Return a fresh OIDC JWT for a development user, made for this profile's client. Blocks for some milliseconds.

    Raises InputInvalid when the profile names no issuer, TokenInvalid when the user is unknown there, PeerUnavailable.
    """
    login = profile.login
    if login is None:
        raise InputInvalid("this profile names no development issuer; pass a token of your own identity provider")
    url = urllib.parse.urlsplit(login.issuer)
    fields = {
        "grant_type": "password",
        "client_id": profile.client_id,
        "username": username,
        "password": login.password_file.read_text(encoding="utf-8").strip(),
    }
    try:
        form = urllib.parse.urlencode(fields)
    except UnicodeEncodeError:  # half of a surrogate pair
        raise TokenInvalid("the name cannot be sent, so nobody has it") from None
    context = ssl.create_default_context(cafile=str(login.ca_file))
    connection = http.client.HTTPSConnection(url.netloc, timeout=TIMEOUT_SECONDS, context=context)
    try:
        connection.request("POST", "/token", form, {"content-type": "application/x-www-form-urlencoded"})
        answer = connection.getresponse()
        body = answer.read(65_536)
    except (OSError, http.client.HTTPException):
        raise PeerUnavailable("the issuer did not answer") from None
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise TokenInvalid("the issuer refused the login", user=username)
    try:
        token = parse_strict(body).get("id_token")
    except NotCanonical:
        token = None
    if not isinstance(token, str):
        raise TokenInvalid("the issuer's answer holds no token", user=username)
    return token
