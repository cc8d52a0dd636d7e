"""With this folder first on PYTHONPATH, engine processes use `stand_in_engine`; other Python processes are unaffected."""

import sys

if sys.orig_argv[1:3] == ["-m", "darkroom.serve.engine_process"]:
    import stand_in_engine

    stand_in_engine.install()
