"""What the options put around prompts: a template, a conversation, a system message. For all kinds of examples alike."""

from rlhf_jax.data.config import PLACE, DataConfig
from rlhf_jax.data.errors import DataError
from rlhf_jax.data.formats import ASSISTANT, Content, Example, Message, PairExample, PromptExample, TextExample


def wrap_examples(examples: list[Example], config: DataConfig) -> list[Example]:
    """Applies `prompt_template`, `conversational` and `system_prompt`, in this order.

    Raises:
        DataError: an option that cannot apply to a row.
    """
    if config.prompt_template is None and config.system_prompt is None and not config.conversational:
        return examples
    return [_wrap(example, config) for example in examples]


def _wrap(example: Example, config: DataConfig) -> Example:
    prompt = _wrap_prompt(example, config)
    if isinstance(example, PromptExample):
        return example._replace(prompt=prompt)
    if isinstance(example, TextExample):
        return example._replace(prompt=prompt, completion=_answer(prompt, example.completion))
    chosen, rejected = (_answer(prompt, answer) for answer in (example.chosen, example.rejected))
    return PairExample(prompt, chosen, rejected, example.margin, example.where)


def _wrap_prompt(example: Example, config: DataConfig) -> Content:
    prompt = example.prompt
    if prompt is None:
        raise DataError(
            f"{example.where}: a bare text has no prompt for data.prompt_template, data.conversational or data.system_prompt: "
            "leave them out, or map the columns prompt and completion"
        )
    if config.prompt_template is not None:
        prompt = _fill(config.prompt_template, prompt, example.where)
    if config.conversational and isinstance(prompt, str):
        if prompt.endswith(ASSISTANT):
            raise DataError(
                f"{example.where}: the prompt is a transcript with turns of its own, no single question: "
                "leave data.conversational false"
            )
        prompt = [{"role": "user", "content": prompt}]
    if config.system_prompt is None:
        return prompt
    if isinstance(prompt, str):
        raise DataError(f"{example.where}: data.system_prompt needs conversations: set data.conversational true")
    if any(message["role"] == "system" for message in prompt):
        return prompt
    return [{"role": "system", "content": config.system_prompt}, *prompt]


def _fill(template: str, prompt: Content, where: str) -> Content:
    if isinstance(prompt, str):
        return template.replace(PLACE, prompt)
    last = next((index for index in reversed(range(len(prompt))) if prompt[index]["role"] == "user"), None)
    if last is None:
        raise DataError(f"{where}: data.prompt_template needs a user message, the prompt has none")
    message: Message = {**prompt[last], "content": template.replace(PLACE, prompt[last]["content"])}
    return [*prompt[:last], message, *prompt[last + 1 :]]


def _answer(prompt: Content, answer: Content) -> Content:
    """The answer as a message where the prompt has become a conversation."""
    is_turned = isinstance(prompt, list) and isinstance(answer, str)
    return [{"role": "assistant", "content": str(answer)}] if is_turned else answer
