"""Tests of another kernel than this machine's: `make vm` runs them, in the virtual machine.

Anywhere else they are not collected, so that they don't count as skipped.
"""

from __future__ import annotations

import os

collect_ignore_glob = [] if "VISCUM_VM" in os.environ else ["test_*.py"]
