"""What ends an answer: tokens of a folder's files, those and strings of `rollout.stop`."""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rlhf_jax.data.errors import DataError
from rlhf_jax.data.json_files import read_object


def read_generation(folder: pathlib.Path) -> dict[str, Any]:
    """generation_config.json of a folder ({} without), eos ids of its config.json behind its own.

    Raises:
        DataError: a file is not a JSON object, or names ids that are not whole numbers.
    """
    generation = read_object(folder / "generation_config.json")
    model = read_object(folder / "config.json")
    text = model.get("text_config")
    ids = [
        *listed_ids(generation, folder / "generation_config.json"),
        *listed_ids(model, folder / "config.json"),
        *(listed_ids(text, folder / "config.json") if isinstance(text, Mapping) else ()),
    ]
    # transformers would take config.json's single id instead of all of these
    generation.pop("_from_model_config", None)
    return {**generation, "eos_token_id": list(dict.fromkeys(ids))} if generation or ids else {}


def listed_ids(contents: Mapping[str, Any], source: Any) -> list[int]:
    """`eos_token_id`: one number, a list of them, or nothing."""
    value = contents.get("eos_token_id")
    ids = value if isinstance(value, list | tuple) else [value]
    for token in ids:
        if token is not None and type(token) is not int:
            raise DataError(
                f"{source}: eos_token_id {str(value)[:100]!r} is neither a number nor a list of "
                "numbers"
            )
    return [token for token in ids if token is not None]


def listed_strings(value: Any) -> tuple[str, ...]:
    """`stop_strings`: one text, a list of them, or nothing."""
    texts = value if isinstance(value, list | tuple) else [value]
    return tuple(text for text in texts if isinstance(text, str) and text)


def first_stop(text: str, strings: Iterable[str]) -> int | None:
    """Where in a text the stop string begins that is complete first; None: none is in it."""
    found = [
        (text.index(string) + len(string), text.index(string))
        for string in strings
        if string in text
    ]
    return min(found)[1] if found else None


def make_string_end(
    strings: Sequence[str], decode: Callable[[list[int]], str]
) -> Callable[[Sequence[int], int], int | None] | None:
    """Builds the search for stop strings in completions that grow.

    Args:
        strings: the stop strings.
        decode: ids -> text, special tokens included.

    Returns:
        (ids of a completion, how many of them were searched before) -> tokens up to and including
        the one with which a string is complete, or None. None instead of a function when there are
        no strings.
    """
    if not strings:
        return None
    # Every token is at least a byte of the text, but for those that write nothing; twice the bytes
    # leaves room for them.
    reach = 2 * max(len(string.encode()) for string in strings) + 16

    def end(ids: Sequence[int], searched: int) -> int | None:
        window = list(ids[max(0, searched - reach) :])
        first = len(ids) - len(window)
        if first_stop(decode(window), strings) is None:
            return None
        for count in range(searched + 1, len(ids) + 1):
            if first_stop(decode(window[: count - first]), strings) is not None:
                return count
        return None

    return end
