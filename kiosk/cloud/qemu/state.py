"""The state of a VM from what one look finds: its folder, its processes, its guest's report. Pure rules."""

from __future__ import annotations

from kiosk import clock
from kiosk.cloud.api import Phase, VmState
from kiosk.cloud.qemu.record import End, Record
from kiosk.cloud.report import Report


def state(
    record: Record, *, alive: bool, starting: bool, report: Report, end: End | None, root_hash: str | None
) -> VmState:
    """Puts together what was found. `starting` says that a kiosk is still making the VM."""
    stage, reason = report.stage, report.reason
    phase: Phase
    if not record.reports:
        report, stage, reason = Report(), None, None
    lie = contradiction(record, report, root_hash) if report.state in ("ready", "draining") else None
    if end is not None:
        phase, stage, reason = "failed", end.stage or stage, end.reason
    elif report.state == "failed":
        phase = "failed"
    elif lie is not None:
        phase, stage, reason = "failed", "attest", lie
    elif not record.reports:
        phase = "running" if alive else "starting" if starting else "stopped"
    elif alive:
        said = report.state
        phase = said if said in ("ready", "draining", "stopping") else "booting"
    elif starting:
        phase = "starting"
    elif report.state == "stopping":
        phase = "stopped"
    elif report.state in ("ready", "draining"):
        phase, reason = "failed", f"the VM ended while it was {report.state}, without a word that it stops"
    else:
        phase = "failed"
        reason = reason or (
            "the VM ended before it was ready" if report.state else "the VM ended before its guest reported"
        )
    return VmState(
        id=record.id,
        uuid=record.uuid,
        name=record.name,
        image=record.image,
        layers=record.layers,
        flavour=str(record.flavour),
        phase=phase,
        created=record.created,
        stage=stage,
        reason=reason,
        jobs=report.jobs if phase == "draining" else None,
    )


def contradiction(record: Record, report: Report, root_hash: str | None) -> str | None:
    """Where the attestation of a guest that says it is ready is not of this VM, or None where it is.

    This finds mistakes (a wrong disk attached, an old context), not a guest that lies: who has root in a
    guest can say anything.
    """
    attestation = report.attestation
    if attestation is None:
        return "the guest says that it is ready, without an attestation"
    node, image, layers = (attestation.get(key) for key in ("node", "image", "layers"))
    if not isinstance(node, dict) or node.get("id") != record.uuid:
        return "the guest's attestation is of another machine"
    if not isinstance(image, dict) or f"{image.get('name')}@{image.get('version')}" != record.image:
        return f"the guest's attestation is of another image than {record.image}"
    if root_hash is not None and image.get("root_hash") != root_hash:
        return f"the guest runs on another root than {record.image}'s"
    found = layers if isinstance(layers, list) else []
    names = [f"{x.get('name')}@{x.get('version')}" for x in found if isinstance(x, dict)]
    if sorted(names) != sorted(record.layers):  # in which order they apply is the guest's own rule
        return f"the guest's attestation has the layers {', '.join(names) or '(none)'}, not those asked for"
    return None


def lost(uuid: str) -> VmState:
    """The state of a VM that runs without its folder."""
    reason = "it runs, but its folder was removed (stop it to end it)"
    return VmState(uuid[:8], uuid, "?", "?", (), "?", "failed", clock.now(), reason=reason)
