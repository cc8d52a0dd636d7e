"""The environment of the test processes and their subprocesses, set before anything imports NumPy or torch.

One compute thread each: workers and servers share few cores, and the last bits of a picture depend on the number of threads.
Bytecode is cached, since otherwise each of several hundred subprocesses would compile the package.
"""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
