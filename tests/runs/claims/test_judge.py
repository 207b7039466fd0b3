"""All claims together: what is not there is listed, what is wrong is one line."""

import gzip
import json
import pathlib

import pytest

from rlhf_jax.config import make_claims
from rlhf_jax.runs.claims import judge, tables
from tests.runs.claims.written import SEEDS, cell, claims_tree, write


@pytest.fixture
def results(tmp_path):
    cells = [cell("dapo", seed, [0.1, 0.5]) for seed in SEEDS]
    cells += [cell("ppo", seed, [0.1, 0.3]) for seed in SEEDS]
    return write(tmp_path / "results.json", cells, names=("dapo", "ppo", "grpo"))


def judge_one(results, asked, **options):
    (only,) = judge(make_claims(claims_tree(results, "difference", asked, **options))).judged
    return only


def test_a_comparison_that_is_not_made_is_listed_with_its_command(tmp_path):
    found = judge(make_claims(claims_tree(str(tmp_path / "no.json"), "difference", {})))
    (row,) = tables.claim_rows(found.judged[0])
    assert row[0] == "it" and row[5] == "not measured" and "no.json is not there" in row[6]
    text = tables.as_markdown(found)
    assert "| it | difference | +0.100 | - | - | not measured |" in text
    assert "    rlhf-jax compare sums.yaml" in text


def test_a_run_that_is_not_made_yet_is_listed_too(results):
    found = judge_one(results, {"run": "grpo"})
    assert (found.verdict, found.missing) == ("not measured", "no seed of grpo is made yet")
    found = judge_one(results, {"against": "grpo"})
    assert found.verdict == "not measured"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"run": "drpo"}, r"it: .*results.json has no run 'drpo'; runs: dapo, ppo, grpo"),
        ({"metric": "accuracy/mean@8"}, "has no metric 'accuracy/mean@8'; it has accuracy/greedy"),
    ],
)
def test_names_that_are_not_there_are_refused(results, asked, message):
    with pytest.raises(ValueError, match=message) as error:
        judge_one(results, asked)
    assert "\n" not in str(error.value) and "did you mean" in str(error.value)


@pytest.mark.parametrize(
    "text", ["not json", "[]", "{}", '{"cells": [{"run": "a", "seed": 0}]}', '{"cells": 3}']
)
def test_other_files_are_refused_in_a_line(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is no results.json of rlhf-jax compare") as error:
        judge_one(str(path), {})
    assert "rlhf-jax compare sums.yaml" in str(error.value) and "\n" not in str(error.value)


def test_results_may_be_packed(results, tmp_path):
    packed = tmp_path / "packed.json.gz"
    packed.write_bytes(gzip.compress(pathlib.Path(results).read_bytes()))
    assert judge_one(str(packed), {}).findings == judge_one(results, {}).findings


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", gzip.compress(b"{}" * 99)[:-9], gzip.compress(b"no"), b"\x1f\x8b\x08"],
    ids=["empty", "not packed", "cut short", "not json", "a head alone"],
)
def test_packed_files_that_are_none_are_refused_in_a_line(tmp_path, content):
    path = tmp_path / "results.json.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no results.json of rlhf-jax compare") as error:
        judge_one(str(path), {})
    assert "\n" not in str(error.value)


def test_the_files_hold_everything(results, tmp_path):
    found = judge(make_claims(claims_tree(results, "difference", {"at": ["end", "tokens"]})))
    tables.write(found, tmp_path / "a" / "b")
    text = (tmp_path / "a" / "b" / "claims.md").read_text()
    assert text.count("| it | ") == 2 and "Rule. Confirmed: the whole interval" in text
    assert "- it: so it is. somebody" in text
    document = json.loads((tmp_path / "a" / "b" / "claims.json").read_text())
    (claim,) = document["claims"]
    assert (claim["name"], claim["verdict"], claim["kind"]) == ("it", "confirmed", "difference")
    assert [row["value"] for row in claim["findings"]] == pytest.approx([0.2, 0.2])
    assert document["comparisons"]["sums"]["made"] == {
        "dapo": list(SEEDS),
        "ppo": list(SEEDS),
    }
    assert document["config"]["claims"][0]["claimed"] == 0.1 and document["memory"] == []


def test_the_same_results_give_the_same_table(results):
    tree = claims_tree(results, "difference", {}, pairing="none")
    assert tables.as_markdown(judge(make_claims(tree))) == tables.as_markdown(
        judge(make_claims(tree))
    )
