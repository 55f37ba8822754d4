"""A local start: heads look where they are told to, before any training."""

import torch

from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.families.transformer.initialization import initialize
from megachar.families.transformer.model import Transformer
from megachar.families.transformer.settings import TransformerConfig

CONFIG = TransformerConfig(num_layers=2, width=96, num_heads=3, feed_forward_width=64, context=64,
                     local_offsets=((1, 2), (4,)))  # fmt: skip


def attention_of(model: Transformer, symbols: torch.Tensor) -> torch.Tensor:
    """Attention weights (h, t, t) of the first block."""
    block = model.blocks[0]
    hidden = block.attention_norm(block.positions(model.embedding(symbols)))  # type: ignore[union-attr, operator]
    query, key, _ = block.attention.qkv(hidden)[0].chunk(3, -1)  # type: ignore[union-attr, operator]
    heads = [matrix.view(-1, 3, 32).transpose(0, 1) for matrix in (query, key)]
    scores = heads[0] @ heads[1].transpose(1, 2) / 32**0.5
    return scores.masked_fill(torch.ones(64, 64).triu(1).bool(), -torch.inf).softmax(-1)


def test_heads_start_out_looking_back() -> None:
    seed = int(torch.randint(1000, ()))
    model = initialize(Transformer(CONFIG, AuxiliaryConfig()), seed)
    weights = attention_of(model, torch.randint(256, (1, 64)))
    for head, offset in enumerate((1, 2)):
        looks_at = weights[head].argmax(-1)[offset:]
        share = (looks_at == torch.arange(64 - offset)).float().mean()
        assert share > 0.9, f"seed {seed}: head {head} looks {offset} back at {share:.0%} of the positions"
    unset = weights[2].argmax(-1)[1:] == torch.arange(63)
    assert unset.float().mean() < 0.5


def test_first_loss_is_still_uniform() -> None:
    model = initialize(Transformer(CONFIG, AuxiliaryConfig()), 1)
    symbols = torch.randint(256, (4, 66))
    targets = torch.stack([symbols[:, 1:65], symbols[:, 2:66]], -1)
    _, nats = model.losses(symbols[:, :64], targets, AuxiliaryConfig(), (1.0, 1.0))
    torch.testing.assert_close(nats / 256, torch.full((2, 2), 5.545), rtol=0.02, atol=0)
