"""Datasets that are trained on together: their shares, and reading rows of all of them as one. Runs on the workers and the driver.

Each dataset is a domain; a single dataset is a mixture of one. An epoch of a mixture is as many rows as all domains have together: with
the default weights it sees each row about once, with others a domain's own epochs are shorter or longer than that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from ..config.tree import DataConfig
from ..errors import ConfigError, DataError
from ..tokenizers import Tokenizer
from ..tokenizers.base import PAD
from .augment import shift
from .dataset import Rows, TokenRows, open_rows
from .storage import Location


@dataclass(frozen=True, slots=True)
class Mixture:
    """One split of D datasets with one tokenizer; rows of narrower datasets are padded to the widest."""

    domains: dict[str, Rows]
    """By name, in the order of the settings."""
    shares: np.ndarray
    """Share of the rows drawn from each domain, float64 [D]."""
    goes_on: tuple[np.ndarray, ...] | None = None
    """Where rows are shifted: whether each stored row is followed without a gap by the next, bool [stored rows] for each domain."""

    @property
    def rows(self) -> tuple[Rows, ...]:
        return tuple(self.domains.values())

    @property
    def tokenizer(self) -> Tokenizer:
        return self.rows[0].tokenizer

    @property
    def piece_length(self) -> int:
        """Tokens in a row without specials."""
        return max(rows.piece_length for rows in self.rows)

    @property
    def width(self) -> int:
        """Tokens in a row, with [CLS] and [SEP] where the tokenizer adds them."""
        return max(rows.width for rows in self.rows)

    @property
    def num_rows(self) -> int:
        """Rows in an epoch: those of all domains together."""
        return sum(rows.num_rows for rows in self.rows)

    @property
    def padding_share(self) -> float:
        """Share of the positions drawn that hold [PAD]."""
        return 1.0 - float(self.shares @ [tokens_per_row(rows) for rows in self.rows]) / self.piece_length

    def checksum(self) -> str:
        """Of the manifests of all domains; a single one's own."""
        checksums = [rows.manifest.checksum for rows in self.rows]
        return checksums[0] if len(checksums) == 1 else hashlib.sha256("\n".join(checksums).encode()).hexdigest()

    def tokens(self, domains: np.ndarray, rows: np.ndarray, shifts: np.ndarray | None = None) -> TokenRows:
        """Ids and weights [B, piece_length] of row `rows` [B] of domain `domains` [B], shifted by `shifts` [B] where they go on."""
        shape = len(rows), self.piece_length
        ids = np.full(shape, PAD, self.tokenizer.dtype)
        weights = np.ones(shape, np.float32) if any(rows.weighted for rows in self.rows) else None
        for domain in np.unique(domains):
            mine = domains == domain
            part = self._of_domain(int(domain), rows[mine], None if shifts is None else shifts[mine])
            ids[mine, : part.ids.shape[1]] = part.ids
            if weights is not None and part.weights is not None:
                weights[mine, : part.ids.shape[1]] = part.weights
        return TokenRows(ids, weights)

    def moved(self, domains: np.ndarray, rows: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        """Which rows a shift moves, bool [B]; the others, such as the last of a record, are read as they are stored."""
        moved = np.zeros(len(rows), bool)
        if self.goes_on is None:
            return moved
        for domain in np.unique(domains):
            mine = domains == domain
            moved[mine] = _moved(self.rows[domain], self.goes_on[domain], rows[mine], shifts[mine])[0]
        return moved

    def _of_domain(self, domain: int, numbers: np.ndarray, shifts: np.ndarray | None) -> TokenRows:
        own = self.rows[domain].tokens(numbers)
        if shifts is None or self.goes_on is None:
            return own
        moved, following = _moved(self.rows[domain], self.goes_on[domain], numbers, shifts)
        return shift(own, following, np.where(moved, shifts, 0))


def _moved(rows: Rows, goes_on: np.ndarray, numbers: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, TokenRows]:
    """Which rows a shift moves, bool [B]: those that go on, by no more tokens than follow; and the tokens that follow, else the row's."""
    stored, piece = np.divmod(numbers, rows.pieces)
    has_next = (shifts > 0) & ((piece < rows.pieces - 1) | goes_on[stored])
    following = rows.tokens(numbers + has_next)
    return has_next & (following.filled >= shifts), following


def open_training(data: DataConfig) -> Mixture:
    """The training rows that `data` names.

    Raises DataError for data that cannot be read or were tokenized differently, ConfigError for settings that the data do not allow.
    """
    domains = _open("data.train_path", as_paths(data.train_path), "train", data, cached_row_groups=2 * data.shuffle_row_groups)
    _check_augmentation(data, min(domains.values(), key=lambda rows: rows.piece_length))
    return Mixture(domains, row_shares(domains, data), _continuations(domains) if data.max_shift else None)


def open_validation(data: DataConfig) -> dict[str, Rows]:
    """The validation rows that `data` names, by domain; none where `data.val_path` is not set. DataError as for training."""
    return _open("data.val_path", as_paths(data.val_path), "val", data) if data.val_path else {}


def as_paths(paths: str | Sequence[str] | None) -> tuple[str, ...]:
    """A setting that takes one path or several, as several."""
    return (paths,) if isinstance(paths, str) else tuple(paths or ())


def _open(setting: str, paths: tuple[str, ...], split: str, data: DataConfig, *, cached_row_groups: int = 2) -> dict[str, Rows]:
    opened = [
        open_rows(path, split, data.sequence_length, cached_row_groups=cached_row_groups, retry_s=data.read_retry_s) for path in paths
    ]
    first = opened[0]
    for rows in opened:
        if rows.tokenizer != first.tokenizer:
            raise DataError(
                f"{setting}: {rows.folder} was tokenized in another way than {first.folder} ({rows.tokenizer} and {first.tokenizer}); "
                f"preprocess them with the same tokenization and sequence_type"
            )
    return dict(zip(domain_names(setting, [rows.folder for rows in opened]), opened, strict=True))


def domain_names(setting: str, folders: Sequence[Location]) -> list[str]:
    """The last part of each path that tells the folders apart: a/human/out and a/mouse/out are human and mouse.

    ConfigError, naming `setting`, where a folder comes twice.
    """
    parts = [str(folder).split("/") for folder in folders]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise ConfigError(f"{setting}: {twice[0]} is named twice; set data.mixture_weights to draw more from it")
    while len(parts) > 1 and min(map(len, parts)) > 2 and len({own[-1] for own in parts}) == 1:
        parts = [own[:-1] for own in parts]
    names = (["/".join(own[-number:]) for own in parts] for number in count(1))
    return next(candidates for candidates in names if len(set(candidates)) == len(parts))


def row_shares(domains: dict[str, Rows], data: DataConfig) -> np.ndarray:
    """Share of the rows to draw from each domain, float64 [D], such that tokens come in shares as weight ** (1 / T).

    The weights are `data.mixture_weights`, by default the domains' tokens; T is `data.mixture_temperature`. So T = 1 without weights
    draws each row equally often.
    """
    weights = np.array(data.mixture_weights or [rows.num_tokens for rows in domains.values()], np.float64)
    by_token = (weights / weights.max()) ** (1.0 / data.mixture_temperature)
    by_row = by_token / [tokens_per_row(rows) for rows in domains.values()]
    return by_row / by_row.sum()


def tokens_per_row(rows: Rows) -> float:
    """Tokens in a mean row that are not padding, without specials."""
    return rows.num_tokens / rows.num_rows


def _check_augmentation(data: DataConfig, narrowest: Rows) -> None:
    if data.reverse_complement and narrowest.tokenizer.sequence_type == "protein":
        raise ConfigError("data.reverse_complement: a protein has no other strand; remove it")
    if data.max_shift > narrowest.piece_length:
        raise ConfigError(
            f"data.max_shift ({data.max_shift}) must be at most the {narrowest.piece_length} tokens of a row of {narrowest.folder}"
        )


def _continuations(domains: dict[str, Rows]) -> tuple[np.ndarray, ...]:
    """`Mixture.goes_on`; ConfigError where no row of a domain could be shifted."""
    goes_on = tuple(rows.places().goes_on(rows.tokenizer) for rows in domains.values())
    for (name, rows), own in zip(domains.items(), goes_on, strict=True):
        if rows.pieces == 1 and not own.any():
            raise ConfigError(
                f"data.max_shift: no row of {name} goes on in the next one, so none can be shifted; remove it, or preprocess into windows "
                f"whose tokens follow on one another (a multiple of k bases for disjoint k-mers, an overlap of k - 1 for overlapping ones)"
            )
    return goes_on
