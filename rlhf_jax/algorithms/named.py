"""Functions and algorithms of a user's own, named in a configuration by the file or module that
holds them."""

import importlib
import importlib.util
import pathlib
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.ops import masked

Advantages: TypeAlias = Callable[[Float[Array, "P G"]], Float[Array, "P G"]]
"""Rewards of P prompts with G completions each -> advantages; NaN: could not be graded."""


def load_module(key: str, where: str) -> ModuleType:
    """Imports a module by name, or a file by path; a file anew at every call.

    Args:
      key: whose value it is, for the message.
      where: ``MODULE`` or ``FILE.py``.

    Raises:
      ValueError: in one line, why it cannot be imported.
    """
    path = pathlib.Path(where)
    if where.endswith(".py") and not path.is_file():
        raise ValueError(f"{key}={where}:...: there is no file {path}")
    try:
        return _import_file(path) if where.endswith(".py") else importlib.import_module(where)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{key}={where}:...: its import fails: {_told(error, where)}") from error


def _import_file(path: pathlib.Path) -> ModuleType:
    name = f"rlhf_jax_algorithm_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _told(error: BaseException, where: str) -> str:
    """An error in one line, with the line of the user's file that raised it."""
    text = str(error).split("\n", 1)[0]
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename.endswith(where)]
    place = f" (line {lines[-1]})" if lines else ""
    hint = ""
    if isinstance(error, jax.errors.TracerArrayConversionError):
        text = "NumPy cannot take arrays that are being compiled"
        hint = ": use jax.numpy"
    return f"{type(error).__name__}{place}{': ' if text else ''}{text}{hint}"


def load_function(key: str, name: str) -> Callable[..., Any]:
    """A user's function.

    Args:
      key: whose value it is, for the message.
      name: ``FILE.py:FUNCTION`` or ``MODULE:FUNCTION``.

    Raises:
      ValueError: there is none of that name.
    """
    where, colon, own = name.rpartition(":")
    if not colon or not where or not own:
        raise ValueError(f"{key}={name!r} names no function: give FILE.py:FUNCTION")
    function = getattr(load_module(key, where), own, None)
    if not callable(function):
        raise ValueError(f"{key}={name!r}: {where} holds no function {own!r}")
    return function


def check_shapes(
    key: str, name: str, function: Callable[..., Any], *rest: tuple[int, ...], like: tuple
) -> None:
    """Tries a function of float32 arrays of B rows on shapes alone, before anything is compiled.

    With two numbers of rows: it must not know by heart how many there are.

    Args:
      key: whose value it is, for the message.
      name: of the function.
      function: of arrays.
      *rest: shapes of its arguments behind their first axis.
      like: the shape that it must return, behind the first axis.

    Raises:
      ValueError: in one line, why it cannot be used.
    """
    for count in (2, 3):
        _check_rows(key, name, function, [(count, *shape) for shape in rest], (count, *like))


def _check_rows(
    key: str,
    name: str,
    function: Callable[..., Any],
    shapes: list[tuple[int, ...]],
    like: tuple[int, ...],
) -> None:
    where = name.rpartition(":")[0]
    try:
        found = jax.eval_shape(function, *(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes))
    except (Exception, SystemExit) as error:
        told = _told(error, where)
        of = ", ".join(map(str, shapes))
        raise ValueError(f"{key}={name!r} cannot be called on shapes {of}: {told}") from error
    is_array = isinstance(found, jax.ShapeDtypeStruct)
    if not is_array or found.shape != like or not jnp.issubdtype(found.dtype, jnp.floating):
        got = f"{found.dtype} of shape {found.shape}" if is_array else type(found).__name__
        raise ValueError(f"{key}={name!r} must return floats of shape {like}, not {got}")


def own_advantages(name: str, group_size: int) -> Advantages:
    """A user's function of rewards, in place of a group's mean and deviation.

    Args:
      name: ``FILE.py:FUNCTION`` or ``MODULE:FUNCTION``; it is called on rewards [P, G] and returns
        advantages [P, G].
      group_size: G.

    Returns:
      The function, 0 where a completion could not be graded.

    Raises:
      ValueError: in one line, why it cannot be used.
    """
    own = load_function("algorithm.advantages", name)
    check_shapes("algorithm.advantages", name, own, (group_size,), like=(group_size,))
    # What could not be graded carries no weight, whatever a function makes of its NaN.
    return lambda rewards: masked(own(rewards), ~jnp.isnan(rewards))
