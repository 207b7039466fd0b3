"""What a configuration can run, and how it is known without running it."""

import pathlib
import sys

import pytest

from rlhf_jax.rewards import RewardConfig, fingerprint, is_builtin, make_rewards, untrusted
from rlhf_jax.rewards.loading import load_reward

GRADERS = pathlib.Path(__file__).with_name("graders.py")


@pytest.mark.parametrize(
    ("function", "options"),
    [
        ("os:system", {"command": "touch OWNED"}),
        ("posix:system", {"command": "touch OWNED"}),
        ("subprocess:Popen", {"args": "touch OWNED", "shell": True}),
        ("subprocess:run", {"args": "touch OWNED", "shell": True}),
        ("shutil:copyfile", {"src": "a", "dst": "OWNED"}),
        ("builtins:open", {"file": "OWNED", "mode": "w"}),
        ("pathlib:Path", {}),
        ("importlib.util:find_spec", {"name": "this"}),
        ("rlhf_jax.rewards.worker:os.system", {"command": "touch OWNED"}),
        ("rlhf_jax.rewards.processes:subprocess.Popen", {"args": "touch OWNED", "shell": True}),
        (f"{pathlib.Path(pathlib.__file__)}:Path", {}),
    ],
)
def test_nothing_of_the_standard_library_is_a_reward(function, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("secret")
    with pytest.raises(
        ValueError, match="standard library, which holds no reward functions"
    ) as raised:
        load_reward(RewardConfig(function=function, options=options))
    assert "\n" not in str(raised.value) and not (tmp_path / "OWNED").exists()
    with pytest.raises(ValueError):
        make_rewards([RewardConfig(function=function, options=options)])
    assert not (tmp_path / "OWNED").exists()


def test_a_module_of_the_standard_library_is_not_even_imported():
    assert "antigravity" not in sys.modules
    with pytest.raises(ValueError, match="standard library"):
        load_reward(RewardConfig(function="antigravity:fly"))
    assert "antigravity" not in sys.modules


def test_ones_own_file_may_bind_what_it_likes(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import functools\n"
        "def f(completions, bonus): return [bonus for _ in completions]\n"
        "half = functools.partial(f, bonus=0.5)\n"
    )
    assert load_reward(RewardConfig(function=f"{path}:half")).function(completions=["x"]) == [0.5]


def test_what_is_built_in():
    own = [
        RewardConfig(function=name)
        for name in ("mine.py:f", "package.module:f", "math:f", "math.py:math")
    ]
    built_in = [RewardConfig(function=name) for name in ("math", "code", "model")]
    assert [is_builtin(config) for config in (*own, *built_in)] == [False] * 4 + [True] * 3
    assert untrusted([built_in[0], own[0], built_in[1], own[1]]) == (own[0], own[1])


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from neighbour import g\ndef f(completions): return [g(c) for c in completions]\n"
    )
    (tmp_path / "neighbour.py").write_text("import os, farther\ndef g(c): return 1.0\n")
    (tmp_path / "farther.py").write_text("X = 1\n")
    (tmp_path / "unrelated.py").write_text("X = 1\n")
    return tmp_path


def _mine(folder, **fields):
    return [
        RewardConfig(function="math"),
        RewardConfig(function=f"{folder / 'mine.py'}:f", **fields),
    ]


def test_the_fingerprint_is_of_what_is_run(mine, tmp_path_factory):
    before = fingerprint(_mine(mine))
    assert len(before) == 64 and fingerprint(_mine(mine)) == before
    for name in ("mine.py", "neighbour.py", "farther.py"):
        text = (mine / name).read_text()
        (mine / name).write_text(text + "# another line\n")
        assert fingerprint(_mine(mine)) != before, name
        (mine / name).write_text(text)
    (mine / "unrelated.py").write_text("X = 2\n")
    assert fingerprint(_mine(mine)) == before
    other = tmp_path_factory.mktemp("elsewhere")
    for file in mine.glob("*.py"):
        (other / file.name).write_bytes(file.read_bytes())
    assert fingerprint(_mine(other)) == before, "the same files in another place"
    (mine / "mine.py").unlink()
    assert fingerprint(_mine(mine)) != before


@pytest.mark.parametrize(
    "fields",
    [
        {"weight": 2.0},
        {"options": {"a": 1}},
        {"batched": False},
        {"on_timeout": "wrong"},
        {"name": "other"},
    ],
)
def test_the_fingerprint_is_of_the_configuration_too(mine, fields):
    assert fingerprint(_mine(mine, **fields)) != fingerprint(_mine(mine))
    assert fingerprint(_mine(mine)[::-1]) != fingerprint(_mine(mine))


def test_the_fingerprint_of_a_module_imports_nothing(tmp_path, monkeypatch):
    package = tmp_path / "tried_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "grade.py").write_text(
        "from . import more\nfrom .more import x\nraise RuntimeError('imported')\n"
    )
    (package / "more.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = [RewardConfig(function="tried_package.grade:f")]
    before = fingerprint(config)
    (package / "more.py").write_text("x = 2\n")
    after = fingerprint(config)
    (package / "grade.py").write_text("def f(: broken")
    assert len({before, after, fingerprint(config)}) == 3
    (package / "grade.py").unlink()
    assert fingerprint([RewardConfig(function="no_such_module.at.all:f")]) != fingerprint(config)
    assert "tried_package" not in sys.modules
