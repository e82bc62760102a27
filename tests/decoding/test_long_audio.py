from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from asrkit.decoding.beam import BeamOptions
from asrkit.decoding.beam_search import beam_search
from asrkit.decoding.histories import Histories
from asrkit.decoding.long_audio import encode
from asrkit.models.encoder import Encoder
from tests.conftest import tiny_model
from tests.decoding.test_search import talkative


class LocalEncoder(Encoder):
    """Sees nine frames around, one frame of four out."""

    output_dim, subsampling = 3, 4

    def forward(self, x: torch.Tensor, x_lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x * (torch.arange(x.shape[1])[None, :, None] < x_lens[:, None, None])
        out = F.avg_pool1d(F.pad(x.transpose(1, 2), (4, 4)), 9, 4).transpose(1, 2)
        lens = (x_lens + 3) // 4
        return out * (torch.arange(out.shape[1])[None, :, None] < lens[:, None, None]), lens


@pytest.mark.parametrize("lengths", [[200, 61, 7, 0], [203], [64, 65]])
def test_windows_give_what_the_whole_gives(lengths: list[int]) -> None:
    torch.manual_seed(0)
    x, lens = torch.randn(len(lengths), max(lengths), 3), torch.tensor(lengths)
    whole, whole_lens = LocalEncoder()(x, lens)
    out, out_lens = encode(LocalEncoder(), x, lens, window=64, overlap=10)
    assert out_lens.tolist() == whole_lens.tolist()
    assert torch.allclose(out, whole[:, : out.shape[1]], atol=1e-6)


def test_short_utterances_go_through_the_encoder_as_they_are() -> None:
    model = tiny_model()
    x, lens = torch.randn(2, 50, 16), torch.tensor([50, 30])
    for a, b in zip(encode(model.encoder, x, lens, 60, 20), model.encoder(x, lens), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="too little"):
        encode(model.encoder, x, lens, 40, 20)


def test_a_long_recording_keeps_few_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eighty seconds in windows; the table of histories is cleared as the search goes."""
    model = talkative(tiny_model())
    sizes: list[int] = []
    clear = Histories.clear

    def watched(self: Histories, rows: torch.Tensor) -> torch.Tensor:
        sizes.append(self.size)
        return clear(self, rows)

    monkeypatch.setattr("asrkit.decoding.histories.SPARE_BYTES", 200 * 400)
    monkeypatch.setattr(Histories, "clear", watched)
    x = torch.randn(1, 8_000, 16, generator=torch.Generator().manual_seed(0)) * 3
    with torch.inference_mode():
        encoder_out, encoder_lens = encode(model.encoder, x, torch.tensor([8_000]), 1000, 100)
        assert encoder_out.shape[1] == 2000
        options = BeamOptions(beam=4)
        best = beam_search(model, encoder_out, encoder_lens, frame_shift_s=0.04, options=options)[0][0]
    assert len(best.tokens) > 500
    assert max(sizes) < 1000
