"""The server's own endpoints and modes: figures, block list, throttle, read-only and full-write, files."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from app.backends.limits import JournalLimits
from app.bootstrap import store_options
from app.core.errors import Busy, Invalid
from app.routes import blocklist, watched
from app.routes.blocklist import BlockList, source_address
from app.routes.rates import Rates
from app.routes.shared import Shared
from app.settings import Settings
from tests.api.conftest import make_instance
from tests.running import ADMIN, running

AS_ADMIN = {"admintoken": ADMIN}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def configured(place: Path) -> Iterator[str]:
    """A server of two processes with a block list and a web client."""
    (place / "blocked").write_text("u=spammer,slow down please\nip=10.1.*.7\n# a comment\n\n")
    web = place / "web"
    (web / "deep").mkdir(parents=True)
    (web / "index.html").write_text("the client")
    (web / "deep" / "file.js").write_text("code")
    (place / "secret").write_text("secret")
    environment = {
        "DVID_BLOCK_LIST_FILE": str(place / "blocked"),
        "DVID_WEB_CLIENT": str(web),
        "DVID_WEB_DEFAULT_FILE": "index.html",
        "DVID_ALLOW_TIMING": "true",
        "DVID_NOTE": "a note",
    }
    arguments = ("--durability", "process")
    with running(str(place / "store"), *arguments, environment=environment, workers=2) as server:
        yield server.url


def get(url: str, path: str, **how: object) -> httpx.Response:
    """Each time over a connection of its own, so that both processes are asked."""
    return httpx.get(f"{url}{path}", **how)  # type: ignore[arg-type]


def test_blocked_users_and_addresses(configured: str, place: Path) -> None:
    info = "/api/server/info"
    assert get(configured, info).status_code == 200
    assert get(configured, info, params={"u": "somebody"}).status_code == 200
    refused = get(configured, info, params={"u": "spammer"})
    assert (refused.status_code, refused.text) == (429, "slow down please\n")
    for headers in (
        {"X-Forwarded-For": "10.1.99.7, 1.2.3.4"},
        {"Forwarded": 'for="10.1.2.7:4711";proto=http, for=1.2.3.4', "X-Forwarded-For": "1.2.3.4"},
    ):
        assert get(configured, info, headers=headers).status_code == 429
    assert get(configured, info, headers={"X-Forwarded-For": "10.1.99.8, 10.1.99.7"}).status_code == 200
    assert get(configured, "/api/heartbeat", params={"u": "spammer"}).status_code == 200
    assert get(configured, "/api/repos/info", params={"u": "spammer"}).status_code == 429

    (place / "blocked").write_text("nonsense\n")
    answer = httpx.post(f"{configured}/api/server/reload-blocklist", params=AS_ADMIN)
    assert answer.status_code == 400
    assert "line 1" in answer.text
    assert get(configured, info, params={"u": "spammer"}).status_code == 429
    (place / "blocked").write_text("u=other\n")
    answer = httpx.post(f"{configured}/api/server/reload-blocklist", params=AS_ADMIN)
    assert (answer.status_code, answer.text) == (200, "1 users and 0 addresses are blocked\n")
    time.sleep(watched.LOOK_SECONDS + 0.2)
    for _ in range(8):
        assert get(configured, info, params={"u": "spammer"}).status_code == 200
        assert get(configured, info, params={"u": "other"}).status_code == 429


def test_a_block_list_that_is_not_understood(tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        BlockList(str(tmp_path / "missing"))
    for line in ("u=", "ip=1.2.3", "who=me", "text"):
        with pytest.raises(Invalid):
            blocklist.parse(line)
    assert BlockList("").reason("anybody", "1.2.3.4") is None


@pytest.mark.parametrize(
    ("forwarded", "forwarded_for", "expected"),
    [
        (None, None, "9.9.9.9"),
        ("for=1.2.3.4;by=5.6.7.8", "8.8.8.8", "1.2.3.4"),
        ('proto=http;For="[2001:db8::17]:4711"', None, "2001:db8::17"),
        ("proto=http", "1.2.3.4:80", "1.2.3.4"),
        (None, "2001:db8::17", "2001:db8::17"),
    ],
)
def test_where_a_request_comes_from(forwarded: str | None, forwarded_for: str | None, expected: str) -> None:
    assert source_address(forwarded, forwarded_for, ("9.9.9.9", 5)) == expected


def test_files_of_a_web_client(configured: str) -> None:
    assert get(configured, "/deep/file.js").text == "code"
    assert get(configured, "/any/other").text == "the client"
    for path in ("/../secret", "/%2e%2e/secret", "/deep/..%2f..%2fsecret", "/%00"):
        assert get(configured, path).text == "the client"
    assert httpx.post(f"{configured}/deep/file.js").status_code == 404
    assert get(configured, "/api/server/note").text == "a note"


def test_the_throttle_holds_for_all_processes(configured: str) -> None:
    with httpx.Client(base_url=configured) as client:
        root = client.post("/api/repos", params=AS_ADMIN, json={}).json()["root"]
        make_instance(client, root, "uint8blk", "gray", BlockSize="32,32,32")
    path = f"/api/node/{root}/gray/raw/0_1_2/32_32_32/0_0_0?throttle=on"
    for throttle, status in (("0", 503), ("1", 200), ("0", 503), ("3", 200)):
        answer = httpx.post(f"{configured}/api/server/settings", params=AS_ADMIN, json={"throttle": throttle})
        assert answer.status_code == 200
        assert {get(configured, path).status_code for _ in range(8)} == {status}
    assert get(configured, path).headers["timing-allow-origin"] == "*"


def test_places_are_given_back(tmp_path: Path) -> None:
    here, there = Shared(str(tmp_path)), Shared(str(tmp_path))
    here.places = 2
    assert there.places == 2
    with here.place(), there.place():
        for shared in (here, there):
            with pytest.raises(Busy), shared.place():
                pass
    with pytest.raises(KeyError), here.place():
        raise KeyError
    with here.place(), there.place():
        pass


def test_pings_are_seen_by_all_processes(configured: str) -> None:
    users = [f"user/{number}@x" for number in range(8)]
    for user in users:
        assert get(configured, "/api/heartbeat", params={"u": user}).text == "OK"
    for _ in range(4):
        found = get(configured, "/api/user-latencies").json()
        assert set(users) <= found.keys()
        one = get(configured, "/api/user-latencies", params={"u": users[0]}).json()
        assert one["User"] == users[0]
        assert one["MinLatency"] <= one["LastLatency"] <= one["MaxLatency"]


def test_load_counts_what_is_read_and_written(client: httpx.Client, root: str) -> None:
    make_instance(client, root, "keyvalue", "kv")
    client.get("/api/load")
    deadline = time.monotonic() + 30
    seen: dict[str, int] = {}
    while time.monotonic() < deadline and not all(seen.get(name) for name in ("file bytes written", "GET requests")):
        client.post(f"/api/node/{root}/kv/key/k", content=bytes(100_000)).raise_for_status()
        client.get(f"/api/node/{root}/kv/key/k")
        for name, rate in client.get("/api/load").json().items():
            seen[name] = max(rate, seen.get(name, 0))
    for name in ("value bytes written", "key bytes written", "file bytes written", "GET requests", "PUT requests"):
        assert seen[name] > 0, name
    assert seen["goroutines"] > 0


def test_rates_are_of_the_time_since_the_last_look(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    rates = Rates()
    now = 102.0
    assert rates.per_second({"a": 20}) == {"a": 10}
    now = 102.5
    assert rates.per_second({"a": 21}) == {"a": 8}
    now = 104.0
    assert rates.per_second({"a": 60}) == {"a": 20}


def test_storage_says_what_instances_hold(client: httpx.Client, root: str) -> None:
    make_instance(client, root, "keyvalue", "kv")
    make_instance(client, root, "keyvalue", "empty")
    client.post(f"/api/node/{root}/kv/key/large", content=bytes(50_000)).raise_for_status()
    assert client.get("/api/storage").status_code == 401
    (repos,) = client.get("/api/storage", params=AS_ADMIN).json().values()
    nothing = {"Keys": 0, "NodeBytes": 0, "ValueBytes": 0, "JournalBytes": 0}
    assert repos[root]["empty"] == {"TypeName": "keyvalue", **nothing, "Version": ""}
    assert repos[root]["kv"]["ValueBytes"] + repos[root]["kv"]["JournalBytes"] >= 50_000
    assert repos[root]["kv"]["Version"] == root


def test_groupcache_counts(client: httpx.Client, root: str) -> None:
    make_instance(client, root, "keyvalue", "kv")
    client.post(f"/api/node/{root}/kv/key/k", content=b"1").raise_for_status()
    before = client.get("/api/server/groupcache").json()
    client.get(f"/api/node/{root}/kv/key/k")
    after = client.get("/api/server/groupcache").json()
    assert after["Gets"] > before["Gets"]
    assert after["Gets"] == after["CacheHits"] + after["Loads"]


def test_config_hides_the_token(client: httpx.Client) -> None:
    text = client.get("/api/server/config", params=AS_ADMIN).text
    assert ADMIN not in text
    assert "max_staleness" in text


def test_read_only_and_full_write_servers(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    with running(store, "--durability", "process") as server, httpx.Client(base_url=server.url) as client:
        root = client.post("/api/repos", params=AS_ADMIN, json={}).json()["root"]
        make_instance(client, root, "keyvalue", "kv")
        client.post(f"/api/node/{root}/kv/key/k", content=b"1").raise_for_status()
        client.post(f"/api/node/{root}/commit", json={}).raise_for_status()
        key = f"/api/node/{root}/kv/key/k"
        assert client.post(key, content=b"2").status_code == 400
        child = client.post(f"/api/node/{root}/newversion").json()["child"]
    environment = {"DVID_READ_ONLY": "true"}
    with running(store, environment=environment) as server, httpx.Client(base_url=server.url) as client:
        assert client.get(key).content == b"1"
        assert client.get("/api/server/info").json()["Mode"] == "read only"
        for path in (f"/api/node/{child}/kv/key/k", f"/api/node/{child}/commit", f"/api/repo/{root}/info"):
            refused = client.post(path, json={})
            assert refused.status_code == 400
            assert "read-only" in refused.text
        assert client.post(f"/api/node/{child}/kv/key/k", params=AS_ADMIN, content=b"3").status_code == 200
        assert client.post("/api/repos", params=AS_ADMIN, json={}).status_code == 400
    environment = {"DVID_FULL_WRITE": "true"}
    with running(store, environment=environment) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/api/server/info").json()["Mode"] == "allow writes on committed nodes"
        assert client.post(key, content=b"4").status_code == 200
        assert client.get(key).content == b"4"


def test_limits_of_journals_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text("[journal]\nwaiting_bytes = 1000\nlooks = 3\n")
    monkeypatch.setenv("DVID_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("DVID_JOURNAL", '{"looks": 4}')
    settings = Settings()
    assert settings.journal == JournalLimits(waiting_bytes=1000, looks=4)
    assert store_options(settings).journal == settings.journal
    with pytest.raises(ValidationError, match="waiting_keys is negative"):
        Settings(journal={"waiting_keys": -1})  # type: ignore[arg-type]


def test_a_server_cannot_be_read_only_and_full_write() -> None:
    with pytest.raises(ValidationError, match="exclude each other"):
        Settings(read_only=True, full_write=True)


def test_blobs(client: httpx.Client, root: str) -> None:
    make_instance(client, root, "keyvalue", "kv")
    make_instance(client, root, "roi", "area")
    client.post(f"/api/node/{root}/commit", json={}).raise_for_status()
    for body in (b"", b"hello", bytes(range(256)) * 5000):
        references = {
            client.post(f"/api/node/{root}/{name}/blobstore", content=body).json()["reference"]
            for name in ("kv", "area")
        }
        (reference,) = references
        answer = client.get(f"/api/node/{root}/area/blobstore/{reference}")
        assert (answer.status_code, answer.content) == (200, body)
    assert client.get(f"/api/node/{root}/kv/blobstore/{'A' * 22}==").status_code == 404
    assert client.get(f"/api/node/{root}/kv/blobstore/nonsense").status_code == 400


def test_requests_at_once_do_not_lose_places(tmp_path: Path) -> None:
    shared = Shared(str(tmp_path))
    shared.places = 3
    got: list[bool] = []

    def work() -> None:
        try:
            with shared.place():
                time.sleep(0.05)
                got.append(True)
        except Busy:
            got.append(False)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 5 + [True] * 3
