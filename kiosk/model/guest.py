"""What the guest's own code makes of a layer's manifest: the forms in which it decides about layers."""

from __future__ import annotations

import json

from contextualize import document, manifest
from contextualize.document import LayerName
from kiosk.model.manifest import Declarations
from kiosk.model.names import LayerRef


def guest_name(ref: LayerRef) -> LayerName:
    """The name as the guest knows it."""
    return LayerName.parse(ref.base)


def guest_declares(declarations: Declarations) -> manifest.Declares:
    """The declarations as the guest reads them; raises Refused as it would."""
    value = json.loads(declarations.to_json())
    return manifest.declares(document.Fields(value, "declares"))
