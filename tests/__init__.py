"""Tests compute with one thread, and so do all processes that they start.

Workers and servers share few cores, and a picture's last bits depend on the number of threads. It is set here, before
anything imports NumPy or torch, which read it once.
"""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
