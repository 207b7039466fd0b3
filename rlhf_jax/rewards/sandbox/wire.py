"""Values on their way between two sandboxed processes, as JSON.

By value travel: numbers, text, bytes, lists, tuples, sets, dicts and what else the standard library
has for plain data (`_TO_TEXT`, `_CONTAINERS`, views, ranges). A subclass of an immutable type
travels as its base's value with a class of that name, a class and a function of the standard
library by name, an exception with its arguments. Everything else stays where it is, and the other
side gets a stand-in (`rlhf_jax.rewards.sandbox.proxies`).

Nothing that arrives is more than data: names are looked up in a short list of modules, and no code
of the sender's runs.
"""

import array
import collections
import datetime
import decimal
import fractions
import pathlib
import sys
import types
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any

IMMUTABLE: tuple[type, ...] = (int, float, complex, str, bytes, tuple, frozenset)
_FUNCTIONS = frozenset(
    "abs all any ascii bin chr divmod format hex isinstance issubclass len max min oct ord pow "
    "repr round sorted sum".split()
)
_MODULES = frozenset(
    "bisect cmath collections collections.abc copy datetime decimal enum fractions functools heapq "
    "itertools json math numbers operator pathlib re statistics string types typing uuid".split()
)
_TO_TEXT: dict[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    complex: (lambda v: [v.real, v.imag], lambda d: complex(*d)),
    bytes: (bytes.hex, bytes.fromhex),
    range: (lambda v: [str(v.start), str(v.stop), str(v.step)], lambda d: range(*map(int, d))),
    decimal.Decimal: (str, decimal.Decimal),
    fractions.Fraction: (
        lambda v: [hex(v.numerator), hex(v.denominator)],
        lambda d: fractions.Fraction(*(int(x, 16) for x in d)),
    ),
    datetime.date: (lambda v: v.isoformat(), datetime.date.fromisoformat),
    datetime.timedelta: (
        lambda v: [v.days, v.seconds, v.microseconds],
        lambda d: datetime.timedelta(*d),
    ),
    uuid.UUID: (lambda v: v.hex, uuid.UUID),
    type(...): (lambda v: None, lambda d: ...),
    type(NotImplemented): (lambda v: None, lambda d: NotImplemented),
}
"""Type -> to and from something that JSON holds."""
_FROM_TEXT = {kind.__name__: from_text for kind, (_, from_text) in _TO_TEXT.items()}
_CONTAINERS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        list,
        dict,
        set,
        bytearray,
        collections.deque,
        collections.OrderedDict,
        collections.defaultdict,
    )
}
_CONTAINERS |= {
    "Counter": collections.Counter,
    "array": array.array,
    "SimpleNamespace": types.SimpleNamespace,
}
_VIEWS = {
    "dict_keys": type({}.keys()),
    "dict_values": type({}.values()),
    "dict_items": type({}.items()),
}
_VIEWED: dict[str, Callable[[list[Any]], Any]] = {
    "dict_keys": lambda items: dict.fromkeys(items).keys(),
    "dict_values": lambda items: dict(enumerate(items)).values(),
    "dict_items": lambda items: dict(items).items(),
}


class Objects:
    """Mutable containers of one call and its answer, numbered: each is one object on both sides."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._numbers: dict[int, int] = {}

    def number(self, value: Any) -> int:
        """The number of a container, a new one for a new container."""
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.all)
            self.all.append(value)
        return self._numbers[id(value)]

    def describe(self, encode: Callable[[Any], Any], start: int = 0) -> list[Any]:
        """All containers with what they hold now, as data, those found on the way included."""
        table: list[Any] = []
        number = start
        while number < len(self.all):
            table.append(_content(self.all[number], encode))
            number += 1
        return table

    def fill(self, table: list[Any], decode: Callable[[Any], Any], before: list[Any]) -> None:
        """Gives all containers the contents of a table; those that are new are made.

        Args:
          table: from `describe`.
          decode: makes a value of data.
          before: what is known of the first of them; those whose description is the same stay
            untouched.
        """
        for entry in table[len(self.all) :]:
            self.number(_empty(entry, decode))
        for number, entry in enumerate(table):
            if number >= len(before) or entry != before[number]:
                _set_content(self.all[number], entry, decode)


def encode_plain(value: Any, encode: Callable[[Any], Any], objects: Objects) -> Any:
    """A value as data; None in place of a list when it has to stay where it is.

    Args:
      value: any.
      encode: for the values within.
      objects: of this call.
    """
    kind = type(value)
    if value is None or kind in (bool, float, str):
        return value
    if kind is int:
        return value if -(2**53) < value < 2**53 else ["int", hex(value)]
    if kind in _TO_TEXT:
        return ["text", kind.__name__, _TO_TEXT[kind][0](value)]
    if kind in (tuple, frozenset):
        return [kind.__name__, [encode(item) for item in value]]
    if _CONTAINERS.get(kind.__name__) is kind:
        return ["object", objects.number(value)]
    if kind is type(pathlib.Path()):
        return ["path", str(value)]
    if kind is slice:
        return ["slice", [encode(part) for part in (value.start, value.stop, value.step)]]
    if kind in (datetime.datetime, datetime.time):
        return [
            kind.__name__,
            value.replace(tzinfo=None).isoformat(),
            value.fold,
            encode(value.tzinfo),
        ]
    if kind is datetime.timezone:
        return ["timezone", encode(value.utcoffset(None)), value.tzname(None)]
    if kind is zoneinfo.ZoneInfo and value.key is not None:
        return ["zone", value.key]
    if kind is types.MappingProxyType:
        return ["mappingproxy", [[encode(k), encode(v)] for k, v in value.items()]]
    if _is_numeric(value):
        return ["numpy", value.dtype.str, list(value.shape), encode(value.ravel().tolist())]
    if _VIEWS.get(kind.__name__) is kind:
        return ["view", kind.__name__, [encode(item) for item in value]]
    return _encode_standard(value)


def decode_plain(data: list[Any], decode: Callable[[Any], Any], objects: Objects) -> Any:
    """The value of data that `encode_plain` made.

    Raises:
      ValueError: it is none.
    """
    kind, *content = data
    if kind == "int":
        return int(content[0], 16)
    if kind == "text":
        return _FROM_TEXT[content[0]](content[1])
    if kind in ("tuple", "frozenset"):
        items = [decode(item) for item in content[0]]
        return tuple(items) if kind == "tuple" else frozenset(items)
    if kind == "object":
        return objects.all[content[0]]
    if kind == "path":
        return pathlib.Path(content[0])
    if kind == "slice":
        return slice(*(decode(part) for part in content[0]))
    if kind in ("datetime", "time"):
        made = getattr(datetime, kind).fromisoformat(content[0])
        return made.replace(fold=content[1], tzinfo=decode(content[2]))
    if kind == "timezone":
        return datetime.timezone(decode(content[0]), content[1])
    if kind == "zone":
        return zoneinfo.ZoneInfo(content[0])
    if kind == "mappingproxy":
        return types.MappingProxyType({decode(k): decode(v) for k, v in content[0]})
    if kind == "numpy":
        return _array(content[0], content[1], decode(content[2]))
    if kind == "view":
        return _VIEWED[content[0]]([decode(item) for item in content[1]])
    if kind == "standard":
        return standard(*content)
    raise ValueError(f"unknown kind of data {kind!r}")


def standard(module: str, name: str) -> Any:
    """A class or function of the standard library's few modules of nothing but plain things.

    Raises:
      ValueError: it is none of those.
    """
    loaded = sys.modules.get(module)
    top = module.partition(".")[0]
    if (
        loaded is None
        or top not in sys.stdlib_module_names
        or not name.isidentifier()
        or name.startswith("_")
    ):
        raise ValueError(f"{module}.{name} does not travel")
    found = vars(loaded).get(name)
    if isinstance(found, type) and issubclass(found, BaseException):
        return found
    if module == "builtins":
        if isinstance(found, type) or name in _FUNCTIONS:
            return found
    elif module in _MODULES and (isinstance(found, type) or callable(found)):
        return found
    raise ValueError(f"{module}.{name} does not travel")


def plain_base(value: Any) -> type | None:
    """The immutable or mutable built-in type that a value's class is derived from."""
    bases: tuple[type, ...] = (*IMMUTABLE, list, dict, set, bytearray, collections.deque)
    for kind in type(value).__mro__:
        if kind in bases:
            return kind
    return None


def as_base(value: Any, base: type) -> Any:
    """The value of a subclass's instance as its base has it, by no method of the subclass."""
    if base is int:
        return int.__add__(value, 0)
    if base is float:
        return float.__add__(value, 0.0)
    if base is complex:
        return complex.__add__(value, 0j)
    if base is str:
        return str.__str__(value)
    if base is bytes:
        return bytes.__getitem__(value, slice(None))
    if base is dict:
        return dict(zip(dict.keys(value), dict.values(value), strict=True))
    if base is bytearray:
        return bytearray.__getitem__(value, slice(None))
    return base(base.__iter__(value))  # type: ignore[attr-defined]


def _encode_standard(value: Any) -> Any:
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        module = getattr(value, "__module__", None)
        name = getattr(value, "__qualname__", "")
        for place in (module, str(module).lstrip("_"), "types"):
            try:
                if standard(str(place), name) is value:
                    return ["standard", place, name]
            except ValueError:
                continue
        for name, found in vars(types).items():
            if found is value and isinstance(value, type):
                return ["standard", "types", name]
    return None


def _is_numeric(value: Any) -> bool:
    """Whether a value is an array or a number of numpy's, of plain numbers or texts."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and type(value) in _kinds(numpy) and value.dtype.kind in "biufcSU"


def _kinds(numpy: Any) -> set[type]:
    return {numpy.ndarray, *numpy.sctypeDict.values()}


def _array(kind: str, shape: list[int], items: list[Any]) -> Any:
    numpy = sys.modules["numpy"]
    made = numpy.array(items, dtype=numpy.dtype(kind)).reshape(shape)
    return made if shape else made[()]


def _content(value: Any, encode: Callable[[Any], Any]) -> Any:
    kind = type(value).__name__
    if isinstance(value, bytearray):
        return [kind, value.hex()]
    if isinstance(value, dict):
        factory = (
            encode(value.default_factory) if isinstance(value, collections.defaultdict) else None
        )
        return [kind, [[encode(k), encode(v)] for k, v in value.items()], factory]
    if isinstance(value, types.SimpleNamespace):
        return [kind, [[k, encode(v)] for k, v in vars(value).items()]]
    items = [encode(item) for item in value]
    if isinstance(value, collections.deque):
        return [kind, items, value.maxlen]
    return [kind, items, value.typecode] if isinstance(value, array.array) else [kind, items]


def _empty(entry: Any, decode: Callable[[Any], Any]) -> Any:
    kind = _CONTAINERS[entry[0]]
    if kind is collections.deque:
        return collections.deque(maxlen=entry[2])
    if kind is array.array:
        return array.array(entry[2])
    return kind()


def _set_content(value: Any, entry: Any, decode: Callable[[Any], Any]) -> None:
    content = entry[1]
    if entry[0] != type(value).__name__:
        raise ValueError("a container changed its kind")
    if isinstance(value, bytearray):
        value[:] = bytes.fromhex(content)
    elif isinstance(value, dict):
        new = [(decode(k), decode(v)) for k, v in content]
        value.clear()
        for key, item in new:
            value[key] = item
        if isinstance(value, collections.defaultdict):
            value.default_factory = decode(entry[2])
    elif isinstance(value, types.SimpleNamespace):
        fields = {str(name): decode(item) for name, item in content}
        vars(value).clear()
        vars(value).update(fields)
    elif isinstance(value, set):
        new_items = [decode(item) for item in content]
        value.clear()
        value.update(new_items)
    elif isinstance(value, collections.deque):
        items = [decode(item) for item in content]
        value.clear()
        value.extend(items)
    elif isinstance(value, array.array):
        value[:] = array.array(value.typecode, [decode(item) for item in content])
    else:
        value[:] = [decode(item) for item in content]
