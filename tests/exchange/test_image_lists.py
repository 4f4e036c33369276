"""HEPiX image lists: what an endorser signed is imported; what is published is exported so that readers take it."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kiosk.files import sha256
from kiosk.trust.distinguished import name_of
from tests.publish.test_commands import Terminal, terminal
from tests.simulators import grid
from tests.simulators.disks import converted, raw_disk
from tests.simulators.http_faulty import CUT, Faulty, faulty
from tests.simulators.published import PASSPHRASE, ready

__all__ = ["terminal"]
VMCATCHER = Path(__file__).parents[1] / "simulators/vmcatcher.py"
LIST = "0f7cbdb0-77a7-4e3a-8d5e-2f7e2e3ab001"


@pytest.fixture
def server(tmp_path: Path) -> Any:
    (tmp_path / "web").mkdir()
    with faulty(tmp_path / "web") as found:
        yield found


@pytest.fixture
def cas(tmp_path: Path) -> Path:
    return grid.trusted(tmp_path / "cas")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A qcow2 that is served as `tiny.qcow2`."""
    raw_disk(tmp_path / "d.raw")
    return converted(tmp_path / "d.raw", "qcow2", tmp_path / "web/tiny.qcow2")


def serve(server: Faulty, image: Path, **changes: Any) -> str:
    """Serves a list of this image, and returns its URL."""
    made = grid.List(f"{server.url}/{image.name}", image.read_bytes()).but(**changes)
    (server.repository / "image.list").write_bytes(made.signed())
    return f"{server.url}/image.list"


def test_an_image_of_a_list_is_imported(terminal: Terminal, server: Faulty, image: Path, cas: Path) -> None:
    url = serve(server, image)
    shown = terminal.json("import", "--hepix", url, "--ca", cas, "--list")
    assert (shown["signer"], shown["authority"], shown["digest"]) == (grid.JANE, grid.CA, "sha256")
    assert [i["identifier"] for i in shown["images"]] == [grid.IMAGE]
    code, out, _ = terminal.run("import", "--hepix", url, "--ca", cas, "--list")
    assert code == 0 and "Tiny Linux" in out and grid.JANE in out
    words = ["import", "--hepix", url, "--ca", cas, "--image", grid.IMAGE]
    code, out, _ = terminal.run(*words, "--dry-run")
    assert code == 0 and "would import tiny-linux@3.2.1" in out and ("/tiny.qcow2", {}) not in server.requests
    (done,) = terminal.json(*words)
    manifest = done["manifest"]
    assert done["image"] == "tiny-linux@3.2.1" and manifest["source"]["digest"] == sha256(image)
    assert (manifest["os"], manifest["release"]) == ("tiny", "7")
    provenance = json.loads((Path(done["folder"]) / "provenance.json").read_bytes())
    asked = provenance["predicate"]["buildDefinition"]["externalParameters"]
    assert (asked["endorser"], asked["list"], asked["image"]) == (grid.JANE, grid.LIST, grid.IMAGE)
    asked_before = len(server.requests)
    assert terminal.json(*words)[0]["already"]
    assert len(server.requests) == asked_before + 1  # the list alone


def test_a_list_and_its_image_may_be_files_of_this_machine(
    terminal: Terminal, tmp_path: Path, cas: Path
) -> None:
    raw = raw_disk(tmp_path / "d.raw")
    (tmp_path / "d.raw.gz").write_bytes(gzip.compress(raw.read_bytes()))
    made = grid.List(f"file://{tmp_path}/d.raw.gz", (tmp_path / "d.raw.gz").read_bytes(), format="raw")
    (tmp_path / "list").write_bytes(made.signed())
    done = terminal.json(
        "import", "--hepix", tmp_path / "list", "--ca", cas / "ca-0.pem", "--all-list", "--name", "tiny"
    )
    assert done[0]["manifest"]["artifacts"]["disk"]["digest"] == sha256(raw)


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    terminal: Terminal, server: Faulty, image: Path, cas: Path
) -> None:
    url = serve(server, image)

    def rest(line: Any, right: bytes) -> None:
        half = len(right) // 2
        head = f"HTTP/1.1 206 Partial\r\nContent-Range: bytes {half}-{len(right) - 1}/{len(right)}\r\n"
        head += f"Content-Length: {len(right) - half}\r\nConnection: close\r\n\r\n"
        line.sendall(head.encode() + right[half:])

    def no_fault(line: Any, right: bytes) -> None:
        line.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(right), right)
        )

    server.faults += [no_fault, CUT, rest]
    terminal.json("import", "--hepix", url, "--ca", cas, "--all-list")
    half = image.stat().st_size // 2
    assert server.requests[-1][1]["range"] == f"bytes={half}-"


def test_a_newer_list_is_taken_and_a_new_endorser_only_by_name(
    terminal: Terminal, server: Faulty, image: Path, cas: Path
) -> None:
    words = ["import", "--hepix", serve(server, image), "--ca", cas, "--all-list"]
    terminal.json(*words)
    serve(server, image, version="1.10", image_version="3.3")
    assert terminal.json(*words)[0]["image"] == "tiny-linux@3.3"
    made = grid.List(f"{server.url}/tiny.qcow2", image.read_bytes(), version="1.11", dn=grid.JOHN)
    (server.repository / "image.list").write_bytes(made.signed(grid.john()))
    code, _, err = terminal.run(*words)
    assert code == 5 and "John Roe" in err and "--endorser" in err
    assert terminal.run(*words, "--endorser", grid.JANE)[0] == 5
    assert terminal.run(*words, "--endorser", grid.JOHN)[0] == 0


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["import"], "name a FILE"),
        (["import", "f", "--hepix", "l"], "name a FILE"),
        (["import", "f"], "needs a name"),
        (["import", "f", "--name", "x", "--ca", "c"], "for --hepix"),
        (["import", "--hepix", "l"], "an authority vouches"),
        (["import", "--hepix", "l", "--ca", "c", "--format", "raw"], "for a FILE"),
    ],
)
def test_wrong_words_are_told_what_is_right(terminal: Terminal, words: list[str], what: str) -> None:
    code, _, err = terminal.run(*words)
    assert code == 2 and what in err


def test_names_are_written_as_grids_write_them() -> None:
    assert name_of(grid.name(grid.JANE)) == grid.JANE
    host = "/DC=org/CN=host"
    assert name_of(grid.name(host)) == host


# -- export -------------------------------------------------------------------------------------------


@pytest.fixture
def exporting(terminal: Terminal, tmp_path: Path) -> list[object]:
    """The words of an export of what a kiosk has published, by an endorser whose key has a passphrase."""
    kiosk = ready(tmp_path / "farm")
    terminal.set("KIOSK_HOME", kiosk.settings.home)
    (tmp_path / "usercert.pem").write_bytes(grid.jane().pem())
    (tmp_path / "userkey.pem").write_bytes(grid.jane().key_pem(PASSPHRASE))
    (tmp_path / "passphrase").write_bytes(PASSPHRASE + b"\n")
    (tmp_path / "out").mkdir()
    words: list[object] = ["export", "--hepix", "worker", "--list-identifier", LIST]
    words += ["--endorser-cert", tmp_path / "usercert.pem", "--endorser-key", tmp_path / "userkey.pem"]
    words += ["--passphrase-file", tmp_path / "passphrase", "--uri-base", "https://kiosk.example.org/hepix/"]
    return [*words, "--output", tmp_path / "out"]


def catch(cas: Path, path: Path, *more: str) -> tuple[int, dict[str, Any]]:
    """What vmcatcher's checks say, and what they believed."""
    argv = ["/usr/bin/python3", VMCATCHER, cas, path, *(more or (LIST,))]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else {}


def needs_m2crypto() -> None:
    done = subprocess.run(["/usr/bin/python3", "-c", "import M2Crypto"], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("the system's Python has no M2Crypto (apt-get install python3-m2crypto)")


@pytest.mark.parametrize("more", [[], ["--format", "qcow2"], ["--gzip"]])
def test_what_is_exported_passes_vmcatchers_checks(
    terminal: Terminal, exporting: list[object], tmp_path: Path, cas: Path, more: list[str]
) -> None:
    needs_m2crypto()
    done = terminal.json(*exporting, *more, "--vo", "ops")
    code, found = catch(cas, Path(done["list"]))
    assert code == 0
    (image,) = (entry["hv:image"] for entry in found["hv:images"])
    file = tmp_path / "out" / image["hv:uri"].removeprefix("https://kiosk.example.org/hepix/")
    assert (image["hv:size"], image["sl:checksum:sha512"]) == (
        file.stat().st_size,
        hashlib.sha512(file.read_bytes()).hexdigest(),
    )
    assert (image["hv:version"], image["dc:identifier"]) == ("1", done["images"][0]["identifier"])
    assert found["ad:vo"] == "ops" and found["hv:uri"] == "https://kiosk.example.org/hepix/image.list"
    assert found["hv:endorser"]["hv:x509"] == {
        "hv:dn": grid.JANE, "hv:ca": grid.CA, "dc:creator": "Jane Doe", "hv:email": "jane.doe@example.org",
    }  # fmt: skip
    left = {".kiosk-export.lock", file.name, "image.list"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == left


def test_vmcatchers_checks_refuse_what_was_altered(
    terminal: Terminal, exporting: list[object], tmp_path: Path, cas: Path
) -> None:
    needs_m2crypto()
    path = Path(terminal.json(*exporting)["list"])
    good = path.read_bytes()
    version = json.loads(good[good.index(b"{") : good.rindex(b"}") + 1])["hv:imagelist"]["hv:version"]
    assert catch(cas, path, LIST, version)[0] == 0
    assert catch(cas, path, LIST, "99999999.1")[0] == 17
    assert catch(cas, path, grid.LIST)[0] == 31
    path.write_bytes(good.replace(b'"hv:version": "1"', b'"hv:version": "2"'))
    assert catch(cas, path)[0] == 11
    other = grid.issue("/DC=org/CN=Other CA", None, 3, ca=True)
    assert catch(grid.trusted(tmp_path / "others", other), path)[0] == 11
    path.write_bytes(grid.List("https://x/y", b"z", dn=grid.JOHN, more=(("sl:comments", "-"),)).signed())
    assert catch(cas, path, grid.LIST)[0] == 12
    path.write_bytes(grid.List("https://x/y", b"z", days=(-30, -2), more=(("sl:comments", "-"),)).signed())
    assert catch(cas, path, grid.LIST)[0] == 34
    path.write_bytes(grid.List("https://x/y", b"z").signed())  # its comments are empty
    assert catch(cas, path, grid.LIST)[0] == 36


def test_what_is_exported_can_be_imported_elsewhere(
    terminal: Terminal, exporting: list[object], tmp_path: Path, server: Faulty, cas: Path
) -> None:
    exporting[exporting.index("--uri-base") + 1] = server.url
    done = terminal.json(*exporting, "--format", "qcow2")
    for path in (tmp_path / "out").iterdir():
        path.rename(server.repository / path.name)
    published = terminal.json("show", "worker")["manifest"]["artifacts"]["disk"]["digest"]
    terminal.set("KIOSK_HOME", tmp_path / "elsewhere")
    words = ["import", "--hepix", f"{server.url}/image.list", "--ca", cas, "--endorser", grid.JANE]
    (there,) = terminal.json(*words, "--image", done["images"][0]["identifier"])
    assert there["image"] == "worker@1"
    assert there["manifest"]["artifacts"]["disk"]["digest"] == published


def test_a_second_export_has_a_higher_version_and_the_same_identifier(
    terminal: Terminal, exporting: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kiosk import clock

    first = terminal.json(*exporting)
    moment = clock.now()
    monkeypatch.setattr(clock, "now", lambda: moment - timedelta(hours=1))
    code, _, err = terminal.run(*exporting)
    assert code == 2 and "this machine's clock" in err
    monkeypatch.setattr(clock, "now", lambda: moment + timedelta(hours=1))
    second = terminal.json(*exporting)
    assert second["version"] > first["version"]
    assert second["images"][0]["identifier"] == first["images"][0]["identifier"]


def test_an_export_that_readers_would_refuse_is_refused_first(
    terminal: Terminal, exporting: list[object], tmp_path: Path
) -> None:
    def refused(code: int, words: str, *more: object) -> None:
        got, _, err = terminal.run(*exporting, *more)
        assert (got, words in err) == (code, True), err
        assert not (tmp_path / "out/image.list").exists()

    def certificate(person: grid.Person) -> None:
        (tmp_path / "usercert.pem").write_bytes(person.pem())
        (tmp_path / "userkey.pem").write_bytes(person.key_pem(PASSPHRASE))

    refused(10, "--expires", "--expires", "400d")
    refused(2, "http or https address", "--uri-base", "file:///srv")
    refused(2, "not a UUID", "--list-identifier", "mine")
    refused(2, "is named twice", "worker@1")
    refused(6, "nothing", "nothing")
    (tmp_path / "wrong").write_text("wrong")
    refused(2, "passphrase is wrong", "--passphrase-file", tmp_path / "wrong")
    certificate(grid.issue(grid.JANE, grid.authority(), 1, days=(-30, -1)))
    refused(5, "and not now")
    certificate(grid.issue(grid.JANE, grid.authority(), 1, uses=grid.USER[:1]))
    refused(2, "emailProtection")
    certificate(grid.john())
    refused(2, "no e-mail address")
    (tmp_path / "usercert.pem").write_bytes(grid.jane().pem())
    refused(2, "is not the key of the certificate")


def test_an_export_by_dry_run_writes_nothing(
    terminal: Terminal, exporting: list[object], tmp_path: Path
) -> None:
    code, out, _ = terminal.run(*exporting, "--dry-run")
    assert code == 0 and f"would sign the list {LIST} as {grid.JANE}" in out
    assert list((tmp_path / "out").iterdir()) == []
