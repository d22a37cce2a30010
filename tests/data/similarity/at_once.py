"""Sketch a whole sequence, and compare all windows, at once: what the stages do in parts must come to the same."""

from __future__ import annotations

import numpy as np

from hyena_glt.data.similarity.fracminhash import hash_limit, merge
from hyena_glt.data.similarity.kmers import hash_chunks
from hyena_glt.data.similarity.near_duplicates import Signatures, band_rows, choose_bands, decide, similar_pairs
from hyena_glt.dna import SequenceType


def sketch(letters_L: np.ndarray, k: int, sequence_type: SequenceType, scale: int) -> np.ndarray:
    """Letters uint8 [L] -> sampled hashes, uint64 [M], sorted and distinct.

    Pieces of one record are sketched apart when each takes the first k - 1 letters of the next along.
    """
    return merge(hashes[hashes < hash_limit(scale)] for hashes in hash_chunks(letters_L, k, sequence_type))


def near_duplicates(hash_WH: np.ndarray, place_W: np.ndarray, threshold: float) -> np.ndarray:
    """Places, int64 sorted, of the windows that go; `place_W` int64, distinct, in any order."""
    order = np.argsort(place_W)
    keys, places = band_rows(hash_WH, place_W, choose_bands(hash_WH.shape[1], threshold))
    return decide(similar_pairs(keys, places, Signatures(place_W[order], hash_WH[order]), threshold))
