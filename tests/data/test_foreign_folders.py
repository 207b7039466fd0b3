"""Folders of any making: what templates, tokenizers, code may do; failures are one line."""

import json
import subprocess
import sys
import threading
import time

import pytest
import tokenizers
from tokenizers import Regex, models, pre_tokenizers

from rlhf_jax.data import DataError, FastTokenizer, budget, byte_tokenizer, load_tokenizer
from rlhf_jax.data.chat import render_chat

MESSAGES = [{"role": "user", "content": "Hi"}]
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = (
    "{% set ns = namespace(x='a' * 1000000) %}{% for i in range(40) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
)


def render(template, **variables):
    return render_chat(template, MESSAGES, add_generation_prompt=False, variables=variables)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 1 / 0 }}", "refuses these messages: ZeroDivisionError: division by zero"),
        ("{{ (1.5 * n) | int }}", "refuses these messages: OverflowError: "),
        (
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "refuses these messages: RecursionError: ",
        ),
        (
            "{{ messages[0].nope.nope }}",
            "refuses these messages: 'dict object' has no attribute 'nope'",
        ),
        ("{{ messages[0]['content'] + 1 }}", "refuses these messages: TypeError: "),
        ("{{ '%d' % 'x' }}", "refuses these messages: TypeError: "),
        ("{{ raise_exception('x' * 5000) }}", "refuses these messages: xxx"),
    ],
)
def test_what_a_template_raises_is_one_line(template, message):
    with pytest.raises(DataError) as caught:
        render(template, n=float("inf"))
    assert (
        message in str(caught.value)
        and "\n" not in str(caught.value)
        and len(str(caught.value)) < 400
    )


def test_a_template_without_end_is_stopped(monkeypatch):
    monkeypatch.setattr(budget, "SECONDS", 0.3)
    began = time.thread_time()
    with pytest.raises(
        DataError, match="stopped on these messages: it takes more than 0.3 s of processor time"
    ):
        render(LOOP)
    with pytest.raises(
        DataError, match="is refused: it takes more than 0.3 s of processor time for one message"
    ):
        byte_tokenizer().with_chat_template(LOOP)
    assert time.thread_time() - began < 3
    assert render("{{ messages[0].content }}") == "Hi", "what comes after is not struck"


def test_a_template_that_grows_is_stopped(monkeypatch):
    monkeypatch.setattr(budget, "MEMORY", 2**28)
    with pytest.raises(
        DataError, match="stopped on these messages: it takes more than 0.25 GiB of memory"
    ):
        render(DOUBLING)


def test_threads_have_budgets_of_their_own(monkeypatch):
    monkeypatch.setattr(budget, "SECONDS", 0.3)
    seen = []

    def endless():
        with pytest.raises(DataError):
            render(LOOP)
        seen.append("stopped")

    thread = threading.Thread(target=endless)
    thread.start()
    while thread.is_alive():
        assert render("{{ messages[0].content }}") == "Hi"
    assert seen == ["stopped"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 9 ** 9 ** 9 ** 9 }}", "raises to a power"),
        ("{{ 'a' * 10000000000 }}", "the number 1e\\+10 in it is above 100,000,000"),
        ("{{ '%9999999999d' % 1 }}", "pads to millions of characters"),
        ("{{ '{:9999999999}'.format(1) }}", "pads to millions of characters"),
        ("{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}", "does not compile: RecursionError"),
        ("{% if x %}" * 300 + "{% endif %}" * 300, "does not compile: "),
        ("a\n{{ strftime_now('%d') }}\n{% if %}", r"does not compile: .* \(line 3\)"),
    ],
)
def test_templates_refused_at_once(template, message):
    with pytest.raises(DataError, match=message) as caught:
        byte_tokenizer().with_chat_template(template)
    assert "\n" not in str(caught.value)


def test_templates_may_refuse_the_probe_or_use_many_digits():
    assert byte_tokenizer().with_chat_template("{{ raise_exception('no') }}")
    text = (
        "https://x.org/123456789 {{ 4294967 }} {{ '%s 20240726' % 1 }}{% generation %}"
        "{% endgeneration %}"
    )
    assert render(text) == "https://x.org/123456789 4294967 1 20240726"


def test_the_date_is_fixed_in_every_form():
    assert render("{{ strftime_now('%d %b %Y %% %-m/%-d %H:%M%') }}") == "26 Jul 2024 % 7/26 00:00%"
    assert (
        render("  {% if strftime_now is defined %}{{ strftime_now('%Y') }}\n{% endif %}\n")
        == "2024\n"
    )
    inside = (
        "{% macro f() %}{{ strftime_now('%B') | upper }}{% endmacro %}{{ f() }} "
        "{{ strftime_now('%Y') | int + 1 }}"
    )
    assert render(inside) == "JULY 2025"


def test_a_tool_template_is_taken_where_there_are_tools(tmp_path):
    byte_tokenizer().save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    named = [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "{{ tools[0].name }}"},
    ]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": named}))
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.save(tmp_path / "again")
    for each in (tokenizer, load_tokenizer(tmp_path / "again")):
        assert each.apply_chat_template(MESSAGES) == each.chat_template == "plain"
        assert each.apply_chat_template(MESSAGES, tools=[{"name": "add"}]) == "add"


def test_panics_of_the_tokenizer_are_one_line():
    """Its regular expressions give up by a panic, which is a BaseException."""
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("(a|aa)+$"), behavior="isolated")
    backend.add_special_tokens(["</s>"])
    tokenizer = FastTokenizer(backend, {"eos_token": "</s>"})
    for call in (tokenizer.encode, lambda text: tokenizer.encode_batch([text, "a"])):
        with pytest.raises(DataError, match="the tokenizer fails to encode a text: ") as caught:
            call("a" * 60 + "b")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("has_fast", [True, False])
def test_no_code_of_a_folder_is_run(tmp_path, has_fast):
    mark = tmp_path / "ran"
    folder = tmp_path / "model"
    byte_tokenizer().save(folder)
    (folder / "custom.py").write_text(
        f"open({str(mark)!r}, 'w')\nfrom transformers import PreTrainedTokenizerFast as Mine\n"
    )
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {
        "tokenizer_class": "Mine",
        "auto_map": {"AutoTokenizer": ["custom.Mine", "custom.Mine"]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    script = f"""if True:
        from rlhf_jax.data import DataError, load_tokenizer
        try:
            load_tokenizer({str(folder)!r}).save({str(tmp_path / "saved")!r})
            print("read")
        except DataError as error:
            print(error)
    """
    if not has_fast:
        (folder / "tokenizer.json").unlink()
    # "y" is what a user might answer to "Do you wish to run the custom code?"
    done = subprocess.run(
        [sys.executable, "-c", script], input="y\ny\n", capture_output=True, text=True, timeout=300
    )
    assert not mark.exists()
    assert "PyTorch" not in done.stderr and "Traceback" not in done.stderr
    assert done.stdout.count("\n") == 1
    if has_fast:
        assert done.stdout == "read\n"
        assert "auto_map" not in json.loads(
            (tmp_path / "saved" / "tokenizer_config.json").read_text()
        )
    else:
        assert done.stdout.startswith(f"transformers cannot convert the tokenizer in {folder}")


def test_odd_files_are_one_line(tmp_path):
    byte_tokenizer().save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for name, contents, message in (
        ("tokenizer_config.json", "[]", "holds a list, expected an object"),
        ("tokenizer_config.json", "[" * 100_000, "is not valid JSON"),
        ("tokenizer_config.json", json.dumps({**config, "chat_template": 3}), "."),
        ("tokenizer_config.json", json.dumps({**config, "eos_token": 3}), "."),
        ("tokenizer_config.json", json.dumps({**config, "added_tokens_decoder": [1]}), "."),
        (
            "tokenizer_config.json",
            json.dumps({**config, "pad_token": "<nope>"}),
            "pad_token '<nope>' is not in its vocabulary",
        ),
        ("tokenizer.json", "{}", "cannot be read"),
    ):
        before = (tmp_path / name).read_text()
        (tmp_path / name).write_text(contents)
        with pytest.raises(DataError, match=message) as caught:
            load_tokenizer(tmp_path)
        assert "\n" not in str(caught.value)
        (tmp_path / name).write_text(before)
    assert load_tokenizer(tmp_path).eos_id == 257


def test_special_tokens_that_are_only_words_are_found_as_after_saving(tmp_path):
    """A folder's special tokens become added tokens, which are found inside words too."""
    backend = tokenizers.Tokenizer(
        models.WordLevel({"0": 0, "1": 1, "14": 2, "4": 3}, unk_token="0")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = FastTokenizer(backend, {"eos_token": "1", "pad_token": "0"})
    tokenizer.save(tmp_path)
    assert tokenizer.encode("4 14") == load_tokenizer(tmp_path).encode("4 14") == [3, 1, 3]
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size) == (1, 0, 4)
