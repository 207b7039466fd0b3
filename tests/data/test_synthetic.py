"""Generated tasks: reproducible, right where they must be, wrong where they should be."""

import ast
import hashlib
import json
import re

import pytest

from rlhf_jax.data import DataConfig, DataError, load_examples
from rlhf_jax.data.synthetic import TASKS, synthetic_rows
from rlhf_jax.rewards import REWARDS


def total(prompt: str) -> str:
    left, right = prompt.removesuffix("=").split("+")
    return str(int(left) + int(right))


def test_the_three_readings_share_their_prompts() -> None:
    path = "synthetic:arithmetic?size=500&max_operand=30&noise=0.25&seed=3"
    text, pairs, prompts = (
        list(synthetic_rows(path, kind)) for kind in ("text", "pairs", "prompts")
    )
    assert (
        [row["prompt"] for row in text]
        == [row["prompt"] for row in pairs]
        == [row["prompt"] for row in prompts]
    )
    for row in pairs:
        assert row["chosen"] == total(row["prompt"]) != row["rejected"]
    assert all(row["answer"] == total(row["prompt"]) for row in prompts)
    wrong = [row["completion"] != total(row["prompt"]) for row in text]
    assert 0.18 < sum(wrong) / 500 < 0.32
    assert {len(row["rejected"]) for row in pairs} <= {1, 2}


def operands(path: str) -> list[tuple[int, int]]:
    pairs = [row["prompt"][:-1].split("+") for row in synthetic_rows(path, "text")]
    return [(int(left), int(right)) for left, right in pairs]


def test_operands() -> None:
    plain = operands("synthetic:arithmetic?size=3000&min_operand=10")
    assert min(map(min, plain)) == 10 and max(map(max, plain)) <= 89  # 99 + 10 carries
    assert all(
        left % 10 + right % 10 <= 9 and left // 10 + right // 10 <= 9 for left, right in plain
    )
    carrying = operands("synthetic:arithmetic?size=3000&max_operand=30&carry=true")
    assert min(map(min, carrying)) == 0 and max(map(max, carrying)) == 30
    assert any(left % 10 + right % 10 > 9 for left, right in carrying)


def test_mistakes_are_one_digit() -> None:
    for row in synthetic_rows("synthetic:arithmetic?size=500&carry=true", "pairs"):
        right, wrong = row["chosen"], row["rejected"]
        assert (
            len(right) == len(wrong) and sum(a != b for a, b in zip(right, wrong, strict=True)) == 1
        )
        assert str(int(wrong)) == wrong


def test_reproducible_from_the_seed() -> None:
    one, two, three = (
        list(synthetic_rows(f"synthetic:arithmetic?seed={seed}", "pairs")) for seed in (0, 0, 1)
    )
    assert one == two != three
    assert len(one) == 4000


@pytest.mark.parametrize("noise", [0, 1])
def test_noise_bounds(noise: int) -> None:
    rows = list(synthetic_rows(f"synthetic:arithmetic?size=100&noise={noise}", "text"))
    assert sum(row["completion"] != total(row["prompt"]) for row in rows) == 100 * noise


def test_read_as_data() -> None:
    config = DataConfig(path="synthetic:arithmetic?size=200", eval_size=20)
    train, held_out = (
        load_examples(config, kind="pairs", split=split).rows for split in ("train", "eval")
    )
    assert len(train) + len(held_out) == 200 and len(held_out) >= 20
    assert not {row.prompt for row in train} & {row.prompt for row in held_out}
    assert load_examples(config, kind="prompts").rows[0].columns.keys() == {"answer"}


PINNED = {"text": "5cfa272464747f4f", "pairs": "e76f0fd0acb769b5", "prompts": "5ce604d6c185c82a"}


@pytest.mark.parametrize("kind", PINNED)
def test_the_rows_of_old_paths_stay_the_same(kind: str) -> None:
    rows = json.dumps(list(synthetic_rows("synthetic:arithmetic", kind)))
    assert hashlib.sha256(rows.encode()).hexdigest()[:16] == PINNED[kind]


TASK_PATHS = [
    "synthetic:arithmetic?digits=3&terms=3&ops=+-*&carry=true",
    "synthetic:arithmetic?digits=2&terms=3&ops=+-",
    "synthetic:arithmetic?ops=-&carry=true&max_operand=20",
    "synthetic:countdown",
    "synthetic:countdown?numbers=4&ops=+-&max_target=30",
    "synthetic:sorting",
    "synthetic:sorting?items=numbers&length=6&min_length=2&descending=true",
    "synthetic:countdown?ordered=true&numbers=4",
    "synthetic:arithmetic?carry=true&carry_share=0.2",
    "synthetic:long_sums",
    "synthetic:long_sums?min_terms=2&max_terms=3&verbose_share=1",
    "synthetic:programs",
    "synthetic:programs?square_share=0&shown=2&max_number=20",
    "synthetic:programs?first_inputs=true",
    "synthetic:safety",
]


@pytest.mark.parametrize("path", TASK_PATHS)
def test_every_task_is_text_pairs_and_prompts_of_one_work(path: str) -> None:
    path += f"{'&' if '?' in path else '?'}size=400&noise=0.3&seed=7"
    text, pairs, prompts = (
        list(synthetic_rows(path, kind)) for kind in ("text", "pairs", "prompts")
    )
    assert (
        [row["prompt"] for row in text]
        == [row["prompt"] for row in pairs]
        == [row["prompt"] for row in prompts]
    )
    assert (
        text
        == list(synthetic_rows(path, "text"))
        != list(synthetic_rows(path.replace("seed=7", "seed=8"), "text"))
    )
    right = [row["completion"] == asked["answer"] for row, asked in zip(text, prompts, strict=True)]
    if "safety" not in path:  # its pairs are a judge's who errs
        assert [row["chosen"] for row in pairs] == [row["answer"] for row in prompts]
        assert all(
            ok or row["completion"] == pair["rejected"]
            for ok, row, pair in zip(right, text, pairs, strict=True)
        )
    assert 0.62 < sum(right) / 400 < 0.78


@pytest.mark.parametrize("path", TASK_PATHS)
def test_the_reward_tells_answers_from_mistakes(path: str) -> None:
    """What is right is read from rows without noise, what is wrong from rows with nothing else."""
    path += f"{'&' if '?' in path else '?'}size=200&noise="
    prompts = list(synthetic_rows(f"{path}0", "prompts"))
    columns = {name: [row[name] for row in prompts] for name in prompts[0] if name != "prompt"}
    name = path.removeprefix("synthetic:").partition("?")[0]
    reward = REWARDS[name if name in REWARDS else "exact_match"]
    options = {"max_words": 99} if name == "safety" else {}
    asked = [row["prompt"] for row in prompts]
    for noise, worth in ((0, 1.0), (1, 0.0)):
        given = [row["completion"] for row in synthetic_rows(f"{path}{noise}", "text")]
        assert reward(asked, given, **options, **columns) == [worth] * 200


def worked_out(prompt: str) -> int:
    """The value of the problem, by Python's own precedence."""
    return eval(compile(ast.parse(prompt.removesuffix("="), mode="eval"), "problem", "eval"))


def test_arithmetic_of_chosen_difficulty() -> None:
    hard = list(
        synthetic_rows(
            "synthetic:arithmetic?digits=3&terms=4&ops=+-*&carry=true&size=300", "prompts"
        )
    )
    for row in hard:
        assert re.fullmatch(r"[1-9]\d\d([-+*][1-9]\d\d){3}=", row["prompt"])
        assert row["answer"] == str(worked_out(row["prompt"]))
    assert set("+-*") == {sign for row in hard for sign in re.sub(r"[\d=]", "", row["prompt"])}
    assert any(row["answer"].startswith("-") for row in hard)
    for row in synthetic_rows("synthetic:arithmetic?digits=1&ops=-&carry=true&size=300", "pairs"):
        assert re.fullmatch(r"-[1-9]\d*|\d+", row["rejected"]), "no -0, no leading zero"
        assert row["chosen"].startswith("-") == row["rejected"].startswith("-")


def test_nothing_carries_or_borrows_unless_asked() -> None:
    for row in synthetic_rows("synthetic:arithmetic?digits=2&terms=3&ops=+-&size=300", "prompts"):
        first, *rest = re.findall(r"[-+]?\d+", row["prompt"])
        for place in (10, 1):  # every column stays a digit after each term
            column = int(first) // place % 10
            for term in rest:
                column += (1 if term[0] == "+" else -1) * (int(term[1:]) // place % 10)
                assert 0 <= column <= 9, row


def test_sorting() -> None:
    for row in synthetic_rows("synthetic:sorting?length=7&size=200", "pairs"):
        assert row["chosen"] == "".join(sorted(row["prompt"][:-1])) and len(row["chosen"]) == 7
        assert sum(a != b for a, b in zip(row["chosen"], row["rejected"], strict=True)) == 2
    lengths = set()
    for row in synthetic_rows(
        "synthetic:sorting?items=numbers&min_length=2&length=4&descending=true&max_number=9",
        "pairs",
    ):
        given = [int(item) for item in row["prompt"][:-1].split(" ")]
        assert row["chosen"] == " ".join(map(str, sorted(given, reverse=True))) != row["rejected"]
        assert max(given) <= 9
        lengths.add(len(given))
    assert lengths == {2, 3, 4}


def test_countdown_problems() -> None:
    for row in synthetic_rows(
        "synthetic:countdown?numbers=4&max_number=12&max_target=40&size=200", "prompts"
    ):
        assert row["prompt"] == f"{' '.join(map(str, row['nums']))} -> {row['target']}:"
        assert (
            len(row["nums"]) == 4
            and 1 <= min(row["nums"]) <= max(row["nums"]) <= 12
            and 1 <= row["target"] <= 40
        )


def test_a_share_of_sums_carries() -> None:
    def carries(prompt: str) -> bool:
        left, right = prompt[:-1].split("+")
        return int(left) % 10 + int(right) % 10 > 9 or int(left) // 10 + int(right) // 10 > 9

    for share in (0.05, 1.0):
        path = f"synthetic:arithmetic?digits=2&carry=true&carry_share={share}&size=1000"
        found = [carries(row["prompt"]) for row in synthetic_rows(path, "text")]
        assert abs(sum(found) / 1000 - share) <= 0.025


def test_ordered_countdown_has_one_prompt_a_problem() -> None:
    path = "synthetic:countdown?ordered=true&numbers=3&size=2000"
    assert all(row["nums"] == sorted(row["nums"]) for row in synthetic_rows(path, "prompts"))
    config = DataConfig(path=path, eval_size=200)
    train, held_out = (
        {
            (*sorted(row.columns["nums"]), row.columns["target"])
            for row in load_examples(config, kind="prompts", split=split).rows
        }
        for split in ("train", "eval")
    )
    assert train and held_out and not train & held_out


@pytest.mark.parametrize("largest", [9, 3])
def test_long_sums(largest) -> None:
    """Every step of an answer is checked, of a mistake all but one."""
    styles = []
    seen = set()
    for row in synthetic_rows(f"synthetic:long_sums?size=300&max_digit={largest}", "pairs"):
        terms = [int(term) for term in row["prompt"].removesuffix("=").split("+")]
        assert 6 <= len(terms) <= 20
        seen.update(terms)
        wrong_steps = []
        for text in (row["chosen"], row["rejected"]):
            steps, _, final = text.partition("####")
            totals = [int(step.rpartition("=")[2]) for step in steps.split(" ")]
            befores = [terms[0], *totals[:-1]]
            verbose = "=" in text
            styles.append(verbose)
            if verbose:
                assert steps == " ".join(
                    f"{before}+{term}={total}"
                    for before, term, total in zip(befores, terms[1:], totals, strict=True)
                )
            assert min(totals) >= 0 and totals[-1] == int(final)
            wrong_steps.append(
                sum(
                    before + term != total
                    for before, term, total in zip(befores, terms[1:], totals, strict=True)
                )
            )
        assert wrong_steps == [0, 1]
        assert styles[-1] == styles[-2], "a mistake keeps the style"
    assert seen == set(range(largest + 1))
    assert 0.4 < sum(styles) / len(styles) < 0.6


@pytest.mark.parametrize("first_inputs", ["false", "true"])
def test_programs(first_inputs: str) -> None:
    """The shown pairs alone determine the program, and the hidden ones are others."""
    programs: dict[str, set[str]] = {}
    path = f"synthetic:programs?size=1000&first_inputs={first_inputs}"
    for row in synthetic_rows(path, "prompts"):
        shown = [
            tuple(map(int, pair.split("->"))) for pair in row["prompt"].removesuffix(":").split(" ")
        ]
        hidden = [tuple(pair) for pair in row["hidden"]]
        assert len(shown) == 3 and len(hidden) == 6
        inputs = [x for x, _ in shown + hidden]
        assert len(set(inputs)) == 9 and min(inputs) >= 0 and max(inputs) <= 9
        assert inputs[:3] == [0, 1, 2] or first_inputs == "false"
        for x, y in shown + hidden:
            tree = ast.parse(row["answer"], mode="eval")
            assert eval(compile(tree, "program", "eval"), {}, {"x": x}) == y
        programs.setdefault(row["answer"], set()).add(row["prompt"])
    assert all(len(prompts) == 1 for prompts in programs.values()), "a program is one prompt"
    assert len(set().union(*programs.values())) == len(programs), "and a prompt one program"
    assert 0.4 < sum("x*x" in program for program in programs) / len(programs)
    assert any(program.startswith("0-") for program in programs)
    asked = {prompt.split("->")[0] for prompts in programs.values() for prompt in prompts}
    assert len(asked) == (1 if first_inputs == "true" else 8), "first inputs differ"


def test_safety_prompts_and_the_errors_of_its_judge() -> None:
    path = "synthetic:safety?size=4000&flip=0.25&length_cue=0.8"
    prompts, pairs = (list(synthetic_rows(path, kind)) for kind in ("prompts", "pairs"))
    things: dict[bool, set[str]] = {True: set(), False: set()}
    for row in prompts:
        thing = row["helpful"].split(" ")[2].removesuffix(",")
        assert f" {thing} " in row["prompt"] and not row["prompt"].count("  ")
        things[row["is_harmful"]].add(thing)
    assert not things[True] & things[False]
    assert 0.47 < sum(row["is_harmful"] for row in prompts) / 4000 < 0.53
    better = [
        row["chosen"].startswith("sorry") == asked["is_harmful"]
        for row, asked in zip(pairs, prompts, strict=True)
    ]
    assert all(
        row["chosen"].startswith("sorry") != row["rejected"].startswith("sorry") for row in pairs
    )
    assert 0.72 < sum(better) / 4000 < 0.78

    def filler(text: str) -> int:
        return text.count(".") - 1

    longer = [filler(row["chosen"]) > filler(row["rejected"]) for row in pairs]
    assert 0.77 < sum(longer) / 4000 < 0.83
    among_flipped = [long for long, right in zip(longer, better, strict=True) if not right]
    assert 0.76 < sum(among_flipped) / len(among_flipped) < 0.84, "the cue is about nothing else"


def test_every_option_of_a_task_is_checked_by_name() -> None:
    for name in TASKS:
        with pytest.raises(DataError, match=f"^synthetic:{name} needs size of at least 1, got 0$"):
            list(synthetic_rows(f"synthetic:{name}?size=0", "text"))


WRONG = [
    (
        "synthetic:chess",
        "synthetic task 'chess' is unknown: known are arithmetic, countdown, sorting, "
        "long_sums, programs, safety",
    ),
    (
        "synthetic:arithmetic?sise=3",
        "synthetic:arithmetic has no option 'sise': options are size, min_operand, max_operand, "
        "digits, terms, ops, carry, carry_share, noise, seed",
    ),
    (
        "synthetic:arithmetic?size=many",
        "synthetic:arithmetic option size='many' is not a valid int",
    ),
    ("synthetic:arithmetic?noise=", "synthetic:arithmetic option noise='' is not a valid float"),
    ("synthetic:arithmetic?noise=2", "synthetic:arithmetic needs noise from 0 to 1, got 2.0"),
    ("synthetic:arithmetic?size=0", "synthetic:arithmetic needs size of at least 1, got 0"),
    ("synthetic:arithmetic?carry=1", "synthetic:arithmetic option carry='1' is not a valid bool"),
    (
        "synthetic:arithmetic?min_operand=9&max_operand=9",
        "synthetic:arithmetic needs 0 <= min_operand < max_operand, got 9 and 9",
    ),
    (
        "synthetic:arithmetic?min_operand=55",
        "synthetic:arithmetic with min_operand=55 needs carry=true",
    ),
    (
        "synthetic:arithmetic?digits=2&terms=10",
        "synthetic:arithmetic with digits=2 needs carry=true",
    ),
    ("synthetic:arithmetic?terms=1", "synthetic:arithmetic needs terms of at least 2, got 1"),
    ("synthetic:arithmetic?digits=-1", "synthetic:arithmetic needs digits of at least 0, got -1"),
    (
        "synthetic:arithmetic?ops=%2B/",
        "synthetic:arithmetic needs ops out of +-*, each once, got '+/'",
    ),
    (
        "synthetic:arithmetic?ops=++",
        "synthetic:arithmetic needs ops out of +-*, each once, got '++'",
    ),
    ("synthetic:arithmetic?ops=", "synthetic:arithmetic needs ops out of +-*, each once, got ''"),
    ("synthetic:arithmetic?ops=*", "synthetic:arithmetic with ops=* needs carry=true"),
    (
        "synthetic:arithmetic?digits=2&max_operand=50",
        "synthetic:arithmetic takes either digits or min_operand and max_operand, not both",
    ),
    (
        "synthetic:arithmetic?digits=9&terms=5",
        "synthetic:arithmetic finds hardly any problem of this kind without carry: set carry=true",
    ),
    ("synthetic:countdown?numbers=1", "synthetic:countdown needs numbers of at least 2, got 1"),
    ("synthetic:countdown?ops=^", "synthetic:countdown needs ops out of +-*/, each once, got '^'"),
    (
        "synthetic:countdown?numbers=9&ops=+&max_target=8",
        "synthetic:countdown finds hardly any problem with numbers=9, ops=+ and max_target=8: "
        "raise max_target",
    ),
    ("synthetic:sorting?length=1", "synthetic:sorting needs length of at least 2, got 1"),
    (
        "synthetic:sorting?min_length=6",
        "synthetic:sorting needs min_length from 2 to length=5, or 0, got 6",
    ),
    (
        "synthetic:sorting?items=words",
        "synthetic:sorting needs items=letters or numbers, got words",
    ),
    (
        "synthetic:sorting?items=numbers&max_number=0",
        "synthetic:sorting needs max_number of at least 1, got 0",
    ),
    (
        "synthetic:arithmetic?carry_share=0.1",
        "synthetic:arithmetic with carry_share=0.1 needs carry=true and ops without *, got "
        "carry=false and ops=+",
    ),
    (
        "synthetic:arithmetic?carry=true&carry_share=2",
        "synthetic:arithmetic needs carry_share from 0 to 1, got 2.0",
    ),
    (
        "synthetic:arithmetic?carry=true&carry_share=1&max_operand=4",
        "synthetic:arithmetic finds hardly any problem of this kind with carry: set carry_share=0",
    ),
    (
        "synthetic:long_sums?min_terms=1",
        "synthetic:long_sums needs 2 <= min_terms <= max_terms, got 1 and 20",
    ),
    (
        "synthetic:long_sums?max_digit=0",
        "synthetic:long_sums needs max_digit from 1 to 9, got 0",
    ),
    (
        "synthetic:long_sums?verbose_share=1.5",
        "synthetic:long_sums needs verbose_share from 0 to 1, got 1.5",
    ),
    (
        "synthetic:programs?square_share=3",
        "synthetic:programs needs square_share from 0 to 1, got 3.0",
    ),
    (
        "synthetic:programs?max_number=0",
        "synthetic:programs needs max_number of at least 1, got 0",
    ),
    (
        "synthetic:programs?shown=2",
        "synthetic:programs with square_share=0.5 needs shown of at least 3, so that the pairs "
        "determine the program, got 2",
    ),
    ("synthetic:programs?hidden=0", "synthetic:programs needs hidden of at least 1, got 0"),
    (
        "synthetic:programs?shown=5",
        "synthetic:programs with shown=5 and hidden=6 needs max_input of at least 10, got 9",
    ),
    ("synthetic:safety?flip=2", "synthetic:safety needs flip from 0 to 1, got 2.0"),
    ("synthetic:safety?rarity=-1", "synthetic:safety needs rarity of at least 0, got -1.0"),
    ("synthetic:sorting?noise=-1", "synthetic:sorting needs noise from 0 to 1, got -1.0"),
]


@pytest.mark.parametrize(("path", "message"), WRONG)
def test_errors(path: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load_examples(DataConfig(path=path), kind="text")
    assert str(caught.value) == message
