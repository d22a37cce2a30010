"""HyenaDNA's published weights: their names translated to ours.

A stack of `hyena` mixers with the same sizes computes the same function. `hyena_filter_shift` must be the one that the weights were
trained with (0 in HyenaDNA's training code, 0.05 in its standalone and Hugging Face code).
"""

from __future__ import annotations

import re

from torch import Tensor

from ..errors import CheckpointError

# Checkpointed blocks wrap their modules in `.layer`, Lightning and Hugging Face put the whole model under a prefix.
_PREFIX = re.compile(r"^(model\.|hyena\.)?(?=backbone\.|lm_head\.)")
_WRAPPER = re.compile(r"\.(mixer|mlp)\.layer\.")

# Functions of the sizes alone, which we compute when needed.
_COMPUTED = re.compile(r"\.filter_fn\.(pos_emb\.(z|t)|modulation\.deltas)$")

_NAMES = (
    (r"^backbone\.embeddings\.word_embeddings\.weight$", "backbone.embedding.weight"),
    (r"^lm_head\.weight$", "head.weight"),
    (r"^backbone\.ln_f\.(weight|bias)$", r"backbone.norm.\1"),
    (r"^backbone\.layers\.(\d+)\.((?:norm[12]|mlp\.fc[12]|mixer\.in_proj|mixer\.out_proj)\.(?:weight|bias))$", r"backbone.blocks.\1.\2"),
    (r"^backbone\.layers\.(\d+)\.mixer\.short_filter\.weight$", r"backbone.blocks.\1.mixer.featurizer.taps"),
    (r"^backbone\.layers\.(\d+)\.mixer\.short_filter\.bias$", r"backbone.blocks.\1.mixer.featurizer.bias"),
    (r"^backbone\.layers\.(\d+)\.mixer\.filter_fn\.bias$", r"backbone.blocks.\1.mixer.conv.skip"),
    # One activation object stands at 1, 3 and 5, so its frequencies appear three times.
    (r"^backbone\.layers\.(\d+)\.mixer\.filter_fn\.implicit_filter\.[135]\.freq$",
     r"backbone.blocks.\1.mixer.conv.past.activation.frequency"),
    (r"^backbone\.layers\.(\d+)\.mixer\.filter_fn\.implicit_filter\.6\.weight$", r"backbone.blocks.\1.mixer.conv.past.output.weight"),
    (r"^backbone\.layers\.(\d+)\.mixer\.filter_fn\.implicit_filter\.0\.(weight|bias)$", r"backbone.blocks.\1.mixer.conv.past.layers.0.\2"),
    (r"^backbone\.layers\.(\d+)\.mixer\.filter_fn\.implicit_filter\.2\.(weight|bias)$", r"backbone.blocks.\1.mixer.conv.past.layers.1.\2"),
    (r"^backbone\.layers\.(\d+)\.mixer\.filter_fn\.implicit_filter\.4\.(weight|bias)$", r"backbone.blocks.\1.mixer.conv.past.layers.2.\2"),
)


def convert_state_dict(published: dict[str, Tensor], *, tie_embeddings: bool = True) -> dict[str, Tensor]:
    """HyenaDNA's state dict under our names, ready for `LanguageModel.load_state_dict` of a causal model.

    With `tie_embeddings` a separate `lm_head` is left out, and must equal the embedding. Raises CheckpointError for a name that
    is not HyenaDNA's, or two values for one parameter.
    """
    ours: dict[str, Tensor] = {}
    for name, value in published.items():
        plain = _WRAPPER.sub(r".\1.", _PREFIX.sub("", name))
        if _COMPUTED.search(plain):
            continue
        target = _translate(plain, name)
        if target == "head.weight" and tie_embeddings:
            target = "backbone.embedding.weight"
        value = value.squeeze(1) if target.endswith("featurizer.taps") else value.flatten() if target.endswith("frequency") else value
        if target in ours and not ours[target].equal(value):
            raise CheckpointError(f"HyenaDNA weights hold two values for {target}: the second is {name}; "
                                  "if it is lm_head.weight, set model.tie_embeddings to false")
        ours[target] = value
    return ours


def _translate(plain: str, found: str) -> str:
    for pattern, ours in _NAMES:
        if re.match(pattern, plain):
            return re.sub(pattern, ours, plain)
    raise CheckpointError(f"{found} is not a parameter of HyenaDNA's language model; convert a checkpoint of its backbone")
