"""JSON files of a tokenizer's folder."""

import json
import pathlib
from typing import Any

from rlhf_jax.data.errors import DataError


def read_object(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object in a file; {} when there is no such file.

    Raises:
        DataError: it is not JSON, or not an object.
    """
    if not path.is_file():
        return {}
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(contents, dict):
        raise DataError(f"{path} holds a {type(contents).__name__}, expected an object in braces")
    return contents
