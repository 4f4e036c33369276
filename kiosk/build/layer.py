"""`kiosk layer`: a layer's recipe checked, built into a folder, and checked again before it is published.

The checks are contextualize.tree, rules and units: the very code that decides in the guest. What is
published was opened again from the finished image, so that it doesn't matter how the image was made.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from contextualize import document, rules, units
from contextualize.document import LayerName
from contextualize.errors import Refused
from contextualize.manifest import Declares
from contextualize.tree import Entry, below, tree_faults
from kiosk import clock
from kiosk.build import layer_image, layer_recipe, layer_verity
from kiosk.errors import CorruptError, PolicyError, UsageError
from kiosk.files import fsync_dir, locked, scratch, sha256, write
from kiosk.model.guest import guest_declares, guest_name
from kiosk.model.manifest import Artifact, LayerManifest, LayerPolicy, LayerVerity
from kiosk.model.names import LayerRef, Version, with_version

IMAGE = "layer.squashfs"


@dataclass(frozen=True)
class Base:
    """What a layer is checked against: an image's paths (absolute), its policy, and the texts of its /etc/passwd and
    /etc/group by path where its disk is at hand."""

    name: str
    paths: frozenset[str]
    policy: LayerPolicy
    accounts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Built:
    """A finished layer: its version, its folder, and the image's size in bytes."""

    ref: LayerRef
    folder: Path
    size: int


def lint(folder: Path, bases: Sequence[Base] = ()) -> list[str]:
    """All that is wrong with a layer's recipe and files, by themselves and against base images; nothing when it could
    be built and published."""
    recipe = layer_recipe.read(folder)
    entries = {e.path: e for e in layer_image.folder_entries(folder / "files")}
    name, declares = guest_name(recipe.ref), guest_declares(recipe.declarations)
    faults = list(_faults(name, declares, entries, lambda path: (folder / "files" / path).read_bytes()))
    for base in bases:
        faults += _base_faults(name, declares, base)
    return faults


def together(folders: Sequence[Path]) -> list[str]:
    """What keeps several layers from being on one machine."""
    recipes = sorted(
        map(layer_recipe.read, folders), key=lambda r: r.kind != "site"
    )  # as the guest takes them
    declared = [(guest_name(r.ref), guest_declares(r.declarations)) for r in recipes]
    faults = list(rules.conflict_faults(declared))
    if recipes and not set.intersection(*(set(r.images) for r in recipes)):
        faults.append(f"{', '.join(r.ref.base for r in recipes)}: no image takes all of them")
    return faults


def build(folder: Path, version: Version | None, built: Path) -> Built:
    """Builds a layer into `built`/KIND/OWNER/NAME/VERSION, which appears complete or not at all."""
    faults = lint(folder)
    if faults:
        raise refusal(faults, str(folder))
    recipe = layer_recipe.read(folder)
    home = built / recipe.ref.base
    with locked(home / ".lock", what=f"the layer {recipe.ref.base}"):
        ref = with_version(recipe.ref, version or next_version(home))
        assert isinstance(ref, LayerRef)
        target = home / str(ref.version)
        if target.exists():
            raise UsageError(f"{ref} is built already", where=str(target), hint="Give another --version")
        with scratch(home, prefix=".build-") as work:
            out = work / "out"
            out.mkdir()
            out.chmod(0o755)
            layer_image.make(folder / "files", out / IMAGE)
            tree = layer_verity.add(out / IMAGE, recipe.ref)
            size = (out / IMAGE).stat().st_size
            artifact = Artifact(file=IMAGE, size=size, digest=sha256(out / IMAGE))
            write(out / "manifest.json", _manifest(recipe, ref, artifact, tree).to_json())
            fsync_dir(out)
            out.rename(target)
        fsync_dir(home)
    return Built(ref, target, size)


def _manifest(
    recipe: layer_recipe.LayerRecipe, ref: LayerRef, artifact: Artifact, tree: LayerVerity
) -> LayerManifest:
    epoch = clock.source_date_epoch()
    return LayerManifest(
        kind=recipe.kind,
        owner=recipe.owner,
        name=recipe.name,
        version=str(ref.version),
        description=recipe.description,
        created=clock.now() if epoch is None else datetime.fromtimestamp(epoch, UTC),
        prefix=ref.prefix,
        images=recipe.images,
        declares=recipe.declarations,
        verity=tree,
        artifacts={"layer": artifact},
    )


def next_version(home: Path) -> Version:
    """The next version of today: YYYYMMDD.N, counting on from what is in `home`."""
    today = int(clock.now().strftime("%Y%m%d"))
    names = [path.name.split(".")[1:] for path in home.glob(f"{today}.*")]
    numbers = [int(words[0]) for words in names if len(words) == 1 and words[0].isdecimal()]
    return Version((today, max(numbers, default=0) + 1))


def read_built(folder: Path) -> LayerManifest:
    """The manifest of a built layer, whose image has the digest that it says."""
    file = folder / "manifest.json"
    manifest = LayerManifest.from_json(file.read_bytes(), where=str(file))
    if set(manifest.artifacts) != {"layer"} or manifest.artifacts["layer"].file != IMAGE:
        raise PolicyError(f"a layer has one artifact, layer, in {IMAGE}", where=str(file))
    if sha256(folder / IMAGE) != manifest.artifacts["layer"].digest:
        raise CorruptError("is not the image that the manifest describes", where=str(folder / IMAGE))
    return manifest


def check(folder: Path, bases: Sequence[Base]) -> LayerManifest:
    """Opens a built layer again and checks all of it, also against base images; PolicyError when it may not
    be published."""
    manifest, image = read_built(folder), folder / IMAGE
    layer_verity.check(image, manifest.verity)
    try:
        declares = guest_declares(manifest.declares)
    except Refused as e:
        raise refusal([e.reason], str(folder)) from None
    name = guest_name(manifest.ref)
    entries = layer_image.image_entries(image)
    faults = list(_faults(name, declares, entries, lambda path: layer_image.content(image, path)))
    if manifest.prefix != name.prefix:
        faults.append(f"its prefix is {manifest.prefix}; {name} has {name.prefix}")
    for base in bases:
        faults += _base_faults(name, declares, base)
    if faults:
        raise refusal(faults, str(folder))
    return manifest


def refusal(faults: Sequence[str], where: str) -> PolicyError:
    """One error that tells all faults, or the first of many."""
    shown = "".join(f"\n  - {fault}" for fault in faults[:20])
    more = f"\n  and {len(faults) - 20} more" if len(faults) > 20 else ""
    return PolicyError(f"the layer breaks its rules:{shown}{more}", where=where)


def _faults(
    name: LayerName, declares: Declares, entries: Mapping[str, Entry], content: Callable[[str], bytes]
) -> Iterator[str]:
    yield from tree_faults(name.prefix, entries.values())
    yield from rules.declaration_faults(name, declares)
    sources = list(rules.source_faults(declares, entries))
    yield from sources
    if sources:
        return
    own = [posixpath.basename(service) for service in declares.services]
    for service, unit in zip(declares.services, own, strict=True):
        yield from units.unit_faults(name, unit, content(service), [u.name for u in declares.users], own)


def _base_faults(name: LayerName, declares: Declares, base: Base) -> Iterator[str]:
    policy = document.policy(base.policy.to_json())

    def filled(folder: str) -> bool:
        return any(below(path, folder) for path in base.paths)

    for fault in rules.policy_faults(name, declares, policy):
        yield f"{base.name}: {fault}"
    for fault in rules.account_faults(declares, base.accounts):
        yield f"{base.name}: {fault}"
    for fault in rules.shadow_faults(name, declares, base.paths.__contains__, filled):
        yield f"{base.name}: {fault}"
