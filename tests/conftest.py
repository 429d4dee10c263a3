"""What tests of several modules share: a byte tokenizer and a tiny model of its vocabulary."""

import pytest
import torch

from minirlhf.model import GPT, GPTConfig
from minirlhf.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """One token a byte, and the special tokens: 260 ids."""
    return Tokenizer()


@pytest.fixture
def model(tokenizer) -> GPT:
    """A fresh GPT of two layers, the same weights every time."""
    torch.manual_seed(0)
    return GPT(GPTConfig(tokenizer.vocab_size, context=32, layers=2, heads=2, width=16))
