"""Recipes: what an image is made from. `recipes/images/NAME.toml`, and the base tree that it starts from,
`recipes/bases/NAME.toml`. An unknown key is an error.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from kiosk.model.base import Document
from kiosk.model.manifest import AuditException, LayerPolicy
from kiosk.model.names import Name

ElementName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+._-]{0,60}$")]
"""A diskimage-builder element: a folder in `elements/`, kiosk's, the user's, or diskimage-builder's own."""
PackageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]{1,100}(?::[a-z0-9]{2,10})?$")]
"""A Debian package, with `:ARCHITECTURE` where it is not the image's own."""
ReleaseName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{1,30}$")]
Text = Annotated[str, StringConstraints(max_length=300, pattern=r"^[^\x00-\x1f]*$")]


class Base(Document):
    """A base tree, shared by recipes and kept between builds: its root element, others, and packages."""

    description: Text = ""
    os: Literal["debian"]
    release: ReleaseName
    architecture: Literal["x86_64"]
    elements: Annotated[tuple[ElementName, ...], Field(min_length=1)]
    packages: tuple[PackageName, ...] = ()


class Recipe(Document):
    """An image's recipe. `size` is the root partition's in MiB; without it, what the tree needs."""

    name: Name
    description: Text = ""
    os: Literal["debian"]
    release: ReleaseName
    architecture: Literal["x86_64"]
    base: Name
    elements: tuple[ElementName, ...] = ()
    packages: tuple[PackageName, ...] = ()
    size: Annotated[int, Field(ge=64, le=1 << 20)] | None = None
    policy: LayerPolicy = LayerPolicy()
    exceptions: Annotated[tuple[AuditException, ...], Field(max_length=200)] = ()
