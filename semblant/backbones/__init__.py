"""Base models and encoders behind small interfaces; the only importer of diffusers and transformers."""
