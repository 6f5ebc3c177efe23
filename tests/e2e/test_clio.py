"""Clio's own Python client, clio-py, against our server.

clio-py asks a clio-store (HTTPS) for most things and DVID for the rest. The store here does what Clio's does with a
dataset's annotations: it hands everything on to neuronjson.
"""

from __future__ import annotations

import datetime
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.api.conftest import make_instance
from tests.running import ADMIN, running

clio = pytest.importorskip("clio", reason="NOT TESTED with Clio's client: clio-py is not installed")
x509 = pytest.importorskip("cryptography.x509")

SCHEMA = {"required": ["bodyid"], "properties": {"bodyid": {"type": "integer"}, "type": {"type": ["string", "null"]}}}
FIELDS = ["bodyid", "type", "class", "status", "user", "note"]


class ClioStore(BaseHTTPRequestHandler):
    """The few endpoints of a clio-store that the client calls."""

    dvid: str
    root: str

    def do_GET(self) -> None:
        answers: dict[str, Any] = {
            "datasets": {"VNC": {"dvid": self.dvid, "uuid": self.root}},
            "json-annotations/VNC/neurons/head_uuid": self.root,
            "json-annotations/VNC/neurons/head_tag": "v1",
            "json-annotations/VNC/neurons/versions": {"v1": self.root},
            "json-annotations/VNC/neurons/fields": FIELDS,
        }
        self.reply(answers.get(urlsplit(self.path).path.removeprefix("/v2/")))

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        show = parse_qs(parts.query).get("show", ["none"])[0]
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        node = f"{self.dvid}/api/node/{self.root}/segmentation_annotations"
        if parts.path.endswith("/query"):
            answer = httpx.post(f"{node}/query", params={"show": show}, json=given)
            answer.raise_for_status()
            self.reply(answer.json())
            return
        for each in given:
            query = {"u": "ann@example.org", "conditional": "user"}
            httpx.post(f"{node}/key/{each['bodyid']}", params=query, json=each).raise_for_status()
        self.reply("")

    def reply(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(404 if value is None else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


def certificate(folder: Path) -> Path:
    """A certificate for this machine with its key, signed by nobody else."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    signed = builder.sign(key, hashes.SHA256())
    plain = serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path = folder / "certificate.pem"
    path.write_bytes(secret + signed.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with running(str(tmp_path_factory.mktemp("store")), "--durability", "process") as server:
        http = httpx.Client(base_url=server.url)
        root = http.post("/api/repos", params={"admintoken": ADMIN}, json={"alias": "vnc"}).json()["root"]
        make_instance(http, root, "neuronjson", "segmentation_annotations")
        make_instance(http, root, "labelmap", "segmentation", BlockSize="32,32,32")
        node = f"/api/node/{root}/segmentation_annotations"
        http.post(f"{node}/json_schema", json=SCHEMA).raise_for_status()
        for body in range(10, 20):
            fields = {"bodyid": body, "type": f"T{body % 3}", "class": "motor", "user": "first"}
            http.post(f"{node}/key/{body}?u=first", json=fields).raise_for_status()
        handler = type("Handler", (ClioStore,), {"dvid": server.url, "root": root})
        store = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate(tmp_path_factory.mktemp("tls")))
        store.socket = context.wrap_socket(store.socket, server_side=True)
        thread = threading.Thread(target=store.serve_forever)
        thread.start()
        try:
            yield clio.Client(f"https://127.0.0.1:{store.server_port}", token="opaque", verify=False)
        finally:
            store.shutdown()
            thread.join()
            store.server_close()


pytestmark = pytest.mark.filterwarnings("ignore:Unverified HTTPS request")


def test_all_annotations_come_from_dvid(client: Any) -> None:
    found = clio.fetch_annotations(client=client)
    assert found.bodyid.tolist() == list(range(10, 20))
    assert set(found.columns) == {"bodyid", "type", "class", "user"}
    with_users = clio.fetch_annotations(show_extra="user", client=client)
    assert with_users.type_user.tolist() == ["first"] * 10
    tagged = clio.fetch_annotations(version="v1", show_extra="all", client=client)
    assert {"type_user", "type_time"} <= set(tagged.columns)


def test_filters_and_ids(client: Any) -> None:
    assert clio.fetch_annotations(type="T1", client=client).bodyid.tolist() == [10, 13, 16, 19]
    assert clio.fetch_annotations(type="re/^T[12]$", client=client).bodyid.tolist() == [10, 11, 13, 14, 16, 17, 19]
    assert clio.fetch_annotations([12, 11], client=client).bodyid.tolist() == [11, 12]
    assert clio.ids_exist([10, 15], client=client).tolist() == [True, True]


def test_fields_are_set_as_clio_sets_them(client: Any) -> None:
    clio.set_fields([11, 12], type="DNge", status="Traced", client=client, progress=False)
    found = clio.fetch_annotations([11, 12], show_extra="user", client=client).set_index("bodyid")
    assert found.type.tolist() == ["DNge", "DNge"]
    assert found.type_user.tolist() == ["ann@example.org"] * 2
    assert found.user.tolist() == ["first", "first"]
    clio.set_fields([11], type=None, client=client, progress=False)
    found = clio.fetch_annotations([11], show_extra="user", client=client)
    assert "type" not in found.columns
    assert found.type_user.tolist() == ["ann@example.org"]
    with pytest.raises((TypeError, ValueError)):
        clio.set_fields([11], type=5, client=client, progress=False)
