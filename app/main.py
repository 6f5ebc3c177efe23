"""The ASGI application, for servers that import it: `uvicorn --factory app.main:create_app`."""

from __future__ import annotations

import json
import os

from app.bootstrap import build
from app.routes.service import Service
from app.settings import HANDED_SETTINGS, Settings


def create_app() -> Service:
    """The application, with the settings of the environment."""
    handed = os.environ.get(HANDED_SETTINGS)
    if handed:
        return build(Settings(**json.loads(handed)))
    return build(Settings())
