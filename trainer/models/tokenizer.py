"""CLIP's tokenizer, from the vocabulary that the open_clip_torch package carries.

Every webui has that package; elsewhere it is installed without its dependencies.  Only its data
file is read, nothing of it is imported and nothing is downloaded.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import tempfile
from functools import lru_cache
from pathlib import Path

from transformers import CLIPTokenizer

from ..atomic import write_bytes
from ..errors import MissingDependency

MAX_TOKENS = 77
VOCABULARY_SIZE = 49408
_MERGES = VOCABULARY_SIZE - 2 * 256 - 2
_START, _END = "<|startoftext|>", "<|endoftext|>"


def write_vocabulary(folder: Path) -> None:
    """Writes `vocab.json`, `merges.txt` and `tokenizer_config.json`, as transformers reads them.

    Raises:
        MissingDependency: when open_clip_torch is not installed.

    Source: CLIP's byte-pair vocabulary: 256 byte symbols, the same at a word's end, the merges in
    order of rank, two marks.
    """
    lines = gzip.decompress(_vocabulary_file().read_bytes()).decode("utf-8").split("\n")
    merges = lines[1 : _MERGES + 1]
    symbols = _byte_symbols()
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols)]
    tokens += ["".join(merge.split()) for merge in merges]
    tokens += [_START, _END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": _START,
        "eos_token": _END,
        "unk_token": _END,
        "pad_token": _END,
        "model_max_length": MAX_TOKENS,
        "do_lower_case": True,
    }
    texts = {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
        "tokenizer_config.json": json.dumps(settings, indent=1),
    }
    for name, text in texts.items():
        write_bytes(folder / name, text.encode("utf-8"))


@lru_cache(maxsize=1)
def clip_tokenizer() -> CLIPTokenizer:
    """The tokenizer of SD1 and SDXL's first encoder; pads with its end mark to 77 tokens."""
    with tempfile.TemporaryDirectory() as folder:
        write_vocabulary(Path(folder))
        return CLIPTokenizer.from_pretrained(folder)


def _vocabulary_file() -> Path:
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise MissingDependency("open_clip_torch", "the text encoder's vocabulary")
    return Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz"


def _byte_symbols() -> list[str]:
    """One printable character for each of the 256 bytes, printable bytes first.

    Source: the byte-level encoding of GPT-2's tokenizer, which CLIP took over.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
