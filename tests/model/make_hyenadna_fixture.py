"""Writes tests/model/hyenadna.safetensors: weights, outputs, gradients and logits of HyenaDNA's own code on a tiny random model.

    pip install torchvision "transformers<4.34" einops safetensors
    python tests/model/make_hyenadna_fixture.py <checkout of github.com/HazyResearch/hyena-dna>
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

SIZES = {"d_model": 16, "n_layer": 2, "d_inner": 64, "vocab_size": 16}
LAYER = {"l_max": 66, "order": 2, "filter_order": 64, "emb_dim": 5, "w": 10, "lr_pos_emb": 0.0, "shift": 0.05}


def main(checkout: str) -> None:
    sys.path.insert(0, checkout)
    from standalone_hyenadna import CharacterTokenizer, HyenaDNAModel

    torch.manual_seed(0)
    model = HyenaDNAModel(**SIZES, layer=LAYER, embed_dropout=0.0, resid_dropout=0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ids = torch.randint(0, SIZES["vocab_size"], (2, 64))
    outputs = model(ids)
    direction = torch.randn_like(outputs)
    (outputs * direction).sum().backward()
    tensors = {"ids": ids, "outputs": outputs.detach(), "direction": direction}
    tensors |= {f"weight/{name}": value.clone() for name, value in model.state_dict().items()}
    tensors |= {f"gradient/{name}": parameter.grad for name, parameter in model.named_parameters()}
    tokenizer = CharacterTokenizer(["A", "C", "G", "T", "N"], model_max_length=66)
    letters = "".join("ACGTN"[i] for i in torch.randint(0, 5, (60,)).tolist())
    with torch.no_grad():
        hidden = model(torch.tensor([tokenizer(letters, add_special_tokens=False)["input_ids"]]))
        # The head of HyenaDNA's language model is its embedding.
        tensors["logits"] = hidden @ model.backbone.embeddings.word_embeddings.weight.T
    tensors["letters"] = torch.tensor(list(letters.encode()), dtype=torch.uint8)
    save_file(tensors, Path(__file__).with_name("hyenadna.safetensors"))


if __name__ == "__main__":
    main(sys.argv[1])
