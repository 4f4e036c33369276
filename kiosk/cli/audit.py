"""`kiosk audit`: what must not be in a finished image, found by looking at its bytes; and the gate before signing."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json as json_module
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kiosk import files
from kiosk.cli.common import Json, emit, say, settings, size, table
from kiosk.config import Settings
from kiosk.errors import CorruptError, PolicyError, UsageError
from kiosk.progress import bar

if TYPE_CHECKING:
    from kiosk.audit import Report
    from kiosk.audit.model import Updates
    from kiosk.audit.version import Gate
    from kiosk.model.manifest import Manifest

NoUpdates = Annotated[
    bool, typer.Option("--no-updates", help="Don't ask the archive for security updates; the report says so.")
]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("audit")(audit_image)


def audit_image(
    ctx: typer.Context,
    image: Annotated[
        str, typer.Argument(metavar="IMAGE[@VERSION]|FILE", help="A built image, or the file of a raw disk.")
    ],
    no_updates: NoUpdates = False,
    format: Annotated[str, typer.Option("--format", help="text, json, or sarif.")] = "text",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the report to this file instead.")
    ] = None,
    json: Json = False,
) -> None:
    """Looks into a finished image for identities, secrets and what else an image must not have.

    `kiosk audit debian-12-worker`, `kiosk audit disk.raw --format sarif --output audit.sarif`

    Reads the disk as data: nothing is mounted, nothing is changed. Exit code 10 when something was found that the
    image's recipe doesn't accept (`exceptions`: check, path, reason).
    """
    form = "json" if json else format
    if form not in ("text", "json", "sarif"):
        raise UsageError(f"there is no format {format!r}", hint="text, json, or sarif")
    report = examine(settings(ctx), image, None if no_updates else updates(settings(ctx)))
    show(report, form, output)
    if not report.passed:
        raise PolicyError(
            verdict(report),
            hint="A recipe may accept a finding (`exceptions`: check, path, reason); the reason is published.",
        )


def examine(s: Settings, image: str, asked: Updates | None) -> Report:
    """The report on a built version by its name, or on a disk in a file."""
    from kiosk.audit.disk import audit_disk
    from kiosk.audit.model import Facts
    from kiosk.audit.version import audit_version
    from kiosk.model.manifest import ImageManifest
    from kiosk.model.names import ImageRef
    from kiosk.publish import built_folder, read_built

    path = Path(image)
    if "/" in image or path.is_file():
        with looking(path) as progress:
            return audit_disk(path, Facts(image=path.name, updates=asked), progress=progress)
    folder = built_folder(s, ImageRef.parse(image))
    manifest = read_built(folder)
    if not isinstance(manifest, ImageManifest):
        raise UsageError(f"{manifest.ref} is a layer", hint="`kiosk layer publish` checks layers.")
    with looking(folder / manifest.artifacts["disk"].file) as progress:
        return audit_version(manifest, folder, asked, progress=progress)


@contextlib.contextmanager
def looking(disk: Path) -> Iterator[Callable[[int], object]]:
    """Progress over the bytes of a disk."""
    total = disk.stat().st_size if disk.is_file() else None
    with bar(f"audit {disk.name}", total) as progress:
        yield progress.update


def updates(s: Settings) -> Updates:
    """The security archive, reached as builds on this host reach it."""
    from kiosk.audit.updates import ArchiveUpdates
    from kiosk.build.mirrors import host_mirrors, keyring

    return ArchiveUpdates(lambda release: host_mirrors(release).security, keyring, s.build_cache / "audit")


def gate(s: Settings, *, no_updates: bool, without: str | None) -> Gate:
    """The check that publishing makes."""
    from kiosk.audit.version import Gate

    if without is not None and len(without.strip()) < 10:
        raise UsageError("--without-audit: say why, in ten letters or more")
    return Gate(None if no_updates else updates(s), without, looking)


def show(report: Report, form: str, output: Path | None) -> None:
    """Prints the report, or writes it to a file."""
    if form == "text" and output is None:
        show_text(report)
        return
    if form == "sarif":
        from kiosk.audit.sarif import sarif

        value: object = sarif(report, importlib.metadata.version("kiosk"))
    else:
        value = json_module.loads(report.to_json())
    if output is None:
        emit(value)
    else:
        files.write(output, (json_module.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
        say(f"{verdict(report)}. The report is in {output}.")


def show_text(report: Report) -> None:
    """The report for people: a table for each check, why, and what to do."""
    from kiosk.audit import CHECKS

    for name in dict.fromkeys(f.check for f in report.findings):
        check = CHECKS[name]
        found = [f for f in report.findings if f.check == name]
        say(f"{name} ({len(found)}): {check.reason}")
        table(["  path", "line#", "what"], [(f"  {f.place}", f.line or "", f.message) for f in found])
        say(f"  → {check.advice}\n")
    if report.accepted:
        say("Accepted by the recipe:")
        table(
            ["  check", "path", "reason"],
            [(f"  {a.finding.check}", a.finding.place, a.reason) for a in report.accepted],
        )
    for exception in report.stale:
        say(f"The exception {exception.check} {exception.path} fits nothing in this image any more.")
    for name, why in report.left_out.items():
        say(f"Not looked at: {name} ({why}).")
    c = report.counts
    say(
        f"{c.files} files, {size(c.bytes)}, {c.packages} packages; {c.verified} files are what their package brought."
    )
    if report.passed:
        say(f"{verdict(report)}.")


def verdict(report: Report) -> str:
    """The outcome in a few words."""
    name = report.image or "the image"
    if not report.audited:
        return f"{name} was not audited: {report.reason}"
    if not report.passed:
        return f"{name} did not pass the audit: {len(report.findings) + report.more} findings"
    accepted = f", {len(report.accepted)} accepted" if report.accepted else ""
    return f"{name} passed the audit{accepted}"


def published_report(s: Settings, manifest: Manifest) -> Report | None:
    """The published report on a version; None where it has none."""
    from kiosk.audit import Report
    from kiosk.cli.publish import read_artifact

    artifact = manifest.artifacts.get("audit")
    if artifact is None or artifact.index is None or artifact.size > 64 << 20:
        return None
    report = Report.from_json(read_artifact(s, artifact), where=f"{manifest.ref}: {artifact.file}")
    if report.image != str(manifest.ref) or report.disk != manifest.artifacts["disk"].digest:
        raise CorruptError("is the report of another image", where=f"{manifest.ref}: {artifact.file}")
    return report
