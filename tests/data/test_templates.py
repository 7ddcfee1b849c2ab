"""Templates: one place for the word in each."""

from __future__ import annotations

import pytest

from semblant.data.templates import IMAGENET_TEMPLATES, SEFI_TEMPLATES, without_face


def test_counts_and_places():
    assert len(set(SEFI_TEMPLATES)) == 7
    assert len(set(IMAGENET_TEMPLATES)) == 27
    for template in SEFI_TEMPLATES + IMAGENET_TEMPLATES:
        assert template.count("{}") == 1 and template.endswith("{}")
    assert all("face of {}" in template for template in SEFI_TEMPLATES)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("a photo of a face of {}", "a photo of {}"),
        ("a photo of a rendering of a face of {}", "a photo of a rendering of {}"),
        ("a close-up photo of the face of {}", "a close-up photo of {}"),
        ("a photo of the cool face of {}", "a photo of the cool {}"),
        ("a photo of a small {}", "a photo of a small {}"),
    ],
)
def test_without_face(template, expected):
    assert without_face(template) == expected
