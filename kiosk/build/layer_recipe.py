"""A layer's recipe: a folder with `layer.toml` and the files that fill the layer's prefix, in `files/`.

An unknown key is an error. What it declares goes through the guest's own reader, so that nothing can be
written here that a guest would not understand in the same way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from contextualize.errors import Refused
from kiosk import data
from kiosk.config import Settings, read_toml
from kiosk.errors import NotFoundError, UsageError
from kiosk.model.base import Document
from kiosk.model.guest import guest_declares
from kiosk.model.manifest import Cvmfs, Declarations, EtcFile, FarmSettings, Group, Switch, User
from kiosk.model.names import LayerKind, LayerRef, Name

FILE = "layer.toml"
Text = Annotated[str, StringConstraints(max_length=300, pattern=r"^[^\x00-\x1f]*$")]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,60}$")]


class LayerRecipe(Document):
    """What `layer.toml` says. `images` are the base images that the layer is made for."""

    kind: LayerKind
    owner: Name
    name: Name
    description: Text = ""
    images: Annotated[tuple[Name, ...], Field(min_length=1, max_length=100)]
    environment: Annotated[dict[Variable, str], Field(default_factory=dict)]
    users: tuple[User, ...] = ()
    services: tuple[str, ...] = ()
    files: tuple[EtcFile, ...] = ()
    groups: tuple[Group, ...] = ()
    cvmfs: Cvmfs | None = None
    allows: tuple[Switch, ...] = ()
    health: tuple[str, ...] = ()
    farms: Annotated[dict[Name, FarmSettings], Field(default_factory=dict)]

    @property
    def ref(self) -> LayerRef:
        """The layer, without a version."""
        return LayerRef(self.kind, self.owner, self.name)

    @property
    def declarations(self) -> Declarations:
        """What the layer's manifest will declare."""
        return Declarations(**{name: getattr(self, name) for name in Declarations.model_fields})


def folders(settings: Settings) -> tuple[Path, ...]:
    """Where layers are looked for by name: the user's folder, where there is one, and then kiosk's."""
    own = (settings.recipes,) if settings.recipes else ()
    return tuple(recipes / "layers" for recipes in (*own, data.folder("recipes")))


def known(settings: Settings) -> dict[str, Path]:
    """All layer recipes that can be found by name."""
    found: dict[str, Path] = {}
    for home in folders(settings):
        for file in sorted(home.glob(f"*/{FILE}")):
            found.setdefault(file.parent.name, file.parent)
    return found


def find(text: str, settings: Settings) -> Path:
    """The folder of a layer's recipe, by its path or by its name."""
    if (Path(text) / FILE).is_file():
        return Path(text)
    names = known(settings)
    if text not in names:
        raise NotFoundError(
            f"there is no layer recipe {text!r}",
            hint=f"Give a folder that holds {FILE}, or one of: {', '.join(sorted(names))}",
        )
    return names[text]


def read(folder: Path) -> LayerRecipe:
    """Reads a layer's recipe; UsageError when it does not fit, here or in the guest."""
    recipe = read_toml(folder / FILE, LayerRecipe)
    if not (folder / "files").is_dir():
        raise UsageError("there is no folder files/ beside layer.toml", where=str(folder))
    try:
        guest_declares(recipe.declarations)
    except Refused as e:
        raise UsageError(e.reason.removeprefix("declares: "), where=str(folder / FILE)) from None
    return recipe
