"""How much waits in the journals of a folder's maps, and how their files are kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class JournalLimits:
    """Bytes and numbers from which on something else is done; `ValueError` if one is negative. See decision 16.

    A commit of more than `entry_bytes` is stored at once. So are those that wait once they have more than
    `waiting_bytes` or `waiting_keys`; in a journal that is not likely to be written again, than `passed_bytes`, with
    which a copy of the map may begin. A file of more than `file_bytes` gets a successor when what it holds has been
    stored. One that was found unchanged `looks` times (0: none) is mapped: it pays for those of many requests.
    """

    entry_bytes: int = 64 << 10
    waiting_bytes: int = 2 << 20
    waiting_keys: int = 16384
    passed_bytes: int = 32 << 10
    file_bytes: int = 4 << 20
    looks: int = 16

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise ValueError(f"{name} is negative")
