"""Chat templates: Jinja in a sandbox, with the extras that templates on the hub use, so that transformers is not needed."""

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from rlhf_jax.data.errors import DataError

DEFAULT_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>\\n' + message['content'] -}}"
    "{{- eos_token if message['role'] == 'assistant' else '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}"
)
"""Used by the built-in tokenizers and by any tokenizer that brings no template: every answer ends with EOS."""


TEMPLATE_DATE = datetime.datetime(2024, 7, 26)
"""What `strftime_now` shows in a template, whatever the day (Llama 3's default), so that tokens do not change overnight."""


class _Generation(jinja2.ext.Extension):
    """`{% generation %} ... {% endgeneration %}`: transformers marks the answer with it; rendering passes it through."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return TEMPLATE_DATE.strftime(pattern)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


@functools.lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    try:
        return environment.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise DataError(f"the chat template does not compile: {error.message} (line {error.lineno})") from None


def check_chat_template(template: str) -> None:
    """Compiles the template. Raises `DataError` with the line when it is not valid Jinja."""
    _compile(template)


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any],
) -> str:
    """Renders a conversation to text.

    Args:
        template: Jinja source, as in `tokenizer_config.json`.
        messages: dicts with `role` and `content`.
        add_generation_prompt: also open the assistant's turn.
        tools: function schemas that the model may call, as transformers takes them.
        variables: what else the template sees: `bos_token`, `eos_token`, ..., and the caller's own (`enable_thinking`).

    Raises:
        DataError: the template refuses the messages (wrong role order, a system message it does not know).
    """
    try:
        return _compile(template).render(
            messages=[dict(message) for message in messages],
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            documents=None,
            **variables,
        )
    except (jinja2.TemplateError, TypeError) as error:
        raise DataError(f"the chat template refuses these messages: {' '.join(str(error).split())}") from None
