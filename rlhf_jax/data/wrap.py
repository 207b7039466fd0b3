"""What the options put around prompts: template, conversation, system message, for all kinds."""

from rlhf_jax.data.cells import ASSISTANT
from rlhf_jax.data.config import PLACE, DataConfig
from rlhf_jax.data.errors import DataError
from rlhf_jax.data.kinds import (
    Example,
    JudgedExample,
    PromptExample,
    TextExample,
    TokenExample,
)
from rlhf_jax.data.messages import ChatOptions, Content, Message


def wrap_examples(examples: list[Example], config: DataConfig) -> list[Example]:
    """Applies template, conversational, system prompt, tools and template kwargs, in this order.

    Raises:
        DataError: an option that cannot apply to a row.
    """
    if (
        config.prompt_template is not None
        or config.system_prompt is not None
        or config.conversational
    ):
        examples = [_wrap(example, config) for example in examples]
    if config.tools or config.chat_template_kwargs:
        examples = [_with_chat_options(example, config) for example in examples]
    return examples


def _with_chat_options(example: Example, config: DataConfig) -> Example:
    """The run's tools and variables of the chat template, where the row has none of its own."""
    if isinstance(example, TokenExample):
        return example
    tools = example.chat.tools or [dict(tool) for tool in config.tools] or None
    variables = {**config.chat_template_kwargs, **(example.chat.variables or {})}
    return example._replace(chat=ChatOptions(tools, variables or None))


def _wrap(example: Example, config: DataConfig) -> Example:
    if isinstance(example, TokenExample) or example.prompt is None:
        raise DataError(
            f"{example.where}: a bare text has no prompt for data.prompt_template, "
            "data.conversational or data.system_prompt: "
            "leave them out, or map the columns prompt and completion"
        )
    prompt = _wrap_prompt(example.prompt, config, example.where)
    if isinstance(example, PromptExample):
        return example._replace(prompt=prompt)
    if isinstance(example, TextExample | JudgedExample):
        return example._replace(prompt=prompt, completion=_answer(prompt, example.completion))
    chosen, rejected = (_answer(prompt, answer) for answer in (example.chosen, example.rejected))
    return example._replace(prompt=prompt, chosen=chosen, rejected=rejected)


def _wrap_prompt(prompt: Content, config: DataConfig, where: str) -> Content:
    if config.prompt_template is not None:
        prompt = _fill(config.prompt_template, prompt, where)
    if config.conversational and isinstance(prompt, str):
        if prompt.endswith(ASSISTANT):
            raise DataError(
                f"{where}: the prompt is a transcript with turns of its own, no single question: "
                "set data.transcript true instead of data.conversational"
            )
        prompt = [{"role": "user", "content": prompt}]
    if config.system_prompt is None:
        return prompt
    if isinstance(prompt, str):
        raise DataError(
            f"{where}: data.system_prompt needs conversations: set data.conversational true"
        )
    if any(message["role"] == "system" for message in prompt):
        return prompt
    return [{"role": "system", "content": config.system_prompt}, *prompt]


def _fill(template: str, prompt: Content, where: str) -> Content:
    if isinstance(prompt, str):
        return template.replace(PLACE, prompt)
    last = next(
        (index for index in reversed(range(len(prompt))) if prompt[index]["role"] == "user"), None
    )
    if last is None:
        raise DataError(f"{where}: data.prompt_template needs a user message, the prompt has none")
    message: Message = {**prompt[last], "content": template.replace(PLACE, prompt[last]["content"])}
    return [*prompt[:last], message, *prompt[last + 1 :]]


def _answer(prompt: Content, answer: Content) -> Content:
    """The answer as a message where the prompt has become a conversation."""
    is_turned = isinstance(prompt, list) and isinstance(answer, str)
    return [{"role": "assistant", "content": str(answer)}] if is_turned else answer
