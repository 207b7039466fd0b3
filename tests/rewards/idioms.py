"""Ordinary Python: modules with tests that pass in an interpreter; programs with output."""

FUNCTIONS = {
    "int": (
        "def f(): return 3",
        "assert f() == 3 and isinstance(f(), int)",
    ),
    "large int": (
        "def f(): return 10**5000",
        "assert f() == 10**5000 and len(str(f())) == 5001",
    ),
    "float": (
        "def f(): return 0.5",
        "assert abs(f() - 0.5) < 1e-9",
    ),
    "complex": (
        "def f(): return 2j",
        "assert f() * f() == -4",
    ),
    "text": (
        "def f(s): return s.upper()",
        "assert f('aä') == 'AÄ'",
    ),
    "lone surrogate": (
        "def f(): return '\\ud800'",
        "assert f() == '\\ud800'",
    ),
    "bytes": (
        "def f(): return b'x'",
        "assert f() == b'x'",
    ),
    "bytearray": (
        "def f(): return bytearray(b'ab')",
        "assert f() == bytearray(b'ab') and f()[0] == 97",
    ),
    "tuple": (
        "def f(): return (1, 'a', None)",
        "assert f() == (1, 'a', None) and type(f()) is tuple",
    ),
    "nested containers": (
        "def f(): return {'a': [(1, {2})]}",
        "assert f() == {'a': [(1, {2})]}",
    ),
    "frozenset": (
        "def f(): return frozenset([1])",
        "assert f() == frozenset([1])",
    ),
    "Decimal": (
        """
from decimal import Decimal
def f(): return Decimal('1.10')
""",
        """
from decimal import Decimal
assert f() == Decimal('1.1')
""",
    ),
    "Fraction": (
        """
from fractions import Fraction
def f(): return Fraction(1, 3)
""",
        """
from fractions import Fraction
assert f() == Fraction(2, 6)
""",
    ),
    "date": (
        """
import datetime
def f(): return datetime.date(2024, 2, 29)
""",
        """
import datetime
assert f() == datetime.date(2024, 2, 29)
""",
    ),
    "datetime as an argument": (
        """
import datetime
def f(d): return d + datetime.timedelta(days=1)
""",
        """
import datetime
assert f(datetime.datetime(2024, 2, 28, 1)) == datetime.datetime(2024, 2, 29, 1)
""",
    ),
    "aware datetime": (
        """
from datetime import *
def f(): return datetime(2024, 1, 1, tzinfo=timezone.utc)
""",
        """
from datetime import datetime, timezone, timedelta
assert f() == datetime(2024, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
""",
    ),
    "time": (
        """
import datetime
def f(): return datetime.time(1, 2)
""",
        """
import datetime
assert f() == datetime.time(1, 2)
""",
    ),
    "timedelta": (
        """
import datetime
def f(a, b): return a - b
""",
        """
import datetime as d
assert f(d.date(2024, 1, 3), d.date(2024, 1, 1)) == d.timedelta(2)
""",
    ),
    "deque": (
        """
from collections import deque
def f(): return deque([1, 2], maxlen=2)
""",
        """
from collections import deque
assert f() == deque([1, 2]) and f().maxlen == 2
""",
    ),
    "OrderedDict": (
        """
from collections import OrderedDict
def f(): return OrderedDict(a=1)
""",
        "assert f() == {'a': 1} and list(f()) == ['a']",
    ),
    "Counter": (
        """
from collections import Counter
def f(s): return Counter(s)
""",
        """
from collections import Counter
assert f('aab') == Counter(a=2, b=1) and f('aab')['z'] == 0 and f('aa').most_common(1) == [('a', 2)]
""",
    ),
    "defaultdict": (
        """
from collections import defaultdict
def f():
    d = defaultdict(list)
    d[1].append(2)
    return d
""",
        "assert f() == {1: [2]} and f()[3] == []",
    ),
    "range": (
        "def f(n): return range(n)",
        "assert f(3) == range(3) and list(f(3)) == [0, 1, 2]",
    ),
    "slice": (
        "def f(): return slice(1, None)",
        "assert [1, 2, 3][f()] == [2, 3]",
    ),
    "dict keys": (
        "def f(): return {'a': 1}.keys()",
        "assert f() == {'a'} and f() == {'a': 2}.keys()",
    ),
    "dict values": (
        "def f(): return {'a': 1}.values()",
        "assert list(f()) == [1]",
    ),
    "dict items": (
        "def f(): return {'a': 1}.items()",
        "assert f() == {('a', 1)} and dict(f()) == {'a': 1}",
    ),
    "array": (
        """
import array
def f(): return array.array('i', [1, 2])
""",
        """
import array
assert f() == array.array('i', [1, 2])
""",
    ),
    "UUID": (
        """
import uuid
def f(): return uuid.UUID(int=5)
""",
        """
import uuid
assert f() == uuid.UUID(int=5)
""",
    ),
    "Path": (
        """
from pathlib import Path
def f(): return Path('a') / 'b'
""",
        """
from pathlib import Path
assert f() == Path('a/b')
""",
    ),
    "Ellipsis": (
        "def f(): return ...",
        "assert f() is ...",
    ),
    "a type": (
        "def f(x): return type(x)",
        "assert f(1) is int and f('') == str",
    ),
    "a class of the library": (
        """
import decimal
def f(): return decimal.Decimal
""",
        """
import decimal
assert f() is decimal.Decimal
""",
    ),
    "map": (
        "def f(l): return map(str, l)",
        "assert list(f([1, 2])) == ['1', '2']",
    ),
    "generator": (
        """
def f(n):
    yield from range(n)
""",
        """
import types
g = f(2)
assert next(g) == 0 and list(g) == [1] and isinstance(f(1), types.GeneratorType)
""",
    ),
    "generator that is sent to": (
        """
def f():
    x = yield 1
    yield x * 2
""",
        """
g = f()
next(g)
assert g.send(4) == 8
""",
    ),
    "exhausted generator": (
        "def f(): yield 1",
        """
g = f()
next(g)
try:
    next(g)
    assert False
except StopIteration: pass
""",
    ),
    "namedtuple": (
        """
from collections import namedtuple
P = namedtuple('P', 'x y')
def f(): return P(1, 2)
""",
        """
p = f()
assert p.x == 1 and p == (1, 2) and p._replace(x=3).x == 3
assert isinstance(p, tuple) and isinstance(p, P)
""",
    ),
    "typing.NamedTuple": (
        """
from typing import NamedTuple
class P(NamedTuple):
    x: int
    y: int = 5
""",
        "assert P(1).y == 5 and P(1) == (1, 5) and repr(P(1)) == 'P(x=1, y=5)'",
    ),
    "enum": (
        """
import enum
class C(enum.Enum):
    R = 1
    G = 2
def f(): return C.R
""",
        """
assert f() is C.R
assert f() == C.R
assert f() != C.G
assert f().value == 1
assert f().name == 'R'
assert len(C) == 2
assert C['G'] is C.G
assert C(2) is C.G
assert [c.name for c in C] == ['R', 'G']
""",
    ),
    "IntEnum": (
        """
import enum
class C(enum.IntEnum):
    R = 1
def f(): return C.R
""",
        "assert f() == 1 and f().name == 'R' and f() is C.R and f() + 1 == 2",
    ),
    "dataclass": (
        """
from dataclasses import dataclass, field
@dataclass(order=True)
class P:
    x: int
    y: list = field(default_factory=list)
""",
        """
assert P(1) == P(1, [])
assert P(1) < P(2)
assert P(1, [2]).y == [2]
assert repr(P(1)) == 'P(x=1, y=[])'
assert sorted([P(2), P(1)])[0].x == 1
""",
    ),
    "frozen dataclass": (
        """
from dataclasses import dataclass
@dataclass(frozen=True)
class P:
    x: int
""",
        """
import dataclasses
p = P(1)
assert {p: 2}[P(1)] == 2 and hash(P(1)) == hash(P(1)) and len({P(1), P(1), P(2)}) == 2
try:
    p.x = 2
    assert False
except dataclasses.FrozenInstanceError: pass
""",
    ),
    "attributes": (
        """
class A:
    n = 0
    def __init__(self): A.n += 1; self.v = 1
""",
        """
a = A()
a.v = 5
assert a.v == 5 and A.n == 1 and hasattr(a, 'v') and not hasattr(a, 'w')
A.n = 7
assert A().n == 8
del a.v
assert not hasattr(a, 'v')
""",
    ),
    "property": (
        """
class A:
    @property
    def x(self): return 4
    @staticmethod
    def s(): return 1
    @classmethod
    def make(cls): return cls()
""",
        """
assert A().x == 4 and A.s() == 1 and A.make().x == 4 and isinstance(A.make(), A)
try:
    A().x = 1
    assert False
except AttributeError: pass
""",
    ),
    "isinstance with own classes": (
        """
class A: pass
class B(A): pass
def f(): return B()
""",
        """
assert isinstance(f(), A)
assert isinstance(f(), B)
assert type(f()) is B
assert type(f()).__name__ == 'B'
assert issubclass(B, A)
assert not isinstance(A(), B)
assert not isinstance(3, A)
""",
    ),
    "abstract class": (
        """
from abc import ABC, abstractmethod
class S(ABC):
    @abstractmethod
    def area(self): ...
class Q(S):
    def area(self): return 4
""",
        """
assert Q().area() == 4 and isinstance(Q(), S)
try:
    S()
    assert False
except TypeError: pass
""",
    ),
    "ValueError": (
        "def f(): raise ValueError('bad 3')",
        """
try:
    f()
    assert False
except ValueError as e: assert str(e) == 'bad 3' and e.args == ('bad 3',)
""",
    ),
    "KeyError's args": (
        "def f(): return {}['k']",
        """
try:
    f()
    assert False
except KeyError as e: assert e.args == ('k',) and e.args[0] == 'k'
""",
    ),
    "ZeroDivisionError as its base": (
        "def f(): return 1 / 0",
        """
try:
    f()
    assert False
except ArithmeticError as e: assert type(e) is ZeroDivisionError
""",
    ),
    "own exception": (
        """
class E(Exception): pass
def f(): raise E('x')
""",
        """
try:
    f()
    assert False
except E as e: assert str(e) == 'x' and isinstance(e, Exception)
""",
    ),
    "own subclass of ValueError": (
        """
class E(ValueError):
    def __init__(self, code, text='t'):
        super().__init__(text)
        self.code = code
    def twice(self): return self.code * 2
def f(): raise E(7)
""",
        """
try:
    f()
    assert False
except ValueError as e:
    assert isinstance(e, E) and e.code == 7 and e.args == ('t',)
    assert e.twice() == 14 and type(e).__name__ == 'E'
""",
    ),
    "own exception's text": (
        """
class E(Exception):
    def __str__(self): return 'mine'
def f(): raise E
""",
        """
try:
    f()
    assert False
except E as e: assert str(e) == 'mine'
""",
    ),
    "hierarchy of exceptions": (
        """
class A(Exception): pass
class B(A, KeyError): pass
def f(): raise B('k')
""",
        """
for kind in (A, B, KeyError, LookupError):
    try:
        f()
        assert False
    except kind: pass
""",
    ),
    "exception of the library": (
        """
import json
def f(s): return json.loads(s)
""",
        """
import json
try:
    f('{')
    assert False
except json.JSONDecodeError as e: assert e.pos == 1
""",
    ),
    "raised from": (
        """
def f():
    try: 1 / 0
    except ZeroDivisionError as e: raise ValueError('v') from e
""",
        """
try:
    f()
    assert False
except ValueError as e: assert isinstance(e.__cause__, ZeroDivisionError)
""",
    ),
    "unittest's assertRaises": (
        """
def f(x):
    if x < 0: raise ValueError('negative')
    return x
""",
        """
import unittest
class T(unittest.TestCase):
    def test_it(self):
        with self.assertRaises(ValueError): f(-1)
        with self.assertRaisesRegex(ValueError, 'neg'): f(-1)
        self.assertEqual(f(2), 2)
""",
    ),
    "context manager": (
        """
log = []
class M:
    def __enter__(self): log.append('in'); return 5
    def __exit__(self, *a): log.append(a[0].__name__ if a[0] else 'out'); return True
""",
        """
with M() as m: assert m == 5
with M(): raise KeyError(1)
assert log == ['in', 'out', 'in', 'KeyError']
""",
    ),
    "contextmanager": (
        """
from contextlib import contextmanager
@contextmanager
def f():
    yield 3
""",
        "with f() as x: assert x == 3",
    ),
    "in": (
        """
class B:
    def __init__(self, items): self.items = items
    def __contains__(self, x): return x in self.items
""",
        """
b = B([1, 'a'])
assert 1 in b and 'a' in b and 2 not in b
""",
    ),
    "hash": (
        """
class H:
    def __init__(self, x): self.x = x
    def __hash__(self): return hash(self.x)
    def __eq__(self, o): return self.x == o.x
""",
        """
assert hash(H(1)) == hash(H(1)) and len({H(1), H(1)}) == 1
assert H(2) in {H(2)} and {H(1): 5}[H(1)] == 5
""",
    ),
    "own == with data": (
        """
class V:
    def __init__(self, *x): self.x = x
    def __eq__(self, o): return self.x == (o.x if isinstance(o, V) else tuple(o))
""",
        """
assert V(1, 2) == (1, 2) and V(1, 2) == [1, 2] and V(1) != (2,)
assert V(1) == V(1) and (1, 2) == V(1, 2)
""",
    ),
    "own * with data": (
        """
class V:
    def __init__(self, x): self.x = x
    def __mul__(self, k): return V(self.x * k)
    __rmul__ = __mul__
    def __add__(self, o): return V(self.x + (o.x if isinstance(o, V) else o))
    __radd__ = __add__
    def __matmul__(self, o): return self.x * o.x
    def __neg__(self): return V(-self.x)
    def __iadd__(self, o): self.x += o; return self
""",
        """
assert (V(2) * 3).x == 6
assert (3 * V(2)).x == 6
assert (V(1) + 2 + V(3)).x == 6
assert sum([V(1), V(2)]).x == 3
assert V(2) @ V(3) == 6
assert (-V(1)).x == -1
v = V(1)
w = v
v += 4
assert v.x == 5 and w is v
""",
    ),
    "own < with data": (
        """
import functools
@functools.total_ordering
class V:
    def __init__(self, x): self.x = x
    def __eq__(self, o): return self.x == getattr(o, 'x', o)
    def __lt__(self, o): return self.x < getattr(o, 'x', o)
""",
        """
assert V(1) < 2 and V(3) > 2 and V(2) >= V(2) and not V(3) < 2 and max([V(1), V(3)]).x == 3
""",
    ),
    "own len, item, iteration": (
        """
class S:
    def __init__(self): self.d = {}
    def __len__(self): return len(self.d)
    def __getitem__(self, k): return self.d[k]
    def __setitem__(self, k, v): self.d[k] = v
    def __delitem__(self, k): del self.d[k]
    def __iter__(self): return iter(self.d)
    def __bool__(self): return bool(self.d)
""",
        """
s = S()
assert not s
s['a'] = 1
assert s['a'] == 1 and len(s) == 1 and list(s) == ['a'] and s
del s['a']
assert len(s) == 0
""",
    ),
    "own conversions": (
        """
class T:
    def __int__(self): return 3
    def __float__(self): return 1.5
    def __str__(self): return 'T!'
    def __format__(self, spec): return spec
    def __call__(self, x): return x + 1
    def __abs__(self): return 2
    def __round__(self, n=0): return 4
""",
        """
t = T()
assert int(t) == 3
assert float(t) == 1.5
assert str(t) == 'T!'
assert f'{t:abc}' == 'abc'
assert t(1) == 2
assert abs(t) == 2
assert round(t) == 4
""",
    ),
    "subclass of list": (
        """
class S(list):
    def push(self, x): self.append(x)
    def top(self): return self[-1]
""",
        """
s = S()
s.push(1)
s.push(2)
assert s.top() == 2 and len(s) == 2 and s == [1, 2] and list(s) == [1, 2] and s[0] == 1
""",
    ),
    "subclass of dict": (
        """
class D(dict):
    def __missing__(self, k): return k * 2
""",
        """
d = D(a=1)
assert d['a'] == 1 and d[4] == 8 and d == {'a': 1}
""",
    ),
    "subclass of int": (
        """
class M(int):
    def half(self): return self // 2
""",
        "assert M(4).half() == 2 and M(4) == 4 and M(4) + 1 == 5",
    ),
    "async function": (
        """
import asyncio
async def f(x):
    await asyncio.sleep(0)
    return x + 1
""",
        """
import asyncio
assert asyncio.run(f(1)) == 2
async def both(): return await asyncio.gather(f(1), f(2))
assert asyncio.run(both()) == [2, 3]
""",
    ),
    "async generator": (
        """
async def f(n):
    for i in range(n): yield i
""",
        """
import asyncio
async def all_of(): return [x async for x in f(3)]
assert asyncio.run(all_of()) == [0, 1, 2]
""",
    ),
    "async context manager": (
        """
class A:
    async def __aenter__(self): return 3
    async def __aexit__(self, *a): return None
""",
        """
import asyncio
async def g():
    async with A() as a: return a
assert asyncio.run(g()) == 3
""",
    ),
    "the same list given back": (
        """
def f(l):
    l.append(1)
    return l
""",
        """
l = [0]
assert f(l) is l and l == [0, 1]
""",
    ),
    "sorted in place": (
        "def f(l): l.sort()",
        """
l = [3, 1]
assert f(l) is None and l == [1, 3]
""",
    ),
    "lists in lists changed in place": (
        """
def f(m):
    m[0][0] = 9
    m.reverse()
""",
        """
a, b = [1], [2]
m = [a, b]
f(m)
assert m == [[2], [9]] and a == [9] and m[1] is a and m[0] is b
""",
    ),
    "dict changed in place": (
        "def f(d): d['x'] = d.pop('y')",
        """
d = {'y': 1}
f(d)
assert d == {'x': 1}
""",
    ),
    "a list that holds itself": (
        "def f(l): return len(l)",
        """
l = [1]
l.append(l)
assert f(l) == 2
""",
    ),
    "callback": (
        "def f(g, *a): return [g(x) for x in a]",
        """
assert f(lambda x: x * 2, 1, 2) == [2, 4] and f(len, 'ab') == [2] and f(str, 1) == ['1']
""",
    ),
    "callback that raises": (
        """
def f(g):
    try: return g()
    except ValueError as e: return str(e)
""",
        """
def bad(): raise ValueError('b')
assert f(bad) == 'b'
""",
    ),
    "closure": (
        """
def f(n):
    def g(m): return n + m
    return g
""",
        "assert f(2)(3) == 5 and callable(f(1)) and f(1).__name__ == 'g'",
    ),
    "decorator": (
        """
import functools
def twice(g):
    @functools.wraps(g)
    def h(*a): return g(*a) * 2
    return h
""",
        """
@twice
def g(x): return x
assert g(2) == 4
""",
    ),
    "lru_cache": (
        """
import functools
@functools.lru_cache(maxsize=None)
def f(n): return n if n < 2 else f(n - 1) + f(n - 2)
""",
        "assert f(90) == 2880067194370816120 and f.cache_info().hits > 0",
    ),
    "partial": (
        """
import functools
def f(a, b): return a - b
g = functools.partial(f, 5)
""",
        "assert g(3) == 2 and g.args == (5,)",
    ),
    "keyword arguments": (
        "def f(a, *r, k=1, **d): return (a, r, k, d)",
        "assert f(1, 2, k=3, z=4) == (1, (2,), 3, {'z': 4})",
    ),
    "default that is kept": (
        """
def f(x, seen=[]):
    seen.append(x)
    return len(seen)
""",
        "assert f(1) == 1 and f(1) == 2",
    ),
    "docstring": (
        """
def f():
    'says so'
""",
        "assert f.__doc__ == 'says so'",
    ),
    "global that changes": (
        """
count = 0
def f():
    global count
    count += 1
""",
        """
f()
f()
assert count == 2
""",
    ),
    "linked nodes": (
        """
class N:
    def __init__(self, v, n=None): self.v = v; self.n = n
def rev(n):
    p = None
    while n: n.n, p, n = p, n, n.n
    return p
""",
        """
a = N(1, N(2, N(3)))
r = rev(a)
assert [r.v, r.n.v, r.n.n.v] == [3, 2, 1] and r.n.n is a and a.n is None
""",
    ),
    "nodes of the tests'": (
        "def total(n): return 0 if n is None else n.v + total(n.n)",
        """
class N:
    def __init__(self, v, n=None): self.v = v; self.n = n
assert total(N(1, N(2))) == 3
""",
    ),
    "iterator as an argument": (
        "def f(it): return sum(it)",
        "assert f(iter([1, 2])) == 3 and f(x for x in (1, 2)) == 3",
    ),
    "own iterator": (
        """
class I:
    def __init__(self, n): self.n = n
    def __iter__(self): return self
    def __next__(self):
        if not self.n: raise StopIteration
        self.n -= 1
        return self.n
""",
        """
assert list(I(3)) == [2, 1, 0] and 2 in list(I(3)) and [*zip(I(2), 'ab')] == [(1, 'a'), (0, 'b')]
""",
    ),
    "copy": (
        """
class A:
    def __init__(self): self.l = [1]
    def add(self): self.l.append(2)
""",
        """
import copy
a = A()
b = copy.deepcopy(a)
c = copy.copy(a)
a.add()
assert b.l == [1] and c.l == [1, 2]
""",
    ),
    "names without an import": (
        """
def f(x: List[int]) -> Optional[int]:
    return Counter(x).most_common(1)[0][0] if x else None
""",
        "assert f([1, 1, 2]) == 1 and f([]) is None",
    ),
    "module imported by its tests": (
        "def add(a, b): return a + b",
        """
from solution import add
import solution
assert add(1, 2) == 3 and solution.add(1, 1) == 2
""",
    ),
    "test functions": (
        "def add(a, b): return a + b",
        """
def test_one():
    assert add(1, 2) == 3
""",
    ),
    "numbers": (
        "def f(): return [True, None, float('inf'), -0.0, 2**64]",
        "assert f() == [True, None, float('inf'), 0, 2**64] and f()[0] is True",
    ),
    "a function of a built-in's name": (
        "def sum(a, b): return a + b",
        "assert sum(10, 15) == 25",
    ),
    "regular expression": (
        """
import re
def f(s): return re.match(r'(a)(b)?', s)
""",
        """
m = f('ab')
assert m.group(1) == 'a' and m.groups() == ('a', 'b') and f('x') is None and m
""",
    ),
    "string template": (
        "def f(s): return s",
        """
from string import Template
assert f('a') == Template('$x').substitute(x='a')
""",
    ),
    "more: asdict": (
        """
from dataclasses import dataclass
@dataclass
class P:
    x: int
    y: list
""",
        """
import dataclasses
assert dataclasses.asdict(P(1,[2])) == {'x':1,'y':[2]}
assert dataclasses.astuple(P(1,[2])) == (1,[2])
assert dataclasses.is_dataclass(P)
assert [f.name for f in dataclasses.fields(P)] == ['x','y']
""",
    ),
    "more: replace": (
        """
from dataclasses import dataclass
@dataclass
class P:
    x: int
    y: int
""",
        """
import dataclasses
assert dataclasses.replace(P(1,2),x=5).x==5
""",
    ),
    "more: vars": (
        """
class P:
    def __init__(self): self.x=1
""",
        """
assert vars(P()) == {'x':1} and P().__dict__ == {'x':1}
""",
    ),
    "more: annotations": (
        """
def f(x: int, y=2) -> str: return ''
""",
        """
assert f.__annotations__ == {'x': int, 'return': str}
assert f.__defaults__ == (2,)
assert f.__name__=='f'
""",
    ),
    "more: signature": (
        """
def f(x: int, y=2) -> str: return ''
""",
        """
import inspect
assert list(inspect.signature(f).parameters) == ['x','y']
""",
    ),
    "more: iscoro": (
        """
async def f(): return 1
def g(): yield 1
""",
        """
import inspect
assert inspect.iscoroutinefunction(f)
assert inspect.isgeneratorfunction(g)
assert inspect.isgenerator(g())
""",
    ),
    "more: type hints": (
        """
def f(x: int) -> str: return ''
""",
        """
import typing
assert typing.get_type_hints(f) == {'x': int, 'return': str}
""",
    ),
    "more: attrgetter": (
        """
class P:
    def __init__(self,x): self.x=x
""",
        """
import operator
assert operator.attrgetter('x')(P(3))==3
assert max([P(1),P(5)], key=lambda p:p.x).x==5
""",
    ),
    "more: class attr list": (
        """
class S:
    items=[1]
""",
        """
assert S.items==[1]
""",
    ),
    "more: issubclass exc": (
        """
class E(Exception): pass
""",
        """
assert issubclass(E, Exception)
try:
    raise E('x')
except E as e: assert e.args==('x',)
""",
    ),
    "more: str(e) keyerror": (
        """
def f(): raise KeyError('a')
""",
        """
try: f()
except KeyError as e: assert str(e)=="'a'"
""",
    ),
    "more: slots": (
        """
class P:
    __slots__=('x',)
    def __init__(self): self.x=1
""",
        """
assert P().x==1
""",
    ),
    "more: walk": (
        """
def f(): return (i for i in range(3))
""",
        """
assert sum(f())==3 and 2 in f() and [*f()]==[0,1,2]
""",
    ),
    "more: memo class": (
        """
class M:
    def __call__(self, n): return n
""",
        """
m=M(); assert list(map(m,[1,2]))==[1,2]
""",
    ),
    "more: defaultdict lambda": (
        """
from collections import defaultdict
def f(): return defaultdict(lambda: 5)
""",
        """
assert f()[1]==5
""",
    ),
    "more: eq set of tuples": (
        """
def f(): return {(1,2),(3,4)}
""",
        """
assert sorted(f())==[(1,2),(3,4)] and f()=={(1,2),(3,4)}
""",
    ),
    "more: nan": (
        """
def f(): return float('nan')
""",
        """
import math
assert math.isnan(f())
""",
    ),
    "more: chain": (
        """
import itertools
def f(): return itertools.chain([1],[2])
""",
        """
assert list(f())==[1,2]
""",
    ),
    "more: zip": (
        """
def f(): return zip([1],[2])
""",
        """
assert list(f())==[(1,2)] and dict(f())=={1:2}
""",
    ),
    "more: memoryview": (
        """
def f(): return memoryview(b'ab')
""",
        """
assert bytes(f())==b'ab' and f()[0]==97
""",
    ),
    "more: stringio": (
        """
import io
def f(): return io.StringIO('ab')
""",
        """
assert f().read()=='ab'
""",
    ),
    "more: stringio arg": (
        """
def f(s): return s.read()
""",
        """
import io
assert f(io.StringIO('ab'))=='ab'
""",
    ),
    "more: mappingproxy": (
        """
import types
def f(): return types.MappingProxyType({1:2})
""",
        """
assert f()[1]==2 and dict(f())=={1:2} and f()=={1:2}
""",
    ),
    "more: SimpleNamespace": (
        """
import types
def f(): return types.SimpleNamespace(x=1)
""",
        """
import types
assert f().x==1 and f()==types.SimpleNamespace(x=1)
""",
    ),
    "more: simplens arg": (
        """
def f(p): return p.x
""",
        """
import types
assert f(types.SimpleNamespace(x=1))==1
""",
    ),
    "more: ChainMap": (
        """
from collections import ChainMap
def f(): return ChainMap({1:2},{3:4})
""",
        """
assert f()[3]==4 and dict(f())=={1:2,3:4}
""",
    ),
    "more: UserDict": (
        """
from collections import UserDict
class D(UserDict): pass
""",
        """
d=D(a=1)
assert d['a']==1 and 'a' in d and dict(d)=={'a':1} and d=={'a':1}
""",
    ),
    "more: re obj": (
        """
import re
def f(): return re.compile('a+')
""",
        """
assert f().match('aa').group()=='aa' and f().pattern=='a+'
""",
    ),
    "more: weak": (
        """
class A: pass
x=A()
def f(): return x
""",
        """
assert f() is f() and f() is x
""",
    ),
    "more: zoneinfo": (
        """
import datetime, zoneinfo
def f(): return datetime.datetime(2024,1,1,tzinfo=zoneinfo.ZoneInfo('UTC'))
""",
        """
import datetime
assert f()==datetime.datetime(2024,1,1,tzinfo=datetime.timezone.utc)
""",
    ),
    "more: typed dict": (
        """
from typing import TypedDict
class T(TypedDict):
    x:int
def f()->T: return T(x=1)
""",
        """
assert f()=={'x':1}
""",
    ),
    "more: flag": (
        """
import enum
class F(enum.Flag):
    A=1
    B=2
""",
        """
assert (F.A|F.B).value==3 and F.A in (F.A|F.B)
""",
    ),
    "more: strenum": (
        """
import enum
class F(str, enum.Enum):
    A='a'
""",
        """
assert F.A=='a' and F.A.value=='a' and F('a') is F.A
""",
    ),
    "more: numpy ret": (
        """
import numpy as np
def f(): return np.array([1,2])
""",
        """
assert list(f())==[1,2] and f().tolist()==[1,2] and f()[0]==1
""",
    ),
    "more: numpy eq": (
        """
import numpy as np
def f(): return np.array([1,2])
""",
        """
import numpy as np
assert np.array_equal(f(), np.array([1,2])) and np.allclose(f(),[1,2])
assert (f()==np.array([1,2])).all()
""",
    ),
    "more: numpy arg": (
        """
import numpy as np
def f(a): return float(np.mean(a))
""",
        """
import numpy as np
assert f(np.array([1.0,3.0]))==2.0
""",
    ),
    "more: numpy scalar": (
        """
import numpy as np
def f(): return np.float64(1.5)
""",
        """
assert f()==1.5 and abs(f()-1.5)<1e-9
""",
    ),
    "more: numpy int": (
        """
import numpy as np
def f(): return np.int64(3)
""",
        """
assert f()==3 and f()+1==4
""",
    ),
    "more: exc group": (
        """
def f(): raise ExceptionGroup('g',[ValueError('a')])
""",
        """
try: f()
except* ValueError as g: assert g.exceptions[0].args==('a',)
""",
    ),
    "more: operators mixed": (
        """
class V:
    def __init__(self,x): self.x=x
    def __truediv__(self,k): return V(self.x/k)
    def __pow__(self,k): return self.x**k
    def __mod__(self,k): return self.x%k
    def __and__(self,o): return V(self.x&o.x)
    def __getitem__(self,i): return self.x
""",
        """
assert (V(4)/2).x==2 and V(2)**3==8 and V(5)%3==2 and (V(3)&V(1)).x==1 and V(7)[0]==7
""",
    ),
    "more: return none eq": (
        """
def f(): pass
""",
        """
assert f() is None and f() == None
""",
    ),
    "more: made by function eq": (
        """
class V:
    def __init__(s,x): s.x=x
    def __eq__(s,o): return s.x==(o.x if isinstance(o,V) else o)
def make(x): return V(x)
""",
        """
assert make(3) == V(3) and make(3).x==3
""",
    ),
}
"""Name -> module, tests of it."""

FUNCTIONS |= {
    "power with a modulus": (
        """
class M:
    def __init__(self, value): self.value = value
    def __pow__(self, e, m=None): return M(pow(self.value, e, m))
    def __eq__(self, other): return self.value == other.value
""",
        "assert pow(M(2), 5, 7) == M(4) and M(2) ** 3 == M(8) and pow(M(2), 3).value == 8",
    ),
    "power of a derived integer with a modulus": (
        """
class M(int): pass
def f(): return M(3)
""",
        "assert pow(f(), 3, 5) == 2",
    ),
    "list of an attribute is changed": (
        """
class B:
    def __init__(self): self.items = [1]
    def total(self): return sum(self.items)
""",
        """
b = B()
b.items.append(2)
assert b.items == [1, 2] and b.total() == 3
items = b.items
items[0] = 7
items.sort(reverse=True)
assert b.total() == 9 and b.items == [7, 2]
b.items.append(b)
assert b.items[2] is b
b.items.clear()
assert b.items == [] and b.total() == 0
""",
    ),
    "dict and set of an attribute are changed": (
        """
class B:
    shared = {}
    def __init__(self): self.d = {'a': [1]}; self.s = set()
    @property
    def copied(self): return dict(self.d)
""",
        """
b = B()
b.d['b'] = 2
b.d['a'].append(5)
b.s.add(3)
B.shared[1] = 2
b.copied['c'] = 3
assert b.d == {'a': [1, 5], 'b': 2} and 3 in b.s and B().shared == {1: 2}
""",
    ),
    "global list is changed": (
        """
seen = []
def count(): return len(seen)
""",
        """
seen.append(1)
assert count() == 1 and seen == [1]
""",
    ),
}

PROGRAMS = {
    "exit()": ("print(sum(map(int, input().split()))); exit()", "1 2 3", "6"),
    "quit()": (
        """
print(3)
quit()
print(4)
""",
        "",
        "3",
    ),
    "exit(0)": (
        """
print(3)
exit(0)
""",
        "",
        "3",
    ),
    "sys.exit in main": (
        """
import sys
def main():
    print(3)
    return 0
if __name__ == '__main__':
    sys.exit(main())
""",
        "",
        "3",
    ),
    "sys.exit(None)": (
        """
import sys
print(1)
sys.exit()
""",
        "",
        "1",
    ),
    "asyncio.run": (
        """
import asyncio
async def main():
    await asyncio.sleep(0.01)
    print(await asyncio.gather(one(), one()))
async def one(): return 1
asyncio.run(main())
""",
        "",
        "[1, 1]",
    ),
    "asyncio.to_thread": (
        """
import asyncio
print(asyncio.run(asyncio.to_thread(len, 'ab')))
""",
        "",
        "2",
    ),
    "digits of a large number": (
        "print(len(str(10**5000)), int('1' * 5000) % 7)",
        "",
        f"5001 {sum(pow(10, i, 7) for i in range(5000)) % 7}",
    ),
    "sys.stdin.read": (
        """
import sys
print(sum(map(int, sys.stdin.read().split())))
""",
        "1\n2\n",
        "3",
    ),
    "sys.stdin.buffer": (
        """
import sys
print(len(sys.stdin.buffer.readline()))
""",
        "ab\n",
        "3",
    ),
    "for line in sys.stdin": (
        """
import sys
for line in sys.stdin: print(line.strip()[::-1])
""",
        "ab\ncd",
        "ba dc",
    ),
    "open(0)": ("print(*open(0).read().split())", "1\n2", "1 2"),
    "os.read": (
        """
import os
print(os.read(0, 100).decode().strip())
""",
        "5\n",
        "5",
    ),
    "io over descriptors": (
        """
import io, os, sys
input = io.BytesIO(os.read(0, os.fstat(0).st_size)).readline
print(int(input()))
""",
        "7\n",
        "7",
    ),
    "input until its end": (
        """
n = 0
try:
    while True: n += int(input())
except EOFError: print(n)
""",
        "1\n2",
        "3",
    ),
    "input = readline": (
        """
import sys
input = sys.stdin.readline
n = int(input())
print(n * 2)
""",
        "4\n",
        "8",
    ),
    "fileinput": (
        """
import fileinput
print(sum(int(l) for l in fileinput.input()))
""",
        "1\n2\n",
        "3",
    ),
    "sys.stdout.write": (
        """
import sys
sys.stdout.buffer.write(b'a\\n'); sys.stdout.write('b\\n')
""",
        "",
        "a b",
    ),
    "os.write": (
        """
import os
os.write(1, b'x\\n')
""",
        "",
        "x",
    ),
    "thread with a large stack": (
        """
import sys, threading
sys.setrecursionlimit(10**6)
threading.stack_size(2**26)
def f(n): return 0 if n == 0 else 1 + f(n - 1)
threading.Thread(target=lambda: print(f(20000))).start()
""",
        "",
        "20000",
    ),
    "deep recursion": (
        """
import sys
sys.setrecursionlimit(10**6)
def f(n): return 0 if n == 0 else 1 + f(n - 1)
print(f(50000))
""",
        "",
        "50000",
    ),
    "thread pool": (
        """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as p: print(sum(p.map(int, '123')))
""",
        "",
        "6",
    ),
    "atexit": (
        """
import atexit
atexit.register(print, 'bye')
print('hi')
""",
        "",
        "hi bye",
    ),
    "dataclass": (
        """
from __future__ import annotations
from dataclasses import dataclass
@dataclass(order=True)
class P:
    x: int
    y: int = 0
print(P(1), max(P(1), P(2)).x)
""",
        "",
        "P(x=1, y=0) 2",
    ),
    "pickle of own classes": (
        """
import pickle
class A:
    x = 1
print(pickle.loads(pickle.dumps(A())).x)
""",
        "",
        "1",
    ),
    "names without an import": (
        """
d: Dict[str, int] = defaultdict(int)
d['a'] += 1
print(dict(d), math.gcd(4, 6), gcd(4, 6))
""",
        "",
        "{'a': 1} 2 2",
    ),
    "libraries": (
        """
import bisect, collections, decimal, fractions, functools, heapq, itertools, json, random, re
import string, time
random.seed(1)
print(decimal.Decimal('0.1') * 3, fractions.Fraction(1, 3))
""",
        "",
        "0.3 1/3",
    ),
    "numpy": (
        """
import numpy as np
print(int(np.arange(10).sum()), np.linalg.det(np.eye(2)))
""",
        "",
        "45 1.0",
    ),
    "generators and walrus": (
        "while (line := input()) != '0': print(int(line) ** 2)",
        "3\n4\n0\n",
        "9 16",
    ),
    "match": (
        """
match input().split():
    case ['add', a, b]: print(int(a) + int(b))
    case _: print('?')
""",
        "add 1 2",
        "3",
    ),
    "/dev/stdin": (
        "f = open('/dev/stdin')\nf.readline()\nprint(sum(map(int, f.readline().split())))",
        "2\n1 2",
        "3",
    ),
    "/dev/stdin of pathlib": (
        "import pathlib\nprint(sum(map(int, pathlib.Path('/dev/stdin').read_text().split())))",
        "1 2",
        "3",
    ),
    "os.open of /dev/stdin": (
        "import os\nd = os.open('/dev/stdin', os.O_RDONLY)\nprint(sum(map(int, os.read(d, "
        "100).split())))",
        "1 2",
        "3",
    ),
    "descriptors by path": (
        "open('/dev/stdout', 'w').write(open('/proc/self/fd/0').read())",
        "1 2",
        "1 2",
    ),
    "sys.stdin replaced": ("import sys\nsys.stdin = open('/dev/fd/0')\nprint(input())", "12", "12"),
    "bits": ("print('000101')", "", "000101"),
    "a number as a float": ("print(2 / 2)", "", "1"),
    "fewer digits": ("print(f'{1 / 3:.6f}')", "", "0.333333333333"),
    "more digits": ("print('2.50')", "", "2.5"),
    "temporary file": (
        """
import tempfile
with tempfile.TemporaryFile('w+') as f:
    f.write('x'); f.seek(0); print(f.read())
""",
        "",
        "x",
    ),
    "sleep": (
        """
import time
time.sleep(0.05)
print(1)
""",
        "",
        "1",
    ),
    "much output": (
        "for i in range(200000): print(i % 10)",
        "",
        " ".join(str(i % 10) for i in range(200000)),
    ),
}
"""Name -> program, its input, its output. Those whose name has "file" in it write one, which takes
namespaces."""
