"""One number a stage, raised when the stage's output would change for the same input.

Snakemake does not see that a library module was edited. Each rule has its stage's number among its
params, so raising one here rebuilds that stage's artifacts and what comes after them.
"""

CONVERT = 2
VERIFY = 2
RENDER = 2
RENDER_OF_SOME = 3
"""That of the few pictures that came out otherwise at revision 2 (`darkroom.request.picture_revision.render_revision`): raising RENDER would
render all others again for nothing. The next RENDER is 4, and then this one goes."""
STAGE = 1
"""That of the stages after a first pass."""
CONTACT_SHEET = 4
GALLERY = 5
MEASURE = 1
STUDY_PAGE = 1
GRID = 1
SCORE = 1
ENCODE = 1
