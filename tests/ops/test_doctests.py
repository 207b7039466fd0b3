"""Every public function of `ops` has an Example in its docstring, and it runs."""

import doctest
import inspect

import pytest

from rlhf_jax import ops
from rlhf_jax.ops import checks, precision

FUNCTIONS = [getattr(ops, name) for name in ops.__all__ if callable(getattr(ops, name))]
FUNCTIONS += [checks.check_choice, checks.check_range, precision.promote, precision.default_float]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_example(function):
    test = doctest.DocTestParser().get_doctest(
        function.__doc__, dict(inspect.unwrap(function).__globals__), function.__name__, None, 0
    )
    assert test.examples, f"{function.__name__} has no Example"
    report: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(
        test, out=report.append
    )
    assert result.failed == 0, "".join(report)


def test_there_are_functions_to_check():
    assert len(FUNCTIONS) > 20
