"""ctc.json, which tells what a folder of CTC weights holds: the network's shape, its labels, its language."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ray_jobs.errors import ModelError


class CtcConfig(BaseModel):
    """The file's keys; a folder made from a torchaudio bundle:

    bundle = torchaudio.pipelines.HUBERT_ASR_LARGE
    torch.save(bundle.get_model().state_dict(), "model.pt")  # of `.model` inside, where the bundle wraps one
    ctc.json: {"shape": "hubert_large", "labels": [*bundle.get_labels()], "language": "en",
               "normalize_waveform": true}
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    shape: (
        Literal[
            "wav2vec2_base",
            "wav2vec2_large",
            "wav2vec2_large_lv60k",
            "wav2vec2_xlsr_300m",
            "wav2vec2_xlsr_1b",
            "wav2vec2_xlsr_2b",
            "hubert_base",
            "hubert_large",
            "hubert_xlarge",
        ]
        | dict[str, Any]
    ) = Field(description="a shape of torchaudio.models, or arguments of its wav2vec2_model, dropouts left out")
    labels: Annotated[tuple[str, ...], Field(min_length=2)] = Field(
        description="what each output stands for, as it is to be written: the blank first, | between words"
    )
    language: str = Field(default="en", description="ISO 639-1 code of what the model was trained on")
    normalize_waveform: bool = Field(default=False, description="whether each window is brought to mean 0, variance 1")

    @field_validator("labels")
    @classmethod
    def _differ(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) < len(labels):
            raise ValueError("two labels are the same")
        return labels


def read_ctc_config(folder: Path) -> CtcConfig:
    """The folder's ctc.json. Raises ModelError in one line naming the file and the key."""
    path = folder / "ctc.json"
    try:
        return CtcConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); give a whole CTC folder") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][:1])
        raise ModelError(f"{path}: {f'{key}: ' if key else ''}{first['msg'].removeprefix('Value error, ')}") from None
