"""The report: one file, no network, whatever the runs say, whatever state they are in."""

import base64
import fnmatch
import hashlib
import html.parser
import importlib.resources
import json
import pathlib
import re
import subprocess
import tomllib

import pytest

from rlhf_jax.config import ConfigError
from rlhf_jax.io.workplace import LOCK
from rlhf_jax.runs.report import page, write_report
from rlhf_jax.runs.report.completions import LONGEST, Limits
from rlhf_jax.runs.report.headline import is_share
from tests.runs.report.folders import GRPO, locked, make_run

REPO = pathlib.Path(__file__).resolve().parents[3]
DPO = {"algorithm": {"name": "dpo", "beta": 0.1}, "training": {"max_steps": 3}, "seed": 0}
HOSTILE = [
    "</script><script>document.title = 'owned'</script>",
    "<!--<script>",
    "]]><img src=http://example.invalid/x.png onerror=alert(1)>",
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "half a pair: \ud83d, a whole one: \U0001f600, \u2028 and \u2029",
    "%%SCRIPT%%%%DATA%%",
    "\x00\x07\x1b[31mred\x1b[0m",
    "x" * 100_000,
    "",
]


class Elements(html.parser.HTMLParser):
    """What a browser would make of a page: elements with their attributes, scripts with their
    text."""

    def __init__(self):
        super().__init__()
        self.elements = []
        self.texts = []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.texts.append((self.elements[-1], ""))

    def handle_data(self, data):
        if self.cdata_elem is not None:
            place, before = self.texts[-1]
            self.texts[-1] = (place, before + data)


def parsed(path):
    found = Elements()
    found.feed(path.read_text(encoding="utf-8"))
    return found


def data_of(path):
    return json.loads(
        "".join(
            text for (tag, attributes), text in parsed(path).texts if attributes.get("id") == "data"
        )
    )


def written(tmp_path, *folders):
    return write_report(folders, tmp_path / "report.html")[0]


@pytest.fixture
def hostile(tmp_path):
    rows = [("train", step, text, text, 0.5) for step, text in enumerate(HOSTILE, start=1)]
    config = GRPO | {"model": {"path": HOSTILE[0]}, "tokenizer": HOSTILE[2]}
    return make_run(tmp_path / "a<b>&'\"run", config, completions=rows)


def test_text_of_a_run_is_data_and_nothing_else(tmp_path, hostile):
    out = written(tmp_path, hostile)
    tags = [tag for tag, _ in parsed(out).elements]
    assert tags.count("script") == 2 and "img" not in tags
    assert all(not name.startswith("on") for _, own in parsed(out).elements for name in own)
    found = data_of(out)["completions"]
    texts = {row["completion"] for row in found["rows"]}
    assert HOSTILE[0] in texts and HOSTILE[3] in texts and HOSTILE[5] in texts
    assert "half a pair: ?, a whole one: \U0001f600, \u2028 and \u2029" in texts
    assert len(found["rows"]) == len(HOSTILE)
    assert max(map(len, texts)) < LONGEST + 100
    cut = next(text for text in texts if text.startswith("xxx"))
    assert "97,000 characters left out" in cut


def test_nothing_is_asked_from_a_network(tmp_path, hostile):
    out = written(tmp_path, hostile)
    text = out.read_text(encoding="utf-8")
    own = text.split('<script id="data"')[0] + text.rsplit("</script>", 2)[1]
    for word in ("http:", "https:", "//cdn", "@import", "url(", "fetch(", "XMLHttp", "WebSocket"):
        assert word not in own.replace("url(#clip", ""), word
    assert "innerHTML" not in own and "eval(" not in own
    for _, attributes in parsed(out).elements:
        assert not {"src", "href", "srcset", "action", "data"} & attributes.keys()


def test_the_policy_allows_the_page_its_own_script_and_no_request(tmp_path, hostile):
    found = parsed(written(tmp_path, hostile))
    policy = next(own["content"] for _, own in found.elements if "http-equiv" in own)
    assert "default-src 'none'" in policy and "unsafe" not in policy
    texts = [(place, text) for place, text in found.texts if place[1].get("id") != "data"]
    for (tag, _), text in texts:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert {tag for (tag, _), _ in texts} == {"style", "script"}


def test_templates_are_package_data():
    """Every file of the package that is no module is named in pyproject.toml, so that wheels hold
    it."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["rlhf_jax"]
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "rlhf_jax"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    others = [name.removeprefix("rlhf_jax/") for name in tracked if not name.endswith(".py")]
    assert {"runs/report/page.html", "runs/report/page.js", "runs/report/page.css"} <= set(others)
    for name in others:
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name
    folder = importlib.resources.files("rlhf_jax.runs.report")
    assert all((folder / f"page.{kind}").is_file() for kind in ("html", "css", "js"))


def test_the_file_is_bounded_and_says_what_is_left_out(tmp_path):
    rows = [
        ("train", step, f"prompt {step} " + "p" * 2000, "c" * 2000, 1.0) for step in range(1, 1501)
    ]
    run = make_run(tmp_path / "run", steps=1500, completions=rows)
    out = written(tmp_path, run)
    assert out.stat().st_size < 4e6
    data = data_of(out)
    assert len(data["runs"][0]["train"]["step"]) <= 600
    assert data["runs"][0]["train"]["averaged"] == 3
    (note,) = data["completions"]["notes"]["0"]
    assert re.match(r"Shown are \d{3} of 1,500 completions, of \d{3} of 1,500 steps", note)
    steps = [row["step"] for row in data["completions"]["rows"]]
    assert min(steps) == 1 and max(steps) == 1500


def test_seeds_are_one_group_and_differences_are_named(tmp_path):
    a = make_run(tmp_path / "grpo" / "seed_0", GRPO)
    b = make_run(tmp_path / "grpo" / "seed_1", GRPO | {"seed": 1})
    other = GRPO | {"optimizer": {"learning_rate": 1e-5}, "logging": {"plot": False}}
    c = make_run(tmp_path / "hot", other)
    data = data_of(written(tmp_path, a, b, c))
    groups = [(group["name"], group["runs"]) for group in data["groups"]]
    assert groups == [("grpo", [0, 1]), ("hot", [2])]
    assert [run["name"] for run in data["runs"]] == ["grpo, seed 0", "grpo, seed 1", "hot"]
    assert data["differences"] == [
        {"key": "optimizer.learning_rate", "values": ["1e-06", "1e-05"], "shared": True}
    ]


def test_what_is_judged_comes_first_and_compiling_is_no_throughput(tmp_path):
    data = data_of(written(tmp_path, make_run(tmp_path / "run")))
    titles = [(panel["section"], panel["title"]) for panel in data["panels"]]
    assert titles[:4] == [
        ("judged", "Reward"),
        ("judged", "Right answers"),
        ("judged", "Reward function exact_match"),
        ("judged", "Reward function short"),
    ]
    assert all("Loss" not in title for _, title in titles), "it is the same in every row"
    assert ["loss/total", 1e-8] in data["constant"]
    run = data["runs"][0]
    assert run["compiled"] == [{"step": 1, "seconds": 3.0}]
    assert run["train"]["metrics"]["tokens_per_second"][:2] == [None, 400]
    assert run["throughput"] == 400 and run["compiling"] == 3.0


def test_the_scores_of_a_reward_model_are_no_reward(tmp_path):
    online = make_run(tmp_path / "grpo")
    offline = make_run(tmp_path / "judge", DPO | {"algorithm": {"name": "reward_model"}}, steps=0)
    rows = [{"step": step, "split": "train", "rewards/mean": -3.0 + step} for step in (1, 2)]
    (offline / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = data_of(written(tmp_path, online, offline))
    drawn = {
        panel["title"]: [data["runs"][run]["name"] for run in panel["only"]]
        for panel in data["panels"]
        if any(line["metric"] == "rewards/mean" for line in panel["lines"])
    }
    assert drawn == {"Reward": ["grpo"], "Mean score": ["judge"]}


def test_a_function_that_is_the_whole_reward_to_rounding_is_drawn_once(tmp_path):
    run = make_run(tmp_path / "run", steps=0, evaluations=False)
    rows = [
        {"step": step, "split": "train", "rewards/mean": step / 7}
        | {"rewards/own": step / 7 * (1 + 3e-7), "data/groups_generated": 8.0}
        for step in (1, 2, 3)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    titles = [panel["title"] for panel in data_of(written(tmp_path, run))["panels"]]
    assert "Reward" in titles and "Reward function own" not in titles


def test_shares_are_told_as_such(tmp_path):
    data = data_of(written(tmp_path, make_run(tmp_path / "run")))
    assert data["runs"][0]["headline"]["is_share"] is True
    assert [is_share(name) for name in ("accuracy/mean@4", "data/accuracy", "loss/total")] == [
        True,
        True,
        False,
    ]


def test_offline_runs(tmp_path):
    run = make_run(tmp_path / "dpo", DPO, steps=0, evaluations=False)
    lines = [
        {"step": step, "split": "train", "loss/total": 0.7 - step / 10, "rewards/accuracy": 0.5}
        for step in (1, 2, 3)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = data_of(written(tmp_path, run))
    assert [panel["title"] for panel in data["panels"]] == ["Pairs ranked right", "Loss"]
    assert all(panel["section"] == "judged" for panel in data["panels"])
    assert data["completions"] == {"prompts": [], "rows": [], "notes": {"0": []}}
    assert data["runs"][0]["headline"]["metric"] == "rewards/accuracy"
    assert "What was compiled is not noted" in data["runs"][0]["notes"][0]


def test_a_run_without_a_row_and_without_a_configuration(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").touch()
    data = data_of(written(tmp_path, run))
    assert data["runs"][0]["headline"] is None and data["runs"][0]["algorithm"] == "unknown"
    assert "The configuration is not known" in data["runs"][0]["notes"][0]


def test_damaged_lines_are_left_out_and_counted(tmp_path):
    run = make_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "split": "tr\n[1, 2]\n{"step": "x", "split": "train"}\n{"step": 4')
    run_data = data_of(written(tmp_path, run))["runs"][0]
    assert run_data["notes"] == ["4 lines of metrics.jsonl cannot be read and are left out."]
    assert run_data["step"] == 40


def test_damaged_completions_are_left_out_and_named(tmp_path):
    run = make_run(tmp_path / "run", completions=[("train", 1, "p", "c", 1.0)])
    (run / "completions" / "train" / "from-step-00000002.parquet").write_bytes(b"PAR1 no")
    found = data_of(written(tmp_path, run))["completions"]
    assert len(found["rows"]) == 1
    assert "from-step-00000002.parquet cannot be read and is left out" in found["notes"]["0"][0]


@pytest.mark.parametrize(
    ("ended", "state"),
    [
        ("finished", "finished"),
        ("interrupted", "interrupted"),
        ("TrainingError: no", "failed"),
        (None, "killed"),
    ],
)
def test_how_a_run_ended(tmp_path, ended, state):
    found = data_of(written(tmp_path, make_run(tmp_path / "run", ended=ended)))["runs"][0]
    assert (found["state"], found["reason"]) == (state, ended if state == "failed" else "")


def test_a_run_that_is_going_on(tmp_path):
    run = make_run(tmp_path / "run", ended=None)
    with locked(run / LOCK):
        assert data_of(written(tmp_path, run))["runs"][0]["state"] == "going"
    assert data_of(written(tmp_path, run))["runs"][0]["state"] == "killed"


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match="is no run and holds none"):
        write_report([tmp_path], tmp_path / "report.html")
    (tmp_path / "grpo").mkdir()
    with pytest.raises(ConfigError, match="no such folder; did you mean 'grpo'"):
        write_report([tmp_path / "grop"], tmp_path / "report.html")


def test_jsonl_completions_and_their_verdicts(tmp_path):
    rows = [("train", 1, "p", "good", 1.0), ("train", 1, "p", "bad", 0.0)]
    run = make_run(tmp_path / "run", completions=rows, kind="jsonl")
    found = data_of(written(tmp_path, run))["completions"]
    assert [(row["completion"], row["right"]) for row in found["rows"]] == [
        ("good", True),
        ("bad", False),
    ]
    assert found["prompts"] == ["p"]


def test_limits_are_shared_by_the_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "LIMITS", Limits(rows=100, characters=1000, rows_per_step=2))
    rows = [("train", step, "p", "c" * 100, 1.0) for step in range(1, 30)]
    folders = [make_run(tmp_path / name, completions=rows) for name in "ab"]
    found = data_of(written(tmp_path, *folders))["completions"]["rows"]
    assert [sum(row["run"] == run for row in found) for run in (0, 1)] == [4, 4]
