"""The `dvid` package of npm, on which DVID's web console stands, against our server. `NODE_PATH` says where it is."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import make_instance
from tests.running import ADMIN, running

SCRIPT = """
const DVID = require("dvid");
const [host, port, root] = process.argv.slice(1);
const dvid = new DVID({host, port});
(async () => {
  const repos = await dvid.reposInfo();
  await dvid.repo({uuid: root, endpoint: "instance", method: "post", data: {typename: "keyvalue", dataname: "made"}});
  console.log(JSON.stringify({
    info: await dvid.serverInfo(),
    types: await dvid.serverTypes(),
    compiled: await dvid.serverCompiledTypes(),
    load: await dvid.load(),
    alias: repos[root].Alias,
    repo: await dvid.repo({uuid: root, endpoint: "info"}),
    keys: await dvid.node({uuid: root, endpoint: "kv/keys"}),
    value: await dvid.node({uuid: root, endpoint: "kv/key/a"}),
    all: await dvid.node({uuid: root, endpoint: "nj/all?show=user"}),
    master: await dvid.repo({uuid: root, endpoint: "branch-versions/master"}),
    refused: await dvid.node({uuid: root, endpoint: "kv/key/absent"}).catch((error) => error.response.status),
  }));
})().catch((error) => { console.error(error.message); process.exit(1); });
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["node", "-e", *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_what_the_console_asks(tmp_path: Path) -> None:
    if shutil.which("node") is None or run('require("dvid")').returncode:
        pytest.skip("NOT TESTED with npm's dvid: the package is not below NODE_PATH")
    with running(str(tmp_path), "--durability", "process") as server:
        http = httpx.Client(base_url=server.url)
        root = http.post("/api/repos", params={"admintoken": ADMIN}, json={"alias": "console"}).json()["root"]
        make_instance(http, root, "keyvalue", "kv")
        make_instance(http, root, "neuronjson", "nj")
        http.post(f"/api/node/{root}/kv/key/a", content=b'{"x": [1, 2]}').raise_for_status()
        http.post(f"/api/node/{root}/nj/key/7?u=ann", json={"bodyid": 7, "type": "KC"}).raise_for_status()
        answer = run(SCRIPT, "127.0.0.1", server.url.rpartition(":")[2], root)
        assert answer.returncode == 0, answer.stderr
        found: dict[str, Any] = json.loads(answer.stdout)
    assert "DVID Version" in found["info"]
    assert {"keyvalue", "neuronjson"} <= found["types"].keys()
    assert {"keyvalue", "neuronjson"} <= found["compiled"].keys()
    assert "goroutines" in found["load"]
    assert (found["alias"], found["repo"]["Alias"]) == ("console", "console")
    assert found["repo"]["DataInstances"].keys() == {"kv", "nj", "made"}
    assert (found["keys"], found["value"]) == (["a"], {"x": [1, 2]})
    assert found["all"] == [{"bodyid": 7, "type": "KC", "type_user": "ann"}]
    assert (found["master"], found["refused"]) == ([root], 404)
