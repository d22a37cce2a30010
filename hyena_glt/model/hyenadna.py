"""HyenaDNA's published weights: their names translated to ours, the rows of their tables put in the order of our ids.

A stack of `hyena` mixers with the same sizes computes the same function, on the ids of our `char` tokenizer for DNA.
`hyena_filter_shift` must be the one that the weights were trained with (0 in HyenaDNA's training code, 0.05 in its standalone and
Hugging Face code).
"""

from __future__ import annotations

import re

from torch import Tensor

from ..dna import ALPHABETS
from ..errors import CheckpointError
from ..tokenizers.base import SPECIAL_TOKENS

THEIR_TOKENS = ("[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]", "A", "C", "G", "T", "N")
"""HyenaDNA's tokens, by id; its tables have 16 rows, the last four of them padding."""

NUM_ROWS = 16

# Checkpointed blocks wrap their modules in `.layer`, Lightning and Hugging Face put the whole model under a prefix.
_PREFIX = re.compile(r"^(model\.|hyena\.)?(?=backbone\.|lm_head\.)")
_WRAPPER = re.compile(r"\.(mixer|mlp)\.layer\.")

# Functions of the sizes alone, which we compute when needed.
_COMPUTED = re.compile(r"\.filter_fn\.(pos_emb\.(z|t)|modulation\.deltas)$")

# N is the ambiguous base that HyenaDNA has seen in training, as our [UNK] is; its own [UNK] stands for other letters.
_OURS_BY_ID = [*("N" if token == "[UNK]" else token for token in SPECIAL_TOKENS), *ALPHABETS["dna"].decode()]
_WITH_AN_ID = [THEIR_TOKENS.index(token) for token in _OURS_BY_ID]

ROWS = (*_WITH_AN_ID, *(row for row in range(NUM_ROWS) if row not in _WITH_AN_ID))
"""Their row for each of ours. [BOS], [RESERVED], [UNK] and their padding have no id here: they pad our table, so none is ever predicted."""

_TABLES = ("backbone.embedding.weight", "head.weight")

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
    """HyenaDNA's state dict under our names and ids, ready for `load_state_dict` of a causal model with `vocab_size` 4.

    With `tie_embeddings` a separate `lm_head` is left out, and must equal the embedding. Raises CheckpointError for a name that
    is not HyenaDNA's, a table of other tokens, or two values for one parameter.
    """
    ours: dict[str, Tensor] = {}
    for name, value in published.items():
        plain = _WRAPPER.sub(r".\1.", _PREFIX.sub("", name))
        if _COMPUTED.search(plain):
            continue
        target = _translate(plain, name)
        if target == "head.weight" and tie_embeddings:
            target = "backbone.embedding.weight"
        value = _arrange(value, target)
        if target in ours and not ours[target].equal(value):
            raise CheckpointError(f"HyenaDNA weights hold two values for {target}: the second is {name}; "
                                  "if it is lm_head.weight, set model.tie_embeddings to false")
        ours[target] = value
    return ours


def _arrange(value: Tensor, target: str) -> Tensor:
    """The same numbers in the shape and order of our parameter `target`."""
    if target.endswith("featurizer.taps"):
        return value.squeeze(1)
    if target not in _TABLES:
        return value.flatten() if target.endswith("frequency") else value
    if len(value) != NUM_ROWS:
        raise CheckpointError(f"{target} has {len(value)} rows, and HyenaDNA's have {NUM_ROWS}: these weights read other tokens")
    return value[list(ROWS)]


def _translate(plain: str, found: str) -> str:
    for pattern, ours in _NAMES:
        if re.match(pattern, plain):
            return re.sub(pattern, ours, plain)
    raise CheckpointError(f"{found} is not a parameter of HyenaDNA's language model; convert a checkpoint of its backbone")
