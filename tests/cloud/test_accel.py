"""KVM is used only where a guest was seen running on it, and that is found out once a boot of the host."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiosk.cloud.qemu import accel
from kiosk.errors import UsageError

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def write(cache: Path, *, boot: str, kvm: bool) -> None:
    cache.write_bytes(accel.Probe(boot=boot, kvm=kvm, reason="was so").to_json())


def test_the_probes_guest_runs_to_its_end_when_emulated(tmp_path: Path) -> None:
    assert accel.failure("tcg", tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_guest_that_hangs_fails_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "BOOT_SECTOR", bytes.fromhex("fa f4 eb fd"))
    monkeypatch.setattr(accel, "LIMIT", 1.0)
    assert "hung" in str(accel.failure("tcg", tmp_path))


def test_an_answer_of_this_boot_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "failure", lambda *_: pytest.fail("probed again"))
    for kvm in (True, False):
        write(tmp_path / "accel.json", boot=BOOT, kvm=kvm)
        assert accel.choose("auto", tmp_path / "accel.json") == ("kvm" if kvm else "tcg")


@pytest.mark.parametrize("old", ["another boot", "not json", "nothing"])
def test_otherwise_it_is_found_out_and_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str
) -> None:
    cache = tmp_path / "accel.json"
    if old == "another boot":
        write(cache, boot="0" * 36, kvm=True)
    elif old == "not json":
        cache.write_bytes(b"{")
    monkeypatch.setattr(accel, "failure", lambda *_: "it hung")
    assert accel.choose("auto", cache) == "tcg"
    assert accel.probe(cache) == accel.Probe(boot=BOOT, kvm=False, reason="it hung")


def test_kvm_on_demand_is_refused_where_it_does_not_work(tmp_path: Path) -> None:
    write(tmp_path / "accel.json", boot=BOOT, kvm=False)
    with pytest.raises(UsageError, match="was so"):
        accel.choose("kvm", tmp_path / "accel.json")
    assert accel.choose("tcg", tmp_path / "none" / "accel.json") == "tcg"
