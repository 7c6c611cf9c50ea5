"""What one could do without this project, each way at its best setting; every one writes OUT/texts.json.

texts.json maps a call's name to its channels' texts: {"call-00000": ["what the agent said", "what the customer said"]}.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

TEXTS_FILE = "texts.json"
MODEL = "whisper-base"
RATE_HZ = 16_000


def write_texts(folder: Path, texts: Mapping[str, Sequence[str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TEXTS_FILE).write_text(json.dumps(texts))


def read_texts(folder: Path) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = json.loads((folder / TEXTS_FILE).read_text())
    return texts
