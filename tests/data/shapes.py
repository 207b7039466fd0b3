"""Chat templates in the shapes that those on the hub have, with special tokens and stops.

Short, but each does what is hard about its family: where the stop stands, what happens to earlier
turns, what the generation prompt adds.
"""

from typing import NamedTuple

from tokenizers import AddedToken

from rlhf_jax.data import FastTokenizer, byte_tokenizer


class Shape(NamedTuple):
    """A template, and the tokens that end an answer in it (the first is EOS)."""

    template: str
    stops: tuple[str, ...]
    special: tuple[str, ...] = ()
    one_row: bool = True
    """A conversation of two plain answers stays one row."""
    keeps_thoughts: bool = True
    """The reasoning of an answer is written (at least where the conversation ends with it)."""


CHATML = Shape(
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    ("<|im_end|>", "<|endoftext|>"),
    ("<|im_start|>",),
)
LLAMA3 = Shape(
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{%- if 'tool_calls' in message %}"
    "{%- if message.tool_calls | length != 1 %}{{ raise_exception('only single tool-calls at "
    "once') }}{% endif %}"
    "{%- set call = message.tool_calls[0].function %}"
    "{{- '{\"name\": \"' + call.name + '\", \"parameters\": ' + call.arguments | tojson + '}' }}"
    "{%- else %}{{ message['content'] | trim }}{% endif %}{{ '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% "
    "endif %}",
    ("<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"),
    ("<|start_header_id|>", "<|end_header_id|>"),
)
MISTRAL = Shape(
    "{{- bos_token }}{%- for m in messages %}{%- if m.role == 'user' %}{{ '[INST] ' + m.content + "
    "' [/INST]' }}{%- else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{%- endfor %}",
    ("</s>",),
    ("[INST]", "[/INST]"),
)
GEMMA = Shape(
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content | "
    "trim + '<end_of_turn>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
    ("<eos>", "<end_of_turn>"),
    ("<start_of_turn>",),
)
QWEN3 = Shape(
    "{%- set ns = namespace(last=-1) %}"
    "{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% "
    "endfor %}"
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}"
    "{%- set text = m.content %}{% set thought = '' %}"
    "{%- if m.role == 'assistant' and '</think>' in text %}"
    "{%- set thought = text.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{%- set text = text.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "{%- if m.role == 'assistant' and loop.index0 > ns.last %}"
    "{{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}{% endif %}"
    "{{- text + '<|im_end|>\\n' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- "
    "'<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{%- endif %}",
    ("<|im_end|>", "<|endoftext|>"),
    ("<|im_start|>",),
    one_row=False,
)
R1 = Shape(
    "{{ bos_token }}{%- for m in messages %}"
    "{%- if m.role == 'user' %}{{ '<|User|>' + m.content }}"
    "{%- else %}{{ '<|Assistant|>' + m.content.split('</think>')[-1] + '<|eos|>' }}{% endif %}{% "
    "endfor %}"
    "{%- if add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{% endif %}",
    ("<|eos|>",),
    ("<|User|>", "<|Assistant|>"),
    one_row=False,
)
DROPS_THOUGHTS = R1._replace(
    template=R1.template.replace("<think>\\n' }}", "' }}"), one_row=True, keeps_thoughts=False
)
GLM = Shape(
    "[gMASK]<sop>{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    ("<|endoftext|>", "<|user|>", "<|observation|>"),
    ("[gMASK]", "<sop>", "<|assistant|>"),
)
PHI3 = Shape(
    "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}",
    ("<|endoftext|>", "<|end|>"),
    ("<|user|>", "<|assistant|>"),
)
GPT_OSS = Shape(
    "{%- for m in messages %}{%- if m.role == 'user' %}{{ '<|start|>user<|message|>' + m.content + "
    "'<|end|>' }}{%- elif loop.last and not add_generation_prompt %}{{- "
    "'<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' }}{%- else %}{{ "
    "'<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}{% endif %}{% "
    "endfor %}{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}",
    ("<|return|>", "<|call|>"),
    ("<|start|>", "<|message|>", "<|end|>", "<|channel|>"),
    one_row=False,
)
MARKED = Shape(
    CHATML.template.replace(
        "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}",
        "{{- '<|im_start|>' + message.role + '\\n' }}\n"
        "    {%- if message.role == 'assistant' %}\n"
        "        {%- generation %}\n"
        "        {{- message.content + '<|im_end|>\\n' }}\n"
        "        {%- endgeneration %}\n"
        "    {%- else %}{{- message.content + '<|im_end|>\\n' }}{% endif %}",
    ),
    CHATML.stops,
    CHATML.special,
)
HERMES = Shape(
    "{%- if tools %}{{- '<|im_start|>system\\n' }}{% for tool in tools %}{{ tool | tojson }}{% "
    "endfor %}"
    "{{- '<|im_end|>\\n' }}{% endif %}"
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}"
    "{%- if m.tool_calls %}{% for call in m.tool_calls %}"
    '{{- \'<tool_call>\\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{- call.function.arguments | tojson + '}\\n</tool_call>' }}{% endfor %}"
    "{%- else %}{{- m.content }}{% endif %}{{- '<|im_end|>\\n' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}",
    CHATML.stops,
    CHATML.special,
)
PARTS = Shape(
    "{% for m in messages %}{{ '<' + m.role + '>' }}"
    "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
    "{{ '<end_of_utterance>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}",
    ("<end_of_utterance>",),
)
# LFM2.5: the last answer keeps its reasoning, whether or not a question follows
REWRITES_BOTH = Shape(
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}{% set ns.last = loop.index0 %}{% endif "
    "%}{% endfor %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{{ m.content if loop.index0 == ns.last else m.content.split('</think>')[-1] | trim }}{{ "
    "'<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    CHATML.stops,
    CHATML.special,
)
NO_STOP = Shape(
    "{% for m in messages %}{{ '### ' + m.role + ':\\n' + m.content + '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\\n' }}{% endif %}",
    ("<|endoftext|>",),
    one_row=False,
)
SHAPES = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "qwen3": QWEN3,
    "r1": R1,
    "drops_thoughts": DROPS_THOUGHTS,
    "glm": GLM,
    "phi3": PHI3,
    "gpt_oss": GPT_OSS,
    "marked": MARKED,
    "hermes": HERMES,
    "parts": PARTS,
    "rewrites_both": REWRITES_BOTH,
    "no_stop": NO_STOP,
}


def shaped_tokenizer(shape: Shape, stops: tuple[str, ...] | None = None) -> FastTokenizer:
    """Bytes with the special tokens of a shape, and its stops (or others)."""
    backend = byte_tokenizer().backend
    names = dict.fromkeys((*shape.stops, *shape.special, "<bos>"))
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    named = stops or shape.stops
    config = {"bos_token": "<bos>", "eos_token": named[0], "chat_template": shape.template}
    return FastTokenizer(
        backend, config, {"eos_token_id": [backend.token_to_id(name) for name in named]}
    )
