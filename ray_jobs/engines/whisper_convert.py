"""Whisper from a CTranslate2 folder to a Hugging Face one, for engines that read nothing else."""

import shutil
from pathlib import Path

import transformers
from safetensors.torch import save_file

from ray_jobs.engines.whisper_vocabulary import Vocabulary
from ray_jobs.engines.whisper_weights import load_checkpoint


def to_hugging_face(source: Path, target: Path) -> None:
    """Write the model in `source` into the folder `target`, each tensor in the dtype it is stored in.

    Raises ModelError where the source is truncated, quantised or no Whisper model.
    """
    checkpoint = load_checkpoint(source)
    shape, vocabulary = checkpoint.config, Vocabulary(source, checkpoint.config.vocab_size)
    config = transformers.WhisperConfig(
        architectures=["WhisperForConditionalGeneration"],
        vocab_size=shape.vocab_size,
        num_mel_bins=shape.num_mels,
        d_model=shape.width,
        encoder_layers=shape.encoder_layers,
        decoder_layers=shape.decoder_layers,
        encoder_attention_heads=shape.num_heads,
        decoder_attention_heads=shape.num_heads,
        encoder_ffn_dim=4 * shape.width,
        decoder_ffn_dim=4 * shape.width,
        max_source_positions=shape.audio_positions,
        max_target_positions=shape.text_positions,
        decoder_start_token_id=vocabulary.start,
        bos_token_id=vocabulary.end,
        eos_token_id=vocabulary.end,
        pad_token_id=vocabulary.end,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    config.save_pretrained(target)
    transformers.GenerationConfig(
        alignment_heads=[list(pair) for pair in checkpoint.alignment_heads],
        suppress_tokens=list(checkpoint.suppressed),
        begin_suppress_tokens=list(checkpoint.suppressed_first),
        decoder_start_token_id=vocabulary.start,
        bos_token_id=vocabulary.end,
        eos_token_id=vocabulary.end,
        pad_token_id=vocabulary.end,
    ).save_pretrained(target)
    transformers.WhisperFeatureExtractor(feature_size=shape.num_mels).save_pretrained(target)
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(source / "tokenizer.json", target)
    (target / "tokenizer_config.json").write_text('{"tokenizer_class": "WhisperTokenizer"}', encoding="utf-8")
