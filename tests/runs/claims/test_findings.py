"""Each kind of measurement, on results written by hand whose answers are known."""

import json
import math

import numpy as np
import pytest

from rlhf_jax.config import ConfigError, make_claims
from rlhf_jax.runs.claims import judge
from rlhf_jax.runs.claims.bounds import wilson
from rlhf_jax.runs.claims.differences import at_kl
from rlhf_jax.runs.claims.finding import Form
from tests.runs.claims.written import HARMFUL, METRIC, SEEDS, cell, claims_tree, write
from tests.runs.test_budgets import measured

NAN = math.nan


def judged(path, cells, kind, asked, **options):
    names = options.pop("names", ("dapo", "ppo"))
    evaluation = options.pop("evaluation", None)
    results = write(path / "results.json", cells, names=names, evaluation=evaluation)
    (only,) = judge(make_claims(claims_tree(results, kind, asked, **options))).judged
    return only


def both(dapo, ppo, **options):
    """Cells of all seeds: a list of values a seed for each of two runs."""
    return [cell("dapo", seed, dapo[seed], **options) for seed in SEEDS] + [
        cell("ppo", seed, ppo[seed], **options) for seed in SEEDS
    ]


def test_a_difference_is_told_seed_by_seed(tmp_path):
    starts = [0.1, 0.2, 0.3, 0.4]
    ppo = [[start, start + 0.1] for start in starts]
    dapo = [[start, start + 0.3] for start in starts]
    found = judged(tmp_path, both(dapo, ppo), "difference", {})
    (row,) = found.findings
    # the starts differ by more than the claim, and pairs take that out
    assert row.value == pytest.approx(0.2) and row.high - row.low < 1e-9
    assert found.verdict == "confirmed" and row.behind == "4 seeds, 1,024 answers each"
    assert row.what == "accuracy/mean@4, dapo less ppo, after training"


def test_without_pairs_the_seeds_of_each_run_are_drawn_for_themselves(tmp_path):
    starts = [0.1, 0.2, 0.3, 0.4]
    ppo = [[start, start + 0.1] for start in starts]
    dapo = [[start, start + 0.3] for start in starts]
    found = judged(tmp_path, both(dapo, ppo), "difference", {}, pairing="none")
    (row,) = found.findings
    assert row.value == pytest.approx(0.2)
    assert row.low < 0.1 and row.high > 0.3 and found.verdict == "undecided at this size"


@pytest.mark.parametrize(
    ("statistic", "value"), [("interquartile_mean", 0.2), ("mean", 0.325), ("median", 0.2)]
)
def test_the_statistic_is_an_option(tmp_path, statistic, value):
    gains = [0.1, 0.2, 0.2, 0.8]
    found = judged(
        tmp_path,
        both([[0.0, gain] for gain in gains], [[0.0, 0.0]] * 4),
        "difference",
        {},
        statistic=statistic,
    )
    assert found.findings[0].value == pytest.approx(value)


def by_prompt(name, seed, gain):
    """Half of 64 prompts have the gain, and those that do are the same in every seed."""
    rows = [0.2 + seed / 100 + gain * (place % 2) for place in range(64)]
    return cell(name, seed, [0.0, sum(rows) / 64], by_prompt={METRIC: rows})


def test_a_difference_is_over_prompts_too_where_cells_know_them(tmp_path):
    cells = [by_prompt("dapo", seed, 0.4) for seed in SEEDS]
    cells += [by_prompt("ppo", seed, 0.0) for seed in SEEDS]
    (row,) = judged(tmp_path, cells, "difference", {}).findings
    assert row.value == pytest.approx(0.2) and row.note == "interval over seeds and prompts"
    # all seeds alike: what is left is a deviation of 0.2 over 64 prompts
    assert row.high - row.low == pytest.approx(2 * 1.96 * 0.2 / 8, rel=0.1)
    for options, asked in (({"pairing": "none"}, {}), ({}, {"at": ["tokens"]})):
        (row,) = judged(tmp_path, cells, "difference", asked, **options).findings
        assert row.note == "" and row.high - row.low < 0.05
    del cells[0]["by_prompt"]
    (row,) = judged(tmp_path, cells, "difference", {}).findings
    assert row.note == "" and row.high - row.low < 1e-9


def test_a_bound_is_over_prompts_too(tmp_path):
    cells = [by_prompt("dapo", seed, 0.4) for seed in SEEDS]
    results = write(tmp_path / "results.json", cells)
    tree = claims_tree(results, "bound", {}, claimed=0.5)
    tree["claims"][0]["bound"] = {"comparison": "sums", "run": "dapo"}
    rows = {}
    for share in ("true", "false"):
        (found,) = judge(make_claims(tree, [f"claims[0].bound.share={share}"])).judged
        rows[share] = found.findings[0]
    assert rows["true"].note == "interval over seeds and prompts; seeds from 40.0 % to 43.0 %"
    assert rows["false"].value == pytest.approx(0.415)
    assert 0.08 < rows["false"].high - rows["false"].low < 0.12


def test_a_relative_difference_is_a_share_of_the_other_run(tmp_path):
    cells = both([[0.1, 0.6]] * 4, [[0.1, 0.4]] * 4)
    found = judged(tmp_path, cells, "difference", {"relative": True})
    (row,) = found.findings
    assert row.value == pytest.approx(0.5) and row.form.text(row.value) == "+50.0 %"


def test_a_relative_difference_of_negative_rewards_has_the_sign_of_the_difference(tmp_path):
    cells = both([[-1.0, -0.4]] * 4, [[-1.0, -0.2]] * 4)
    (row,) = judged(tmp_path, cells, "difference", {"relative": True}, claimed=0.1).findings
    assert row.value == pytest.approx(-1.0) and row.verdict == "refuted"


def test_at_equal_budgets_the_last_evaluation_within_both_counts(tmp_path):
    cells = [cell("dapo", seed, [0.1, 0.3, 0.8], tokens=300.0) for seed in SEEDS]
    cells += [cell("ppo", seed, [0.1, 0.2, 0.3, 0.4], tokens=100.0) for seed in SEEDS]
    asked = {"at": ["end", "tokens", "step"]}
    rows = judged(tmp_path, cells, "difference", asked).findings
    # 300 tokens: dapo after one evaluation; 20 steps: both after two
    assert [row.value for row in rows] == pytest.approx([0.4, 0.3 - 0.4, 0.8 - 0.3])
    assert [row.verdict for row in rows] == ["confirmed", "refuted", "confirmed"]
    assert rows[1].what.endswith("at equal generated tokens")


def test_a_run_that_spends_nothing_limits_nobody(tmp_path):
    cells = [cell("dapo", seed, [0.1, 0.3], tokens=0.0) for seed in SEEDS]
    cells += [cell("ppo", seed, [0.1, 0.2, 0.6]) for seed in SEEDS]
    (row,) = judged(tmp_path, cells, "difference", {"at": ["tokens"]}).findings
    assert row.value == pytest.approx(0.3 - 0.6)


def test_two_seeds_are_undecided_however_clear(tmp_path):
    cells = [cell(name, seed, [0.0, end]) for seed in (0, 1) for name, end in LEVELS.items()]
    found = judged(tmp_path, cells, "difference", {})
    assert found.verdict == "undecided at this size"
    assert found.findings[0].behind == "2 of 4 seeds, 1,024 answers each"


LEVELS = {"dapo": 0.9, "ppo": 0.1}


def test_savings_to_its_own_level_and_to_a_common_one(tmp_path):
    # dapo is at its own (low) level after 10 steps of 40, and never at more; ppo needs 40 for its
    # own and 20 for dapo's
    dapo = [[0.1, 0.3, 0.3, 0.3, 0.3]] * 4
    ppo = [[0.1, 0.2, 0.4, 0.6, 0.8]] * 4
    asked = {"costs": ["step", "seconds"]}
    found = judged(tmp_path, both(dapo, ppo), "saving", asked, claimed=0.6)
    assert [row.value for row in found.findings] == pytest.approx([0.75, 0.75, 0.5, 0.5])
    assert [row.verdict for row in found.findings] == ["confirmed"] * 2 + ["direction only"] * 2
    assert "95% of its own final level" in found.findings[0].what
    assert found.verdict.startswith("confirmed: steps to 95% of its own final level")


def test_never_counts_as_the_whole_budget_and_is_told(tmp_path):
    dapo = [[0.1, 0.3, 0.6]] * 4
    ppo = [[0.1, 0.05, 0.05]] * 4  # ends below its start: sets no target, reaches none
    asked = {"costs": ["step"]}
    rows = judged(tmp_path, both(dapo, ppo), "saving", asked).findings
    assert [row.value for row in rows] == pytest.approx([0.0, 0.0])
    assert [row.note for row in rows] == [
        "told to 50% of the budget; ppo never in 4 of 4 seeds"
    ] * 2


def test_a_run_that_gets_nowhere_is_not_faster_for_its_smaller_budget(tmp_path):
    dapo = [[0.1, 0.05]] * 4  # 10 steps
    ppo = [[0.1, 0.2, 0.4, 0.6, 0.8]] * 4  # its own level after 40
    asked = {"costs": ["step"], "targets": ["own"]}
    (row,) = judged(tmp_path, both(dapo, ppo), "saving", asked).findings
    assert row.value == 0.0 and row.note.endswith("dapo never in 4 of 4 seeds")


def test_a_third_run_can_set_the_common_target(tmp_path):
    cells = both([[0.1, 0.3, 0.6]] * 4, [[0.1, 0.2, 0.6]] * 4)
    cells += [cell("grpo", seed, [0.1, 0.25]) for seed in SEEDS]
    names = ("dapo", "ppo", "grpo")
    asked = {"costs": ["step"], "targets": ["common"]}
    alone = judged(tmp_path, cells, "saving", asked, names=names).findings
    asked |= {"among": ["dapo", "ppo", "grpo"]}
    three = judged(tmp_path, cells, "saving", asked, names=names).findings
    assert (alone[0].value, three[0].value) == (0.0, 0.5)


def test_seeds_in_which_nobody_gets_better_say_nothing(tmp_path):
    worse = [0.3, 0.2]
    dapo = [worse, [0.1, 0.5, 0.9], [0.1, 0.5, 0.9], [0.1, 0.5, 0.9]]
    ppo = [worse, [0.1, 0.5, 0.9], [0.1, 0.5, 0.9], [0.1, 0.5, 0.9]]
    asked = {"costs": ["step"]}
    for row in judged(tmp_path, both(dapo, ppo), "saving", asked).findings:
        assert row.behind == "3 of 4 seeds" and row.value == 0
        assert row.note.endswith("; neither gets there in 1 of them")


def test_runs_that_never_get_better_are_not_equally_fast(tmp_path):
    worse = [[0.5, 0.4, 0.3]] * 4
    for row in judged(tmp_path, both(worse, worse), "saving", {}).findings:
        assert row.verdict == "undecided at this size" and row.interval == "-"


def test_nothing_can_be_saved_of_nothing(tmp_path):
    cells = [cell("dapo", seed, [0.1, 0.3]) for seed in SEEDS]
    cells += [cell("ppo", seed, [0.1, 0.3], tokens=0.0) for seed in SEEDS]
    asked = {"costs": ["tokens"], "targets": ["own"]}
    (row,) = judged(tmp_path, cells, "saving", asked).findings
    assert row.verdict == "undecided at this size" and row.interval == "-"
    assert row.note == "ppo spends no generated tokens in 4 of them"


def test_a_bound_covers_the_chance_of_seeds_and_of_answers(tmp_path):
    cells = [cell("dapo", seed, [0.3, 0.1], harmful=[0.3, 0.0]) for seed in SEEDS]
    asked = {"metric": HARMFUL, "against": None}
    del asked["against"]
    tree = {"comparison": "sums", "run": "dapo", **asked}
    sizes = {
        "small": {"samples": 8, "max_prompts": 64},
        "large": {"samples": 1, "max_prompts": 500},
    }
    said = {}
    for name, evaluation in sizes.items():
        results = write(tmp_path / f"{name}.json", cells, evaluation=evaluation)
        whole = claims_tree(results, "bound", {}, claimed=0.008)
        whole["claims"][0]["bound"] = tree
        (found,) = judge(make_claims(whole)).judged
        said[name] = (found.verdict, found.findings[0])
    # No harmful answer to 64 prompts does not exclude 0.8 %, however often each was asked: another
    # prompt may get one from every seed. To 500 it does.
    assert said["small"][0] == "undecided at this size"
    assert said["small"][1].high == pytest.approx(wilson(0.0, 64, 0.95)[1])
    assert said["small"][1].behind == "4 seeds, 512 answers each"
    assert said["large"][0] == "confirmed"
    assert said["large"][1].behind == "4 seeds, 500 answers each"


def test_without_a_number_of_prompts_equal_seeds_are_no_certainty(tmp_path):
    cells = [cell("dapo", seed, [0.3, 0.1], harmful=[0.3, 0.0]) for seed in SEEDS]
    results = write(tmp_path / "results.json", cells)
    document = json.loads((tmp_path / "results.json").read_text())
    document["config"]["common"]["data"] = {"path": "x", "eval_path": "y"}
    (tmp_path / "results.json").write_text(json.dumps(document))
    tree = claims_tree(results, "bound", {}, claimed=0.008)
    tree["claims"][0]["bound"] = {"comparison": "sums", "run": "dapo", "metric": HARMFUL}
    (found,) = judge(make_claims(tree)).judged
    (row,) = found.findings
    assert row.verdict == "undecided at this size" and row.behind == "4 seeds"
    assert "the number of prompts is not known" in row.note


def test_of_the_cells_prompts_their_number_is_taken(tmp_path):
    cells = [by_prompt("dapo", seed, 0.4) for seed in SEEDS]
    cells += [by_prompt("ppo", seed, 0.0) for seed in SEEDS]
    (row,) = judged(tmp_path, cells, "difference", {}).findings
    assert row.behind == "4 seeds, 256 answers each", "64 prompts, where 256 were asked for"


def test_a_seed_that_no_prompt_could_be_judged_of_costs_no_other(tmp_path):
    cells = [by_prompt("dapo", seed, 0.4) for seed in SEEDS]
    cells += [by_prompt("ppo", seed, 0.0) for seed in SEEDS]
    cells[0]["by_prompt"][METRIC] = [None] * 64
    (row,) = judged(tmp_path, cells, "difference", {}).findings
    assert row.value == pytest.approx(0.2) and row.behind.startswith("3 of 4 seeds")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"evaluations": []}, "do not say step, tokens, seconds"),
        ({"evaluations": [{"step": 0.0, METRIC: 0.1}]}, "do not say step, tokens, seconds"),
        ({"evaluations": 3}, "no results.json"),
        ({"entropy": ...}, "'entropy' is missing"),
    ],
)
def test_a_cell_of_another_layout_is_one_line(tmp_path, change, said):
    first = cell("dapo", 0, [0.1, 0.5]) | change
    first = {name: value for name, value in first.items() if value is not ...}
    with pytest.raises(ValueError, match=r"results.json") as error:
        judged(tmp_path, [first], "difference", {})
    assert said in str(error.value) and "\n" not in str(error.value)


def test_no_prompts_are_as_none(tmp_path):
    cells = both([[0.1, 0.5]] * 4, [[0.1, 0.3]] * 4)
    cells[0]["by_prompt"] = None
    (row,) = judged(tmp_path, cells, "difference", {}).findings
    assert row.value == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("claims[0].claimed=.nan", "must be a finite number"),
        ("claims[0].claimed=.inf", "must be a finite number"),
        ("claims[0].matched_kl.against=dapo", "is the run itself"),
    ],
)
def test_claims_that_say_nothing_are_refused(override, said):
    with pytest.raises(ConfigError, match=said):
        make_claims(claims_tree("x.json", "matched_kl", {}), [override])


def test_a_kl_that_no_evaluation_has_is_a_mistake(tmp_path):
    cells = both([[0.1, 0.5]] * 4, [[0.1, 0.5]] * 4, kl=[0, 4.0])
    with pytest.raises(ValueError, match=r"no metric 'kl/ref_sequenze'; it has .*did you mean"):
        judged(tmp_path, cells, "matched_kl", {"kl_metric": "kl/ref_sequenze"})


def test_a_bound_of_what_is_no_share_is_that_of_the_seeds(tmp_path):
    cells = [cell("dapo", seed, [0.0, 2.0 + seed / 10]) for seed in SEEDS]
    results = write(tmp_path / "results.json", cells)
    tree = claims_tree(results, "bound", {}, claimed=2.0)
    tree["claims"][0]["bound"] = {"comparison": "sums", "run": "dapo", "side": "above"}
    with pytest.raises(ValueError, match=r"it: .* is no share of answers; give bound.share=false"):
        judge(make_claims(tree))
    (found,) = judge(make_claims(tree, ["claims[0].bound.share=false"])).judged
    assert found.verdict == "confirmed" and found.findings[0].value == pytest.approx(2.15)


def test_wilson_by_hand():
    # 1 of 10: (0.1 + 0.19207) / 1.38415 and 1.95996 / 1.38415 * sqrt(0.009 + 0.009604)
    low, high = wilson(0.1, 10, 0.95)
    assert (low, high) == pytest.approx((0.21101 - 0.19313, 0.21101 + 0.19313), abs=2e-4)
    assert wilson(0.0, 10, 0.95)[0] == 0.0 and wilson(1.0, 10, 0.95)[1] == 1.0


def curve(kls, values):
    run = measured("a", 0, values)
    points = [
        point if kl is None else point | {"kl/ref_sequence": kl}
        for point, kl in zip(run.curve, kls, strict=True)
    ]
    return run._replace(curve=points)


@pytest.mark.parametrize(
    ("kls", "values", "kl", "expected"),
    [
        ([None, 4.0], [0.1, 0.5], 2.0, 0.3),  # half of the way, from a start without a number
        ([None, 4.0], [0.1, 0.5], 4.0, 0.5),
        ([None, 4.0], [0.1, 0.5], 4.1, NAN),  # never so far
        ([None, 1.0, 3.0], [0.1, 0.2, 0.8], 2.0, 0.5),
        ([None, 3.0, 1.0, 3.0], [0.1, 0.4, 0.9, 0.0], 1.5, 0.25),  # the first time counts
        ([None, NAN, 4.0], [0.1, 0.9, 0.5], 2.0, 0.3),  # one that was not measured is passed over
        ([None, 4.0], [0.1, NAN], 2.0, NAN),
        ([0.2, 4.0], [0.1, 0.5], 2.0, 0.3),  # an estimate at the start is noise: it is 0 there
    ],
)
def test_a_metric_at_a_kl_is_interpolated_where_it_first_passes(kls, values, kl, expected):
    found = at_kl(curve(kls, values), METRIC.replace("4", "2"), kl, kl_metric="kl/ref_sequence")
    assert found == pytest.approx(expected, nan_ok=True)


def test_at_matched_kl_runs_that_do_not_get_there_are_told(tmp_path):
    cells = [cell("dapo", seed, [0.1, 0.5], kl=[0, 4.0], harmful=[0.3, 0.1]) for seed in SEEDS]
    cells += [
        cell("ppo", seed, [0.1, 0.5], kl=[0, 8.0 if seed else 1.0], harmful=[0.3, 0.3])
        for seed in SEEDS
    ]
    asked = {"metric": HARMFUL, "kl": [2.0, 5.0]}
    rows = judged(tmp_path, cells, "matched_kl", asked, claimed=-0.05).findings
    assert rows[0].value == pytest.approx(0.2 - 0.3) and rows[0].verdict == "confirmed"
    assert rows[0].behind == "3 of 4 seeds, 1,024 answers each"
    blind = "{} of 8 runs were measured nowhere between the start and {} nats"
    assert rows[0].note == f"ppo reaches 2 nats in 3 of 4 seeds; {blind.format(7, 2)}"
    assert np.isnan(rows[1].value) and rows[1].verdict == "undecided at this size"
    short = "dapo reaches 5 nats in 0 of 4 seeds; ppo reaches 5 nats in 3 of 4 seeds"
    assert rows[1].note == f"{short}; {blind.format(3, 5)}"


def test_runs_that_were_measured_on_the_way_are_not_called_blind(tmp_path):
    def run(name):
        return [
            cell(name, seed, [0.1, 0.3, 0.5], kl=[0, 1.5, 4.0], harmful=[0.3, 0.2, 0.1])
            for seed in SEEDS
        ]

    asked = {"metric": HARMFUL, "kl": [1.0, 2.0]}
    rows = judged(tmp_path, run("dapo") + run("ppo"), "matched_kl", asked).findings
    assert rows[0].note == "8 of 8 runs were measured nowhere between the start and 1 nats"
    assert rows[1].note == ""


def test_without_a_kl_it_is_not_measured(tmp_path):
    found = judged(tmp_path, both([[0.1, 0.5]] * 4, [[0.1, 0.5]] * 4), "matched_kl", {})
    assert found.verdict == "not measured"
    assert "kl/ref_sequence: give evaluation.reference" in found.missing
    assert found.command == "rlhf-jax compare sums.yaml"


def test_figures_are_written_as_what_they_are():
    share = Form(is_share=True)
    assert [share.text(value) for value in (0.0071, 0.4, 1e-7, NAN)] == [
        "0.71 %",
        "40.0 %",
        "0.0 %",
        "-",
    ]
    assert Form(is_signed=True).text(0.0921) == "+0.092"


def test_nothing_is_written_without_a_sign_of_its_own():
    share, number = Form(is_share=True, is_signed=True), Form(is_signed=True)
    assert [share.text(x) for x in (-1e-9, 0.0, -0.002)] == ["+0.0 %", "+0.0 %", "-0.20 %"]
    assert [number.text(x) for x in (-1e-9, 0.0, -0.002)] == ["+0.000", "+0.000", "-0.002"]
