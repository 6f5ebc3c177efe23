"""Who may do what with repos: DVID's `[auth]` modes `token` and `authfile`.

A request names its user by a JWT (RFC 7519), signed by HMAC with the key that server and operators share:
`Authorization: Bearer <token>`. In mode `token` every valid one may do all; in mode `authfile` a JSON file says what a
user, or `*` for those that it does not name, may do:

    {"ann": "readwrite", "loader": "write", "*": "read"}

DVID answers 400 to whoever may not; clients look for a token on 401 and 403, as its mode `dsg` answers, and so do we.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import Flag

import jwt
import orjson

from app.core.errors import Invalid, NeedsToken, NoRight
from app.routes.watched import Watched
from app.settings import Settings

ALGORITHMS = ["HS256", "HS384", "HS512"]
#: Where a token says whose it is, the first of these that it has.
CLAIMS = ("user", "email", "sub")
#: Tokens found valid, before all are forgotten: a check costs more than a small request.
REMEMBERED = 10_000


class Right(Flag):
    """What one may do."""

    NONE = 0
    READ = 1
    WRITE = 2
    ALL = 3


_RIGHTS = {"read": Right.READ, "write": Right.WRITE, "readwrite": Right.ALL}


def parse(text: str) -> Mapping[str, Right]:
    """What an authorisation file says. `Invalid` names what is not understood."""
    try:
        told = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"the authorisation file is not JSON: {error}") from error
    if not isinstance(told, dict):
        raise Invalid("the authorisation file must be a JSON object of users")
    for user, right in told.items():
        if not isinstance(right, str) or right not in _RIGHTS:
            raise Invalid(f"the authorisation file gives {user!r} neither read, write nor readwrite")
    return {user: _RIGHTS[right] for user, right in told.items()}


def sign(user: str, key: str, seconds: float) -> str:
    """A token for a user, good for a time."""
    return jwt.encode({"user": user, "exp": time.time() + seconds}, key, ALGORITHMS[0])


class Authority:
    """Tells the rights of requests by their tokens."""

    def __init__(self, settings: Settings) -> None:
        self._key = settings.jwt_secret_key.get_secret_value()
        self._file = Watched(settings.auth_file, "the authorisation file", parse) if settings.auth_file else None
        self._known: dict[str, tuple[str, float]] = {}

    def rights(self, header: str | None) -> Right:
        """The rights that an `Authorization` header gives. `NeedsToken` if it has no valid token."""
        user = self._user(header)
        if self._file is None:
            return Right.ALL
        listed = self._file.value
        return listed.get(user, listed.get("*", Right.NONE))

    def reload(self) -> str:
        """Read the file now; what was found in it."""
        if self._file is None:
            return "there is no authorisation file\n"
        return f"{len(self._file.reload())} users are named\n"

    def _user(self, header: str | None) -> str:
        scheme, _, token = (header or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise NeedsToken("this needs a token: Authorization: Bearer ...")
        user, until = self._known.get(token, ("", 0.0))
        if time.time() < until:
            return user
        try:
            claims = jwt.decode(token, self._key, ALGORITHMS, options={"verify_aud": False, "verify_sub": False})
        except jwt.InvalidTokenError as error:
            raise NeedsToken(f"the token is not valid: {error}") from error
        user = next((claims[name] for name in CLAIMS if isinstance(claims.get(name), str)), "")
        if not user:
            raise NeedsToken(f"the token names no user: it has none of {', '.join(CLAIMS)}")
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[token] = user, float(claims.get("exp", "inf"))
        return user


def check(rights: Right, wanted: Right) -> None:
    """`NoRight` if something may not be done."""
    if wanted not in rights:
        raise NoRight(f"your token does not give the right to {'write' if wanted is Right.WRITE else 'read'}")
