"""One number a stage, raised when the stage's output would change for the same input.

Snakemake does not see that a library module was edited. Each rule has its stage's number among its
params, so raising one here rebuilds that stage's artifacts and what comes after them.
"""

CONVERT = 2
VERIFY = 2
RENDER = 2
GALLERY = 4
