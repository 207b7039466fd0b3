"""README and documentation are true: their Python runs, whole examples train, other commands parse,
configuration keys and metrics exist, links lead somewhere."""

import contextlib
import dataclasses
import os
import re
import shlex
import subprocess
import sys

import jax
import pytest

from rlhf_jax.algorithms import ALGORITHMS, algorithm_config
from rlhf_jax.cli.keys import algorithm_rows, claims_rows, rows_by_section
from rlhf_jax.cli.main import main, read_arguments
from rlhf_jax.config.document import parse_document
from rlhf_jax.config.other_names import KEYS
from rlhf_jax.data import byte_tokenizer
from rlhf_jax.io.run_metrics import meaning_of
from rlhf_jax.models import ModelConfig, init_model, save_pretrained
from tests.repo.documents import DOCS, FENCE, PAGES, REPO, blocks, commands, links

CHAT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The model that examples name. Tests put a small one under this name into the working folder,
where it is found before the hub is asked."""
SMALL = {
    "model_type": "llama",
    "vocab_size": 264,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
COMMANDS = [(page, *found) for page in PAGES for found in commands(PAGES[page])]


def does_run(page: str) -> bool:
    return any(can_run for _, can_run in commands(PAGES[page]))


def has_python(page: str) -> bool:
    return any(block.language == "python" and not block.name for block in blocks(PAGES[page]))


EXECUTED = [
    pytest.param(page, marks=[pytest.mark.slow] * (does_run(page) or page in ("layers", "models")))
    for page in PAGES
    if does_run(page) or has_python(page)
]
"""Whole runs, and pages that compile models, take seconds: they are slow."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a small model where examples look for theirs."""
    model, params = init_model(ModelConfig.from_hf(SMALL), jax.random.key(0))
    save_pretrained(tmp_path / CHAT_MODEL, model, params)
    byte_tokenizer().save(tmp_path / CHAT_MODEL)
    monkeypatch.chdir(tmp_path)
    # modules of the page's files are imported anew on each page
    before = dict(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - set(before):
        if str(tmp_path) in str(sys.modules[name].__dict__.get("__file__")):
            del sys.modules[name]


@pytest.fixture
def registry():
    """Algorithms that a page registers are gone afterwards."""
    before = dict(ALGORITHMS)
    yield
    ALGORITHMS.clear()
    ALGORITHMS.update(before)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", EXECUTED)
def test_code_runs(page, folder, registry):
    """The page from top to bottom: files are written, Python and whole examples run."""
    runnable = {line for line, can_run in commands(PAGES[page]) if can_run}
    namespace: dict = {}
    # a page may use a file that it shows further down
    for block in blocks(PAGES[page]):
        if block.name:
            (folder / block.name).write_text(block.text)
    for block in blocks(PAGES[page]):
        if block.language == "python" and not block.name:
            with contextlib.redirect_stdout(sys.stderr):
                exec(compile(block.text, f"{page}.md", "exec"), namespace)
        for line in block.text.splitlines() if block.language == "bash" else []:
            line = line.split("  #")[0].strip()
            if line in runnable:
                words = shlex.split(line)[1:]
                # one device, as a reader's CPU is; the tests have 8
                words += ["mesh.fsdp=1"] * (words[0] == "train")
                assert main(words) == 0, line


@pytest.mark.parametrize("page, line, can_run", COMMANDS)
def test_commands_parse(page, line, can_run):
    words = shlex.split(line)[1:]
    if "--help" in words:
        with pytest.raises(SystemExit) as caught:
            read_arguments(words)
        assert caught.value.code == 0
        return
    options = read_arguments(words)
    known = {row.key for row in claims_rows()} if words[0] == "claims" else every_key()
    for override in getattr(options, "overrides", []):
        key = re.sub(r"\[\d+\]", "[]", override.partition("=")[0])
        key = re.sub(r"^comparisons\.\w+", "comparisons[]", key)
        assert "=" not in override or key in known, override
    for word in words:
        if word.startswith("configs/"):
            assert (REPO / word).is_file(), word


def every_key() -> set[str]:
    """Keys and sections that a configuration may hold, without the numbers of list items."""
    rows = [row for section in rows_by_section().values() for row in section]
    rows += [row for name in ALGORITHMS for row in algorithm_rows(name)]
    keys = {row.key for row in rows} | {"algorithm.name"}
    return keys | {key.rpartition(".")[0] for key in keys}


@pytest.mark.parametrize("page", PAGES)
def test_configurations_hold_keys_that_exist(page):
    for block in blocks(PAGES[page]):
        if block.language != "yaml":
            continue
        known = every_key()
        for key in parse_document(block.text, page).lines:
            free = key.startswith(("model.config.", "data.columns."))
            free = free or ".options" in key or key in ("rewards", "algorithm")
            assert free or re.sub(r"\[\d+\]", "[]", key) in known, f"{page}: {key}"


@pytest.mark.parametrize("page", PAGES)
def test_names_in_tables_exist(page):
    """A dotted name in code of a table is a key, `part/part` at its start a metric."""
    sections = {key.partition(".")[0].removesuffix("[]") for key in every_key()}
    known = every_key()
    for line in PAGES[page].read_text().splitlines():
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        for name in re.findall(r"`([\w./@]+)`", cells[0]):
            if re.fullmatch(r"(loss|kl|policy|value|rewards|length|data|time|update)/\S+", name):
                assert meaning_of(name) is not None, f"{page}: {name}"
        ours = cells[1] if page == "coming_from" and len(cells) > 1 else ""
        for name in re.findall(r"`([\w.\[\]]+)", ours):
            if name.partition(".")[0].removesuffix("[]") in sections and "." in name:
                assert name in known, f"{page}: {name}"


def test_names_of_others_are_those_of_the_error_messages():
    """What the page says about a name of TRL, verl or Tunix is what a configuration answers."""
    seen = 0
    for line in PAGES["coming_from"].read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| `") or len(cells) < 2:
            continue
        for name in re.findall(r"`([\w.]+)", cells[0]):
            leaf = name.rpartition(".")[2]
            # what an algorithm has under this very name is not asked of the table
            keys = () if f".{leaf}`" in cells[1] else KEYS.get(leaf, ())
            seen += bool(keys)
            assert not keys or any(key in cells[1] for key in keys), f"{name}: {keys}, {cells[1]}"
    assert seen > 40


def test_every_algorithm_has_a_page():
    for name in ALGORITHMS:
        page = DOCS / "algorithms" / f"{name}.md"
        assert page.is_file(), f"write {page.relative_to(REPO)}"
        text = page.read_text()
        assert f"config-keys}} algorithm.{name}\n" in text
        for heading in ("**Idea.**", "**Credit.**", "**Equation.**", "## When it fails"):
            assert heading in text, f"{name}: {heading}"
        assert dataclasses.is_dataclass(algorithm_config(name))


def test_every_section_of_the_configuration_is_on_a_page():
    text = "".join(path.read_text() for path in DOCS.rglob("*.md"))
    shown = set(re.findall(r"config-keys\} (\S+)", text))
    assert "claims" in shown
    # rollout.mesh has the keys of mesh
    missing = set(rows_by_section()) - shown - {"", "rollout.mesh"}
    assert not missing and "top" in shown


def test_every_option_is_explained():
    rows = [row for section in rows_by_section().values() for row in section]
    rows += [row for name in ALGORITHMS for row in algorithm_rows(name)]
    rows += claims_rows()
    assert [row.key for row in rows if not row.doc] == []


def test_every_guarantee_names_a_test():
    found = 0
    for line in PAGES["guarantees"].read_text().splitlines():
        for name in re.findall(r"`(tests/[\w/.]+)`", line):
            assert (REPO / name).exists(), name
            found += 1
            for test in re.findall(r"`(test_\w+)`", line):
                assert f"def {test}(" in (REPO / name).read_text(), test
    assert found > 15


def test_all_python_is_tried():
    """A directive would hide code from these tests."""
    for page in PAGES.values():
        languages = {block.language for block in blocks(page)}
        assert not {name for name in languages if name.startswith("{code")}, page


@pytest.mark.parametrize("page", PAGES)
def test_files_that_links_name_exist(page):
    path = PAGES[page]
    prose = FENCE.sub("", path.read_text())
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose):
        assert (path.parent / target).exists(), f"{page}: {target}"


def test_readme_is_a_front_page():
    text = PAGES["README"].read_text()
    assert len(text.split()) < 1200
    installs = [block.text for block in blocks(PAGES["README"]) if "pip install" in block.text]
    assert len(installs) == 2 and all("-c constraints.txt" in text for text in installs)
    assert "<!-- tests -->" in text and "<!-- /tests -->" in text


def test_a_dead_link_is_seen(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here"></a><a href="#no"></a><img src="c.png">'
    )
    (tmp_path / "b.html").write_text('<p id="here"></p><a href="https://elsewhere.org/x"></a>')
    assert links(tmp_path) == (3, ["a.html: #no", "a.html: c.png"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("myst_parser", reason="the site needs the extra docs")
    pytest.importorskip("sphinx_book_theme", reason="the site needs the extra docs")
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n"]
    found = subprocess.run(
        [*build, "-b", "html", str(DOCS), str(tmp_path / "site")],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert found.returncode == 0, found.stderr[-4000:]
    page = (tmp_path / "site" / "algorithms" / "dpo.html").read_text()
    assert "algorithm.label_smoothing" in page
    count, dead = links(tmp_path / "site")
    assert count > 1000 and dead == []
