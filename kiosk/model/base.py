"""Documents: frozen values with strict fields, and one canonical way to write them as JSON."""

from __future__ import annotations

import json
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from kiosk.errors import VerificationError

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
"""A SHA-256 digest as `sha256:HEX`, lower case."""
Size = Annotated[int, Field(ge=0, le=1 << 46)]
"""Bytes; at most 64 TiB."""


class Document(BaseModel):
    """A value that crosses a boundary: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def to_json(self) -> bytes:
        """The canonical bytes: sorted keys, no spaces, UTF-8, a newline at the end. Same value, same bytes."""
        value = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return (json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, *, where: str) -> Self:
        """Reads a document; VerificationError naming `where` and the field when it does not fit."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as e:
            raise VerificationError(f"is not a valid {cls.__name__}: {explain(e)}", where=where) from None


def explain(error: ValidationError) -> str:
    """The first few faults of a validation error, each as `field: what is wrong`."""
    faults: list[str] = []
    for fault in error.errors(include_url=False)[:3]:
        key = ".".join(str(part) for part in fault["loc"]) or "document"
        message = "unknown key" if fault["type"] == "extra_forbidden" else fault["msg"]
        faults.append(f"{key}: {message}")
    return "; ".join(faults)


def plain(value: Any) -> Any:
    """A value made of documents, dates, and containers, as JSON types."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True, exclude_none=True)
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
