"""Runs a module of this package by its name without importing the package itself, which needs JAX.

python start_side.py rlhf_jax.bench.dpo_sides ARGUMENTS
"""

import pathlib
import runpy
import sys
import types

if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder, whose modules are no top-level ones
    package = types.ModuleType("rlhf_jax")
    package.__path__ = [str(pathlib.Path(__file__).resolve().parents[1])]
    sys.modules["rlhf_jax"] = package
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
