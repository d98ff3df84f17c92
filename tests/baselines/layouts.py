"""Tiny MusicGen and Stable Audio Open, random weights in the layouts in which the real ones are published.

Their own libraries write them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from samuel.baselines.pretrained import quiet_libraries

WINDOW_S = 2
"""Of MusicGen: the real one has learned 30."""
OPEN_FRAMES = 32
"""Of Stable Audio Open: 1.49 s; the real one makes 1024, 47.55 s."""
WORDS = ("instrumental", "pop", "accompaniment", "with", "drums", "a", "b", "c")
TEXT: dict[str, Any] = {
    "vocab_size": 16,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 16,
    "num_layers": 1,
    "num_heads": 2,
}


@contextmanager
def seeded() -> Iterator[None]:
    """The same random weights each time, without a word."""
    with quiet_libraries(), torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def tokenizer() -> Any:
    """Of T5, for eight words."""
    from transformers import T5Tokenizer

    pieces = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in WORDS)]
    vocab = [(piece, -float(rank)) for rank, piece in enumerate(pieces)]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=16)


def write_musicgen(folder: Path, channels: int = 1) -> None:
    """T5, EnCodec of the real rate and hop, and a decoder of one layer, as transformers saves them."""
    with seeded():
        from transformers import MusicgenMelodyFeatureExtractor, MusicgenMelodyProcessor

        network = _musicgen(channels)
        network.save_pretrained(folder)
        extractor = MusicgenMelodyFeatureExtractor(chunk_length=WINDOW_S)
        MusicgenMelodyProcessor(extractor, tokenizer()).save_pretrained(folder)


def _musicgen(channels: int) -> Any:
    from transformers import (
        EncodecConfig,
        MusicgenMelodyConfig,
        MusicgenMelodyDecoderConfig,
        MusicgenMelodyForConditionalGeneration,
        T5Config,
    )

    codec = EncodecConfig(
        sampling_rate=32_000, num_filters=2, hidden_size=8, codebook_dim=8, codebook_size=32,
        upsampling_ratios=(8, 5, 4, 4), target_bandwidths=[1.0], num_lstm_layers=1, use_causal_conv=False,
    )  # fmt: skip
    decoder = MusicgenMelodyDecoderConfig(
        vocab_size=32, pad_token_id=32, bos_token_id=32, num_hidden_layers=1, hidden_size=16, ffn_dim=16,
        num_attention_heads=2, num_codebooks=4 * channels, audio_channels=channels,
    )  # fmt: skip
    config = MusicgenMelodyConfig(
        text_encoder=T5Config(**TEXT).to_dict(), audio_encoder=codec.to_dict(), decoder=decoder.to_dict(),
        chroma_length=16,
    )  # fmt: skip
    network: Any = MusicgenMelodyForConditionalGeneration(config)
    for parameter in (*network.decoder.parameters(), *network.audio_enc_to_dec_proj.parameters()):
        parameter.data *= 8.0  # or every token would be as likely as any other, whatever it is told
    for layer in network.audio_encoder.quantizer.layers:
        layer.codebook.embed.normal_()  # or every token would sound the same
    network.generation_config.update(
        do_sample=True, guidance_scale=3.0, max_length=1500,
        decoder_start_token_id=32, pad_token_id=32, bos_token_id=32,
    )  # fmt: skip
    return network


def write_stable_audio_open(folder: Path) -> None:
    """A pipeline whose VAE has the real strides, as diffusers saves it."""
    with seeded():
        from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck
        from diffusers.models.transformers.stable_audio_transformer import StableAudioDiTModel
        from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel
        from diffusers.pipelines.stable_audio.pipeline_stable_audio import StableAudioPipeline
        from diffusers.schedulers.scheduling_cosine_dpmsolver_multistep import (
            CosineDPMSolverMultistepScheduler,
        )
        from transformers import T5Config, T5EncoderModel

        transformer = StableAudioDiTModel(
            sample_size=OPEN_FRAMES, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=4,
            num_attention_heads=2, num_key_value_attention_heads=2, cross_attention_dim=4, time_proj_dim=8,
            cross_attention_input_dim=4, global_states_input_dim=8,
        )  # fmt: skip
        vae = AutoencoderOobleck(
            encoder_hidden_size=2, decoder_channels=2, decoder_input_channels=4,
            downsampling_ratios=[2, 4, 4, 8, 8], channel_multiples=[1, 1, 1, 1, 1],
        )  # fmt: skip
        projection = StableAudioProjectionModel(16, 4, 0, 512)
        scheduler: Any = CosineDPMSolverMultistepScheduler(
            prediction_type="v_prediction", sigma_data=1.0, sigma_schedule="exponential"
        )
        StableAudioPipeline(
            vae, T5EncoderModel(T5Config(**TEXT)), projection, tokenizer(), transformer, scheduler
        ).save_pretrained(folder)
