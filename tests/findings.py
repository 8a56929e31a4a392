"""What the tests of the doctor share."""

from __future__ import annotations

from tools.doctor.finding import Finding

SEGFAULT = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"


def assert_wrong(found: Finding, evidence: str, remedy: str, level: str = "wrong") -> None:
    assert found.level == level, found
    assert evidence in found.evidence and "\n" not in found.evidence, found
    assert remedy in found.remedy, found
