"""Tokens, and the file that says what users may do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import jwt
import pytest
from pydantic import ValidationError

from app.core.errors import NeedsToken
from app.routes.authority import Authority, Right, sign
from app.settings import Settings
from tests.running import ADMIN, running

KEY = "0123456789abcdef0123456789abcdef"
ADMINISTRATOR = {"admintoken": ADMIN}


def bearer(user: str, key: str = KEY, seconds: float = 60) -> dict[str, str]:
    return {"Authorization": f"Bearer {sign(user, key, seconds)}"}


@pytest.fixture(scope="module")
def auth_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("auth") / "auth.json"
    path.write_text(json.dumps({"ann": "readwrite", "eve": "read", "loader": "write"}))
    return path


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, auth_file: Path) -> Iterator[httpx.Client]:
    settings = {"DVID_AUTH": "authfile", "DVID_AUTH_FILE": str(auth_file), "DVID_JWT_SECRET_KEY": KEY}
    store = str(tmp_path_factory.mktemp("store"))
    with (
        running(store, "--durability", "process", environment=settings) as server,
        httpx.Client(base_url=server.url) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def root(client: httpx.Client) -> str:
    root: str = client.post("/api/repos", params=ADMINISTRATOR, json={"alias": "r"}).json()["root"]
    config = {"typename": "keyvalue", "dataname": "kv"}
    client.post(f"/api/repo/{root}/instance", params=ADMINISTRATOR, json=config).raise_for_status()
    client.post(f"/api/node/{root}/kv/key/a", params=ADMINISTRATOR, content=b"1").raise_for_status()
    return root


def test_users_may_what_the_file_says(client: httpx.Client, root: str) -> None:
    key = f"/api/node/{root}/kv/key/a"
    said = {
        user: (client.get(key, headers=bearer(user)).status_code, client.post(key, headers=bearer(user)).status_code)
        for user in ("ann", "eve", "loader", "nobody")
    }
    assert said == {"ann": (200, 200), "eve": (200, 403), "loader": (403, 200), "nobody": (403, 403)}
    refused = client.post(f"/api/repo/{root}/log", headers=bearer("eve"), json={"log": ["no"]})
    assert (refused.status_code, "right to write" in refused.text) == (403, True)
    assert client.get(f"/api/repo/{root}/log", headers=bearer("eve")).json() == {"log": []}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Basic YTpi"},
        bearer("ann", key="another key of thirty-two bytes."),
        bearer("ann", seconds=-1),
        {"Authorization": f"Bearer {jwt.encode({'user': 7}, KEY, 'HS256')}"},
        {"Authorization": f"Bearer {jwt.encode({'user': 'ann'}, None, 'none')}"},
    ],
)
def test_without_a_valid_token_nothing_goes(client: httpx.Client, root: str, headers: dict[str, str]) -> None:
    for path in (
        f"/api/node/{root}/kv/key/a",
        f"/api/node/{root}/kv/info",
        f"/api/repo/{root}/info",
        "/api/node/x/y/z",
    ):
        refused = client.get(path, headers=headers)
        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert client.post(f"/api/node/{root}/kv/key/a", headers=headers, content=b"2").status_code == 401
    for path in (f"//api/node/{root}/kv/key/a", f"/api//node/{root}/kv/key/a", f"/%61pi/n%6Fde/{root}/kv/key/a"):
        assert client.get(path, headers=headers).status_code in (401, 403, 404)
    assert client.get("/api/repos/info", headers=headers).json() == {}


def test_what_is_open_to_all(client: httpx.Client, root: str) -> None:
    for path in ("/api/server/info", "/api/help", "/api/load", "/healthz", "/api/server/types"):
        assert client.get(path).status_code == 200
    asked = {"Origin": "http://a.b", "Access-Control-Request-Method": "GET"}
    asked["Access-Control-Request-Headers"] = "authorization"
    allowed = client.options(f"/api/node/{root}/kv/key/a", headers=asked)
    assert (allowed.status_code, allowed.headers["Access-Control-Allow-Headers"]) == (200, "authorization")
    assert list(client.get("/api/repos/info", headers=bearer("eve")).json()) == [root]
    assert client.get("/api/repos/info", headers=bearer("loader")).json() == {}
    assert client.post("/api/repos", headers=bearer("ann"), json={}).status_code == 401
    assert client.get("/api/server/token").status_code == 400


def test_the_file_is_read_again(client: httpx.Client, root: str, auth_file: Path) -> None:
    key, before = f"/api/node/{root}/kv/key/a", auth_file.read_text()
    assert client.get(key, headers=bearer("bob")).status_code == 403
    assert client.post("/api/server/reload-auth").status_code == 401
    auth_file.write_text(json.dumps({"eve": "readwrite", "*": "read"}))
    answer = client.post("/api/server/reload-auth", params=ADMINISTRATOR)
    assert (answer.status_code, answer.text) == (200, "2 users are named\n")
    assert [client.get(key, headers=bearer(user)).status_code for user in ("ann", "bob", "eve")] == [200] * 3
    assert [client.post(key, headers=bearer(user)).status_code for user in ("ann", "bob", "eve")] == [403, 403, 200]
    for bad in ("{", "[]", '{"ann": "all"}', '{"ann": 1}'):
        auth_file.write_text(bad)
        assert client.post("/api/server/reload-auth", params=ADMINISTRATOR).status_code == 400
        assert client.get(key, headers=bearer("bob")).status_code == 200  # what was read last stays
    auth_file.write_text(before)
    for _ in range(100):  # seen without being told
        if client.get(key, headers=bearer("bob")).status_code == 403:
            break
        time.sleep(0.05)
    else:
        raise AssertionError("the changed file was not noticed")


def test_any_token_does_in_mode_token() -> None:
    key = KEY * 2
    settings = Settings(auth="token", jwt_secret_key=key)  # type: ignore[arg-type]
    authority = Authority(settings)
    for claims in ({"user": "a"}, {"email": "a@b"}, {"sub": "a", "aud": "other"}):
        for algorithm in ("HS256", "HS384", "HS512"):
            token = jwt.encode(claims, key, algorithm)
            for _ in range(2):  # the second time it is known
                assert authority.rights(f"bearer {token}") is Right.ALL
    assert authority.reload() == "there is no authorisation file\n"
    short = sign("a", key, 1.5)
    assert authority.rights(f"Bearer {short}") is Right.ALL
    time.sleep(1.6)  # times in tokens are whole seconds
    with pytest.raises(NeedsToken, match="expired"):
        authority.rights(f"Bearer {short}")


@pytest.mark.parametrize(
    "settings",
    [
        {"auth": "token"},
        {"auth": "token", "jwt_secret_key": "short"},
        {"auth": "authfile", "jwt_secret_key": KEY},
        {"auth": "token", "jwt_secret_key": KEY, "auth_file": "file.json"},
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Settings(**settings)  # type: ignore[arg-type]


def test_operators_make_tokens(client: httpx.Client, root: str) -> None:
    command = [sys.executable, "-m", "app.cli", "token", "ann", "--days", "1"]
    made = subprocess.run(
        command, env={**os.environ, "DVID_JWT_SECRET_KEY": KEY}, capture_output=True, text=True, check=True
    )
    headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
    assert client.get(f"/api/node/{root}/kv/key/a", headers=headers).status_code == 200
