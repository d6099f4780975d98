"""What this machine's processor has instructions for. No torch here."""

from __future__ import annotations

from functools import cache
from pathlib import Path

FLAGS = Path("/proc/cpuinfo")
MATRICES = "amx_bf16"  # Intel's matrix units


@cache
def multiplies_bfloat16() -> bool:
    """Return whether the processor multiplies whole matrices in bfloat16, several times as fast as in single precision.

    A vector unit is not enough: without matrix units, drawing in bfloat16 takes longer than in single precision. Where
    the system does not tell (it is not Linux), the answer is no.
    """
    try:
        lines = FLAGS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.startswith("flags") and MATRICES in line.split() for line in lines)
