"""Chat templates, rendered by transformers' `apply_chat_template`: a fixed date and a budget."""

import datetime
import functools
import itertools
import logging
import os
import pathlib
import re
import string
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import tokenizers

from rlhf_jax.data.budget import BudgetExceeded, within_budget
from rlhf_jax.data.errors import DataError

DEFAULT_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>\\n' + message['content'] -}}"
    "{{- eos_token if message['role'] == 'assistant' else '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}"
)
"""Used by the built-in tokenizers and by any tokenizer that brings no template: every answer ends
with EOS."""


TEMPLATE_DATE = datetime.datetime(2024, 7, 26)
"""What `strftime_now` shows in a template, whatever the day (Llama 3's default), so that tokens do
not change overnight."""

_SUPPLIED = frozenset(
    {"messages", "tools", "add_generation_prompt", "raise_exception", "strftime_now"}
)
"""What transformers gives to every template."""
_LARGEST = 10**8
"""A number above it has no place in a template: it is a text to be repeated or padded."""
_WIDE_FORMAT = re.compile(r"%[-+ #0]*\d{9}|\{[^{}]*:[^{}]*\d{9}")

# A template sees plain data and its own macros only, so the fixed date comes as a macro that reads
# a table of directives. It ends in a newline, which `trim_blocks` removes, so that the template
# itself still starts at the start of a line.
_DATE_TABLE = "template_date"
_DATE_MACRO = (
    "{%- macro strftime_now(format) -%}{%- set ns = namespace(open='') -%}{%- for c in format -%}"
    "{%- if ns.open == '%' and c == '-' -%}{%- set ns.open = '%-' -%}"
    "{%- elif ns.open -%}{{- template_date.get(ns.open + c, ns.open + c) -}}{%- set ns.open = '' "
    "-%}"
    "{%- elif c == '%' -%}{%- set ns.open = '%' -%}"
    "{%- else -%}{{- c -}}{%- endif -%}"
    "{%- endfor -%}{{- ns.open -}}{%- endmacro %}\n"
)


def import_transformers() -> ModuleType:
    """transformers, without its notice that PyTorch is missing. Late: it takes over a second."""
    with _quiet_import():
        import transformers
    return transformers


@contextmanager
def _quiet_import() -> Iterator[None]:
    before = os.environ.get("TRANSFORMERS_NO_ADVISORY_WARNINGS")
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            del os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"]
        else:
            os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = before


@contextmanager
def quiet_transformers() -> Iterator[ModuleType]:
    """transformers with its warnings off: its classes of tokenizers do not concern our users."""
    transformers = import_transformers()
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(logging.CRITICAL)
    try:
        yield transformers
    finally:
        transformers.logging.set_verbosity(verbosity)


@functools.cache
def _renderer() -> Any:
    """A tokenizer without a vocabulary: rendering needs its method alone."""
    with quiet_transformers() as transformers:
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizers.Tokenizer(tokenizers.models.WordLevel())
        )


@functools.cache
def _date_table() -> dict[str, str]:
    """ "%d" -> "26", "%-d" -> "26", "%B" -> "July", ..."""
    directives = itertools.product(("%", "%-"), (*string.ascii_letters, "%"))
    return {flag + letter: TEMPLATE_DATE.strftime(flag + letter) for flag, letter in directives}


@functools.lru_cache(maxsize=64)
def check_chat_template(template: str) -> None:
    """Compiles the template and tries it on one message, which it may refuse.

    Raises:
        DataError: it is not valid Jinja (with the line), it never ends, or it holds an operation
          that may never end.
    """
    try:
        _refuse_endless_steps(template)
        _render(template, [{"role": "user", "content": "Hi"}], {})
    except jinja2.TemplateSyntaxError as error:
        raise DataError(
            f"the chat template does not compile: {error.message} (line {error.lineno})"
        ) from None
    except BudgetExceeded as error:
        raise DataError(f"the chat template is refused: {error} for one message") from None
    # nested too deep for Jinja or for Python's compiler
    except (RecursionError, SyntaxError) as error:
        raise DataError(f"the chat template does not compile: {_one_line(error)}") from None
    except DataError:
        raise
    except Exception:  # a template may refuse this message; it is asked again with real ones
        pass


class _Generation(jinja2.ext.Extension):
    """Lets `{% generation %}` through where a template is only parsed, not rendered."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse_endless_steps(template: str) -> None:
    """Powers, and numbers that pad or repeat: a step of minutes or gigabytes, beyond budgets."""
    tree = _parsed(template)
    if tree.find(jinja2.nodes.Pow) is not None:
        raise DataError(
            "the chat template is refused: it raises to a power (**), which may never end"
        )
    for constant in tree.find_all(jinja2.nodes.Const):
        value = constant.value
        if isinstance(value, int | float) and abs(value) > _LARGEST:
            raise DataError(
                f"the chat template is refused: the number {value:.3g} in it is above {_LARGEST:,}"
            )
        if isinstance(value, str) and _WIDE_FORMAT.search(value):
            raise DataError(
                "the chat template is refused: a format in it pads to millions of characters"
            )


def _parsed(template: str) -> jinja2.nodes.Template:
    return jinja2.Environment(extensions=[_Generation, jinja2.ext.loopcontrols]).parse(template)


@functools.lru_cache(maxsize=64)
def variables_read(template: str) -> frozenset[str]:
    """Names that a template, macros included, reads from its caller, but for transformers' own."""
    return frozenset(jinja2.meta.find_undeclared_variables(_parsed(template))) - _SUPPLIED


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any],
) -> str:
    """Renders a conversation to text, as transformers does, but for the date (`TEMPLATE_DATE`).

    Args:
        template: Jinja source, as in `tokenizer_config.json`.
        messages: dicts with `role` and `content`.
        add_generation_prompt: also open the assistant's turn.
        tools: function schemas that the model may call, as transformers takes them.
        variables: what else the template sees: `bos_token`, `eos_token`, ..., and the caller's own
          (`enable_thinking`).

    Raises:
        DataError: the template refuses the messages (wrong role order, a system message it does not
            know), fails on them, or takes more than its budget of processor time or memory.
    """
    try:
        return _render(
            template, messages, variables, add_generation_prompt=add_generation_prompt, tools=tools
        )
    except BudgetExceeded as error:
        raise DataError(f"the chat template is stopped on these messages: {error}") from None
    except Exception as error:  # a template is foreign code: whatever it raises is its refusal
        raise DataError(f"the chat template refuses these messages: {_one_line(error)}") from None


def _render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    variables: Mapping[str, Any],
    **options: Any,
) -> str:
    renderer = _renderer()
    if "strftime_now" in template:
        template = _DATE_MACRO + template
        variables = {**variables, _DATE_TABLE: _date_table()}
    conversation = [dict(message) for message in messages]
    tools = options.pop("tools", None)
    options |= {
        "tools": None if tools is None else [dict(tool) for tool in tools],
        "tokenize": False,
    }

    def work() -> str:
        return renderer.apply_chat_template(
            conversation, chat_template=template, **options, **variables
        )

    return within_budget(work)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else text[:297] + "..."
    return text if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {text}"


def template_source(template: str) -> str:
    """Jinja source, given as such or as the path of a .jinja file."""
    if not template.endswith((".jinja", ".jinja2", ".j2")):
        return template
    if not pathlib.Path(template).is_file():
        raise DataError(f"chat template file {template} does not exist")
    return pathlib.Path(template).read_text(encoding="utf-8")
