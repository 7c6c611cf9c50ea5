"""Prompts kept in an MLflow prompt registry, by the optional extra callmill[mlflow].

An entry's template is the whole YAML document of a prompt file, so that its schema and kind are versioned with its
wording. MLFLOW_TRACKING_URI and MLFLOW_REGISTRY_URI say where the registry is, as everywhere in MLflow.
"""

import re
from typing import Any

from ray_jobs.errors import SpecError


def read_entry(reference: str) -> str:
    """The template of NAME/VERSION, VERSION a number. Raises SpecError: no such entry, no registry, no MLflow."""
    if not re.fullmatch(r"[^/]+/[0-9]+", reference):
        raise SpecError(f"prompt mlflow:{reference}: the form is mlflow:NAME/VERSION, VERSION a number")
    try:
        prompt = _load_prompt(f"prompts:/{reference}")
    except ImportError:
        raise SpecError(
            f"prompt mlflow:{reference}: MLflow is not installed here; pip install 'callmill[mlflow]'"
        ) from None
    except Exception as error:  # MLflow wraps what its stores raise, but not all of it
        raise SpecError(f"prompt mlflow:{reference}: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(prompt.template, str):
        raise SpecError(f"prompt mlflow:{reference}: is a chat prompt; its template is to be the text of a prompt file")
    return prompt.template


def _load_prompt(uri: str) -> Any:
    from mlflow.genai import load_prompt

    return load_prompt(uri)
