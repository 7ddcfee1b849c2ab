"""The speed of semblant beside the example scripts of diffusers: same weights, pictures, precision and batch."""
