"""First on PYTHONPATH it makes each engine's process load `stand_in_engine` and leaves all other processes alone."""

import sys

if sys.orig_argv[1:3] == ["-m", "darkroom.serve.engine_process"]:
    import stand_in_engine

    stand_in_engine.install()
