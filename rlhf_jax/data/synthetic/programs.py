"""Programs by example: "0->1 2->7 5->16:" wants an expression in x, "3*x+1".

A program is a*x+b or a*x*x+b*x+c with small whole coefficients. The prompt shows
enough pairs of input and output to determine it; the reward `programs`
(`rlhf_jax.rewards.programs`) tries an answer on further pairs, in the column `hidden`, so any
expression with the right values is right. The shown inputs are a function of the program: a program
is one prompt, and one that is held out is never trained on. A mistake has one wrong coefficient.
"""

import dataclasses
import random

from rlhf_jax.data.errors import DataError
from rlhf_jax.data.synthetic.problem import Problem, check_options, check_share
from rlhf_jax.fields import documented


@documented
@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramsTask:
    """Find the expression in x behind pairs of input and output."""

    size: int = 4000
    """Rows. There are 2 max_number (2 max_number + 1) programs without x*x, or max_number
    (max_number + 1) without signs, and about max_number times as many with it; more rows repeat
    them."""
    square_share: float = 0.5
    """Share of programs with x*x."""
    max_number: int = 9
    """Coefficients are from -max_number to max_number, that of x*x from 1."""
    signed: bool = True
    """false: no coefficient is negative."""
    max_input: int = 9
    """Inputs, shown and hidden, are from 0 to this, each once."""
    shown: int = 3
    """Pairs in the prompt: at least 3, or 2 where no program has x*x."""
    hidden: int = 6
    """Pairs that an answer is tried on and the prompt does not show."""
    first_inputs: bool = False
    """Show the inputs 0, 1, 2, .. of every program, which is easier: the output of 0 is the
    constant, and slopes are differences. False: a program's own choice of inputs."""
    noise: float = 0.5
    """Share of supervised answers that are wrong."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_options("programs", size=self.size, noise=self.noise)
        check_share("programs", "square_share", self.square_share)
        if self.max_number < 1:
            raise DataError(
                f"synthetic:programs needs max_number of at least 1, got {self.max_number}"
            )
        least = 3 if self.square_share else 2
        if self.shown < least:
            raise DataError(
                f"synthetic:programs with square_share={self.square_share} needs shown of at least "
                f"{least}, so that the pairs determine the program, got {self.shown}"
            )
        if self.hidden < 1:
            raise DataError(f"synthetic:programs needs hidden of at least 1, got {self.hidden}")
        if self.shown + self.hidden > self.max_input + 1:
            raise DataError(
                f"synthetic:programs with shown={self.shown} and hidden={self.hidden} needs "
                f"max_input of at least {self.shown + self.hidden - 1}, got {self.max_input}"
            )

    def problem(self, draw: random.Random) -> Problem:
        """The next problem."""
        numbers = range(-self.max_number if self.signed else 0, self.max_number + 1)
        has_square = draw.random() < self.square_share
        square = draw.randint(1, self.max_number) if has_square else 0
        slope = draw.choice([n for n in numbers if n or square])  # a constant is no program
        program = (square, slope, draw.choice(numbers))
        mistake = list(program)
        place = draw.randrange(0 if square else 1, 3)
        mistake[place] += draw.choice([-1, 1])
        inputs = list(range(self.max_input + 1))
        if not self.first_inputs:
            random.Random(f"inputs of {program}").shuffle(inputs)
        shown = sorted(inputs[: self.shown])
        hidden = sorted(inputs[self.shown : self.shown + self.hidden])
        pairs = [f"{x}->{_output(program, x)}" for x in shown]
        return Problem(
            f"{' '.join(pairs)}:",
            _text(program),
            _text((mistake[0], mistake[1], mistake[2])),
            {"hidden": [[x, _output(program, x)] for x in hidden]},
        )


def _output(program: tuple[int, int, int], x: int) -> int:
    square, slope, constant = program
    return square * x * x + slope * x + constant


def _text(program: tuple[int, int, int]) -> str:
    """As an expression: terms of falling power, a positive one first, without those that are 0."""
    terms = [
        (number, power) for number, power in zip(program, ("x*x", "x", ""), strict=True) if number
    ]
    terms.sort(key=lambda term: term[0] < 0)  # the sort is stable
    if not terms or terms[0][0] < 0:
        terms.insert(0, (0, ""))  # no sign stands in front of an expression
    text = ""
    for number, power in terms:
        sign = "-" if number < 0 else "+"
        size = abs(number)
        factor = f"{size}*{power}" if power else str(size)
        if power and size == 1:
            factor = power
        text += factor if not text else f"{sign}{factor}"
    return text
