"""Who writes: what the log and the messages say of them, and whether locked versions are open to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.versioning.datastore import Data
from app.versioning.log import Record


@dataclass(frozen=True)
class Author:
    """A user with a client, as a request names them, never verified; `by_admin`: may write to locked versions."""

    user: str = ""
    app: str = ""
    by_admin: bool = False

    def record(
        self,
        data: Data,
        action: str,
        mutation_id: int = 0,
        arguments: Mapping[str, Any] | None = None,
        *,
        touched: bytes = b"",
    ) -> Record:
        """A log record of what they do to an instance. Capitalised arguments are those of DVID's messages."""
        return Record(action, data.home.uuid, mutation_id, self.user, self.app, arguments or {}, touched=touched)
