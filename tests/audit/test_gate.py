"""Nothing is signed before the finished disk has passed; the report is published with the image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kiosk.audit import Report
from kiosk.audit.version import Gate
from kiosk.config import Settings
from kiosk.errors import CorruptError, PolicyError
from kiosk.files import sha256
from kiosk.model.manifest import AuditException, ImageManifest
from kiosk.model.names import parse_ref
from kiosk.publish import publish, read_built
from tests.audit import material
from tests.audit.images import NOW, Root, clean
from tests.audit.test_disk import file_system
from tests.publish.test_commands import Terminal, terminal
from tests.simulators.published import Kiosk, ask, build_image, ready, without_fsync

__all__ = ["terminal", "without_fsync"]
REASON = "A key that is public: every node has it."


@pytest.fixture
def kiosk(tmp_path: Path) -> Kiosk:
    return ready(tmp_path / "kiosk")


def build(settings: Settings, work: Path, plant: Callable[[Root], object] = lambda r: None, *,
          version: str = "2", exceptions: tuple[AuditException, ...] = ()) -> Path:  # fmt: skip
    """A built version whose disk is a real file system."""
    folder = build_image(settings, version=version)
    root = clean(work / f"root-{version}")
    plant(root)
    disk = file_system(root.path, folder / "disk.raw")
    listed = [{"name": "systemd", "version": "1.0-1", "architecture": "amd64"}]
    (folder / "packages.json").write_text(json.dumps(listed))
    manifest = ImageManifest.from_json((folder / "manifest.json").read_bytes(), where="manifest")
    artifacts = {
        n: a.model_copy(update={"size": (folder / a.file).stat().st_size, "digest": sha256(folder / a.file)})
        for n, a in manifest.artifacts.items()
    }
    made = manifest.model_copy(update={"artifacts": artifacts, "exceptions": exceptions})
    (folder / "manifest.json").write_bytes(made.to_json())
    assert disk.exists()
    return folder


def gate() -> Gate:
    return Gate(None, now=lambda: NOW)


def test_a_clean_image_is_published_with_its_report(kiosk: Kiosk, tmp_path: Path) -> None:
    folder = build(kiosk.settings, tmp_path)
    done = publish(kiosk.settings, folder, ask, checks=[gate()])
    assert "audit" in [a.name for a in done.artifacts]
    report = Report.from_json((folder / "audit.json").read_bytes(), where="audit.json")
    assert (report.passed, report.image, report.disk) == (True, "worker@2", sha256(folder / "disk.raw"))
    again = publish(kiosk.settings, folder, ask, checks=[Gate(None)])
    assert again.already
    build(kiosk.settings, tmp_path, version="3")
    assert not publish(kiosk.settings, folder.with_name("3"), ask, checks=[gate()]).already


def test_a_secret_stops_the_publication_before_anything_is_signed(kiosk: Kiosk, tmp_path: Path) -> None:
    before = {
        p: hashlib.sha256(p.read_bytes()).digest()
        for p in kiosk.settings.repository.rglob("*")
        if p.is_file()
    }
    folder = build(kiosk.settings, tmp_path, lambda r: r.write("opt/key", material.pem()))

    def nobody(key: str) -> bytes:
        raise AssertionError(f"the passphrase of {key} was asked for")

    with pytest.raises(PolicyError, match="private-key: /opt/key") as caught:
        publish(kiosk.settings, folder, nobody, checks=[gate()])
    assert "kiosk audit worker@2" in str(caught.value)
    after = {
        p: hashlib.sha256(p.read_bytes()).digest()
        for p in kiosk.settings.repository.rglob("*")
        if p.is_file()
    }
    assert after == before
    assert not (folder / "audit.json").exists()


def test_an_exception_of_the_manifest_lets_it_pass_and_is_published(kiosk: Kiosk, tmp_path: Path) -> None:
    accepted = AuditException(check="private-key", path="/opt/key", reason=REASON)
    folder = build(
        kiosk.settings, tmp_path, lambda r: r.write("opt/key", material.pem()), exceptions=(accepted,)
    )
    publish(kiosk.settings, folder, ask, checks=[gate()])
    report = Report.from_json((folder / "audit.json").read_bytes(), where="audit.json")
    assert [(a.finding.path, a.reason) for a in report.accepted] == [("/opt/key", REASON)]


def test_a_disk_that_is_not_the_manifests_is_not_audited(kiosk: Kiosk, tmp_path: Path) -> None:
    folder = build(kiosk.settings, tmp_path)
    with (folder / "disk.raw").open("r+b") as f:
        f.write(b"x")
    with pytest.raises(CorruptError, match="the manifest says"):
        gate()(read_built(folder), folder)


def test_a_version_that_brings_its_own_report_is_refused(kiosk: Kiosk, tmp_path: Path) -> None:
    folder = build(kiosk.settings, tmp_path)
    manifest = read_built(folder)
    forged = {**manifest.artifacts, "audit": manifest.artifacts["files"]}
    (folder / "manifest.json").write_bytes(manifest.model_copy(update={"artifacts": forged}).to_json())
    with pytest.raises(CorruptError, match="only publishing adds"):
        publish(kiosk.settings, folder, ask, checks=[gate()])


def test_a_layer_is_not_audited(kiosk: Kiosk) -> None:
    folder = kiosk.settings.images / str(parse_ref("site/a/base@1")).replace("@", "/")
    assert gate()(read_built(folder), folder) == {}


def test_the_commands(terminal: Terminal, kiosk: Kiosk, tmp_path: Path) -> None:
    (tmp_path / "passphrase").write_text("correct horse battery staple\n")
    terminal.set("KIOSK_PASSPHRASE_FILE", tmp_path / "passphrase")
    terminal.set("KIOSK_HOME", kiosk.settings.home)
    folder = build(kiosk.settings, tmp_path, lambda r: r.write("opt/key", material.pem()))
    code, out, err = terminal.run("audit", "worker", "--no-updates")
    assert (code, "/opt/key" in out, "1 findings" in err) == (10, True, True)
    assert "Not looked at: security-update" in out
    code, out, err = terminal.run("audit", folder / "disk.raw", "--no-updates", "--json")
    assert (code, json.loads(out)["findings"][0]["check"]) == (10, "private-key")
    target = tmp_path / "a.sarif"
    code, out, err = terminal.run(
        "audit", "worker@2", "--no-updates", "--format", "sarif", "--output", target
    )
    assert (code, json.loads(target.read_text())["version"]) == (10, "2.1.0")
    assert terminal.run("audit", "worker", "--format", "xml")[0] == 2
    assert terminal.run("audit", "unheard-of")[0] == 6
    code, _, err = terminal.run("publish", "worker", "--no-updates")
    assert (code, "private-key: /opt/key" in err) == (10, True)
    build(kiosk.settings, tmp_path, version="3")
    code, out, err = terminal.run("audit", "worker", "--no-updates")
    assert (code, "worker@3 passed the audit." in out) == (0, True), err
    assert terminal.json("publish", "worker", "--no-updates")["already"] is False
    assert "audit      worker@3 passed the audit" in terminal.run("show", "worker")[1]
    assert terminal.json("show", "worker")["audit"]["left_out"]["security-update"]
