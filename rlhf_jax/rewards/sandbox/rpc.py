"""Calls between the process that runs the tests and the one that runs the candidate's code.

They share nothing but a socket with plain data on it, so nothing the candidate does to its own
process (patched builtins, objects that equal everything, early exits) can make a test pass: only
right values can. What travels by value is in `rlhf_jax.rewards.sandbox.wire`, what stays is seen
through `rlhf_jax.rewards.sandbox.proxies`.

The side of the tests answers requests as well, for functions, iterators and objects that tests hand
over: only those, and none of their attributes that lead on into this process.
"""

import dataclasses
import functools
import json
import os
import struct
import types
from collections.abc import Callable
from typing import Any

from rlhf_jax.rewards.sandbox import borrowed, proxies, stand_ins, wire
from rlhf_jax.rewards.sandbox.operations import OPERATIONS

TESTS = "tests"
"""Name of the module that tests run in."""
_LARGEST = 2**25
"""Bytes of a message."""
_FIELDS = 32
"""Attributes of an exception that travel with it."""
_CAUSES = 4


_FOR_GUESTS = frozenset(
    "call iter next len bool str repr hash eq contains getitem getattr setattr enter exit lt gt "
    "le ge".split()
) | {"only iterates"}
"""What the candidate may do with things of the tests."""
_NAMING = frozenset({"__name__", "__qualname__", "__module__", "__doc__"})


class Peer:
    """One end of the connection.

    Args:
      descriptor: a connected socket.
      namespace: names that the other side may use, or None when it may use nothing but what it was
        given.
    """

    def __init__(self, descriptor: int, namespace: dict[str, Any] | None) -> None:
        self._descriptor = descriptor
        self._namespace = namespace
        self._shared: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._known: dict[int, Any] = {}
        self._borrowed = borrowed.Borrowed(self._encode)

    def request(self, operation: str, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Does an operation on the other side and waits for it, answering callbacks meanwhile.

        The process ends at once when the other side has: tests that expect some exception must not
          take this for it.

        Raises:
          BaseException: what it raised there.
        """
        if self._namespace is None and operation != "refill":
            for owner, name, value in self._borrowed.changed():
                self.request("refill", owner, name, value)
        objects = wire.Objects()

        def encode(value: Any) -> Any:
            return self._encode(value, objects)

        encoded = [
            encode(target),
            [encode(a) for a in args],
            {k: encode(v) for k, v in kwargs.items()},
        ]
        before = objects.describe(encode)
        try:
            self._send([operation, *encoded, before])
            while len(message := self._receive()) != 3:
                self._answer(message)
        except EOFError:
            os._exit(0)
        kind, value, after = message

        def decode(data: Any) -> Any:
            return self._decode(data, objects)

        objects.fill(after, decode, before)
        result = decode(value)
        if kind == "error":
            raise _raisable(result, may_stop=operation in ("next", "anext"))
        if self._namespace is None and operation in ("getattr", "find"):
            held = result[1] if operation == "find" else result
            self._borrowed.keep(target, stand_ins.number_of(target), args[0], held)
        return result

    def lend_dataclasses(self) -> None:
        """Makes `asdict` and its like work on the other side's objects, whose fields are there."""
        for name in ("asdict", "astuple", "fields"):
            here = getattr(dataclasses, name)

            def there(value: Any, *, name: str = name, here: Any = here, **kwargs: Any) -> Any:
                known = stand_ins.number_of(value) is not None and not kwargs
                return self.request(name, value) if known else here(value, **kwargs)

            setattr(dataclasses, name, there)

    def serve(self) -> None:
        """Answers requests until the other side has ended."""
        while True:
            try:
                message = self._receive()
            except EOFError:
                return
            self._answer(message)

    def _answer(self, message: list[Any]) -> None:
        objects = wire.Objects()

        def encode(value: Any) -> Any:
            return self._encode(value, objects)

        def decode(data: Any) -> Any:
            return self._decode(data, objects)

        try:
            operation, target, args, kwargs, table = message
            objects.fill(table, decode, [])
            value = self._do(
                operation,
                target,
                [decode(a) for a in args],
                {k: decode(v) for k, v in kwargs.items()},
                objects,
            )
            reply = ["value", encode(value)]
        except BaseException as error:  # SystemExit and KeyboardInterrupt concern one call, too
            reply = ["error", self._encode_error(error, encode)]
        try:
            self._send([*reply, objects.describe(encode)])
        except (RecursionError, ValueError) as error:  # it cannot travel
            self._send(["error", self._encode_error(RuntimeError(str(error)), encode), []])

    def _do(
        self,
        operation: str,
        target: Any,
        args: list[Any],
        kwargs: dict[str, Any],
        objects: wire.Objects,
    ) -> Any:
        if self._namespace is None:
            if operation not in _FOR_GUESTS or not (
                isinstance(target, list) and target[:1] == ["yours"]
            ):
                raise PermissionError(operation)
            if operation in ("getattr", "setattr"):
                _check_attribute(self._shared[target[1]], args[0])
        elif operation == "find":
            return self._find(args[0])
        elif operation == "refill":
            owner = (
                self._namespace.get
                if target is None
                else functools.partial(getattr, self._decode(target, objects))
            )
            return borrowed.refill(owner(args[0], None), args[1])
        return OPERATIONS[operation](self._decode(target, objects), *args, **kwargs)

    def _find(self, name: str) -> Any:
        if self._namespace is None or name not in self._namespace:
            return ("absent", None)
        value = self._namespace[name]
        return (
            ("module", value.__name__) if isinstance(value, types.ModuleType) else ("value", value)
        )

    def _share(self, value: Any) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._shared)
            self._shared.append(value)  # which keeps it, and so its id, for good
        return self._numbers[id(value)]

    def _encode(self, value: Any, objects: wire.Objects) -> Any:
        number = stand_ins.number_of(value)
        if number is not None:
            return ["yours", number]

        def encode(part: Any) -> Any:
            return self._encode(part, objects)

        plain = wire.encode_plain(value, encode, objects)
        if plain is not None or value is None:
            return plain
        if isinstance(value, type):
            bases = [encode(base) for base in value.__bases__ if base is not object]
            return ["class", self._share(value), value.__name__, bases]
        if isinstance(value, BaseException):
            return self._encode_error(value, encode)
        if isinstance(value, types.CoroutineType):
            return ["coroutine", self._share(value)]
        base = wire.plain_base(value)
        if base in wire.IMMUTABLE:
            return [
                "sub",
                self._share(value),
                encode(type(value)),
                encode(wire.as_base(value, base)),
            ]
        return ["mine", self._share(value), encode(type(value)), base is not None]

    def _encode_error(
        self, error: BaseException, encode: Callable[[Any], Any], depth: int = 0
    ) -> Any:
        fields = {name: encode(value) for name, value in list(vars(error).items())[:_FIELDS]}
        try:
            text = str(error)[:1000]
        except BaseException:  # it is the candidate's
            text = ""
        args = error.args if isinstance(error.args, tuple) else ()
        cause = error.__cause__
        because = (
            self._encode_error(cause, encode, depth + 1)
            if cause is not None and depth < _CAUSES
            else None
        )
        return [
            "exception",
            self._share(error),
            encode(type(error)),
            [encode(a) for a in args],
            fields,
            text,
            because,
        ]

    def _decode(self, data: Any, objects: wire.Objects) -> Any:
        if not isinstance(data, list):
            return data

        def decode(part: Any) -> Any:
            return self._decode(part, objects)

        kind = data[0]
        if kind == "yours":
            return self._shared[data[1]]
        if kind not in ("class", "exception", "coroutine", "sub", "mine"):
            return wire.decode_plain(data, decode, objects)
        number = data[1]
        if number not in self._known:
            made = self._make(kind, number, data[2:], decode)
            if kind == "coroutine":
                return made
            self._known[number] = made
        return self._known[number]

    def _make(
        self, kind: str, number: int, content: list[Any], decode: Callable[[Any], Any]
    ) -> Any:
        if kind == "coroutine":
            return self._awaited(number)
        if kind == "class":
            bases = tuple(
                base for kind in map(decode, content[1]) if (base := _base(kind)) is not None
            )
            return stand_ins.make_class(str(content[0]), bases, self.request, number)
        local = decode(content[0])
        if kind == "mine":
            return stand_ins.make_object(local, self.request, number, base=content[1] is True)
        if kind == "sub":
            return stand_ins.make_value(local, decode(content[1]), number)
        args = tuple(decode(a) for a in content[1])
        fields = {k: decode(v) for k, v in content[2].items()}
        error = stand_ins.make_error(local, args, fields, str(content[3]), number)
        error.__cause__ = decode(content[4])
        return error

    async def _awaited(self, number: int) -> Any:
        return self.request(
            "await", stand_ins.make_object(proxies.Proxy, self.request, number, base=False)
        )

    def _send(self, message: Any) -> None:
        data = json.dumps(message).encode("utf-8", "surrogatepass")
        view = memoryview(struct.pack("!I", len(data)) + data)
        while view:
            view = view[os.write(self._descriptor, view) :]

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


def _base(kind: Any) -> type | None:
    """What matters of a base: stand-ins, exceptions, the immutable type beneath a library's."""
    if isinstance(kind, proxies.RemoteClass) or (
        isinstance(kind, type) and issubclass(kind, BaseException)
    ):
        return kind
    return (
        next((base for base in kind.__mro__ if base in wire.IMMUTABLE), None)
        if isinstance(kind, type)
        else None
    )


def _check_attribute(value: Any, name: Any) -> None:
    """Attributes of objects of the tests' classes and plain streams, never leading to frames."""
    if name in _NAMING:
        return
    ours = type(value).__module__ == TESTS or type(value).__module__ == "_io"
    if (
        not ours
        or not isinstance(name, str)
        or name.startswith(("_", "gi_", "cr_", "ag_", "f_", "tb_", "co_"))
    ):
        raise AttributeError(f"attribute {name!r} of what a test gave")


def _raisable(error: Any, *, may_stop: bool) -> BaseException:
    if not isinstance(error, BaseException) or isinstance(error, GeneratorExit):
        return RuntimeError("no exception was raised there")
    # Elsewhere it would end a loop of the tests early, and `all(map(..))` would pass.
    if isinstance(error, StopIteration | StopAsyncIteration) and not may_stop:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
