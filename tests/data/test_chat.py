"""Chat templates: what those on the hub use works; nothing escapes the sandbox."""

import warnings

import pytest

from rlhf_jax.data import DataError
from rlhf_jax.data.chat import DEFAULT_CHAT_TEMPLATE, render_chat

MESSAGES = [{"role": "user", "content": "<b> & \u00e9"}, {"role": "assistant", "content": "A"}]
CHATML = (
    "{%- if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' "
    "}}{% endif -%}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.role == 'assistant' %}{% generation %}{{ message.content + '<|im_end|>' }}{% "
    "endgeneration %}"
    "{%- else %}{{ message.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}"
    "{%- if loop.index > 40 %}{% break %}{% endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def render(
    template: str, messages=MESSAGES, *, add_generation_prompt: bool = False, **special_tokens: str
) -> str:
    return render_chat(
        template, messages, add_generation_prompt=add_generation_prompt, variables=special_tokens
    )


@pytest.mark.parametrize("add_generation_prompt", [False, True])
@pytest.mark.parametrize(
    "template",
    [
        CHATML,
        DEFAULT_CHAT_TEMPLATE,
        "{{ bos_token }}{% for m in messages %}{{ m | tojson }}{{ m['content'] | trim }}\n{% "
        "endfor %}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor "
        "%}{{ ns.n }} {{ tools is none }}",
    ],
)
def test_renders_as_transformers(template: str, add_generation_prompt: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils.chat_template_utils import render_jinja_template
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    theirs, _ = render_jinja_template(
        [MESSAGES], chat_template=template, add_generation_prompt=add_generation_prompt, **special
    )
    assert render(template, add_generation_prompt=add_generation_prompt, **special) == theirs[0]


def test_refusal_is_one_line() -> None:
    with pytest.raises(
        DataError, match=r"^the chat template refuses these messages: roles must alternate$"
    ):
        render("{{ raise_exception('roles must\n alternate') }}")


def test_sandbox() -> None:
    with pytest.raises(DataError, match="the chat template refuses these messages"):
        render("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(DataError, match="the chat template refuses these messages"):
        render("{{ messages.append(1) }}")


def test_date() -> None:
    # not today's: tokens stay what they were
    assert render("{{ strftime_now('%d %b %Y') }}") == "26 Jul 2024"
