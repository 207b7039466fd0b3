"""Files of claims: what they hold, and mistakes in one line with key and place."""

import pytest

from rlhf_jax.config import ConfigError, load_claims, load_compare, make_claims
from tests.config.test_configs import REPO, checked_header
from tests.runs.claims.test_memory import tree as memory_tree
from tests.runs.claims.written import claims_tree

FILE = REPO / "configs" / "evidence" / "claims.yaml"


def tree():
    return claims_tree("runs/sums/results.json", "difference", {})


def test_the_article_is_claimed_whole():
    config = load_claims(FILE)
    said = {claim.name.partition("'")[0] + str(claim.claimed) for claim in config.claims}
    assert said == {
        *("DPO0.3", "PPO0.5", "DPO0.4", "GRPO0.008", "GRPO-0.03", "DAPO0.092", "DAPO0.25")
    }
    assert all(claim.source and claim.says for claim in config.claims)
    assert {claim.kind for claim in config.claims} == {
        *("difference", "saving", "bound", "matched_kl", "memory")
    }
    checked_header(FILE, "claims")


def test_its_comparisons_make_what_is_asked():
    config = load_claims(FILE)
    made = 0
    for name, source in config.comparisons.items():
        path = REPO / source.config
        assert path.stem == name
        if not path.exists():
            continue
        compared = load_compare(path)
        published = f"configs/evidence/results/{name}.json.gz"
        own = f"{compared.run_dir}/results.json"
        assert source.results == (published if (REPO / published).exists() else own)
        runs = {run.name for run in compared.runs}
        for claim in config.claims:
            if claim.memory is None and claim.measure.comparison == name:
                asked = vars(claim.measure)
                assert {asked["run"], asked.get("against", asked["run"])} <= runs
                made += 1
    assert made


def test_it_is_read_back_equal(tmp_path):
    config = load_claims(FILE)
    path = tmp_path / "claims.yaml"
    path.write_text(config.to_yaml())
    assert load_claims(path) == config


def test_an_override_changes_one_option():
    overrides = ["claims[0].claimed=0.2", "statistic=mean", "comparisons.sums.results=b.json"]
    config = make_claims(tree(), overrides)
    assert config.claims[0].claimed == 0.2 and config.statistic == "mean"
    assert config.comparisons["sums"].results == "b.json"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["claims=[]"], "claims is empty"),
        (["claims[0].claimed=much"], "claims[0].claimed: 'much' is not allowed; allowed: a number"),
        (["claims[0].claimed=0"], "claimed=0 of it has no direction"),
        (["claims[0].difference.run=null"], "claims[0].difference.run: 'null' is not allowed"),
        (["claims[0].difference.comparison=sum"], "'sum' is not there; there are: sums; did you"),
        (["claims[0].difference.at=[]"], "at=[] must be at least one, and all different"),
        (["claims[0].difference.at=[token]"], "claims[0].difference.at"),
        (["claims[0].difference.againts=ppo"], "did you mean 'claims[0].difference.against'?"),
        (["claims[0].bound={comparison: sums, run: dapo}"], "not difference and bound"),
        (["claims[0].difference=null"], "give one of difference, saving, bound"),
        (["statistic=iqm"], "statistic: 'iqm' is not allowed; allowed: one of: interquartile_mean"),
        (["confidence=95"], "confidence=95.0 must be above 0 and below 1"),
        (["pairing=both"], "pairing: 'both' is not allowed; allowed: one of: seed, none"),
        (["comparisons.sums={results: a.json}"], "config: required and not given"),
    ],
)
def test_mistakes_are_one_line(overrides, message):
    with pytest.raises(ConfigError) as error:
        make_claims(tree(), overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "asked", "message"),
    [
        ("saving", {"share": 0}, "share=0.0 must be above 0 and at most 1"),
        ("saving", {"costs": ["step", "step"]}, "costs=['step', 'step'] must be at least one"),
        ("matched_kl", {"kl": [2, 0]}, "kl=[2.0, 0.0] holds 0.0; it must be above 0 nats"),
    ],
)
def test_what_cannot_be_measured_is_refused(kind, asked, message):
    with pytest.raises(ConfigError) as error:
        make_claims(claims_tree("a.json", kind, asked))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["claims[0].memory.setup=dop"], "claims[0].memory.setup: 'dop' is not there"),
        (["claims[0].memory.against=[tppo]"], "claims[0].memory.against: 'tppo' is not there"),
        (["setups.runs[1].name=dpo"], "'dpo' names two set-ups"),
        (["setups.runs[0].config.algorithm.beta=-1"], "setups.runs: dpo: algorithm.beta"),
        (["setups=null"], "'dpo' is not there; there are: none"),
    ],
)
def test_set_ups_are_checked_before_anything_is_compiled(overrides, message):
    with pytest.raises(ConfigError) as error:
        make_claims(memory_tree(), overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_mistake_in_a_file_is_told_with_its_line(tmp_path):
    path = tmp_path / "mine.yaml"
    text = make_claims(tree()).to_yaml().replace("claimed: 0.1", "claimed: big")
    path.write_text(text)
    line = next(n for n, row in enumerate(text.splitlines(), 1) if "claimed: big" in row)
    with pytest.raises(ConfigError, match=rf"'big' is not allowed.*\({path} line {line}\)"):
        load_claims(path)
