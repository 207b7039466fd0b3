"""Tokenizers: lossless bytes, trained BPE, and folders that transformers reads the same way."""

import json
import warnings

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors

from rlhf_jax.data import DataError, FastTokenizer, byte_tokenizer, load_tokenizer, train_tokenizer
from rlhf_jax.data.named_tokenizers import SPECIAL_TOKENS

BYTES = byte_tokenizer()
TEXTS = [
    "the cat sat on the mat, 12 + 7 = 19.\n",
    "don't  stop\t\r\n\n",
    "h\u00e9llo \U0001f600 \u4f60\u597d",
    " x",
    "a<|endoftext|>b",
]
MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
]


@pytest.fixture(scope="module")
def trained() -> FastTokenizer:
    return train_tokenizer(TEXTS * 50, 320)


@given(st.text())
def test_bytes_round_trip(text: str) -> None:
    assert BYTES.decode(BYTES.encode(text)) == text


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="<")))
def test_bytes_are_their_own_ids(text: str) -> None:
    assert BYTES.encode(text) == list(text.encode())


def test_byte_vocabulary() -> None:
    assert BYTES.vocab_size == 264
    assert [BYTES.backend.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(256, 264))
    assert (BYTES.bos_id, BYTES.eos_id, BYTES.pad_id, BYTES.prefix_ids) == (256, 257, 258, [])
    assert BYTES.encode("a<|endoftext|>") == [97, 257]
    assert BYTES.decode([97, 257], skip_special_tokens=True) == "a"
    assert BYTES.encode_batch(["a", "", "bc"]) == [[97], [], [98, 99]]


@given(st.text())
def test_trained_round_trip(trained: FastTokenizer, text: str) -> None:
    assert trained.decode(trained.encode(text)) == text


def test_training_is_deterministic_and_compresses(trained: FastTokenizer) -> None:
    assert train_tokenizer(TEXTS * 50, 320).fingerprint() == trained.fingerprint()
    assert trained.fingerprint() != BYTES.fingerprint()
    assert 264 < trained.vocab_size <= 320
    assert len(trained.encode(TEXTS[0])) < len(TEXTS[0]) / 2


def test_small_text_gives_a_small_vocabulary() -> None:
    assert train_tokenizer(["ab ab"], 5000).vocab_size == 265


def test_vocab_size_too_small() -> None:
    with pytest.raises(
        DataError,
        match=r"^vocab_size 100 is too small: a byte-level vocabulary needs at least 264$",
    ):
        train_tokenizer(["a"], 100)


def test_chat_template_ends_answers_with_eos() -> None:
    text = BYTES.apply_chat_template(MESSAGES)
    assert text == "<|system|>\nBe kind.\n<|user|>\nHi\n<|assistant|>\nHello!<|endoftext|>"
    opening = BYTES.apply_chat_template(MESSAGES[:2], add_generation_prompt=True)
    assert text.startswith(opening) and opening.endswith("<|assistant|>\n")


def test_saved_folder_reads_back_equal(trained: FastTokenizer, tmp_path) -> None:
    for number, tokenizer in enumerate(
        (BYTES, trained, BYTES.with_chat_template("{{ messages[0]['content'] }}"))
    ):
        folder = tmp_path / str(number)
        tokenizer.save(folder)
        again = load_tokenizer(folder)
        assert again.fingerprint() == tokenizer.fingerprint()
        assert (again.eos_id, again.pad_id, again.bos_id) == (
            tokenizer.eos_id,
            tokenizer.pad_id,
            tokenizer.bos_id,
        )
        assert again.apply_chat_template(MESSAGES) == tokenizer.apply_chat_template(MESSAGES)


@pytest.fixture(scope="module")
def hf():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own, at import
        import transformers
    return transformers


@pytest.mark.parametrize(
    "model_type", ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "gpt2"]
)
@pytest.mark.parametrize("which", ["byte", "trained"])
def test_transformers_reads_the_same_ids(
    hf, trained: FastTokenizer, tmp_path, model_type: str, which: str
) -> None:
    tokenizer = BYTES if which == "byte" else trained
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    for loader in (hf.PreTrainedTokenizerFast, hf.AutoTokenizer):
        theirs = loader.from_pretrained(str(tmp_path))
        for text in TEXTS:
            assert theirs(text).input_ids == tokenizer.encode(text)
            assert theirs.decode(tokenizer.encode(text)) == text
        assert (theirs.eos_token_id, theirs.pad_token_id, theirs.bos_token_id) == (
            tokenizer.eos_id,
            tokenizer.pad_id,
            tokenizer.bos_id,
        )
        assert len(theirs) == tokenizer.vocab_size
        assert theirs.apply_chat_template(
            MESSAGES, tokenize=False
        ) == tokenizer.apply_chat_template(MESSAGES)


def test_decomposed_text_is_exact_in_transformers(hf, tmp_path) -> None:
    BYTES.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    text = "e\u0301"
    assert hf.PreTrainedTokenizerFast.from_pretrained(str(tmp_path))(
        text
    ).input_ids == BYTES.encode(text)
    # its own class: NFC
    assert hf.AutoTokenizer.from_pretrained(str(tmp_path))(text).input_ids == BYTES.encode("\u00e9")


def test_folder_with_vocabulary_files_only_goes_through_transformers(hf, tmp_path) -> None:
    """GPT-2's old form: vocab.json + merges.txt, no tokenizer.json."""
    vocab = {
        **{
            token: index
            for token, index in BYTES.backend.get_vocab(with_added_tokens=False).items()
        },
        "ab": 256,
    }
    (tmp_path / "vocab.json").write_text(json.dumps({**vocab, "<|endoftext|>": 257}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "GPT2Tokenizer",
                "eos_token": "<|endoftext|>",
                "bos_token": "<|endoftext|>",
            }
        )
    )
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("abc") == [256, 99]
    assert tokenizer.eos_id == tokenizer.pad_id == 257
    assert hf.AutoTokenizer.from_pretrained(str(tmp_path))("abc").input_ids == [256, 99]


def _word_folder(folder, *, post_processor=None, **config) -> None:
    backend = tokenizers.Tokenizer(
        models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "b": 3, "<unk>": 4}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if post_processor is not None:
        backend.post_processor = post_processor
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_llama_style_bos_prefix_and_missing_pad(tmp_path) -> None:
    bos = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    _word_folder(tmp_path, post_processor=bos, bos_token={"content": "<s>"}, eos_token="</s>")
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.prefix_ids == [0]
    assert tokenizer.encode("a b") == [2, 3]
    assert tokenizer.encode("a b", add_special_tokens=True) == [0, 2, 3]
    assert tokenizer.pad_id == tokenizer.eos_id == 1


def test_template_files(tmp_path) -> None:
    _word_folder(
        tmp_path,
        eos_token="</s>",
        chat_template=[{"name": "default", "template": "one"}, {"name": "tool", "template": "x"}],
    )
    assert load_tokenizer(tmp_path).chat_template == "one"
    (tmp_path / "chat_template.jinja").write_text("two")
    assert load_tokenizer(tmp_path).chat_template == "two"
    (tmp_path / "mine.jinja").write_text("three")
    assert (
        load_tokenizer(tmp_path, chat_template=str(tmp_path / "mine.jinja")).chat_template
        == "three"
    )
    assert load_tokenizer("byte", chat_template="{{ 4 }}").apply_chat_template(MESSAGES) == "4"


def test_errors_are_one_line(tmp_path) -> None:
    cases = {
        str(tmp_path / "no" / "folder"): f"tokenizer folder {tmp_path}/no/folder does not exist",
        "no/hub_name": "tokenizer 'no/hub_name' is neither a folder nor 'byte', and cannot be "
        "downloaded from the hub",
        str(tmp_path): f"{tmp_path} holds no tokenizer: expected tokenizer.json",
    }
    for path, message in cases.items():
        with pytest.raises(DataError) as caught:
            load_tokenizer(path)
        assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"chat template file .*nope.jinja does not exist"):
        load_tokenizer("byte", chat_template=str(tmp_path / "nope.jinja"))
    with pytest.raises(DataError, match=r"the chat template does not compile: .* \(line 1\)"):
        load_tokenizer("byte", chat_template="{% if %}")


def test_broken_folders(tmp_path) -> None:
    _word_folder(tmp_path, bos_token="<s>")
    with pytest.raises(
        DataError, match="the tokenizer has no eos_token: add one to its tokenizer_config.json"
    ):
        load_tokenizer(tmp_path)
    _word_folder(tmp_path, eos_token="<nope>")
    with pytest.raises(DataError, match="eos_token '<nope>' is not in its vocabulary"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(DataError, match="tokenizer_config.json is not valid JSON"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"truncated": ')
    with pytest.raises(DataError, match="tokenizer.json cannot be read"):
        load_tokenizer(tmp_path)
