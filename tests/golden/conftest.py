"""The conversations are replayed on the same servers as the API tests."""

from tests.api.conftest import cloud_server, folder_server, server

__all__ = ["cloud_server", "folder_server", "server"]
