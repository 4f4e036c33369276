"""What signed metadata must be for a guest that has nothing but its own root of trust and a context disk."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from contextualize import trust
from contextualize.errors import Refused
from tests.contextualize.guest import Guest

Squashfs = Callable[[dict[str, str]], bytes]
LAYER = "layers/experiment/demo/software/1.json"


@pytest.fixture
def demo(guest: Guest, squashfs: Squashfs) -> Guest:
    """A guest with one experiment layer."""
    guest.add_layer("experiment/demo/software", squashfs({"share/version": "4.2\n"}))
    return guest


def test_all_good(demo: Guest) -> None:
    assert demo.boot() == 0


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "images", "experiment-demo"])
def test_expired(demo: Guest, role: str) -> None:
    demo.repository.expires[role] = -0.1
    assert demo.boot() == 1
    assert "ExpiredMetadataError" in demo.refused()


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "images", "experiment-demo"])
def test_signed_by_the_wrong_roles_key(demo: Guest, role: str) -> None:
    demo.repository.signed_by[role] = "site-example"
    assert demo.boot() == 1
    assert "UnsignedMetadataError" in demo.refused()


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "images", "experiment-demo"])
def test_metadata_with_a_later_date_written_into_it(demo: Guest, role: str) -> None:
    demo.repository.expires[role] = -0.1
    demo.sign()
    file = next((demo.disk / "kiosk/metadata").glob(f"*{role}.json"))
    changed, times = re.subn(rb'("expires": ?")2', rb"\g<1>3", file.read_bytes())
    assert times == 1
    file.write_bytes(changed)
    assert demo.boot(signed=True) == 1
    assert "UnsignedMetadataError" in demo.refused() or "LengthOrHashMismatchError" in demo.refused()


def test_an_altered_manifest(demo: Guest) -> None:
    demo.sign()
    file = next((demo.disk / "kiosk/targets/layers/experiment/demo/software").iterdir())
    manifest = json.loads(file.read_bytes())
    manifest["prefix"] = "/opt/experiment/dem0"
    file.write_text(json.dumps(manifest))
    assert demo.boot(signed=True) == 1
    assert demo.refused().startswith(f"verify: {LAYER}: LengthOrHashMismatchError")


@pytest.mark.parametrize("role", ["site-example", "experiment-other", "targets"])
def test_a_layer_that_another_role_has_signed(guest: Guest, squashfs: Squashfs, role: str) -> None:
    guest.add_layer("experiment/demo/software", squashfs({"bin/x": "x"}), role=role)
    assert guest.boot() == 1
    assert guest.refused() == f"verify: {LAYER} is not signed by the role experiment-demo"


def test_a_layer_that_poses_as_another(guest: Guest, squashfs: Squashfs) -> None:
    guest.add_layer(
        "experiment/demo/software", squashfs({"bin/x": "x"}), name="base", kind="site", owner="example"
    )
    assert guest.boot() == 1
    assert guest.refused() == f"verify: {LAYER} is the manifest of site/example/base@1"


def test_a_layer_that_asks_for_another_prefix(guest: Guest, squashfs: Squashfs) -> None:
    guest.add_layer("experiment/demo/software", squashfs({"bin/x": "x"}), prefix="/usr")
    assert guest.boot() == 1
    assert "asks for the prefix /usr; its own is /opt/experiment/demo" in guest.refused()


def test_a_layer_for_another_image(guest: Guest, squashfs: Squashfs) -> None:
    guest.add_layer("experiment/demo/software", squashfs({"bin/x": "x"}), images=["debian-12-worker"])
    assert guest.boot() == 1
    assert "is made for debian-12-worker, not debian-12-minimal" in guest.refused()


def test_an_older_snapshot_under_a_newer_timestamp(demo: Guest) -> None:
    demo.sign()
    old = (demo.disk / "kiosk/metadata/1.snapshot.json").read_bytes()
    demo.repository.version = 2
    demo.sign()
    (demo.disk / "kiosk/metadata/2.snapshot.json").write_bytes(old)
    assert demo.boot(signed=True) == 1
    assert demo.refused().startswith("verify: the signed metadata does not hold")


def test_an_older_role_under_a_newer_snapshot(demo: Guest) -> None:
    demo.sign()
    old = (demo.disk / "kiosk/metadata/1.experiment-demo.json").read_bytes()
    demo.repository.version = 2
    demo.sign()
    (demo.disk / "kiosk/metadata/2.experiment-demo.json").write_bytes(old)
    assert demo.boot(signed=True) == 1
    assert demo.refused().startswith(f"verify: {LAYER}")


def test_keys_that_a_newer_root_in_the_image_has_withdrawn(demo: Guest) -> None:
    demo.sign()
    demo.repository.keys["timestamp"] = CryptoSigner.generate_ed25519()
    demo.write("/usr/lib/kiosk/root.json", demo.repository.root(version=2))
    assert demo.boot(signed=True) == 1
    assert "UnsignedMetadataError" in demo.refused()


def test_a_newer_root_on_the_context_disk_is_followed(demo: Guest) -> None:
    demo.repository.keys["timestamp"] = CryptoSigner.generate_ed25519()
    demo.sign()
    (demo.disk / "kiosk/metadata/2.root.json").write_bytes(demo.repository.root(version=2))
    assert demo.boot(signed=True) == 0


def test_somebody_elses_whole_repository(demo: Guest) -> None:
    for role in list(demo.repository.keys):
        demo.repository.keys[role] = CryptoSigner.generate_ed25519()
    assert demo.boot() == 1
    assert "UnsignedMetadataError" in demo.refused()


@pytest.mark.parametrize("missing", ["timestamp.json", "1.snapshot.json", "1.targets.json", "1.images.json"])
def test_metadata_that_is_missing(demo: Guest, missing: str) -> None:
    demo.sign()
    (demo.disk / "kiosk/metadata" / missing).unlink()
    assert demo.boot(signed=True) == 1
    assert f"the context has no metadata/{missing}" in demo.refused()


def test_metadata_without_end(demo: Guest) -> None:
    demo.sign()
    (demo.disk / "kiosk/metadata/timestamp.json").write_bytes(b" " * (1 << 20))
    assert demo.boot(signed=True) == 1
    assert "DownloadLengthMismatchError" in demo.refused()


def test_a_root_of_trust_that_is_none(demo: Guest) -> None:
    demo.write("/usr/lib/kiosk/root.json", b"{}")
    assert demo.boot() == 1
    assert demo.refused().startswith("verify: the signed metadata does not hold")


def test_python_tuf_is_loaded_without_the_fetcher_that_is_not_used(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from contextualize.errors import Refused
from contextualize.trust import Trust
try:
    Trust(b"{}", Path(sys.argv[1]), None, Path(sys.argv[1]))
except Refused as e:
    fetcher = sys.modules["tuf.ngclient.urllib3_fetcher"]
    sys.exit(hasattr(fetcher, "urllib3") or "does not hold" not in e.reason)
"""
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, cwd=Path(trust.__file__).parents[1])


@pytest.mark.parametrize("what", ["pipe", "link", "linked folder"])
def test_a_bundle_that_is_more_than_files(guest: Guest, what: str) -> None:
    guest.sign()
    metadata = guest.disk / "kiosk/metadata"
    file = metadata / "timestamp.json"
    if what == "pipe":
        file.unlink()
        os.mkfifo(file)
    elif what == "link":
        file.rename(guest.disk / "elsewhere")
        file.symlink_to(guest.disk / "elsewhere")
    else:
        metadata.rename(guest.disk / "elsewhere")
        metadata.symlink_to(guest.disk / "elsewhere")
    with pytest.raises(Refused, match="the signed metadata does not hold"):
        trust.Trust(guest.repository.root(), guest.disk / "kiosk", None, guest.root)
