"""What a context may do to this machine beyond choosing what is signed: only what a verified site layer allows.

    hooks        run the shell scripts of `hooks` as root
    user-data    hand `user_data` to cloud-init
    root-login   let the holders of `root_keys` in as root
    farm         join a farm that no site layer declares: whoever leads a farm can run programs as root

An experiment's layer can allow none of it (contextualize.rules), and an image's policy can forbid each of them
to all layers. Without a site layer nothing is allowed.
"""

from __future__ import annotations

from typing import FrozenSet, Sequence, Tuple

from contextualize.context import Context, Hooks
from contextualize.errors import Refused
from contextualize.manifest import Declared

HOOKS, USER_DATA, ROOT_LOGIN, FARM = "hooks", "user-data", "root-login", "farm"


def needed(context: Context) -> Tuple[str, ...]:
    """What a site layer must allow for this context; for a farm see contextualize.farms."""
    asked = {
        HOOKS: context.hooks != Hooks(),
        USER_DATA: context.user_data is not None,
        ROOT_LOGIN: bool(context.root_keys),
    }
    return tuple(switch for switch, used in asked.items() if used)


def allowed(layers: Sequence[Declared]) -> FrozenSet[str]:
    """All that the site layers among these verified ones allow."""
    sites = [declares for layer, declares in layers if layer.kind == "site"]
    return frozenset(switch for declares in sites for switch in declares.allows)


def require(allowed: FrozenSet[str], switch: str, asked_by: str) -> None:
    """Refused unless a site layer allows what a part of the context asks for."""
    if switch not in allowed:
        raise Refused(f"the context has {asked_by}, and no site layer of this machine allows {switch}")
