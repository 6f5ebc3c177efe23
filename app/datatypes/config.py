"""The configuration that creates or changes an instance: keys without regard to case, values as strings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.core.errors import Invalid

COMPRESSIONS = ("none", "snappy", "lz4", "gzip", "jpeg")
CHECKSUMS = ("none", "crc32")


class Config:
    """Settings as a client sent them. Unknown ones are ignored, as clients of many generations send many."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = {key.lower(): value for key, value in values.items()}

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values

    def text(self, name: str, default: str = "") -> str:
        """A string."""
        value = self._values.get(name.lower(), default)
        if not isinstance(value, str):
            raise Invalid(f"the setting {name} must be a string, not {value!r}")
        return value

    def required(self, name: str) -> str:
        """A string that must be there and not be empty."""
        value = self.text(name)
        if not value:
            raise Invalid(f"the setting {name!r} is required")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """A boolean, as JSON or as one of the words `true`, `false`, `1`, `0`."""
        value = self._values.get(name.lower(), default)
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "1", "false", "0"):
            return value.lower() in ("true", "1")
        raise Invalid(f"the setting {name}={value!r} must be true, false, 1 or 0")

    def integer(self, name: str, default: int, least: int, most: int) -> int:
        """An integer within limits."""
        text = self.text(name, str(default))
        try:
            value = int(text)
        except ValueError:
            raise Invalid(f"the setting {name}={text!r} is not an integer") from None
        if not least <= value <= most:
            raise Invalid(f"the setting {name}={value} must be from {least} to {most}")
        return value

    def integers(self, name: str, default: list[int] | None) -> list[int] | None:
        """Three integers with commas between."""
        if name not in self:
            return default
        try:
            values = [int(part) for part in self.text(name).split(",")]
        except ValueError:
            raise Invalid(f"the setting {name}={self.text(name)!r} must be three integers") from None
        return _three(name, values)

    def floats(self, name: str, default: list[float]) -> list[float]:
        """Three numbers with commas between."""
        if name not in self:
            return default
        try:
            values = [float(part) for part in self.text(name).split(",")]
        except ValueError:
            raise Invalid(f"the setting {name}={self.text(name)!r} must be three numbers") from None
        return _three(name, values)

    def words(self, name: str, default: list[str]) -> list[str]:
        """Three words with commas between."""
        if name not in self:
            return default
        return _three(name, [part.strip() for part in self.text(name).split(",")])

    def compression(self, default: str) -> str:
        """`lz4`, `gzip:5` ... in lower case."""
        if "Compression" not in self:
            return default
        text = self.text("Compression").lower()
        algorithm, colon, level = text.partition(":")
        if algorithm not in COMPRESSIONS or (colon and not level.lstrip("-").isdigit()):
            raise Invalid(f"the setting Compression={text!r} must be one of {', '.join(COMPRESSIONS)}")
        if colon and not -1 <= int(level) <= (100 if algorithm == "jpeg" else 9):
            raise Invalid(f"the setting Compression={text!r}: the level is out of range")
        return text

    def checksum(self) -> str:
        """`none` or `crc32`."""
        text = self.text("Checksum", "none").lower()
        if text not in CHECKSUMS:
            raise Invalid(f"the setting Checksum={text!r} must be one of {', '.join(CHECKSUMS)}")
        return text

    def tags(self) -> dict[str, str] | None:
        """`key=value,key=value`; parts of another form are dropped, as DVID drops them. None if not given."""
        if "Tags" not in self:
            return None
        pairs = [part.split("=") for part in self.text("Tags").split(",")]
        return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def _three(name: str, values: list[Any]) -> list[Any]:
    if len(values) != 3:
        raise Invalid(f"the setting {name} needs three values, not {len(values)}")
    return values
