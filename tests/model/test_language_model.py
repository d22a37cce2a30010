"""The whole network: padding, loss, checkpointing, precision, compilation, state, and what it refuses."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from hyena_glt.config.tree import ModelConfig
from hyena_glt.model import LanguageModel, SequenceClassifier, build_model, heads
from hyena_glt.model.positions import SinusoidalPositions, rotary_table, rotate

KINDS = ("se", "mr", "li", "hyena", "attention")
both_directions = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])


def _model(mixers: tuple[str, ...], causal: bool, **settings: object) -> LanguageModel:
    torch.manual_seed(0)
    cfg = ModelConfig(**{"hidden_size": 16, "num_layers": len(mixers), "num_attention_heads": 2, "mixers": mixers,
                         "max_position_embeddings": 64, **settings})
    return build_model(cfg, vocab_size=4, causal=causal)


def _ids(*shape: int) -> Tensor:
    return torch.randint(5, 9, shape, generator=torch.Generator().manual_seed(3))


def _gradients(model: LanguageModel, loss: Tensor) -> dict[str, Tensor]:
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())), strict=True))


@both_directions
@pytest.mark.parametrize("kind", KINDS)
def test_a_score_depends_neither_on_padding_nor_on_batch_mates(kind: str, causal: bool) -> None:
    model = _model((kind, kind), causal).double()
    ids, lengths = _ids(4, 40), (40, 33, 7, 0)
    padding = torch.arange(40) >= torch.tensor(lengths)[:, None]
    together = model(ids, padding)
    for row, length in enumerate(lengths[:3]):
        torch.testing.assert_close(together[row, :length], model(ids[row : row + 1, :length])[0], rtol=1e-9, atol=1e-12)
    other_pads = model(ids.masked_fill(padding, 0), padding)
    torch.testing.assert_close(together[~padding], other_pads[~padding], rtol=1e-9, atol=1e-12)
    targets = ids.masked_fill(padding, -100)
    assert all(torch.isfinite(gradient).all() for gradient in _gradients(model, model(ids, padding, targets)[0]).values())


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("limit", [2**24, 300], ids=["one chunk", "many chunks"])
def test_chunked_loss_equals_plain_cross_entropy(limit: int, tie: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "LOGITS_PER_CHUNK", limit)
    model, ids = _model(("se", "li"), False, tie_embeddings=tie).double(), _ids(3, 30)
    targets = ids.masked_fill(torch.rand(3, 30, generator=torch.Generator().manual_seed(0)) < 0.7, -100)
    loss, correct = model(ids, None, targets)
    logits = model(ids)
    wanted = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert correct.item() == (logits.argmax(-1) == targets).sum().item()
    found, expected = _gradients(model, loss), _gradients(model, wanted)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6, msg=name)


@both_directions
@pytest.mark.parametrize("limit", [2**24, 300], ids=["one chunk", "many chunks"])
def test_each_position_counts_its_weight(limit: int, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "LOGITS_PER_CHUNK", limit)
    model, ids, draw = _model(("se",), causal).double(), _ids(3, 30), torch.Generator().manual_seed(0)
    targets = ids.masked_fill(torch.rand(3, 30, generator=draw) < 0.5, -100)
    weights = torch.rand(3, 30, generator=draw)
    loss, correct = model(ids, None, targets, weights)
    logits = model(ids)
    nats = -logits.log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
    wanted = (nats * weights)[targets != -100].sum()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert correct.item() == (logits.argmax(-1) == targets).sum().item(), "hits are counted, not weighed"
    found, expected = _gradients(model, loss), _gradients(model, wanted)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_loss_without_scored_positions_is_zero_with_zero_gradients() -> None:
    model, ids = _model(("se",), False), _ids(2, 10)
    loss, correct = model(ids, None, torch.full_like(ids, -100))
    assert (loss.item(), correct.item()) == (0, 0)
    assert all(not gradient.any() for gradient in _gradients(model, loss).values())


def test_rows_that_pad_the_table_are_never_predicted() -> None:
    model = _model(("se",), False)
    assert (model.num_rows, model.vocab_size) == (16, 4)
    probabilities = model(_ids(1, 8)).softmax(-1)
    assert not probabilities[..., 9:].any() and probabilities[..., :9].all()


def test_checkpointing_changes_no_gradient() -> None:
    model, ids = _model(KINDS, True), _ids(2, 50)
    loss, _ = model(ids, None, ids)
    plain = _gradients(model, loss)
    model.backbone.gradient_checkpointing = True
    again, _ = model(ids, None, ids)
    recomputed = _gradients(model, again)
    assert loss.equal(again)
    for name in plain:
        assert plain[name].equal(recomputed[name]), name


@both_directions
@pytest.mark.parametrize("kind", KINDS)
def test_bf16_autocast_is_close_and_keeps_an_fp32_stream(kind: str, causal: bool) -> None:
    model, ids = _model((kind, kind), causal, hidden_size=32), _ids(2, 64)
    wanted = model.hidden(ids)
    streams: list[torch.dtype] = []
    for block in model.backbone.blocks:
        block.register_forward_hook(lambda module, args, output: streams.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        found = model.hidden(ids)
    assert streams == [torch.float32, torch.float32]
    assert ((found - wanted).norm() / wanted.norm()).item() < 0.01


@both_directions
@pytest.mark.parametrize("kind", KINDS)
def test_a_block_traces_without_graph_breaks(kind: str, causal: bool) -> None:
    torch._dynamo.reset()
    block = _model((kind,), causal).backbone.blocks[0]
    x = torch.randn(2, 40, 16)
    _same_as_eager(block, torch.compile(block, backend="aot_eager", fullgraph=True), x)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the CPU backend of torch.compile needs a C++ compiler, and g++ is not installed")
@pytest.mark.parametrize("kind", ["se", "li"])
def test_a_compiled_block_equals_eager(kind: str) -> None:
    torch._dynamo.reset()
    block = _model((kind,), True).backbone.blocks[0]
    _same_as_eager(block, torch.compile(block, fullgraph=True), torch.randn(2, 40, 16))


def _same_as_eager(block: torch.nn.Module, compiled: torch.nn.Module, x: Tensor) -> None:
    parameters = list(block.parameters())
    results = []
    for module in (block, compiled):
        y = module(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), parameters)])
    for eager, traced in zip(*results, strict=True):
        torch.testing.assert_close(traced, eager, rtol=1e-4, atol=1e-4 * eager.abs().max().item())


@both_directions
def test_state_survives_a_safetensors_file(causal: bool, tmp_path) -> None:
    model, ids = _model(KINDS, causal), _ids(2, 20)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    torch.manual_seed(9)
    other = _model(KINDS, causal)
    for parameter in other.parameters():
        torch.nn.init.ones_(parameter)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert model(ids).equal(other(ids))


@pytest.mark.parametrize("encoding", ["learned", "sinusoidal", "rotary"])
def test_positions_tell_apart_what_attention_alone_cannot(encoding: str) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    swapped = ids[:, [1, 0, 2, 3]]
    without = _model(("attention",), False, position_encoding="none")
    torch.testing.assert_close(without(ids)[:, 2], without(swapped)[:, 2])
    with_positions = _model(("attention",), False, position_encoding=encoding)
    assert not torch.allclose(with_positions(ids)[:, 2], with_positions(swapped)[:, 2], atol=1e-7)


@pytest.mark.parametrize("encoding", ["none", "learned", "sinusoidal", "rotary"])
@settings(max_examples=15)
@given(mixers=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4), short=st.integers(1, 63), full=st.integers(2, 64))
def test_a_short_piece_is_served_as_the_head_of_a_long_row(encoding: str, mixers: list[str], short: int, full: int) -> None:
    """A curriculum's rule: position p is p at every length, for each kind of position and any pattern of mixers."""
    pattern = (*mixers, "attention") if encoding == "rotary" else tuple(mixers)
    model = _model(pattern, True, position_encoding=encoding).double()
    row, L = _ids(2, full), min(short, full - 1)
    torch.testing.assert_close(model(row[:, :L]), model(row)[:, :L], rtol=1e-9, atol=1e-12)


def test_sines_and_turns_go_on_by_their_formula() -> None:
    """Of positions that no shorter row has reached nothing is learned, so a longer row needs nothing new."""
    angle = torch.arange(200, dtype=torch.float64)[:, None] * 10_000.0 ** -(torch.arange(4, dtype=torch.float64) / 4)
    cos, sin = rotary_table(torch.zeros(1), 200, 4).double()
    torch.testing.assert_close(torch.stack([cos, sin]), torch.stack([angle.cos(), angle.sin()]), rtol=0, atol=1e-4)
    found = SinusoidalPositions()(torch.zeros(1, 200, 8))[0].double()
    torch.testing.assert_close(found, 0.02 * torch.stack([angle.sin(), angle.cos()], -1).flatten(1), rtol=0, atol=1e-5)


@both_directions
def test_attention_without_padding_takes_no_mask_so_that_flash_kernels_run(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = []
    attend = F.scaled_dot_product_attention

    def watched(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, is_causal: bool) -> Tensor:
        masks.append(mask)
        return attend(q, k, v, mask, is_causal=is_causal)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    _model(("attention", "se", "attention"), causal)(_ids(2, 10))
    assert masks == [None, None]


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(2, 1, 1, 1, 8).expand(2, 1, 1, 30, 8)
    table = rotary_table(q, 30, 4)
    scores = rotate(q, table) @ rotate(k, table).transpose(-1, -2)
    for distance in (-7, 0, 3):
        diagonal = scores[0, 0].diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)


def test_order_three_hyena_has_two_convolutions_of_its_own() -> None:
    model = _model(("hyena",), True, hyena_order=3)
    mixer = model.backbone.blocks[0].mixer
    assert mixer.in_proj.weight.shape == (64, 16) and mixer.conv.skip.shape == (32,)
    gradient = _gradients(model, model(_ids(1, 20), None, _ids(1, 20))[0])["backbone.blocks.0.mixer.conv.skip"]
    assert gradient[:16].any() and gradient[16:].any()


def test_the_classifier_ignores_padding() -> None:
    torch.manual_seed(0)
    classifier, ids = SequenceClassifier(_model(("li",), False).backbone, 16, 3), _ids(2, 20)
    padding = torch.arange(20) >= torch.tensor([[20], [9]])
    torch.testing.assert_close(classifier(ids, padding)[1:], classifier(ids[1:, :9]))


@pytest.mark.parametrize(("settings", "message"), [
    ({"mixers": ("hyena",)}, r"65 tokens is longer than this model's hyena filters \(64\); raise model\.max_position_embeddings before t"),
    ({"mixers": ("se",), "position_encoding": "learned"}, r"a sequence of 65 tokens is longer than the learned positions \(64\)"),
])
def test_sequences_beyond_the_model_are_refused(settings: dict, message: str) -> None:
    model = _model(causal=True, **settings)
    with pytest.raises(ValueError, match=r"65 tokens is longer than this model's limit of 64 \(model\.max_position_embeddings\); cut it"):
        model(_ids(1, 65))
    with pytest.raises(ValueError, match=message):
        model.backbone(_ids(1, 65))


def test_only_the_projections_decay() -> None:
    model = _model(KINDS, False, position_encoding="learned")
    decaying = {name.split(".", 3)[-1] for name, p in model.named_parameters() if not getattr(p, "_no_weight_decay", False)}
    assert decaying == {"mixer.in_proj.weight", "mixer.out_proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"}


def test_a_length_is_compiled_once() -> None:
    """Counted by a backend that runs what it is given: four kinds of mixer, two lengths, training and evaluation."""
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        compiled.append(1)
        return graph

    mixers = ("se", "mr", "li", "attention")
    cfg = ModelConfig(hidden_size=16, num_layers=8, num_attention_heads=2, mixers=mixers, max_position_embeddings=64)
    model = build_model(cfg, vocab_size=4, causal=True)
    model.compile_parts(backend)

    def visit(length: int) -> int:
        ids = torch.randint(5, 9, (2, length))
        for training in (True, False):
            model.train(training)(ids, None, ids)
        return len(compiled)

    first, second = visit(16), visit(32)
    assert 0 < first < second and second - first <= first
    assert [visit(length) for length in (16, 32, 16)] == [second] * 3, "lengths that were seen before compile nothing"
