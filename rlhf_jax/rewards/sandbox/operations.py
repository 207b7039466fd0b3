"""What one side of the connection (`rpc`) may ask of the other: operations by their names."""

import asyncio
import copy
import dataclasses
import math
import operator
from collections.abc import Callable
from typing import Any

from rlhf_jax.rewards.sandbox import proxies, wire


def _exit(manager: Any, error: BaseException | None) -> Any:
    return manager.__exit__(type(error) if error is not None else None, error, None)


def _await(value: Any) -> Any:
    return _loop().run_until_complete(value)


def _loop() -> asyncio.AbstractEventLoop:
    if not _LOOPS:
        _LOOPS.append(asyncio.new_event_loop())
        asyncio.set_event_loop(_LOOPS[0])
    return _LOOPS[0]


_LOOPS: list[asyncio.AbstractEventLoop] = []
OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda function, *args, **kwargs: function(*args, **kwargs),
    "getattr": getattr,
    "setattr": setattr,
    "delattr": delattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
    "contains": operator.contains,
    "only iterates": lambda value: not hasattr(type(value), "__contains__"),
    "isinstance": lambda kind, value: isinstance(value, kind),
    "enter": lambda manager: manager.__enter__(),
    "exit": _exit,
    "aiter": lambda value: value.__aiter__(),
    "anext": lambda value: _await(value.__anext__()),
    "aenter": lambda manager: _await(manager.__aenter__()),
    "aexit": lambda manager, error: _await(
        manager.__aexit__(type(error) if error is not None else None, error, None)
    ),
    "await": _await,
    "asdict": dataclasses.asdict,
    "astuple": dataclasses.astuple,
    "fields": dataclasses.fields,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "plain": lambda value: wire.as_base(value, wire.plain_base(value) or object),
    "eq": operator.eq,
    "divmod": divmod,
    "rdivmod": lambda own, other: divmod(other, own),
}
OPERATIONS |= {
    "len": len,
    "bool": bool,
    "str": str,
    "repr": repr,
    "iter": iter,
    "next": next,
    "hash": hash,
    "int": int,
}
OPERATIONS |= {
    "float": float,
    "complex": complex,
    "round": round,
    "format": format,
    "reversed": reversed,
    "abs": abs,
}
OPERATIONS |= {
    "index": operator.index,
    "neg": operator.neg,
    "pos": operator.pos,
    "invert": operator.invert,
}
OPERATIONS |= {"trunc": math.trunc, "floor": math.floor, "ceil": math.ceil}
OPERATIONS |= {name: vars(operator)[f"__{name}__"] for name in proxies.ORDERED}
for _name in proxies.REFLECTED[:-1]:
    _compute = vars(operator)[f"__{_name}__"]
    OPERATIONS |= {_name: _compute, f"i{_name}": vars(operator)[f"__i{_name}__"]}
    OPERATIONS[f"r{_name}"] = lambda own, other, compute=_compute: compute(other, own)
OPERATIONS["pow"] = pow  # takes a modulus
