"""Calls between the process that runs the tests and the one that runs the candidate's code.

They share nothing but a socket with plain data on it, so nothing the candidate does to its own process (patched builtins,
objects that equal everything, early exits) can make a test pass: only right values can.

Numbers, strings, bytes, None, lists, tuples, sets and dicts travel by value (subclasses as their base); everything else
stays where it is and is seen through a `Proxy`. Lists, dicts and sets given as arguments are copied back after the call, so
functions that change their arguments in place can be tested.
"""

import builtins
import json
import operator
import os
import struct
from collections.abc import Callable
from typing import Any

_LARGEST = 2**25
"""Bytes of a message."""

_SEQUENCES: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_SCALARS: dict[str, Callable[[str], Any]] = {
    "int": lambda text: int(text, 16),
    "float": float,
    "str": str,
    "bytes": bytes.fromhex,
}
_ARITHMETIC = "lt le gt ge add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split()
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda function, *args, **kwargs: function(*args, **kwargs),
    "getattr": getattr,
    "setattr": setattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
    "len": len,
    "bool": bool,
    "str": str,
    "repr": repr,
    "iter": iter,
    "next": next,
    "neg": operator.neg,
    "abs": abs,
    "eq": operator.eq,
    **{name: vars(operator)[f"__{name}__"] for name in _ARITHMETIC},
}


class Peer:
    """One end of the connection.

    Args:
      descriptor: a connected socket.
      namespace: names that the other side may use, or None when it may use nothing but callbacks given to it.
    """

    def __init__(self, descriptor: int, namespace: dict[str, Any] | None) -> None:
        self._descriptor = descriptor
        self._namespace = namespace
        self._shared: list[Any] = []

    def request(self, operation: str, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Does an operation on the other side and waits for it, answering callbacks meanwhile.

        Raises:
          EOFError: the other side has ended.
          Exception: what it raised there, when that is a built-in type; else RuntimeError with its name.
        """
        self._send(
            [operation, self._encode(target), [self._encode(a) for a in args], {k: self._encode(v) for k, v in kwargs.items()}]
        )
        while True:
            message = self._receive()
            if len(message) == 4:
                self._answer(message)
                continue
            kind, value, after = message
            if kind == "error":
                raise _exception(*value, may_stop=operation == "next")
            for argument, new in zip(args, after, strict=False):
                _copy_back(argument, self._decode(new))
            return self._decode(value)

    def serve(self) -> None:
        """Answers requests until the other side has ended."""
        while True:
            try:
                message = self._receive()
            except EOFError:
                return
            self._answer(message)

    def _answer(self, message: list[Any]) -> None:
        try:
            operation, target, args, kwargs = message
            arguments = [self._decode(argument) for argument in args]
            named = {name: self._decode(value) for name, value in kwargs.items()}
            if operation == "find":
                value: Any = self._find(arguments[0])
            elif self._namespace is None and operation != "call":
                raise PermissionError(operation)
            else:
                value = _OPERATIONS[operation](self._decode(target), *arguments, **named)
            reply = [
                "value",
                self._encode(value),
                [self._encode(a) if isinstance(a, list | dict | set) else None for a in arguments],
            ]
        except BaseException as error:  # SystemExit and KeyboardInterrupt concern one call, too
            reply = ["error", [type(error).__name__, str(error)[:1000]], []]
        self._send(reply)

    def _find(self, name: str) -> Any:
        if self._namespace is None or name not in self._namespace:
            return ("absent", None)
        value = self._namespace[name]
        return ("module", None) if type(value) is type(os) else ("value", value)

    def _encode(self, value: Any) -> Any:
        if value is None or type(value) in (bool, float, str):
            return value
        if isinstance(value, Proxy):
            return {"yours": object.__getattribute__(value, "_number")}
        for kind, base in zip(_SCALARS, (int, float, str, bytes), strict=True):
            if isinstance(value, base):
                return {kind: _plain_scalar(kind, value)}
        for kind, sequence in _SEQUENCES.items():
            if isinstance(value, sequence):
                return {kind: [self._encode(item) for item in sequence.__iter__(value)]}  # not the subclass's own
        if isinstance(value, dict):
            return {"dict": [[self._encode(k), self._encode(v)] for k, v in dict.items(value)]}
        if isinstance(value, complex):
            return {"complex": [value.real, value.imag]}
        self._shared.append(value)
        return {"mine": len(self._shared) - 1}

    def _decode(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind in _SEQUENCES:
            return _SEQUENCES[kind]([self._decode(item) for item in content])
        if kind == "dict":
            return {self._decode(k): self._decode(v) for k, v in content}
        if kind == "mine":
            return Proxy(self, int(content))
        if kind == "yours":
            return self._shared[content]
        if kind == "complex":
            return complex(*content)
        return _SCALARS[kind](content)

    def _send(self, message: Any) -> None:
        data = json.dumps(message).encode("utf-8", "surrogatepass")
        data = struct.pack("!I", len(data)) + data
        while data:
            data = data[os.write(self._descriptor, data) :]

    def _receive(self) -> Any:
        size = struct.unpack("!I", self._read(4))[0]
        if size > _LARGEST:
            raise EOFError("a message is too large")
        return json.loads(self._read(size))

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = os.read(self._descriptor, min(size - len(data), 1 << 16))
            if not part:
                raise EOFError("the other side has ended")
            data += part
        return bytes(data)


class Proxy:
    """An object of the other side.

    Comparisons and arithmetic are that side's business between two of its objects. With data they are refused, and it never
    equals data: else an object whose difference to everything is 0 would be right everywhere.
    """

    def __init__(self, peer: Peer, number: int) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_number", number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _ask(self, "call", *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return _ask(self, "getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask(self, "setattr", name, value)

    def __getitem__(self, key: Any) -> Any:
        return _ask(self, "getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _ask(self, "setitem", key, value)

    def __delitem__(self, key: Any) -> None:
        _ask(self, "delitem", key)

    def __len__(self) -> int:
        return int(_ask(self, "len"))

    def __bool__(self) -> bool:
        return _ask(self, "bool") is True

    def __str__(self) -> str:
        return str(_ask(self, "str"))

    def __repr__(self) -> str:
        return str(_ask(self, "repr"))

    def __iter__(self) -> Any:
        found = _ask(self, "iter")
        return found if isinstance(found, Proxy) else iter(found)

    def __next__(self) -> Any:
        return _ask(self, "next")

    def __neg__(self) -> Any:
        return _ask(self, "neg")

    def __abs__(self) -> Any:
        return _ask(self, "abs")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Proxy) and _ask(self, "eq", other) is True

    def __hash__(self) -> int:
        return object.__getattribute__(self, "_number")


def _arithmetic(name: str) -> Callable[[Proxy, Any], Any]:
    return lambda self, other: _ask(self, name, other) if isinstance(other, Proxy) else NotImplemented


for _name in _ARITHMETIC:
    setattr(Proxy, f"__{_name}__", _arithmetic(_name))


def _ask(proxy: Proxy, operation: str, *args: Any, **kwargs: Any) -> Any:
    return object.__getattribute__(proxy, "_peer").request(operation, proxy, *args, **kwargs)


def _plain_scalar(kind: str, value: Any) -> Any:
    if kind == "int":
        return hex(int.__add__(value, 0))
    if kind == "float":
        return float.__add__(value, 0.0)
    return str.__str__(value) if kind == "str" else bytes.hex(value)


def _copy_back(argument: Any, new: Any) -> None:
    if type(argument) is not type(new):
        return
    if isinstance(argument, list):
        argument[:] = new
    elif isinstance(argument, dict | set):
        argument.clear()
        argument.update(new)


def _exception(name: str, text: str, *, may_stop: bool) -> Exception:
    kind = builtins.__dict__.get(name)
    if name in ("StopIteration", "StopAsyncIteration") and not may_stop:
        kind = None  # it would end a loop of the tests early, and `all(map(..))` would pass
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(text)
        except TypeError:
            pass  # those that take several arguments
    return RuntimeError(f"{name}: {text}")
