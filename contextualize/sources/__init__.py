"""Where a context comes from: one named source, found and never guessed.

    cmdline      kiosk.context_base64= on the kernel's command line
    nocloud      a disk labelled CIDATA: user-data
    configdrive  a disk labelled config-2: openstack/latest/user_data
    opennebula   a disk labelled CONTEXT: context.sh, and prolog.sh, epilog.sh, init.sh as HEPiX has them
    ec2          the metadata service at 169.254.169.254, by its second version alone

`kiosk.context=SOURCE` on the kernel's command line fixes the source. Without it the first of these is used that is
there: a document on the command line, the one disk with one of those labels, the metadata service where the
firmware says that this is EC2. Two disks that both look like a source end the machine. Each source gives the bytes
of the same document, so that a machine is the same whatever it was told by. configdrive, opennebula and ec2 also know
the machine itself: a document for several machines leaves `node` out.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Mapping, NamedTuple, Optional

from contextualize.context import Instance


class Told(NamedTuple):
    """What a source says: the document's bytes, the source's name, the folder of signed metadata that came with it,
    what it knows of the machine itself, and for OpenNebula the scripts beside the document, the variables that they
    know, and the digests of these files by name."""

    document: bytes
    source: str
    bundle: Optional[Path] = None
    prolog: Optional[str] = None
    epilog: Optional[str] = None
    variables: Mapping[str, str] = MappingProxyType({})
    beside: Mapping[str, str] = MappingProxyType({})
    instance: Optional[Instance] = None

    def __repr__(self) -> str:  # it holds secrets
        return f"{type(self).__name__}({self.source!r})"
