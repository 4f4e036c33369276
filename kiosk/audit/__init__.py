"""The independent scanner of finished images: what must not be in one, found anew from its bytes."""

from kiosk.audit.audit import audit
from kiosk.audit.catalogue import CHECKS, CLAUSES, Check
from kiosk.audit.model import Accepted, Facts, Finding, Report

__all__ = ["CHECKS", "CLAUSES", "Accepted", "Check", "Facts", "Finding", "Report", "audit"]
