"""Subjects, captions, templates, masks, faces, augmentation, and reading pictures safely."""
