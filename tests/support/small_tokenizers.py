"""Three tokenizers of different families, trained in a second on text that we make ourselves, as model folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.trainers import Trainer

FAMILIES = ("byte_bpe", "wordpiece", "unigram")

_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
    "{% else %}{{ raise_exception('only user messages') }}{% endif %}{% endfor %}"
)
_TURNS = (
    "{{ bos_token }}{%- for message in messages -%}<start_of_turn>{{ message.role }}\n"
    "{{ message.content | trim }}<end_of_turn>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<start_of_turn>model\n{%- endif -%}"
)


def build_folder(family: str, folder: Path) -> Path:
    """Write tokenizer.json and its configuration for one of FAMILIES, or for `bytes`, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, template, specials = _BUILDERS[family]()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"chat_template": template, "bos_token": specials[0], "eos_token": specials[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def _corpus(num_sentences: int = 6000) -> Iterator[str]:
    from tasks.ruler.words import vocabulary

    random = Random(7)
    words = vocabulary()
    shorts = ("the", "a", "of", "and", "is", "in", "to", "which", "answer", "question", "context", "value", "for")
    for _ in range(num_sentences):
        sentence = " ".join(random.choice(words) if random.random() < 0.6 else random.choice(shorts) for _ in range(12))
        code = "".join(random.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(8))
        yield f"{sentence.capitalize()}. {random.randrange(10**6)}: VAR {code.upper()} = {code}-{code[::-1]}.\n"


def _train(tokenizer: Tokenizer, trainer: Trainer, num_sentences: int = 6000) -> None:
    tokenizer.train_from_iterator(_corpus(num_sentences), trainer)


def _byte_bpe() -> tuple[Tokenizer, str, tuple[str, str]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ("<|im_start|>", "<|im_end|>")
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _train(
        tokenizer,
        trainers.BpeTrainer(
            vocab_size=8000, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False
        ),
    )
    return tokenizer, _CHATML, specials


def _wordpiece() -> tuple[Tokenizer, str, tuple[str, str]]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    specials = ("[CLS]", "[SEP]")
    _train(
        tokenizer,
        trainers.WordPieceTrainer(
            vocab_size=8000, special_tokens=["[UNK]", *specials, "[INST]", "[/INST]"], show_progress=False
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, tokenizer.token_to_id(name)) for name in specials]
    )
    return tokenizer, _BRACKETS, specials


def _unigram() -> tuple[Tokenizer, str, tuple[str, str]]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    specials = ("<bos>", "<eos>")
    tokens = ["<unk>", *specials, "<start_of_turn>", "<end_of_turn>", "\n"]
    _train(
        tokenizer,
        trainers.UnigramTrainer(vocab_size=4000, special_tokens=tokens, unk_token="<unk>", show_progress=False),
        num_sentences=1500,
    )
    return tokenizer, _TURNS, specials


def _bytes() -> tuple[Tokenizer, str, tuple[str, str]]:
    """One token a byte: needs no training, so that its samples are the same with every version of the library."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ("<|im_start|>", "<|im_end|>")
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(specials))
    return tokenizer, _CHATML, specials


_BUILDERS = {"bytes": _bytes, "byte_bpe": _byte_bpe, "wordpiece": _wordpiece, "unigram": _unigram}
