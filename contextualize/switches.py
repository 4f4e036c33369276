"""What a context may do to this machine beyond choosing what is signed: only what a verified site layer allows.

    hooks        run the shell scripts of `hooks` as root
    user-data    hand `user_data` to cloud-init
    root-login   let the holders of `root_keys` in as root
    farm         join a farm that no site layer declares: whoever leads a farm can run programs as root

An experiment's layer can allow none of it (contextualize.rules), and an image's policy can forbid each of them
to all layers. Without a site layer nothing is allowed.
"""

from __future__ import annotations

from typing import FrozenSet, Sequence

from contextualize.errors import Refused
from contextualize.stages.verify import Layer


def allowed(layers: Sequence[Layer]) -> FrozenSet[str]:
    """All that the site layers among these verified ones allow."""
    sites = [layer for layer in layers if layer.use.name.kind == "site"]
    return frozenset(switch for layer in sites for switch in layer.manifest.declares.allows)


def require(layers: Sequence[Layer], switch: str, asked_by: str) -> None:
    """Refused unless a site layer allows what a part of the context asks for."""
    if switch not in allowed(layers):
        raise Refused(f"the context has {asked_by}, and no site layer of this machine allows {switch}")
