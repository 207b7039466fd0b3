"""Snippets that try to leave the sandbox, break the machine, or be graded right unduly.

`OUTSIDE` stands for a folder outside the sandbox; a snippet that gets through leaves traces there,
or prints LEAKED.
"""

SNIPPETS = {
    "fork bomb": "import os\nwhile True: os.fork()",
    "fork bomb that swallows errors": """
import os
while True:
    try: os.fork()
    except OSError: pass
""",
    "thread bomb": """
import threading, time
while True:
    try: threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
    except RuntimeError: pass
""",
    "memory bomb": "x = []\nwhile True: x.append(bytearray(10**7))",
    "memory in one piece": "x = bytearray(10**10)",
    "endless loop": "while True: pass",
    "sleep": "import time\ntime.sleep(1000)",
    "ignores signals": """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
""",
    "huge output": "while True: print('x' * 10**6)",
    "huge error output": "import sys\nwhile True: sys.stderr.write('x' * 10**6)",
    "huge file": """
with open("big", "wb") as file:
    while True: file.write(bytes(10**6))
""",
    "many files": """
i = 0
while True:
    i += 1
    with open(f"f{i}", "wb") as file: file.write(bytes(10**6))
""",
    "writes outside": """
import os
for folder in ("OUTSIDE", "/tmp", "/var/tmp", "/dev/shm", "/", os.path.expanduser("~root"), "/etc",
               "/usr/lib", "..", "../.."):
    for name in ("escaped", "escaped.py"):
        try:
            open(os.path.join(folder, name), "w").write("x")
            print("LEAKED", folder)
        except OSError: pass
try: os.rename("OUTSIDE/kept", "OUTSIDE/moved")
except OSError: pass
try: os.remove("OUTSIDE/kept")
except OSError: pass
try: os.chmod("OUTSIDE/kept", 0)
except OSError: pass
try: os.truncate("OUTSIDE/kept", 0)
except OSError: pass
try: os.symlink("OUTSIDE", "here"); open("here/escaped", "w")
except OSError: pass
try: os.link("OUTSIDE/kept", "linked"); print("LEAKED")
except OSError: pass
try: os.utime("OUTSIDE/kept", (0, 0))
except OSError: pass
raise SystemExit(1)
""",
    "reads outside": """
import os, glob
for path in ["OUTSIDE/kept", "/etc/passwd", "/proc/self/environ", "/proc/self/mem",
             "/proc/self/maps", "/proc/meminfo", *(f"/proc/{i}/environ" for i in range(1, 3000))]:
    try: print("LEAKED", path, open(path, "rb").read(50))
    except OSError: pass
for folder in ("OUTSIDE", "/", "/proc", "/home", "/root", "/tmp"):
    try: print("LEAKED", os.listdir(folder))
    except OSError: pass
raise SystemExit(1)
""",
    "empties files": """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
path = b"OUTSIDE/kept"
for mode in range(4):
    for more in (0, os.O_CREAT, os.O_APPEND, os.O_PATH, os.O_DIRECT, os.O_NONBLOCK):
        try: os.close(os.open(path, mode | os.O_TRUNC | more))
        except OSError: pass
for attempt in (lambda: os.truncate(path, 0), lambda: open(path, "w"), lambda: open(path, "r+")):
    try: attempt()
    except OSError: pass
libc.creat(path, 0o600)
libc.truncate(path, ctypes.c_long(0))
for flags in (os.O_TRUNC, os.O_TRUNC | os.O_RDWR):
    how = (ctypes.c_uint64 * 3)(flags, 0, 0)
    libc.syscall(437, -100, path, how, 24)
for number in (76, 85, 285, 326, 40, 319, 425, 437, 428, 447):
    libc.syscall(number, path, path, 0, 0, 0, 0)
raise SystemExit(1)
""",
    "looks around": """
import os, sys, sysconfig
seen = ["/proc", "/proc/1", "/etc/passwd", "/etc/shadow", "/var", "OUTSIDE", "OUTSIDE/kept"]
if HIDDEN: print(*(f"LEAKED {path}" for path in seen if os.path.exists(path)))
for folder in (sysconfig.get_path("stdlib"), "/usr/lib/python3"):
    for name in ("site-packages", "dist-packages"):
        try: print("LEAKED", os.listdir(f"{folder}/{name}")[0])
        except (OSError, IndexError): pass
        try: print("LEAKED", open(f"{folder}/{name}/README.txt").read())
        except OSError: pass
raise SystemExit(1)
""",
    "reads the environment": """
import os, ctypes
if any("SECRET" in name for name in os.environ): print("LEAKED", dict(os.environ))
environ = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
i = 0
while environ and environ[i]:
    if b"SECRET" in environ[i]: print("LEAKED", environ[i])
    i += 1
raise SystemExit(1)
""",
    "opens sockets": """
import socket, itertools
for family, kind in itertools.product(range(0, 46), (1, 2, 3, 5)):
    try:
        socket.socket(family, kind)
        print("LEAKED", family, kind)
    except OSError: pass
try: socket.socketpair(); print("LEAKED pair")
except OSError: pass
try: socket.create_connection(("127.0.0.1", PORT), timeout=1); print("LEAKED connection")
except OSError: pass
raise SystemExit(1)
""",
    "starts programs": """
import os, subprocess
for attempt in (
    lambda: os.system("touch OUTSIDE/escaped"),
    lambda: subprocess.run(["/bin/sh", "-c", "touch OUTSIDE/escaped"]),
    lambda: os.posix_spawn("/bin/touch", ["touch", "OUTSIDE/escaped"], {}),
    lambda: os.execv("/bin/touch", ["touch", "OUTSIDE/escaped"]),
):
    try: attempt()
    except OSError: pass
raise SystemExit(1)
""",
    "leaves a daemon": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True: time.sleep(1)
""",
    "signals and traces others": """
import os, ctypes
libc = ctypes.CDLL(None, use_errno=True)
for pid in [os.getppid(), *range(1, 2000), -1]:
    try:
        os.kill(pid, 0)  # signal 0: only asks whether a signal could be sent
        print("LEAKED signal", pid)
    except OSError: pass
    if libc.ptrace(16, pid, 0, 0) == 0: print("LEAKED ptrace")
raise SystemExit(1)
""",
    "raw system calls": """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for number in (41, 57, 58, 59, 101, 105, 155, 157, 161, 165, 166, 175, 200, 246, 272, 298, 308, 310,
               319, 321, 322, 323, 425, 434, 435, 0x40000000 + 41):
    if libc.syscall(number, 2, 1, 0, 0, 0, 0) >= 0: print("LEAKED", number)
raise SystemExit(1)
""",
    "undoes the limits": """
import resource
for number in (resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE,
               resource.RLIMIT_AS):
    try:
        resource.setrlimit(number, (-1, -1))
        print("LEAKED", number)
    except (OSError, ValueError): pass
raise SystemExit(1)
""",
    "crashes": "import ctypes\nctypes.string_at(0)",
    "deep recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
    "huge integer": "print(len(str(7 ** (10 ** 8))))",
    "syntax error": "def f(:",
    "null bytes": "print(1)\x00",
}
"""Programs; none may pass, none may leave anything behind. `HIDDEN`: whether files outside cannot
even be seen."""

CHEATS = {
    "prints a success marker": "print('OK', 'PPPP', 'all tests passed', flush=True)",
    "writes verdicts to every descriptor": """
import os
for fd in range(3, 64):
    try: os.write(fd, b"PPPPPP")
    except OSError: pass
""",
    "closes every descriptor": "import os\nos.closerange(0, 64)",
    "exits at once": "import sys\nsys.exit(0)",
    "exits hard": "import os\nos._exit(0)",
    "exits in the function": "import os\ndef add(a, b): os._exit(0)",
    "raises SystemExit in the function": "def add(a, b): raise SystemExit(0)",
    "equals everything": """
class Any:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
def add(a, b): return Any()
""",
    "an integer that equals everything": """
class Any(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
def add(a, b): return Any(0)
""",
    "a number that is close to everything": """
class Any(float):
    def __sub__(self, other): return Any(0)
    __rsub__ = __add__ = __abs__ = __sub__
    def __lt__(self, other=None): return True
    __gt__ = __le__ = __ge__ = __eq__ = __lt__
    def __hash__(self): return 0
def add(a, b): return Any(0)
""",
    "an object that is close to and contains everything": """
class Any:
    def __sub__(self, other): return self
    __rsub__ = __add__ = __radd__ = __mul__ = __sub__
    def __abs__(self): return self
    def __lt__(self, other): return True
    __gt__ = __le__ = __ge__ = __eq__ = __contains__ = __lt__
    def __hash__(self): return 0
def add(a, b): return Any()
""",
    "patches builtins": """
import builtins
builtins.AssertionError = type("AssertionError", (Exception,), {"__new__": lambda *a: 1 / 0})
builtins.all = builtins.any = builtins.isinstance = lambda *a: True
builtins.compile = builtins.exec = lambda *a, **k: None
def add(a, b): return 0
""",
    "shadows builtins": """
def all(*a): return True
def sum(*a): return 0
def add(a, b): return 0
""",
    "patches the harness": """
import sys, gc
for module in list(sys.modules.values()):
    for name in dir(module):
        if name in ("PASSED", "FAILED"): setattr(module, name, b"P")
for thing in gc.get_objects():
    if type(thing).__name__ == "Peer": thing._encode = lambda value: {"int": "0x3"}
frame = sys._getframe()
while frame:
    frame.f_globals.update(FAILED=b"P")
    frame = frame.f_back
def add(a, b): return 0
""",
    "leaves by an exit handler": (
        "import atexit, os\natexit.register(lambda: os._exit(0))\ndef add(a, b): return 0"
    ),
    "stops the loop of the tests": "def add(a, b): raise StopIteration",
    "ends the file": "def add(a, b): raise EOFError",
    "floods the connection": """
import os
for fd in range(3, 64):
    try: os.write(fd, (2**31 - 1).to_bytes(4, "big") + b"x" * 10**6)
    except OSError: pass
def add(a, b): return 0
""",
    "hangs in the function": "def add(a, b):\n    while True: pass",
    "a class in place of the function": """
class Any:
    def __eq__(self, other): return True
    def __hash__(self): return 0
    def __sub__(self, other): return 0
    __rsub__ = __sub__
    def __lt__(self, other): return True
    __gt__ = __le__ = __ge__ = __lt__
class add(Any):
    def __init__(self, a, b): pass
add.__name__ = add.__qualname__ = "Add"
""",
    "an own list that equals everything": """
class add(list):
    def __init__(self, a, b): super().__init__()
    def __eq__(self, other): return True
    def __sub__(self, other): return 0
    __rsub__ = __sub__
    def __lt__(self, other): return True
    __gt__ = __le__ = __ge__ = __lt__
    def __hash__(self): return 0
""",
    "equals the first that it is asked for": """
class Any:
    asked = 0
    def __eq__(self, other):
        Any.asked += 1
        return Any.asked == 1
    def __hash__(self): return 0
def add(a, b): return Any()
""",
    "an own exception that is returned": """
class E(Exception):
    def __eq__(self, other): return True
    def __hash__(self): return 0
def add(a, b): return E()
""",
    "answers with forged data": """
import gc
from rlhf_jax.rewards.sandbox import rpc
whole = ["standard", "builtins", "int"]
forged = [["standard", "unittest.mock", "ANY"], ["standard", "builtins", "eval"], ["yours", 0],
          ["mine", 0, whole, True], ["sub", 1, whole, 3.5], ["class", 2, "int", [whole]],
          ["exception", 3, 1, [], {}, ""], ["coroutine", 9],
          ["object", 0], ["object", -1], ["text", "Decimal", "NaN"], ["tuple", 5], {"int": 3}, []]
def encode(self, value, objects): return forged[len(asked) % len(forged)]
asked = []
def add(a, b):
    asked.append(1)
    rpc.Peer._encode = encode
    return 0
""",
    "answers nothing but exceptions": """
def add(a, b): raise AssertionError
""",
    "leans on the names that are imported for it": "import operator",
    "reads the tests": """
import os
def add(a, b):
    for fd in range(64):
        try: os.lseek(fd, 0, 0); os.read(fd, 10)
        except OSError: pass
    return 0
""",
}
"""Modules that should define `add`; none may pass a test of it."""
