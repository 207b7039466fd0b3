"""Files that a command is asked to write."""

import pathlib

from rlhf_jax.config import ConfigError


def check_folder(option: str, path: str | None) -> None:
    """Refuses a file that cannot be written for want of its folder, before anything is computed.

    Args:
      option: that names the file.
      path: what it says; None: it was not given.

    Raises:
      ConfigError: the folder does not exist.
    """
    if path is not None and not pathlib.Path(path).absolute().parent.is_dir():
        raise ConfigError(f"--{option}={path} lies in no folder that exists")
