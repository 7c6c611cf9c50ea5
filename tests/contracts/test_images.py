"""What the images repeat of the code, which a Dockerfile cannot import."""

import re
from pathlib import Path

import pytest

from ray_jobs.runtime import JAVA_OPTIONS

IMAGES = Path(__file__).parents[2] / "images"


@pytest.mark.parametrize("image", ["ray-cpu", "ray-gpu"])
def test_both_ray_images_start_jvms_as_a_local_run_does(image):
    dockerfile = (IMAGES / image / "Dockerfile").read_text()
    found = re.search(r'^ENV JDK_JAVA_OPTIONS="([^"]*)"', dockerfile, re.MULTILINE)
    assert found is not None
    assert found[1].replace("\\\n", " ").split() == JAVA_OPTIONS.split()
