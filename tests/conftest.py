"""Set before torch is imported, so that tests do not slow each other down: waiting threads sleep.

Where pytest-xdist runs two processes on two cores each gets one thread.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
