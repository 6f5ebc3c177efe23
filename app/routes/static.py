"""Files of a web client, where the API has nothing at a path."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from starlette.responses import FileResponse, RedirectResponse, Response

from app.settings import Settings


class Static:
    """The folder `web_client`; what is not there goes to `web_redirect_path`, or is `web_default_file`."""

    def __init__(self, settings: Settings) -> None:
        self._folder = Path(settings.web_client).resolve() if settings.web_client else None
        self._redirect = settings.web_redirect_path
        self._default = settings.web_default_file

    def find(self, parts: list[str]) -> Response | None:
        """The answer to a GET of a path that is no endpoint; None if there is nothing."""
        if self._folder is None:
            return None
        found = self._file("/".join(parts) or "index.html")
        if found is None and self._redirect:
            return RedirectResponse(quote(self._redirect, safe="/:?#=&%"), 308)
        if found is None and self._default:
            found = self._file(self._default)
        return None if found is None else FileResponse(found)

    def _file(self, name: str) -> Path | None:
        assert self._folder is not None
        if "\0" in name:
            return None
        try:
            path = (self._folder / name.lstrip("/")).resolve()
            if path.is_dir():
                path /= "index.html"
            return path if path.is_relative_to(self._folder) and path.is_file() else None
        except (OSError, ValueError):
            return None
