"""Reading a secret from a file that only its owner can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from darkroom.errors import ConfigError


def read_private_file(variable: str, path: Path) -> str:
    """The text of the file that the environment's `variable` names.

    Raises ConfigError (E-CONFIG) for a file that others can read too, that isn't there or that isn't a text.
    """
    try:
        with path.open(encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ConfigError(variable, path, "others can read that file", f"chmod 600 {path}")
            return file.read()
    except UnicodeDecodeError:
        raise ConfigError(variable, path, "is not a text", "write the secret into it, and nothing else") from None
    except OSError as error:
        raise ConfigError(variable, path, error.strerror or "can't be read", "check the path") from None
