"""Tiny pipelines, built and saved once per test session."""

import pytest

PROMPTS = ["A red ball moves left.", "A blue bar grows.", "A green ring on a grey background.", "A white pole shakes."]


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory):
    """family -> folder of its tiny pipeline, as save_pretrained wrote it."""
    pytest.importorskip("diffusers")
    from rlkit.models import tiny_pipelines

    folders = {}

    def folder(family):
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp(family)
            tiny_pipelines.build(family, PROMPTS * 4).save_pretrained(folders[family])
        return folders[family]

    return folder
