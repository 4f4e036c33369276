"""What was in the image on Tuesday, and since when openssl is fixed: from signed facts, even of what is gone."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kiosk.cli import papers
from kiosk.files import sha256
from kiosk.mirror.copy import mirror
from kiosk.model.census import Package, write_packages
from kiosk.model.history import LARGEST, MOST, History, Withdrawn
from kiosk.model.manifest import ImageManifest
from kiosk.publish import publish
from kiosk.publish.prune import prune
from kiosk.publish.retention import Rule
from kiosk.publish.signed import listed
from kiosk.store import inventory
from kiosk.trust.signing.repository import Repository
from tests.publish.test_commands import Terminal
from tests.publish.test_commands import terminal as terminal
from tests.simulators.published import Kiosk, ask, build_image, duplicate

MONDAY = datetime(2026, 11, 16, 2, 10, tzinfo=UTC)
SBOM = b'{"bomFormat": "CycloneDX"}\n'
BUILDER = (
    b'{"predicate": {"runDetails": {"builder": {"id": "https://x.invalid", "version": {"kiosk": "1"}}}}}'
)


def image(kiosk: Kiosk, version: str, day: int, *packages: str, hours: float = 0) -> None:
    """Publishes a version on a day of that week, with packages written as NAME=VERSION or NAME=VERSION=SOURCE."""
    folder = build_image(kiosk.settings, version=version)
    rows = [
        Package(name=n, version=v, architecture="amd64", source=source or None)
        for n, v, source in ((*p.split("="), "")[:3] for p in packages)
    ]
    manifest = ImageManifest.from_json((folder / "manifest.json").read_bytes(), where="here")
    artifacts = dict(manifest.artifacts)
    for name, data in {"packages": write_packages(rows), "sbom": SBOM, "provenance": BUILDER}.items():
        (folder / f"{name}.json").write_bytes(data)
        artifacts[name] = artifacts["files"].model_copy(
            update={"file": f"{name}.json", "size": len(data), "digest": sha256(folder / f"{name}.json")}
        )
    (folder / "manifest.json").write_bytes(manifest.model_copy(update={"artifacts": artifacts}).to_json())
    moment = MONDAY + timedelta(days=day, hours=hours)
    publish(kiosk.settings, folder, ask, now=lambda: moment)


@functools.cache
def week() -> Path:
    """A kiosk in whose image openssl was broken on Monday and Tuesday, and fixed on Wednesday. Made once."""
    home = Path(tempfile.mkdtemp(prefix="kiosk-week-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    kiosk = Kiosk(home).create()
    image(kiosk, "20261116.1", 0, "bash=5.2", "libssl3=3.0.10=openssl")
    image(kiosk, "20261117.1", 1, "bash=5.2", "libssl3=3.0.11=openssl", "openssl=3.0.11")
    image(kiosk, "20261118.1", 2, "bash=5.2", "libssl3=3.0.13=openssl", "openssl=3.0.13")
    image(kiosk, "20261118.2", 2, "bash=5.3", "libssl3=3.0.13=openssl", hours=5)
    kiosk.resign()
    return home


@pytest.fixture
def kiosk(tmp_path: Path, terminal: Terminal) -> Kiosk:
    """A copy of that kiosk."""
    duplicate(week(), tmp_path / "kiosk")
    kiosk = Kiosk(tmp_path / "kiosk")
    terminal.set("KIOSK_HOME", kiosk.settings.home)
    return kiosk


def gone(kiosk: Kiosk) -> None:
    """Withdraws all but the newest version and removes what nothing needs, built files included."""
    assert len(prune(kiosk.settings, ask, Rule(1), grace=timedelta(0)).withdrawn) == 3
    shutil.rmtree(kiosk.settings.images)


def versions(found: Any) -> list[str]:
    return [one["version"] for one in found]


def test_versions_are_told_newest_first_with_what_changed(kiosk: Kiosk, terminal: Terminal) -> None:
    found = terminal.json("history", "worker")
    assert versions(found) == ["20261118.2", "20261118.1", "20261117.1", "20261116.1"]
    newest, first = found[0], found[-1]
    assert (newest["published"], newest["until"]) == ("2026-11-18T07:10:00+00:00", None)
    assert newest["changed"] == {"added": 0, "removed": 1, "upgraded": 1, "downgraded": 0, "changed": 0}
    assert (first["packages"], first["changed"], first["until"]) == (2, None, "2026-11-17T02:10:00+00:00")
    assert (first["source"]["kind"], first["published_recorded"]) == ("recipe", True)
    code, out, _ = terminal.run("history", "worker", "--packages")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[4][:5] == ["20261117.1", "2026-11-17", "02:10", "recipe", "worker"]
    assert "1 added, 1 upgraded" in out
    assert ["upgraded", "libssl3", "amd64", "3.0.11", "3.0.13"] in lines
    assert "current" in out.splitlines()[2]


@pytest.mark.parametrize("after", ["as published", "all but the newest withdrawn and removed"])
def test_what_was_in_the_image_on_tuesday(kiosk: Kiosk, terminal: Terminal, after: str) -> None:
    if after != "as published":
        gone(kiosk)
    found = terminal.json("history", "worker", "--on", "2026-11-17T12:00", "--packages")
    assert versions(found) == ["20261117.1"]
    assert [(p["name"], p["version"]) for p in found[0]["list"]] == [
        ("bash", "5.2"),
        ("libssl3", "3.0.11"),
        ("openssl", "3.0.11"),
    ]
    assert versions(terminal.json("history", "worker", "--on", "2026-11-17")) == ["20261116.1", "20261117.1"]
    wednesday = terminal.json("history", "worker", "--on", "2026-11-18")
    assert versions(wednesday) == ["20261117.1", "20261118.1", "20261118.2"]
    out = terminal.run("history", "worker", "--on", "2026-11-17T12:00", "--package", "openssl")[1]
    assert "worker@20261117.1  published 2026-11-17 02:10 UTC, until 2026-11-18 02:10 UTC" in out
    assert "bash" not in out
    assert "libssl3" in out
    assert ("withdrawn" in out) == (after != "as published")
    assert versions(terminal.json("history", "--on", "2027-01-01")) == ["20261118.2"]


@pytest.mark.parametrize("where", ["the repository here", "a URL", "a mirror"])
def test_the_day_openssl_was_fixed(kiosk: Kiosk, terminal: Terminal, tmp_path: Path, where: str) -> None:
    gone(kiosk)
    if where != "the repository here":
        url = kiosk.settings.repository
        if where == "a mirror":
            mirror(kiosk.settings, url, tmp_path / "mirror")
            url = tmp_path / "mirror"
            shutil.rmtree(kiosk.settings.repository / "objects")
        terminal.set("KIOSK_HOME", tmp_path / "reader")
        terminal.set("KIOSK_URL", url)
        terminal.set("KIOSK_ROOT", kiosk.root)
    found = terminal.json("history", "worker", "--package", "openssl=3.0.11*")
    assert [(s["name"], s["since"], s["until"]) for s in found] == [
        ("libssl3", "2026-11-17T02:10:00+00:00", "2026-11-18T02:10:00+00:00"),
        ("openssl", "2026-11-17T02:10:00+00:00", "2026-11-18T02:10:00+00:00"),
    ]
    out = terminal.run("history", "worker", "--package", "libssl3")[1]
    assert [line.split()[3] for line in out.splitlines()[1:]] == ["3.0.10", "3.0.11", "3.0.13"]
    assert out.splitlines()[-1].split()[-4:] == ["still", "20261118.1", "to", "20261118.2"]
    everywhere = terminal.json("history", "--package", "openssl=3.0.11*")
    assert everywhere == found
    assert {s["image"] for s in everywhere} == {"worker"}
    assert "No version had it" in terminal.run("history", "--package", "xz-utils=5.6.1*")[1]


def test_withdrawn_versions_are_remembered_and_their_papers_stay_whole(
    kiosk: Kiosk, terminal: Terminal
) -> None:
    disks = {o.digest: o.size for o in inventory.DirectoryStore(kiosk.settings.repository).objects()}
    gone(kiosk)
    left = {o.digest: o.size for o in inventory.DirectoryStore(kiosk.settings.repository).objects()}
    assert sum(left.values()) < 0.9 * sum(disks.values())
    assert [str(m.ref) for m in listed(kiosk.settings).past] == [
        "worker@20261116.1",
        "worker@20261117.1",
        "worker@20261118.1",
    ]
    assert terminal.run("store", "verify")[0] == 0
    assert terminal.json("store", "stats")["versions"] == 1
    assert terminal.json("store", "stats")["unnamed"] == 0
    found = terminal.json("history", "worker")
    assert [bool(v["withdrawn"]) for v in found] == [False, True, True, True]
    assert "withdrawn 20" in terminal.run("history", "worker")[1]
    assert [i["version"] for i in terminal.json("list")] == ["20261118.2"]
    image(kiosk, "20261119.1", 3, "bash=5.3")
    kiosk.resign()
    again = prune(kiosk.settings, ask, Rule(1), grace=timedelta(0))
    assert again.withdrawn == ("worker@20261118.2",)
    assert len(terminal.json("history", "worker")) == 5
    assert terminal.run("store", "verify")[0] == 0
    kept = [p.name for p in (kiosk.settings.repository / "targets/images/worker").iterdir()]
    assert sorted(name.partition(".")[2] for name in kept) == ["20261119.1.json", "history.json"]


def test_a_lost_paper_of_a_withdrawn_version_stops_a_prune_until_a_mirror_gives_it_back(
    kiosk: Kiosk, terminal: Terminal, tmp_path: Path
) -> None:
    gone(kiosk)
    mirror(kiosk.settings, kiosk.settings.repository, tmp_path / "mirror")
    index = listed(kiosk.settings).past[0].artifacts["packages"].index
    assert index is not None
    (kiosk.settings.repository / "objects" / index.digest[7:9] / index.digest[7:]).unlink()
    code, out, _ = terminal.run("store", "verify")
    assert (code, "needed by worker@20261116.1" in out) == (5, True)
    assert terminal.run("store", "prune")[0] == 5
    assert terminal.run("store", "repair", "--from", tmp_path / "mirror")[0] == 0
    assert terminal.run("store", "verify")[0] == 0
    assert terminal.run("store", "prune")[0] == 0


def test_a_history_that_was_tampered_with_is_refused_until_a_mirror_gives_it_back(
    kiosk: Kiosk, terminal: Terminal, tmp_path: Path
) -> None:
    gone(kiosk)
    mirror(kiosk.settings, kiosk.settings.repository, tmp_path / "mirror")
    (path,) = (kiosk.settings.repository / "targets/images/worker").glob("*.history.json")
    path.write_bytes(path.read_bytes().replace(b"20261117.1", b"20261117.7"))
    code, _, err = terminal.run("history", "worker")
    assert (code, "history.json" in err) == (5, True)
    assert terminal.run("store", "prune")[0] == 5
    path.unlink()
    assert terminal.run("history", "worker")[0] != 0
    assert terminal.run("store", "prune")[0] == 6
    assert terminal.run("store", "repair", "--from", tmp_path / "mirror")[0] == 0
    assert len(terminal.json("history", "worker")) == 4


def test_a_history_has_an_end() -> None:
    manifest = ImageManifest.from_json(
        (week() / "kiosk/built/worker/20261116.1/manifest.json").read_bytes(), where="here"
    )
    one = Withdrawn(withdrawn=MONDAY, signed="sha256:" + "0" * 64, manifest=manifest)
    full = History(name="worker", withdrawn=(one,) * MOST)
    newer = one.model_copy(update={"withdrawn": MONDAY + timedelta(days=1)})
    longer = full.with_more([newer])
    assert (len(longer.withdrawn), longer.withdrawn[-1]) == (MOST, newer)
    assert len(longer.to_json()) < LARGEST


def test_lists_are_read_once_and_checked_each_time(kiosk: Kiosk, terminal: Terminal) -> None:
    before = terminal.json("history", "worker")
    for file in (kiosk.settings.repository / "objects").rglob("*"):
        if file.is_file():
            file.unlink()
    assert terminal.json("history", "worker") == before
    for kept in (kiosk.settings.home / "client/lists").iterdir():
        kept.write_bytes(b"[]")
    assert terminal.run("history", "worker")[0] == 6  # what is kept is wrong, and the objects are gone


def test_only_so_many_lists_are_kept(
    kiosk: Kiosk, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(papers, "KEPT", 2)
    terminal.json("history", "worker")
    assert len(list((kiosk.settings.home / "client/lists").iterdir())) == 2


@pytest.mark.parametrize(
    "custom", [None, {}, {"published": 7}, {"published": "soon"}, "x", {"published": "2026-11-20"}]
)
def test_where_no_time_was_signed_the_time_of_making_is_told_as_such(
    kiosk: Kiosk, terminal: Terminal, custom: object
) -> None:
    writer: Repository = kiosk.repository()
    with writer.locked():
        images = writer.role("images")
        target = images.signed.targets["images/worker/20261116.1.json"]
        target.unrecognized_fields = {} if custom is None else {"custom": custom}
        writer._commit({"images": images})
    first = terminal.json("history", "worker")[-1]
    assert (first["published"], first["published_recorded"]) == (first["created"], False)
    out = terminal.run("history", "worker")[1]
    assert "2026-03-01 00:00*" in out
    assert out.splitlines()[-1].startswith("* when it was made")
    assert terminal.json("show", "worker@20261116.1")["published"] is None


def test_a_layer_has_a_history_without_packages(kiosk: Kiosk, terminal: Terminal) -> None:
    kiosk.delegate("site/a")
    for version in ("1", "2"):
        kiosk.layer(version=version)
    assert [(v["version"], v["packages"]) for v in terminal.json("history", "site/a/base")] == [
        ("2", None),
        ("1", None),
    ]
    assert terminal.run("history", "site/a/base", "--packages")[0] == 0
    assert prune(kiosk.settings, ask, Rule(1), grace=timedelta(0)).withdrawn[-1] == "site/a/base@1"
    assert versions(terminal.json("history", "site/a/base")) == ["2", "1"]
    assert "have no list" in terminal.run("history", "site/a/base", "--package", "x")[1]


def test_what_can_not_be_told_is_said(kiosk: Kiosk, terminal: Terminal) -> None:
    for words, code, says in [
        (["unheard-of"], 6, "is not in the repository"),
        (["worker@20261117.1"], 2, "kiosk show worker@20261117.1"),
        (["worker", "--on", "tuesday"], 2, "neither a day nor a time"),
        (["worker", "--on", "2026-11-15"], 6, "20261116.1, was on 2026-11-16 02:10 UTC"),
        (["worker", "--package", "=1"], 2, "names no package"),
        ([], 2, "name an image"),
        (["--on", "2026-11-15"], 6, "worker: no version was published"),
    ]:
        found, _, err = terminal.run("history", *words)
        assert (found, says in err) == (code, True), (words, err)


def test_show_prints_the_published_papers_byte_for_byte(kiosk: Kiosk, terminal: Terminal) -> None:
    assert terminal.run("show", "worker", "--sbom")[1].encode() == SBOM
    assert terminal.run("show", "worker@20261116.1", "--provenance")[1].encode() == BUILDER
    assert len(json.loads(terminal.run("show", "worker@20261117.1", "--packages")[1])) == 3
    code, _, err = terminal.run("show", "worker", "--audit")
    assert (code, "was published without audit" in err, "sbom" in err) == (6, True, True)
    code, _, err = terminal.run("show", "worker", "--sbom", "--packages")
    assert (code, "one file at a time" in err) == (2, True)
    out = terminal.run("show", "worker")[1]
    assert "published  2026-11-18 07:10 UTC" in out
    assert "packages   2; bill of materials in sbom.json" in out
    assert "built by   https://x.invalid  kiosk 1" in out
    assert "made from  recipe worker " in out
    assert terminal.json("show", "worker")["builder"] == "https://x.invalid  kiosk 1"


def test_versions_with_bills_of_materials_can_be_compared(kiosk: Kiosk, terminal: Terminal) -> None:
    found = terminal.json("diff", "worker@20261116.1", "worker")
    changed = [(c["name"], c["before"], c["after"]) for c in found["packages"]["changed"]]
    assert changed == [("bash", "5.2", "5.3"), ("libssl3", "3.0.10", "3.0.13")]
