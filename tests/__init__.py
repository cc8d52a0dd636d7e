"""What holds for the tests' processes and for all that they start; set here, before anything imports NumPy or torch.

One thread computes: workers and servers share few cores, and a picture's last bits depend on the number of threads.
Bytecode is kept: otherwise each of many hundred processes would compile the package.
"""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
