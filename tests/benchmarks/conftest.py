"""The benchmark's modules are scripts beside each other, so their folder is put on the path."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("cv2", reason="the benchmark group is not installed: pip install --group benchmark")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
