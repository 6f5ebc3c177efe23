"""Several processes of one server, restarts, read-only mode, configuration: what needs servers of its own."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import httpx
import pytest

from tests import journals
from tests.api.conftest import make_instance
from tests.conftest import url_of
from tests.running import ADMIN, running, start


def make_repo(url: str) -> str:
    answer = httpx.post(f"{url}/api/repos", params={"admintoken": ADMIN}, json={"alias": "a"})
    return str(answer.json()["root"])


def test_acknowledged_writes_survive_a_kill(tmp_path: Path) -> None:
    server = start(str(tmp_path))
    acknowledged: list[int] = []
    with httpx.Client(base_url=server.url) as client:
        root = make_repo(server.url)
        make_instance(client, root, "keyvalue", "kv")
        make_instance(client, root, "labelmap", "seg", BlockSize="16,16,16")

    def storm(lane: int) -> None:
        with httpx.Client(base_url=server.url) as client:
            try:
                for number in range(lane, 100_000, 4):
                    client.post(f"/api/node/{root}/kv/key/{number}", content=b"%d" % number).raise_for_status()
                    acknowledged.append(number)
            except httpx.TransportError:
                return  # the end

    lanes = [threading.Thread(target=storm, args=(lane,)) for lane in range(4)]
    for lane in lanes:
        lane.start()
    while len(acknowledged) < 100:
        pass
    server.kill()
    for lane in lanes:
        lane.join()
    with running(str(tmp_path)) as again, httpx.Client(base_url=again.url) as client:
        keys = set(client.get(f"/api/node/{root}/kv/keys").json())
        assert {str(number) for number in acknowledged} <= keys
        for number in acknowledged[-20:]:
            assert client.get(f"/api/node/{root}/kv/key/{number}").content == b"%d" % number
        assert client.get(f"/api/node/{root}/seg/label/0_0_0").json() == {"Label": 0}


def test_a_server_that_is_told_to_stop_finishes_what_it_began(tmp_path: Path) -> None:
    with running(str(tmp_path)) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        root = make_repo(server.url)
        make_instance(client, root, "keyvalue", "kv")
        answers: list[int] = []
        sender = threading.Thread(
            target=lambda: answers.append(
                client.post(f"/api/node/{root}/kv/key/big", content=bytes(8 << 20)).status_code
            )
        )
        sender.start()
        sender.join(0.05)
        os.killpg(server.process.pid, signal.SIGTERM)
        sender.join()
        server.process.wait(20)
    with running(str(tmp_path)) as server:
        present = httpx.get(f"{server.url}/api/node/{root}/kv/key/big").status_code == 200
    assert not answers or present == (answers[0] == 200)


def test_workers_see_each_others_writes_at_once(tmp_path: Path) -> None:
    with running(str(tmp_path), "--durability", "process", workers=2) as server:
        root = make_repo(server.url)
        with httpx.Client(base_url=server.url) as one:
            make_instance(one, root, "keyvalue", "kv")
        for number in range(60):
            # A new connection goes to whichever worker takes it.
            httpx.post(f"{server.url}/api/node/{root}/kv/key/k", content=b"%d" % number).raise_for_status()
            assert httpx.get(f"{server.url}/api/node/{root}/kv/key/k").content == b"%d" % number


def test_ids_of_two_workers_never_meet(tmp_path: Path) -> None:
    with running(str(tmp_path), "--durability", "process", workers=2) as server:
        root = make_repo(server.url)
        with httpx.Client(base_url=server.url) as client:
            make_instance(client, root, "labelmap", "seg")
        given: list[int] = []
        for _ in range(40):
            answer = httpx.post(f"{server.url}/api/node/{root}/seg/nextlabel/3").json()
            given += range(answer["start"], answer["end"] + 1)
        assert sorted(given) == list(range(1, 121))


def test_a_read_only_server_refuses_writes_but_an_administrators(tmp_path: Path) -> None:
    with running(str(tmp_path)) as server, httpx.Client(base_url=server.url) as client:
        root = make_repo(server.url)
        make_instance(client, root, "keyvalue", "kv")
    config = tmp_path / "server.toml"
    config.write_text('read_only = true\nnote = "resting"\n')
    with running(str(tmp_path), "--config", str(config)) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/api/server/note").text == "resting"
        assert client.get("/api/server/info").json()["Mode"] == "read only"
        refused = client.post(f"/api/node/{root}/kv/key/a", content=b"1")
        assert refused.status_code == 400
        assert "read-only" in refused.text
        assert client.post(f"/api/node/{root}/kv/key/a", params={"admintoken": ADMIN}, content=b"1").status_code == 200


def test_an_instance_can_live_in_another_store(tmp_path: Path) -> None:
    other = tmp_path / "other"
    environment = {"DVID_STORES": f'{{"fast": "{other}"}}', "DVID_ASSIGNMENTS": '{"labelmap": "fast"}'}
    with (
        running(str(tmp_path / "main"), environment=environment) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        root = make_repo(server.url)
        make_instance(client, root, "labelmap", "seg", BlockSize="16,16,16")
        make_instance(client, root, "keyvalue", "kv")
        client.post(f"/api/node/{root}/seg/raw/0_1_2/16_16_16/0_0_0", content=bytes([7] + [0] * 7) * 16**3)
        client.post(f"/api/node/{root}/kv/key/a", content=b"1")
        assert client.get(f"/api/node/{root}/seg/label/1_2_3").json() == {"Label": 7}
        assert client.get(f"/api/node/{root}/seg/info").json()["Base"]["KVStore"].endswith("/other")
    assert list(other.rglob("manifest.ocdbt"))
    names = [path.parts[-4] for path in (tmp_path / "main" / "repos").rglob("manifest.ocdbt")]
    assert len(names) == 1  # the keyvalue only


def test_a_dead_store_is_an_answer_within_seconds(tmp_path: Path) -> None:
    # Nothing listens there: the service must not start as if all were well, and must say why.
    environment = {"TENSORSTORE_GCS_HTTP_URL": "http://127.0.0.1:9", "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x"}
    with pytest.raises(RuntimeError, match="ended with status"):
        start("gs://nowhere/x", environment=environment)


@pytest.mark.parametrize("kind", ["file", "small"])
def test_workers_keep_journals_as_the_settings_say(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    with running(url_of(kind, request, tmp_path), workers=2) as server, httpx.Client(base_url=server.url) as client:
        root = make_repo(server.url)
        make_instance(client, root, "keyvalue", "kv")
        for number in range(40):
            client.post(f"/api/node/{root}/kv/key/{number}", content=os.urandom(3000)).raise_for_status()
        assert len(client.get(f"/api/node/{root}/kv/keys").json()) == 40
    earlier = [*tmp_path.rglob("journal.*")]
    assert bool(earlier) == journals.are_small()
