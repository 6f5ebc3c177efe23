"""The tree of errors; `routes/` has the one table that gives each its HTTP status.

DvidError
├── Invalid            the request makes no sense; nothing was changed
│   ├── NotAllowed     right request, wrong state: a locked version, a read-only server
│   ├── NeedsAdmin     only an administrator may do this
│   ├── NeedsToken     nobody may do this without a valid token
│   ├── NoRight        this user may not do this
│   └── Unknown        a version, instance or endpoint that does not exist
├── Absent             the thing asked for (a key, a label) is not there
├── Conflict           somebody else changed it first; retried inside, seen outside only when retries ran out
├── TooLarge           the request or its answer exceeds a limit of the settings
├── Busy               too many throttled operations at once
└── StoreUnavailable   the store does not answer, or answers wrongly
"""


class DvidError(Exception):
    """Anything that the service refuses or fails to do, with a reason a client may read."""


class Invalid(DvidError):
    """The request makes no sense; nothing was changed."""


class NotAllowed(Invalid):
    """A right request in the wrong state, such as a write to a locked version."""


class NeedsAdmin(Invalid):
    """Only an administrator may do this."""


class NeedsToken(Invalid):
    """Nobody may do this without a valid token."""


class NoRight(Invalid):
    """This user may not do this."""


class Unknown(Invalid):
    """A version, data instance or endpoint that does not exist."""


class Absent(DvidError):
    """The key, label or blob asked for is not there."""


class Conflict(DvidError):
    """Another writer changed what this one had read."""


class TooLarge(DvidError):
    """The request or its answer exceeds a limit of the settings."""


class Busy(DvidError):
    """As many throttled operations as allowed are running already."""


class StoreUnavailable(DvidError):
    """The store does not answer, or answers with an error of its own."""
