"""The ASGI application, for servers that import it: `uvicorn --factory app.main:create_app`."""

from __future__ import annotations

import json
import os

from app.bootstrap import build
from app.routes.service import Service
from app.settings import Settings

#: Where the command line hands its settings to the worker processes.
SETTINGS_VARIABLE = "DVID_CLOUD_SETTINGS"


def create_app() -> Service:
    """The application, with the settings of the environment."""
    handed = os.environ.get(SETTINGS_VARIABLE)
    if handed:
        return build(Settings(**json.loads(handed)))
    return build(Settings())
