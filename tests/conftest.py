"""Set before torch is imported: waiting threads sleep, so that tests do not slow each other down on busy machines."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
